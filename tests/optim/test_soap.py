"""SOAP: equal to a slow twin, to Adam where nothing is rotated, and to itself after a save."""

import copy
import io
import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn

from lictor.errors import CheckpointError, ConfigError
from lictor.optim import SOAP
from lictor.optim.soap_math import POLICIES, rotate

from soap_reference import ReferenceParameter  # isort: skip

DOUBLE = torch.float64
# Full rank along every axis in every view, so that no basis is left to rounding noise.
SHAPES = [(6, 5, 3, 3), (7, 7), (5,), (6, 5, 3, 3), (4, 1, 4), ()]


def noise(shape, seed: int, dtype=DOUBLE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parameters(shapes=SHAPES, dtype=DOUBLE, seed=0) -> list[nn.Parameter]:
    return [nn.Parameter(noise(s, seed + i, dtype)) for i, s in enumerate(shapes)]


def give_gradients(params, step: int) -> None:
    """Noisy gradients of a quadratic whose stiff axes change after half of 40 steps."""
    for i, p in enumerate(params):
        g = (p.detach() - 1) + noise(p.shape, 100 * step + i, p.dtype)
        if p.ndim:
            scale = torch.linspace(0.1, 3, p.shape[0], dtype=p.dtype)
            scale = scale.flip(0) if step >= 20 else scale
            g = g * scale.view(-1, *[1] * (p.ndim - 1))
        p.grad = g.to(p.dtype)


def take_steps(optimizer: torch.optim.Optimizer, steps: range) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


def values(params) -> list[torch.Tensor]:
    return [p.detach().clone() for p in params]


def largest_difference(a, b) -> float:
    return max(float((x.detach() - y.detach()).abs().max()) for x, y in zip(a, b, strict=True))


def identical(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


# ---- the slow twin


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("max_factor", [2048, 16, 5])
@pytest.mark.parametrize("shapes", POLICIES)
def test_equals_the_slow_reference(shapes, max_factor, memory):
    if shapes == "matrix" and max_factor == 2048:
        max_factor = 17  # (6, 45) would leave 39 directions of the long side to noise
    params = parameters()
    params[0].data = params[0].data.contiguous(memory_format=memory)
    twins = [ReferenceParameter(p.detach(), shapes, max_factor) for p in params]
    settings = {"betas": (0.9, 0.97), "factor_beta": 0.95, "precondition_every": 3}
    optimizer = SOAP(
        params, lr=0.02, weight_decay=0.1, shapes=shapes, max_factor=max_factor, **settings
    )
    for step in range(40):
        give_gradients(params, step)
        for p, twin in zip(params, twins, strict=True):
            twin.step(p.grad, lr=0.02, weight_decay=0.1, **settings)
        optimizer.step()
        assert largest_difference(params, [twin.value for twin in twins]) < 1e-9, step


def test_each_parameter_has_its_own_counter_and_each_group_its_own_settings():
    params = parameters([(5, 5), (5, 5), (5, 5), (4, 4)])
    groups = [
        {"params": params[:3], "lr": 0.1},
        {"params": params[3:], "lr": 0.01, "betas": (0.5, 0.6), "precondition_every": 2},
    ]
    optimizer = SOAP(groups, betas=(0.9, 0.95))
    twins = [ReferenceParameter(p.detach(), "split", 2048) for p in params]
    settings = [{"lr": 0.1, "betas": (0.9, 0.95), "factor_beta": 0.95, "precondition_every": 10}]
    settings = settings * 3 + [
        {"lr": 0.01, "betas": (0.5, 0.6), "factor_beta": 0.6, "precondition_every": 2}
    ]
    for step in range(30):
        give_gradients(params, step)
        if step < 7 or step % 5 == 0:
            params[1].grad = None  # begins late, and is absent now and then
        for p, twin, setting in zip(params, twins, settings, strict=True):
            if p.grad is not None:
                twin.step(p.grad, **setting)
        optimizer.step()
    assert largest_difference(params, [twin.value for twin in twins]) < 1e-9
    assert [optimizer.state[p]["step"] for p in params] == [29, 18, 29, 29]


def test_staggering_moves_the_refresh_of_each_tensor_by_its_place():
    params = parameters([(5, 5), (4, 4), (3, 3)])
    optimizer = SOAP(params, lr=0.1, precondition_every=3, stagger=True)
    twins = [ReferenceParameter(p.detach(), "split", 2048) for p in params]
    for step in range(20):
        give_gradients(params, step)
        for offset, (p, twin) in enumerate(zip(params, twins, strict=True)):
            twin.step(
                p.grad,
                lr=0.1,
                betas=(0.95, 0.95),
                factor_beta=0.95,
                precondition_every=3,
                offset=offset,
            )
        optimizer.step()
    assert largest_difference(params, [twin.value for twin in twins]) < 1e-9


@pytest.mark.parametrize("shapes", ["split", "spatial"])
def test_agrees_with_an_independent_implementation(shapes):
    peer = pytest.importorskip("pytorch_optimizer").SOAP
    params, theirs = parameters([(12, 8, 3, 3), (9, 9)]), parameters([(12, 8, 3, 3), (9, 9)])
    if shapes == "spatial":
        theirs[0] = nn.Parameter(theirs[0].detach().flatten(2))
    ours = SOAP(params, lr=0.01, betas=(0.9, 0.95), shapes=shapes)
    other = peer(
        theirs, lr=0.01, betas=(0.9, 0.95), weight_decay=0, precondition_frequency=10,
        merge_dims=False, normalize_gradient=False,
    )  # fmt: skip
    for step in range(40):
        give_gradients(params, step)
        for p, q in zip(params, theirs, strict=True):
            q.grad = p.grad.reshape(q.shape).clone()
        ours.step()
        other.step()
    assert largest_difference(params, [q.view(p.shape) for p, q in zip(params, theirs)]) < 1e-5  # noqa: B905


# ---- what the algorithm promises


def orthogonal(side: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(noise((side, side), seed))[0]


@pytest.mark.parametrize(("shape", "shapes"), [
    ((8, 8), "split"), ((6, 5, 3, 3), "split"), ((6, 5, 3, 3), "spatial"), ((4, 2, 2), "matrix"),
])  # fmt: skip
@pytest.mark.parametrize("every", [1, 5])
def test_a_rotated_problem_has_the_rotated_trajectory(shape, shapes, every):
    turns = [orthogonal(d, i) if i < 2 else torch.eye(d).double() for i, d in enumerate(shape)]

    def turn(x, back=False):
        for axis, u in enumerate(turns):
            x = torch.tensordot(u.T if back else u, x, ([1], [axis])).movedim(0, axis)
        return x.contiguous()

    def trajectory(cls, rotated, **options):
        start = noise(shape, 1)
        p = nn.Parameter(turn(start) if rotated else start)
        optimizer = cls([p], lr=0.03, **options)
        stiffness = noise(shape, 2).abs()
        for step in range(60):
            w = turn(p.detach(), back=True) if rotated else p.detach()
            g = stiffness * w + 0.3 * noise(shape, 10 + step)
            p.grad = turn(g) if rotated else g
            optimizer.step()
        return turn(p.detach(), back=True) if rotated else p.detach()

    options = {"shapes": shapes, "precondition_every": every}
    assert (
        largest_difference(
            [trajectory(SOAP, True, **options)], [trajectory(SOAP, False, **options)]
        )
        < 1e-10
    )
    adam = torch.optim.Adam
    assert largest_difference([trajectory(adam, True)], [trajectory(adam, False)]) > 1e-2


def test_the_first_gradient_moves_nothing_and_the_second_moves_every_direction_by_lr():
    params = parameters(dtype=torch.float32)
    start = values(params)
    optimizer = SOAP(params, lr=0.01, weight_decay=0.0)
    decaying = SOAP(parameters(dtype=torch.float32), lr=0.01, weight_decay=0.5)
    take_steps(decaying, range(1))
    assert identical(values(decaying.param_groups[0]["params"]), start)
    take_steps(optimizer, range(1))
    assert identical(values(params), start)
    take_steps(optimizer, range(1, 2))
    for p, before in zip(params, start, strict=True):
        moved = float((p.detach() - before).norm())
        assert moved == pytest.approx(0.01 * p.numel() ** 0.5, rel=1e-4)


@pytest.mark.parametrize(("shapes", "max_factor"), [
    ([(7,), (), (1, 6, 1)], 2048), ([(6, 5, 3, 3), (4, 9)], 2), ([(1, 1), (3, 1, 1)], 2048),
])  # fmt: skip
def test_without_factors_it_is_adam_fed_from_the_second_gradient_on(shapes, max_factor):
    params, plain = parameters(shapes), parameters(shapes)
    adam = torch.optim.Adam(plain, lr=0.05, betas=(0.8, 0.9), eps=1e-12)
    optimizer = SOAP(params, lr=0.05, betas=(0.8, 0.9), eps=1e-12, max_factor=max_factor)
    for step in range(25):
        give_gradients(params, step)
        for p, q in zip(params, plain, strict=True):
            q.grad = p.grad.clone()
        optimizer.step()
        if step:
            adam.step()
    assert largest_difference(params, plain) < 1e-9


def test_without_refreshes_it_is_adam_in_the_first_basis():
    (p,) = parameters([(6, 6)])
    optimizer = SOAP([p], lr=0.05, precondition_every=10**9)
    take_steps(optimizer, range(1))
    left, right = (b.clone() for b in optimizer.state[p]["bases"])
    q = nn.Parameter(left.T @ p.detach() @ right)
    adam = torch.optim.Adam([q], lr=0.05, betas=(0.95, 0.95), eps=1e-12)
    for step in range(1, 30):
        give_gradients([p], step)
        q.grad = left.T @ p.grad @ right
        optimizer.step()
        adam.step()
    assert largest_difference([left @ q.detach() @ right.T], [p]) < 1e-6


def test_bases_stay_orthonormal_and_their_eigenvalues_sorted():
    params = parameters([(16, 8, 3, 3), (12, 12)], torch.float32)
    optimizer = SOAP(params, lr=1e-3, precondition_every=1)
    take_steps(optimizer, range(100))
    for p in params:
        state = optimizer.state[p]
        for factor, basis in zip(state["factors"], state["bases"], strict=True):
            torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis)), atol=1e-5, rtol=0)
            estimates = (basis * (factor @ basis)).sum(0)
            assert all(b < 1.1 * a + 1e-6 for a, b in pairwise(estimates.tolist()))


