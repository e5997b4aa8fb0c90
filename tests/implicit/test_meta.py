"""The inner loop: exact on a linear toy, differentiable, blind to neighbours and masked points."""

import pytest
import torch
from torch.func import functional_call

from lictor.errors import ConfigError
from lictor.implicit.coordinates import regular_grid
from lictor.implicit.meta import InnerLoop, Rates, Target, draw_points, fit
from lictor.implicit.model import IMPLICIT, ImplicitModel

SECOND, FIRST = InnerLoop(3, "second"), InnerLoop(3, "first")


def _model(dtype=torch.float64, channels=2, **settings) -> ImplicitModel:
    """A small network whose latents have much to say."""
    torch.manual_seed(0)
    plain = {"latent": 3, "width": 5, "layers": 3, "w0": 5.0, "rate": 0.3} | settings
    return IMPLICIT["coinpp"](regular_grid((3, 4)), channels, **plain).to(dtype)


def _learned(name) -> ImplicitModel:
    """A small network of the table whose parameters are no longer those of the beginning."""
    model = IMPLICIT[name](regular_grid((3, 4)), 2, **IMPLICIT[name].tiny).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_()  # those of components too, which do not learn by themselves


def _signals(items, dtype=torch.float64, channels=2):
    return torch.rand(items, 12, channels, generator=torch.Generator().manual_seed(1), dtype=dtype)


def _outer(model, y, loop, mask=None):
    """The loss after the inner loop."""
    target, decode = Target.of(y, mask), model.at()
    z = fit(decode, target, model.first(y, mask), model.rates(), loop)
    return target.distortion(decode(z)).mean()


def _gradients(model, y, loop):
    parameters = list(model.parameters())
    return torch.autograd.grad(_outer(model, y, loop), parameters)


def test_a_step_on_a_linear_network_is_known_in_closed_form():
    n, c, latent, rate = 6, 2, 3, 0.4
    jacobian = torch.randn(n, c, latent, dtype=torch.float64)
    y = torch.randn(4, n, c, dtype=torch.float64)
    z = fit(
        lambda z: torch.einsum("ncd,bd->bnc", jacobian, z),
        Target(y),
        torch.zeros(4, latent, dtype=torch.float64),
        rate,
        InnerLoop(1),
    )
    wanted = rate * 2 / (n * c) * torch.einsum("ncd,bnc->bd", jacobian, y)
    torch.testing.assert_close(z, wanted, atol=1e-13, rtol=0)


def test_no_steps_leave_the_latent_where_it_was():
    model, y = _model(), _signals(2)
    start = torch.randn(2, 3, dtype=torch.float64)
    assert fit(model.at(), Target(y), start, 0.1, InnerLoop(0)) is start


