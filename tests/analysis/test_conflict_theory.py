"""What can be proven about conflicts of rate and distortion, checked on quadratics in float64.

The toy: a rate `(x-a)^T A (x-a) / 2` and a weighted distortion `(x-b)^T B (x-b) / 2`; `H = A + B`,
the optimum `x*`, and `e = x - x*`. The statements are numbered:

T1  For two vectors the alignment score is the cosine: tests/training/test_alignment.py.
T2  With a common center a Newton step for the rate never raises the distortion to first order.
T3  With a common center, gradients preconditioned by `H^(-1/2)` never have a negative cosine.
T4  False: that Newton's updates `H^-1 g` never have a negative cosine. Here is the counter-example.
T5  With different centers every score is -1 at the optimum, whatever the preconditioner.
T6  Damped Newton's successive updates are parallel; those of gradient descent are not.
T7  SOAP commutes with rotations, so its scores do not depend on the coordinates (the trajectories
    themselves are in tests/optim/test_soap.py).
T8  SOAP's first update has the length `lr * sqrt(numel)`: tests/optim/test_soap.py.
"""

import itertools
import math

import pytest
import torch

from lictor.analysis.quadratic import (
    TwoQuadratics,
    matrix_power,
    random_definite,
    random_orthogonal,
)
from lictor.optim.precondition import precondition
from lictor.optim.soap import SOAP
from lictor.training.alignment import conflict_rate, cosines

SIZE, DRAWS = 20, 200
CONDITIONS = (1e3, 1e5)


