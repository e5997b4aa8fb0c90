"""COIN: many items at once are each what they would be alone."""

import pytest
import torch

from lictor.implicit.coin import CoinFit, CoinSettings, coin_network, decode_coin, fit_coin
from lictor.implicit.coordinates import pixel_grid

SMALL = CoinSettings(width=6, layers=3)
POINTS = pixel_grid((5, 6))


def _items(count):
    rows, columns = POINTS[:, :1], POINTS[:, 1:]
    waves = [torch.sin((2 + i) * rows) * torch.cos(3 * columns - i) for i in range(count)]
    return 0.5 + 0.4 * torch.stack([wave * torch.tensor([1, -0.5]) for wave in waves])


def test_items_together_are_items_one_by_one():
    items, fit = _items(3), CoinFit(steps=30, learning_rate=2e-3)
    together = fit_coin(items, POINTS, SMALL, fit)
    for i in range(3):
        alone = fit_coin(items[i : i + 1], POINTS, SMALL, fit)
        for name, weight in together.items():
            torch.testing.assert_close(alone[name][0], weight[i], atol=1e-5, rtol=0)
    assert (together["layers.0.weight"][0] != together["layers.0.weight"][1]).any()


@pytest.mark.parametrize(("rate", "last_is_best"), [(1e-3, True), (0.02, False)])
def test_it_is_what_a_plain_loop_over_one_network_keeps(rate, last_is_best):
    item, points, steps = _items(1)[0].double(), POINTS.double(), 21
    weights = fit_coin(item[None], points, SMALL, CoinFit(steps, rate, seed=3))
    torch.manual_seed(3)
    network = coin_network(SMALL, 2, 2).double()
    adam = torch.optim.Adam(network.parameters(), rate)
    seen = []
    for step in range(steps + 1):
        h = points
        for layer in network.layers[:-1]:
            h = torch.sin(30 * layer(h))
        loss = (network.layers[-1](h) - item).square().mean()
        if step >= steps / 2:  # the second half
            seen.append((loss.item(), [w.detach().clone() for w in network.parameters()]))
        adam.zero_grad()
        loss.backward()
        adam.step()
    least, best = min(seen, key=lambda pair: pair[0])
    assert (least == seen[-1][0]) == last_is_best
    for weight, wanted in zip(weights.values(), best, strict=True):
        torch.testing.assert_close(weight[0], wanted, atol=1e-7, rtol=0)
    y_hat = decode_coin(weights, points, SMALL)[0]
    assert (y_hat - item).square().mean().item() == pytest.approx(least, rel=1e-6)


def test_fitting_fits():
    items = _items(2)
    losses = [
        (decode_coin(fit_coin(items, POINTS, SMALL, CoinFit(n, 5e-3)), POINTS, SMALL) - items)
        .square()
        .mean((1, 2))
        for n in (0, 200)
    ]
    assert (losses[1] < 0.05 * losses[0]).all()


def test_masked_points_do_not_matter():
    items, mask = _items(2), torch.rand(2, 30) > 0.3
    spoilt = torch.where(mask[..., None], items, float("nan"))
    fit = CoinFit(10, 1e-3)
    weights = fit_coin(spoilt, POINTS, SMALL, fit, mask)
    for name, weight in fit_coin(items, POINTS, SMALL, fit, mask).items():
        assert (weights[name] == weight).all()
    assert (fit_coin(items, POINTS, SMALL, fit)["layers.0.bias"] != weights["layers.0.bias"]).any()


def test_stacked_networks_are_networks():
    networks = [coin_network(SMALL, 2, 2) for _ in range(3)]
    weights, _ = torch.func.stack_module_state(networks)
    y_hat = decode_coin(weights, POINTS, SMALL)
    for network, values in zip(networks, y_hat, strict=True):
        still = torch.zeros(1, network.num_modulations)
        torch.testing.assert_close(values, network(POINTS, still)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("width", "hidden", "parameters"), [(20, 5, 1803), (28, 10, 7479), (49, 13, 29697)]
)
def test_sizes_are_the_papers(width, hidden, parameters):
    network = coin_network(CoinSettings(width, hidden + 1), 2, 3)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_the_random_numbers_of_others_are_left_alone():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    fit_coin(_items(1), POINTS, SMALL, CoinFit(0, seed=1))
    assert (torch.rand(3) == wanted).all()
    starts = [fit_coin(_items(1), POINTS, SMALL, CoinFit(0, seed=seed)) for seed in (1, 1, 2)]
    for name in starts[0]:
        assert (starts[0][name] == starts[1][name]).all()
        assert (starts[0][name] != starts[2][name]).any()