def test_the_bases_find_the_axes_of_stationary_gradients():
    left, right = orthogonal(5, 1), orthogonal(4, 2)
    (p,) = parameters([(5, 4)])
    optimizer = SOAP([p], lr=0.0, betas=(0.9, 0.999), precondition_every=5)
    scales = 3.0 ** -torch.arange(5, dtype=DOUBLE)[:, None] * 2.0 ** -torch.arange(4, dtype=DOUBLE)
    for step in range(1000):
        p.grad = left @ (scales * noise((5, 4), step)) @ right.T
        optimizer.step()
    for basis, wanted in zip(optimizer.state[p]["bases"], (left, right), strict=True):
        assert float((basis * wanted).sum(0).abs().min()) > 0.99


def test_it_needs_fewer_steps_than_adam_where_the_stiff_axes_are_rotated():
    left, right = orthogonal(12, 1), orthogonal(12, 2)
    stiffness = torch.logspace(0, -3, 12, dtype=DOUBLE)
    stiffness = stiffness[:, None] * stiffness

    def steps_to_target(cls, lr) -> int:
        p = nn.Parameter(noise((12, 12), 3))
        optimizer = cls([p], lr=lr, betas=(0.9, 0.95))
        first = None
        for step in range(400):
            w = left.T @ p.detach() @ right
            loss = float((stiffness * w**2).sum())
            first = first or loss
            if loss < 1e-3 * first:
                return step
            p.grad = left @ (stiffness * w) @ right.T
            optimizer.step()
        return 400

    lrs = (0.1, 0.03, 0.01)
    soap = min(steps_to_target(SOAP, lr) for lr in lrs)
    adam = min(steps_to_target(torch.optim.Adam, lr) for lr in lrs)
    assert soap < 0.7 * adam