def normal(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def cosine(u: torch.Tensor, v: torch.Tensor) -> float:
    return cosines([u], [v])[0]


def in_metric(metric: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> float:
    """The cosine of gradients in a preconditioner's metric: the probe's `intra_h`."""
    return float(u @ metric @ v / torch.sqrt((u @ metric @ u) * (v @ metric @ v)))


def problems(condition: float, *, commuting: bool = False, seed: int = 0):
    """Draws of a problem whose rate and distortion have one center, each with a point."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(DRAWS):
        basis = random_orthogonal(SIZE, generator) if commuting else None
        rate, distortion = (
            random_definite(SIZE, condition, generator, basis=basis) for _ in range(2)
        )
        center = normal(SIZE, generator=generator)
        toy = TwoQuadratics(rate, distortion, center, center)
        yield toy, center + normal(SIZE, generator=generator)


def gradients(toy: TwoQuadratics, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return toy.rate_gradient(x), toy.distortion_gradient(x)


def total(toy: TwoQuadratics, x: torch.Tensor) -> torch.Tensor:
    return toy.rate_gradient(x) + toy.distortion_gradient(x)


def parallel_sum(toy: TwoQuadratics) -> torch.Tensor:
    return torch.linalg.inv(
        torch.linalg.inv(toy.rate_hessian) + torch.linalg.inv(toy.distortion_hessian)
    )


def test_the_toy_is_what_it_says():
    toy, x = next(problems(1e3))
    other = TwoQuadratics(toy.rate_hessian, toy.distortion_hessian, x, -x)
    assert float(total(other, other.optimum).norm()) < 1e-9 * float(total(other, 0 * x).norm())
    values = torch.linalg.eigvalsh(toy.rate_hessian)
    assert float(values[0]) == pytest.approx(1)
    assert float(values[-1]) == pytest.approx(1e3)
    root = matrix_power(toy.rate_hessian, 0.5)
    torch.testing.assert_close(root @ root, toy.rate_hessian, rtol=1e-9, atol=1e-9)
    turn = random_orthogonal(SIZE, torch.Generator().manual_seed(1))
    torch.testing.assert_close(turn.T @ turn, torch.eye(SIZE, dtype=torch.float64))

    def rate(x: torch.Tensor) -> torch.Tensor:
        return (x - other.rate_center) @ toy.rate_hessian @ (x - other.rate_center) / 2

    start = x.clone().zero_().requires_grad_()
    (autograd,) = torch.autograd.grad(rate(start), start)
    torch.testing.assert_close(other.rate_gradient(start.detach()), autograd)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_t2_a_newton_step_for_the_rate_never_raises_the_distortion(condition):
    raw, metric = [], []
    for toy, x in problems(condition):
        rate, distortion = gradients(toy, x)
        newton = torch.linalg.inv(toy.hessian)
        e = x - toy.optimum
        numerator = float(rate @ newton @ distortion)
        assert numerator == pytest.approx(float(e @ parallel_sum(toy) @ e), rel=1e-6)
        raw.append(cosine(rate, distortion))
        metric.append(in_metric(newton, rate, distortion))
    assert min(metric) > 0
    assert conflict_rate(raw) > (0.02 if condition == 1e3 else 0.1)  # so there was one to resolve


@pytest.mark.parametrize("condition", CONDITIONS)
def test_t3_the_root_of_the_curvature_resolves_the_conflict_and_a_diagonal_does_not(condition):
    whitened, diagonal = [], []
    for toy, x in problems(condition):
        rate, distortion = gradients(toy, x)
        root = matrix_power(toy.hessian, -0.5)
        u, v = root @ rate, root @ distortion
        e = x - toy.optimum
        assert float(u @ v) == pytest.approx(float(e @ parallel_sum(toy) @ e), rel=1e-6)
        whitened.append(cosine(u, v))
        adam = toy.hessian.diagonal().rsqrt()
        diagonal.append(cosine(adam * rate, adam * distortion))
    assert min(whitened) > 0
    assert conflict_rate(diagonal) > (0.01 if condition == 1e3 else 0.08)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_t3_in_a_rotated_basis_a_diagonal_makes_conflicts_that_were_not_there(condition):
    raw, diagonal, whitened = [], [], []
    for toy, x in problems(condition, commuting=True):
        rate, distortion = gradients(toy, x)
        root = matrix_power(toy.hessian, -0.5)
        adam = toy.hessian.diagonal().rsqrt()
        raw.append(cosine(rate, distortion))
        whitened.append(cosine(root @ rate, root @ distortion))
        diagonal.append(cosine(adam * rate, adam * distortion))
    assert min(raw) > 0
    assert min(whitened) > 0
    assert conflict_rate(diagonal) > (0.005 if condition == 1e3 else 0.02)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_t4_newtons_updates_do_conflict_in_the_euclidean_metric(condition):
    """A warning to whoever expects the opposite: no preconditioner is a cure in every metric.

    The inner product of `H^-1 g_R` and `H^-1 g_D` is `e^T A H^-2 B e`, of any sign; only in the
    metric of `H` (T2), or with the root (T3), is it a parallel sum. It is positive again where the
    two curvatures commute.
    """
    apart, commuting = [], []
    for scores, together in ((apart, False), (commuting, True)):
        for toy, x in problems(condition, commuting=together):
            rate, distortion = gradients(toy, x)
            newton = torch.linalg.inv(toy.hessian)
            scores.append(cosine(newton @ rate, newton @ distortion))
    assert conflict_rate(apart) > (0.7 if condition == 1e3 else 0.9)
    assert min(commuting) > 0


def test_t5_the_trade_off_itself_cannot_be_preconditioned_away():
    generator = torch.Generator().manual_seed(5)
    raw_far, metric_far = [], []
    for toy, _ in itertools.islice(problems(1e3), 20):
        a, b, direction = (normal(SIZE, generator=generator) for _ in range(3))
        toy = TwoQuadratics(toy.rate_hessian, toy.distortion_hessian, a, b)
        rate, distortion = gradients(toy, toy.optimum)
        torch.testing.assert_close(rate, -distortion, rtol=1e-6, atol=1e-6)
        newton = torch.linalg.inv(toy.hessian)
        maps = (torch.eye(SIZE, dtype=torch.float64), newton, matrix_power(toy.hessian, -0.5),
                torch.diag(toy.hessian.diagonal().rsqrt()))  # fmt: skip
        for linear in maps:
            assert cosine(linear @ rate, linear @ distortion) == pytest.approx(-1, abs=1e-6)
        assert in_metric(newton, rate, distortion) == pytest.approx(-1, abs=1e-6)
        near, far = (toy.optimum + t * direction for t in (1e-3, 1e3))
        assert cosine(*gradients(toy, near)) < -0.9
        raw_far.append(cosine(*gradients(toy, far)))
        metric_far.append(in_metric(newton, *gradients(toy, far)))
    # Far from the optimum the difference of the centers does not matter: T2 holds again.
    assert min(metric_far) > 0
    assert sum(raw_far) / len(raw_far) > 0.2


@pytest.mark.parametrize("eta", [0.05, 0.3, 0.9])
def test_t6_damped_newton_keeps_its_direction_exactly(eta):
    toy, x = next(problems(1e5, seed=6))
    newton, updates = torch.linalg.inv(toy.hessian), []
    for _ in range(8):
        updates.append(newton @ total(toy, x))
        x = x - eta * updates[-1]
    scores = [cosine(u, v) for u, v in itertools.pairwise(updates)]
    assert min(scores) > 1 - 1e-9


def test_t6_gradient_descent_turns_around_along_stiff_directions():
    means = []
    for scaled in (0.5, 1.0, 1.5, 1.9, 1.99):
        lowest = []
        for toy, x in itertools.islice(problems(1e3, seed=7), 6):
            eta = scaled / float(torch.linalg.eigvalsh(toy.hessian)[-1])
            found = []
            for _ in range(100):
                g = total(toy, x)
                x = x - eta * g
                found.append(cosine(g, total(toy, x)))
            lowest.append(min(found))
        means.append(sum(lowest) / len(lowest))
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.9
    assert means[2] < 0
    assert means[-1] < -0.95


def test_t6_beyond_quadratics_newton_loses_alignment_with_the_square_of_the_step():
    weights = torch.linspace(0.5, 3, 10, dtype=torch.float64)

    def update(x: torch.Tensor) -> torch.Tensor:
        """Newton's of the sum of `log cosh(w x) / w`: gradient `tanh`, curvature `w / cosh^2`."""
        return torch.tanh(weights * x) * torch.cosh(weights * x).square() / weights

    x = torch.linspace(0.1, 0.4, 10, dtype=torch.float64)
    missing = [1 - cosine(update(x), update(x - eta * update(x))) for eta in (0.04, 0.02, 0.01)]
    assert 0 < missing[-1] < missing[0] < 0.01
    for coarse, fine in itertools.pairwise(missing):
        assert coarse / fine == pytest.approx(4, rel=0.05)


def rotated_scores(kind: type, turn_left: torch.Tensor, turn_right: torch.Tensor) -> list[float]:
    """Conflict scores along a run of a matrix problem, in coordinates that are turned as said."""
    generator = torch.Generator().manual_seed(8)
    rows, columns = turn_left.shape[0], turn_right.shape[0]
    size = rows * columns
    hessians = [random_definite(size, 1e3, generator) for _ in range(2)]
    centers = [normal(size, generator=generator) for _ in range(2)]
    toy = TwoQuadratics(hessians[0], hessians[1], centers[0], centers[1])
    start = normal(rows, columns, generator=generator)
    p = torch.nn.Parameter(turn_left.T @ start @ turn_right)
    optimizer = kind([p], lr=1e-2, betas=(0.9, 0.95))

    def parts(noise: torch.Tensor | float = 0.0) -> list[torch.Tensor]:
        x = (turn_left @ p.detach() @ turn_right.T).reshape(-1)
        both = (g.reshape(rows, columns) + noise for g in gradients(toy, x))
        return [turn_left.T @ g @ turn_right for g in both]

    scores, previous = [], None
    for _ in range(30):
        p.grad = sum(parts(normal(rows, columns, generator=generator)), torch.zeros_like(p))
        optimizer.step()
        mapped = [precondition(optimizer, p, g) for g in parts()]
        if mapped[0] is None or mapped[1] is None:
            continue
        whole = mapped[0] + mapped[1]
        scores.append(cosine(mapped[0], mapped[1]))
        if previous is not None:
            scores.append(cosine(previous, whole))
        previous = whole
    return scores


@pytest.mark.parametrize(("kind", "same"), [(SOAP, True), (torch.optim.Adam, False)])
def test_t7_soaps_scores_do_not_depend_on_the_coordinates_and_adams_do(kind, same):
    generator = torch.Generator().manual_seed(9)
    turns = random_orthogonal(4, generator), random_orthogonal(5, generator)
    plain = rotated_scores(kind, *(torch.eye(n, dtype=torch.float64) for n in (4, 5)))
    turned = rotated_scores(kind, *turns)
    assert len(plain) > 50
    difference = max(abs(a - b) for a, b in zip(plain, turned, strict=True))
    assert difference < 1e-8 if same else difference > 0.05
    assert not math.isnan(difference)