def test_steps_go_down():
    model, y = _model(), _signals(5)
    losses = [_outer(model, y, InnerLoop(steps, "first")).item() for steps in (0, 1, 3, 10)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize("learned", [False, True])
def test_the_second_order_gradient_is_that_of_finite_differences(learned):
    model, y = _model(learned_rates=learned), _signals(3)
    gradients = _gradients(model, y, SECOND)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        direction, h = torch.randn_like(parameter), 1e-5
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * h * direction
                losses.append(_outer(model, y, FIRST))
                parameter -= sign * h * direction
        slope = (losses[0] - losses[1]) / (2 * h)
        torch.testing.assert_close((gradient * direction).sum(), slope, atol=1e-9, rtol=1e-5)


def test_the_first_order_gradient_takes_the_inner_gradients_as_given():
    model, y = _model(), _signals(3)
    first, second = _gradients(model, y, FIRST), _gradients(model, y, SECOND)
    with torch.no_grad():
        z = fit(model.at(), Target(y), model.first(y), model.rates(), FIRST)
    loss = Target(y).distortion(model.decode(z)).mean()
    for given, wanted, exact in zip(
        first, torch.autograd.grad(loss, list(model.parameters())), second, strict=True
    ):
        torch.testing.assert_close(given, wanted, atol=1e-14, rtol=0)
        assert (given - exact).abs().max() > 1e-3 * exact.abs().max()


def test_the_first_order_gradient_reaches_learned_rates():
    model, y = _model(learned_rates=True), _signals(3)
    (gradient,) = torch.autograd.grad(_outer(model, y, InnerLoop(1, "first")), model.rates.rates)
    (exact,) = torch.autograd.grad(_outer(model, y, InnerLoop(1, "second")), model.rates.rates)
    # After one step from a fixed start the rates have no second derivative to miss.
    torch.testing.assert_close(gradient, exact)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("name", ["coinpp", "linear-coinpp"])
@pytest.mark.parametrize("scales", [False, True])
def test_steps_computed_again_give_the_same_gradient(name, scales):
    model = IMPLICIT[name](regular_grid((3, 4)), 2, latent=3, width=5, layers=3, scales=scales)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    y = _signals(3, torch.float32)
    plain = _gradients(model, y, SECOND)
    again = _gradients(model, y, InnerLoop(3, "second", checkpoint=True))
    for one, other in zip(again, plain, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)


def test_steps_computed_again_keep_less():
    model, y = _model(width=32, layers=4), _signals(3)

    def kept(loop):
        # By memory, not by tensor: what autograd keeps of the outer graph, views once.
        sizes = {}

        def note(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = _outer(model, y, loop)
        del loss
        return sum(sizes.values())

    # What is kept inside a checkpoint does not pass these hooks.
    assert kept(InnerLoop(6, "second", checkpoint=True)) < 0.5 * kept(InnerLoop(6, "second"))


@pytest.mark.parametrize("name", list(IMPLICIT))
def test_an_item_does_not_know_the_items_beside_it(name):
    model = _learned(name)
    y, mask = _signals(5), torch.rand(5, 12) > 0.2

    def latents(items):
        target = Target.of(y[items], mask[items])
        return fit(model.at(), target, model.first(y[items], mask[items]), 0.1, SECOND)

    together = latents(slice(0, 5))
    assert (together - model.first(y, mask)).abs().max() > 1e-4
    for i in range(5):
        torch.testing.assert_close(latents(slice(i, i + 1))[0], together[i], atol=1e-10, rtol=0)


def test_without_gradients_the_same_latents_have_no_graph():
    model, y = _model(), _signals(3)
    for loop in (SECOND, FIRST, InnerLoop(3, "second", checkpoint=True)):
        with torch.no_grad():
            z = fit(model.at(), Target(y), model.first(y), model.rates(), loop)
        assert not z.requires_grad
        torch.testing.assert_close(z, fit(model.at(), Target(y), model.first(y), 0.3, SECOND))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", list(IMPLICIT))
def test_masked_points_do_not_matter(name):
    model = _learned(name)
    y, mask = _signals(4), torch.rand(4, 12) > 0.4
    spoilt = torch.where(mask[..., None], y, float("nan"))
    losses = [_outer(model, values, SECOND, mask) for values in (y, spoilt)]
    assert losses[0] == losses[1]
    assert losses[0] != _outer(model, y, SECOND)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    for one, other in zip(*gradients, strict=True):
        assert (one == other).all()


def test_a_masked_distortion_is_the_mean_over_what_is_valid():
    y, y_hat, mask = torch.rand(3, 8, 2), torch.rand(3, 8, 2), torch.rand(3, 8) > 0.5
    mask[2] = False
    distortion = Target.of(y, mask).distortion(y_hat)
    for i in range(2):
        wanted = (y - y_hat)[i][mask[i]].square().mean()
        torch.testing.assert_close(distortion[i], wanted)
    assert distortion[2] == 0
    everywhere = Target.of(y, torch.ones(3, 8, dtype=torch.bool)).distortion(y_hat)
    torch.testing.assert_close(everywhere, Target.of(y).distortion(y_hat))


def test_an_item_without_values_stays_where_it_begins():
    model, y = _model(), _signals(2)
    mask = torch.tensor([[True] * 12, [False] * 12])
    z = fit(model.at(), Target.of(y, mask), model.first(y, mask), model.rates(), SECOND)
    assert (z[1] == 0).all()
    assert (z[0] != 0).all()


@pytest.mark.parametrize("name", list(IMPLICIT))
def test_a_subset_of_all_points_is_no_subset(name):
    model = _learned(name)
    y, mask, order = _signals(3), torch.rand(3, 12) > 0.2, torch.randperm(12)
    whole = fit(model.at(), Target.of(y, mask), model.first(y, mask), 0.1, SECOND)
    subset = fit(model.at(order), Target.of(y, mask, order), model.first(y, mask), 0.1, SECOND)
    torch.testing.assert_close(subset, whole, atol=1e-10, rtol=0)
    some = order[:5]
    torch.testing.assert_close(model.decode(whole, some), model.decode(whole)[:, some])
    fewer = fit(model.at(some), Target.of(y, mask, some), model.first(y, mask), 0.1, SECOND)
    assert (fewer - whole).abs().max() > 1e-4


def test_drawn_points_are_different_ones_from_the_seed():
    def draw(count, seed=0):
        return draw_points(100, count, torch.Generator().manual_seed(seed))

    points = draw(30)
    assert points.tolist() == sorted(set(points.tolist()))
    assert len(points) == 30
    assert points.min() >= 0
    assert points.max() < 100
    assert (draw(30) == points).all()
    assert (draw(30, seed=1) != points).any()
    assert draw(100) is None
    assert draw(101) is None
    drawn = torch.stack([draw(30, seed) for seed in range(400)])
    counts = torch.bincount(drawn.flatten(), minlength=100)
    # Each of 100 points is drawn with probability 0.3: 120 of 400 times, deviation 9.2.
    assert (counts - 120).abs().max() < 5 * 9.2
    with pytest.raises(ConfigError, match="at least one"):
        draw(0)


def test_rates_are_clipped_and_learned_only_if_asked():
    rates = Rates(3, 0.1, learned=True)
    with torch.no_grad():
        rates.rates.copy_(torch.tensor([-0.5, 0.25, 1.5]))
    assert rates().tolist() == [0, 0.25, 1]
    assert list(Rates(3, 0.1, learned=False).parameters()) == []
    assert "rates" in Rates(3, 0.1, learned=False).state_dict()


def test_a_rate_of_each_latent_is_its_own():
    model, y = _model(), _signals(2)
    rates = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    z = fit(model.at(), Target(y), model.first(y), rates, InnerLoop(1))
    one = fit(model.at(), Target(y), model.first(y), 0.1, InnerLoop(1))
    torch.testing.assert_close(z, one * rates / 0.1)


def test_the_same_latents_come_again():
    model, y = _model(torch.float32), _signals(4, torch.float32)
    fits = [fit(model.at(), Target(y), model.first(y), model.rates(), SECOND) for _ in range(2)]
    assert (fits[0] == fits[1]).all()


@pytest.mark.parametrize("name", list(IMPLICIT))
def test_all_is_computed_on_the_device_of_the_network(name):
    # This one has no numbers at all: whoever looks at one, or moves one elsewhere, fails.
    model = _learned(name).to("meta")
    y, mask = _signals(3).to("meta"), torch.ones(3, 12, dtype=torch.bool, device="meta")
    loss = _outer(model, y, SECOND, mask)
    loss.backward()
    assert loss.device.type == "meta"
    assert all(parameter.grad.device.type == "meta" for parameter in model.parameters())


def test_other_parameters_can_be_put_in_from_outside():
    model, y = _model(), _signals(3)
    other = {name: 1.1 * p.detach() for name, p in model.named_parameters()}

    def decode(z):
        return functional_call(model, other, (z,))

    z = fit(decode, Target(y), model.first(y), 0.3, SECOND)
    assert (z - fit(model.at(), Target(y), model.first(y), 0.3, SECOND)).abs().max() > 1e-4
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(other[name])
    torch.testing.assert_close(z, fit(model.at(), Target(y), model.first(y), 0.3, SECOND))