# ---- states


def saved_and_loaded(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_saved_state_goes_on_bit_for_bit(dtype):
    shapes = [*SHAPES, (7, 7)]
    params = parameters(shapes, dtype)
    params[0].data = params[0].data.contiguous(memory_format=torch.channels_last)
    optimizer = SOAP(params, lr=0.01, precondition_every=3, weight_decay=0.1)
    for step in range(14):
        give_gradients(params, step)
        if step < 8:
            params[-1].grad = None
        optimizer.step()
        if step == 10:
            state = saved_and_loaded(optimizer.state_dict())
            kept = [p.detach().clone() for p in params]
    others = [nn.Parameter(p) for p in kept]
    fresh = SOAP(others, lr=7.0)
    fresh.load_state_dict(state)
    take_steps(fresh, range(11, 14))
    assert identical(values(others), values(params))
    assert identical(fresh.state_dict(), optimizer.state_dict())
    floats = [t for t in fresh.state[others[0]].values() if isinstance(t, torch.Tensor)]
    floats += [t for s in fresh.state.values() for t in (*s["factors"], *s["bases"])]
    assert {t.dtype for t in floats} == {torch.float32}


def test_loading_copies_and_does_not_follow_the_source():
    params = parameters()
    optimizer = SOAP(params, lr=0.01)
    take_steps(optimizer, range(3))
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    fresh = SOAP(parameters(), lr=0.01)
    fresh.load_state_dict(state)
    take_steps(fresh, range(3, 6))
    assert identical(state, before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copied_optimizer_goes_on_alike(duplicate):
    optimizer = SOAP(parameters(), lr=0.01, precondition_every=2)
    take_steps(optimizer, range(5))
    twin = duplicate(optimizer)
    for each in (optimizer, twin):
        take_steps(each, range(5, 9))
    ours, theirs = (o.param_groups[0]["params"] for o in (optimizer, twin))
    assert identical(values(ours), values(theirs))


@pytest.mark.parametrize("shapes", POLICIES)
def test_a_state_fits_the_same_model_in_another_memory_format(shapes):
    params, others = parameters([(6, 5, 3, 3)]), parameters([(6, 5, 3, 3)])
    others[0].data = others[0].data.contiguous(memory_format=torch.channels_last)
    optimizer = SOAP(params, lr=0.01, shapes=shapes, precondition_every=2)
    take_steps(optimizer, range(5))
    others[0].data.copy_(params[0].data)
    moved = SOAP(others, shapes=shapes)
    moved.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    for each in (optimizer, moved):
        take_steps(each, range(5, 9))
    assert largest_difference(params, others) < 1e-10


def test_clearing_the_state_starts_anew():
    params = parameters()
    optimizer = SOAP(params, lr=0.01)
    take_steps(optimizer, range(5))
    optimizer.state.clear()
    before = values(params)
    take_steps(optimizer, range(5, 6))
    assert identical(values(params), before)
    fresh = SOAP(params, lr=0.01)
    take_steps(fresh, range(5, 6))
    assert identical(fresh.state_dict(), optimizer.state_dict())


def test_a_state_of_another_model_or_optimizer_is_refused_and_changes_nothing():
    optimizer = SOAP(parameters(), lr=0.01)
    take_steps(optimizer, range(3))
    before = copy.deepcopy(optimizer.state_dict())
    others = [[(6, 5, 3, 3)], [(6, 5, 3, 3), (7, 8), (5,), (6, 5, 3, 3), (4, 1, 4), ()]]
    for shapes in others:
        other = SOAP(parameters(shapes), lr=0.01)
        take_steps(other, range(3))
        with pytest.raises(CheckpointError, match="SOAP: the saved state"):
            optimizer.load_state_dict(other.state_dict())
    adam = torch.optim.Adam(parameters(), lr=0.01)
    for steps in (range(0), range(3)):  # a fresh one has no statistics to tell it by
        take_steps(adam, steps)
        with pytest.raises(CheckpointError, match="is not SOAP's: group 0 lacks factor_beta"):
            optimizer.load_state_dict(adam.state_dict())
    disguised = adam.state_dict()
    disguised["param_groups"][0] |= optimizer.defaults
    with pytest.raises(CheckpointError, match=r"of parameter 0 of group 0 .* is not SOAP's"):
        optimizer.load_state_dict(disguised)
    joined = SOAP(parameters(), lr=0.01, shapes="spatial")
    take_steps(joined, range(3))
    mislabelled = joined.state_dict()
    mislabelled["param_groups"][0]["shapes"] = "split"
    with pytest.raises(CheckpointError, match=r"parameter 0 of group 0 .* other settings"):
        optimizer.load_state_dict(mislabelled)
    nameless = {"state": [1], "param_groups": [optimizer.state_dict()["param_groups"][0]]}
    for damaged in ({}, {"state": {}}, {"state": {}, "param_groups": [{}]}, nameless):
        with pytest.raises(CheckpointError, match="SOAP"):
            optimizer.load_state_dict(damaged)
    assert identical(optimizer.state_dict(), before)


@pytest.mark.parametrize("setting", [
    {"shapes": "none"}, {"shapes": ["split"]}, {"lr": -1.0}, {"betas": [0.9]}, {"eps": 0.0},
    {"precondition_every": 0}, {"max_factor": None},
])  # fmt: skip
def test_a_saved_setting_out_of_range_is_refused_and_changes_nothing(setting):
    optimizer = SOAP([{"params": p} for p in parameters([(3, 3), (4,)])], lr=0.01)
    take_steps(optimizer, range(3))
    before = copy.deepcopy(optimizer.state_dict())
    state = copy.deepcopy(before)
    state["param_groups"][1] |= setting
    with pytest.raises(CheckpointError, match="in group 1 of a saved state"):
        optimizer.load_state_dict(state)
    assert identical(optimizer.state_dict(), before)


@pytest.mark.parametrize("step", [-2, 1.5, None])
def test_a_saved_step_is_a_count(step):
    optimizer = SOAP(parameters([(3, 3)]), lr=0.01)
    take_steps(optimizer, range(3))
    state = optimizer.state_dict()
    state["state"][0]["step"] = step
    with pytest.raises(CheckpointError, match=r"parameter 0 of group 0 .* is no count"):
        SOAP(parameters([(3, 3)])).load_state_dict(state)


def test_a_state_of_a_step_that_failed_in_its_beginning_starts_anew(monkeypatch):
    (p,), (other,) = parameters([(3, 3)]), parameters([(3, 3)])
    optimizer, fresh = SOAP([p], lr=0.01), SOAP([other], lr=0.01)

    def broken(*args):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("lictor.optim.soap_graph.second_moments", broken)
        with pytest.raises(MemoryError):
            take_steps(optimizer, range(1))
    assert optimizer.state[p]["step"] == -1
    fresh.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    for each in (optimizer, fresh):
        take_steps(each, range(4))
    assert identical(optimizer.state_dict(), fresh.state_dict())
    assert identical(values([p]), values([other]))


# ---- anybody's loop


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 2))


