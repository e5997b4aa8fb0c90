"""The table of networks of signals: what a fresh one is, and what its linear part does."""

import numpy as np
import pytest
import torch

from lictor.config import write
from lictor.errors import ConfigError, DataError
from lictor.implicit.coordinates import regular_grid
from lictor.implicit.meta import InnerLoop, Target, fit
from lictor.implicit.model import IMPLICIT
from lictor.implicit.pca import fit_pca

GRID, CHANNELS = (4, 5), 2
LINEAR = ["linear-coinpp", "linear", "pca"]


def _patches(count=60):
    rng = np.random.default_rng(0)
    waves = np.cumsum(rng.normal(0, 0.1, (count, 20, CHANNELS)), 1) + 0.5
    return waves.astype(np.float32)


def _components():
    return fit_pca([(_patches(), None)], 4)


def _started(name):
    model = IMPLICIT[name](regular_grid(GRID), CHANNELS, **IMPLICIT[name].tiny)
    model.start_from(_components())
    return model


@pytest.mark.parametrize("name", LINEAR)
def test_a_fresh_network_is_pca(name):
    model, pca, patches = _started(name), _components(), _patches(10)
    basis = pca.basis.reshape(-1, 4)
    rest = (patches - pca.mean).reshape(10, -1)
    wanted = (rest @ basis @ basis.T).reshape(patches.shape) + pca.mean
    y_hat = model.decode(model.first(torch.from_numpy(patches)))
    np.testing.assert_allclose(y_hat.detach().numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("name", LINEAR)
def test_the_first_latent_is_the_least_squares_solution(name):
    model, y = _started(name), torch.from_numpy(_patches(10))
    rest = (y - model.linear.mean).flatten(1)
    basis = model.linear.basis.flatten(0, 1)
    wanted = torch.linalg.lstsq(basis, rest.T).solution.T
    torch.testing.assert_close(model.first(y), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", LINEAR)
def test_a_latent_has_the_unit_of_the_values(name):
    model = _started(name)
    power = model.linear.basis.square().mean((0, 1))
    torch.testing.assert_close(power, torch.ones(4))
    z = model.first(torch.from_numpy(_patches()))
    deviations = torch.from_numpy(_components().variances / 40).sqrt().float()
    torch.testing.assert_close(z.square().mean(0).sqrt(), deviations, atol=1e-5, rtol=1e-4)


def test_one_step_of_rate_one_half_is_least_squares_from_anywhere():
    model, y = _started("pca"), torch.from_numpy(_patches(7))
    z = fit(model.at(), Target(y), torch.randn(7, 4), model.rates(), InnerLoop(1))
    torch.testing.assert_close(z, model.first(y), atol=1e-5, rtol=0)


def test_the_inner_loop_mends_what_masked_points_spoil():
    model, y = _started("pca"), torch.from_numpy(_patches(3))
    mask = torch.rand(3, 20) > 0.4
    z = fit(model.at(), Target.of(y, mask), model.first(y, mask), model.rates(), InnerLoop(300))
    for i in range(3):
        rows = model.linear.basis[mask[i]].flatten(0, 1)
        rest = (y[i] - model.linear.mean)[mask[i]].flatten()
        wanted = torch.linalg.lstsq(rows, rest[:, None]).solution[:, 0]
        torch.testing.assert_close(z[i], wanted, atol=1e-3, rtol=1e-3)


def test_beside_components_the_sines_are_silent_but_can_learn():
    model, y = _started("linear-coinpp"), torch.from_numpy(_patches(6))
    target = Target(y)
    z = fit(model.at(), target, model.first(y), model.rates(), InnerLoop())
    target.distortion(model.decode(z)).mean().backward()
    last = model.siren.siren.layers[-1]
    assert (last.weight == 0).all()
    assert last.weight.grad.abs().max() > 1e-5
    for parameter in model.linear.parameters():
        assert parameter.grad is not None


def test_training_improves_on_components():
    model, y = _started("linear-coinpp"), torch.from_numpy(_patches(40))
    target = Target(y)

    def loss():
        z = fit(model.at(), target, model.first(y), model.rates(), InnerLoop(2))
        return target.distortion(model.decode(z)).mean()

    adam = torch.optim.Adam(model.parameters(), 3e-3)
    before = loss().item()
    for _ in range(60):
        adam.zero_grad()
        loss().backward()
        adam.step()
    assert loss().item() < 0.9 * before


def test_components_alone_stay_what_they_are_and_a_linear_part_may_learn():
    for name, learns in (("pca", False), ("linear", True)):
        model, y = _started(name), torch.from_numpy(_patches(6))
        assert {p.requires_grad for p in model.parameters()} == {learns}
        distortion = Target(y).distortion(model.decode(model.first(y))).mean()
        assert distortion.requires_grad == learns


@pytest.mark.parametrize("name", list(IMPLICIT))
def test_a_state_is_all_that_a_decoder_of_the_same_grid_needs(name):
    choice = IMPLICIT[name]
    model = choice(regular_grid(GRID), CHANNELS, **choice.tiny)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    again = choice(regular_grid(GRID), CHANNELS, **model.hyperparameters)
    again.load_state_dict(model.state_dict())
    z, y = torch.randn(3, model.latent), torch.rand(3, 20, CHANNELS)
    assert (again.decode(z) == model.decode(z)).all()
    assert (again(z) == model.decode(z)).all()
    assert (again.first(y) == model.first(y)).all()
    assert "coordinates" not in model.state_dict()
    assert model.name == name


@pytest.mark.parametrize("name", list(IMPLICIT))
def test_hyperparameters_are_the_settings(name):
    choice = IMPLICIT[name]
    model = choice(regular_grid(GRID), CHANNELS, **choice.tiny)
    assert model.hyperparameters == write(choice.settings(**choice.tiny))
    z = torch.zeros(2, model.latent)
    assert model.decode(z).shape == (2, 20, CHANNELS)
    assert model.double().decode(z.double()).dtype == torch.float64


def test_the_paper_form_has_the_papers_size():
    siren = IMPLICIT["coinpp"](regular_grid((2, 2)), 3, latent=128)
    network = sum(p.numel() for p in siren.siren.siren.parameters())
    modulation = sum(p.numel() for p in siren.siren.modulation.parameters())
    assert network == 2_104_323
    assert modulation == 128 * 4608 + 4608
    assert list(siren.rates.parameters()) == []
    assert (siren.rates() == torch.tensor(0.01)).all()


def test_without_a_linear_part_the_first_latent_is_zero():
    model = IMPLICIT["coinpp"](regular_grid(GRID), CHANNELS, **IMPLICIT["coinpp"].tiny)
    assert (model.first(torch.rand(3, 20, CHANNELS)) == 0).all()
    with pytest.raises(DataError, match="no linear part"):
        model.start_from(_components())


def test_components_of_another_shape_are_refused():
    model = IMPLICIT["pca"](regular_grid(GRID), CHANNELS, latent=3)
    with pytest.raises(DataError, match="do not fit"):
        model.start_from(_components())


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="layers"):
        IMPLICIT["coinpp"](regular_grid(GRID), CHANNELS, layers=1)
    with pytest.raises(ConfigError, match="latent"):
        IMPLICIT["pca"](regular_grid(GRID), CHANNELS, latnet=3)