def test_closure_schedulers_and_tensor_rates_work_as_for_any_optimizer():
    net, x = small_net(), noise((8, 1, 8, 8), 0, torch.float32)
    optimizer = SOAP(net.named_parameters(), lr=torch.tensor(0.01))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=60)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (net(x) - x.mean((1, 2, 3))[:, None] * 9).square().mean()
        loss.backward()
        return loss

    for _ in range(60):
        losses.append(float(optimizer.step(closure).detach()))
        scheduler.step()
    assert min(losses[-5:]) < 0.1 * losses[0]
    stepped = SOAP(parameters(), lr=0.1)
    halving = torch.optim.lr_scheduler.StepLR(stepped, 1, 0.5)
    take_steps(stepped, range(1))
    halving.step()
    assert stepped.param_groups[0]["lr"] == 0.05


def test_gradients_are_only_read():
    params = parameters()
    optimizer = SOAP(params, lr=0.01, precondition_every=1)
    for step in range(4):
        give_gradients(params, step)
        kept = [p.grad.clone() for p in params]
        optimizer.step()
        assert identical([p.grad for p in params], kept)


def test_the_memory_format_of_a_gradient_does_not_matter():
    params, others = parameters([(6, 5, 3, 3), (7, 7)]), parameters([(6, 5, 3, 3), (7, 7)])
    ours, theirs = SOAP(params, lr=0.01), SOAP(others, lr=0.01)
    for step in range(12):
        give_gradients(params, step)
        others[0].grad = params[0].grad.contiguous(memory_format=torch.channels_last)
        others[1].grad = params[1].grad.T.contiguous().T
        ours.step()
        theirs.step()
    assert identical(values(params), values(others))


def test_autocast_and_shortened_products_do_not_reach_the_statistics():
    params, others = parameters(dtype=torch.float32), parameters(dtype=torch.float32)
    take_steps(SOAP(params, lr=0.01, precondition_every=2), range(6))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            take_steps(SOAP(others, lr=0.01, precondition_every=2), range(6))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert identical(values(params), values(others))


def backends_of_products() -> list:
    """What holds each backend's precision of products; an older torch has none."""
    holders = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    return [holder for holder in holders if hasattr(holder, "fp32_precision")]


@pytest.fixture
def products(monkeypatch):
    """Each backend's setting, and those seen while SOAP rotates; all is put back at the end."""
    holders = backends_of_products()
    if not holders:
        pytest.skip("this torch has one setting for all backends")
    seen = []

    def noted(*args, **options):
        seen.append([holder.fp32_precision for holder in holders])
        return rotate(*args, **options)

    monkeypatch.setattr("lictor.optim.soap_graph.rotate", noted)
    torch.set_float32_matmul_precision("highest")
    before = [holder.fp32_precision for holder in holders]
    for holder in holders:
        holder.fp32_precision = "none"
    yield holders, seen
    torch.backends.fp32_precision = "none"
    for holder, value in zip(holders, before, strict=True):
        holder.fp32_precision = value
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("wanted", [("tf32", None), (None, "bf16"), ("tf32", "bf16")])
def test_a_backends_own_setting_is_set_aside_for_a_step_and_restored(products, wanted):
    holders, seen = products
    for holder, value in zip(holders, wanted, strict=True):
        if value:
            holder.fp32_precision = value
    chosen = [holder.fp32_precision for holder in holders]
    params, others = parameters(dtype=torch.float32), parameters(dtype=torch.float32)
    optimizer = SOAP(params, lr=0.01, precondition_every=2)
    take_steps(optimizer, range(6))
    optimizer.precondition(params[0], params[0].grad)
    assert seen
    assert all(value in ("none", "ieee") for values in seen for value in values)
    assert [holder.fp32_precision for holder in holders] == chosen
    for holder in holders:
        holder.fp32_precision = "ieee"
    take_steps(SOAP(others, lr=0.01, precondition_every=2), range(6))
    assert identical(values(params), values(others))


def test_a_backends_own_setting_is_restored_when_a_step_fails(products, monkeypatch):
    holders, _ = products
    holders[0].fp32_precision = "tf32"
    optimizer = SOAP(parameters(dtype=torch.float32), lr=0.01)
    take_steps(optimizer, range(1))

    def broken(*args, **options):
        assert holders[0].fp32_precision == "ieee"
        raise MemoryError

    monkeypatch.setattr("lictor.optim.soap_graph.rotate", broken)
    with pytest.raises(MemoryError):
        take_steps(optimizer, range(1, 2))
    assert holders[0].fp32_precision == "tf32"


def test_a_setting_for_all_backends_still_reaches_each_after_a_step(products):
    holders, seen = products
    torch.backends.fp32_precision = "tf32"
    assert [holder.fp32_precision for holder in holders] == ["tf32", "tf32"]
    take_steps(SOAP(parameters(dtype=torch.float32), lr=0.01), range(3))
    assert all(value == "ieee" for values in seen for value in values)
    assert [holder.fp32_precision for holder in holders] == ["tf32", "tf32"]
    torch.backends.fp32_precision = "ieee"
    assert [holder.fp32_precision for holder in holders] == ["ieee", "ieee"]


def test_a_torch_without_settings_of_backends_is_told_by_the_common_one(monkeypatch):
    monkeypatch.setattr("lictor.optim.soap._product_settings", list)
    seen = []

    def noted(*args, **options):
        seen.append(torch.get_float32_matmul_precision())
        return rotate(*args, **options)

    monkeypatch.setattr("lictor.optim.soap_graph.rotate", noted)
    torch.set_float32_matmul_precision("medium")
    try:
        take_steps(SOAP(parameters(dtype=torch.float32), lr=0.01), range(3))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}


@pytest.mark.parametrize("shape", [
    (128, 3, 5, 5), (192, 1, 3), (192, 3, 1), (1, 6, 1), (1,), (), (64, 1, 3, 3), (3, 8, 5, 5),
    (2, 3, 2, 2, 2), (1, 1, 1, 1), (0,), (0, 4), (2, 1, 1, 7),
])  # fmt: skip
@pytest.mark.parametrize("shapes", POLICIES)
def test_every_shape_can_be_trained(shape, shapes):
    (p,) = parameters([shape], torch.float32)
    before = values([p])
    optimizer = SOAP([p], lr=0.01, shapes=shapes, precondition_every=2)
    take_steps(optimizer, range(5))
    assert bool(p.isfinite().all())
    assert p.numel() == 0 or not identical(values([p]), before)


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e-12, 1e12])
def test_gradients_of_any_size_stay_finite(scale):
    params = parameters(dtype=torch.float32)
    before = values(params)
    optimizer = SOAP(params, lr=0.01, precondition_every=2)
    for step in range(9):
        give_gradients(params, step)
        for p in params:
            p.grad *= scale
        optimizer.step()
    assert all(bool(p.isfinite().all()) for p in params)
    assert identical(values(params), before) == (scale < 1e-20)  # far below eps


# ---- bad input


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e25])
@pytest.mark.parametrize("first", [0, 3])
def test_a_step_without_finite_gradients_never_happened(bad, first, caplog):
    params, others = parameters(dtype=torch.float32), parameters(dtype=torch.float32)
    names = "abcdef"
    optimizer = SOAP(zip(names, params, strict=True), lr=0.01, precondition_every=2)
    clean = SOAP(others, lr=0.01, precondition_every=2)
    take_steps(clean, range(8))
    take_steps(optimizer, range(first))
    before = values(params), copy.deepcopy(optimizer.state_dict()["state"])
    give_gradients(params, 50)
    params[1].grad[3, 4] = bad
    optimizer.step()
    assert identical(values(params), before[0])
    assert identical(optimizer.state_dict()["state"], before[1])
    assert optimizer.skipped_steps == 1
    assert "gradient not finite in b (7, 7)" in caplog.text
    take_steps(optimizer, range(first, 8))
    assert identical(values(params), values(others))


def test_parameters_without_names_are_told_by_their_place(caplog):
    params = parameters([(2, 2)] * 6)
    optimizer = SOAP([{"params": params[:1]}, {"params": params[1:]}])
    for p in params:
        p.grad = torch.full_like(p, torch.nan)
    optimizer.step()
    assert "parameter 0 of group 0 (2, 2), parameter 0 of group 1 (2, 2), " in caplog.text
    assert "and 3 more" in caplog.text


def test_sparse_and_complex_are_refused():
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match=r"gradient of parameter 0 .* is not dense"):
        SOAP(table.parameters()).step()
    optimizer = SOAP(parameters())
    with pytest.raises(ConfigError, match=r"complex64; only real"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, dtype=torch.cfloat))]})
    table = nn.Parameter(torch.eye(3).to_sparse())
    with pytest.raises(ConfigError, match=r"parameter 0 of group 1 \(3, 3\) is not dense"):
        optimizer.add_param_group({"params": [table]})
    assert len(optimizer.param_groups) == 1


def test_the_smallest_eps_leaves_weights_without_gradient_where_they_are():
    params = parameters([(3, 3), (4,)], torch.float32)
    before = values(params)
    optimizer = SOAP(params, eps=torch.finfo(torch.float32).tiny)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert identical(values(params), before)


@pytest.mark.parametrize("narrow_first", [True, False])
def test_a_gradient_is_too_large_by_the_measure_of_its_own_type(narrow_first, caplog):
    narrow, wide = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3, 3).double())
    optimizer = SOAP([narrow, wide] if narrow_first else [wide, narrow], lr=0.01)
    for step in range(2):
        narrow.grad, wide.grad = torch.ones(2, 2), 1e25 * noise((3, 3), step)
        optimizer.step()
    assert optimizer.skipped_steps == 0
    assert not bool((wide == 1).any())
    before = values([narrow, wide])
    narrow.grad = torch.full((2, 2), 1e25)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert "(2, 2)" in caplog.text
    assert "(3, 3)" not in caplog.text
    assert identical(values([narrow, wide]), before)


@pytest.mark.parametrize("setting", [
    {"lr": -1.0}, {"lr": float("nan")}, {"betas": (0.9, 1.0)}, {"betas": (-0.1, 0.9)},
    {"eps": -1e-8}, {"eps": 0.0}, {"eps": 1e-50}, {"weight_decay": -0.1}, {"factor_beta": 1.0},
    {"precondition_every": 0}, {"max_factor": 0}, {"shapes": "none"},
])  # fmt: skip
def test_a_setting_out_of_range_is_named(setting):
    with pytest.raises(ConfigError, match=r"SOAP|shape policy"):
        SOAP(parameters(), **setting)
    optimizer = SOAP(parameters())
    with pytest.raises(ConfigError):
        optimizer.add_param_group({"params": parameters([(3,)]), **setting})
    assert len(optimizer.param_groups) == 1


# ---- analysis


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_preconditioning_is_linear_changes_nothing_and_is_what_a_step_without_momentum_does(memory):
    params = parameters([(6, 5, 3, 3), (7, 7), (5,), (4, 1, 4), ()])
    params[0].data = params[0].data.contiguous(memory_format=memory)
    optimizer = SOAP(params, lr=0.01, betas=(0.0, 0.9), precondition_every=4)
    take_steps(optimizer, range(10))
    before = values(params)
    take_steps(optimizer, range(10, 11))  # its tenth update: no refresh after it
    state, random = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    for p, old in zip(params, before, strict=True):
        direction = optimizer.precondition(p, p.grad)
        torch.testing.assert_close(p.detach(), old - 0.01 * direction, rtol=1e-9, atol=1e-9)
        a, b = noise(p.shape, 1), noise(p.shape, 2)
        image = optimizer.precondition(p, 2 * a - b)
        parts = 2 * optimizer.precondition(p, a) - optimizer.precondition(p, b)
        torch.testing.assert_close(image, parts, rtol=1e-9, atol=1e-9)
        assert image.shape == p.shape
    assert identical(optimizer.state_dict(), state)
    assert torch.equal(torch.get_rng_state(), random)


def test_preconditioning_needs_statistics_and_an_own_parameter():
    (p,) = parameters([(3, 3)])
    optimizer = SOAP([p])
    for _ in range(2):
        with pytest.raises(ConfigError, match="not been updated yet"):
            optimizer.precondition(p, torch.ones(3, 3, dtype=DOUBLE))
        take_steps(optimizer, range(1))
    with pytest.raises(ConfigError, match="not a parameter"):
        optimizer.precondition(torch.ones(3, 3), torch.ones(3, 3))
