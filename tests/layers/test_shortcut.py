"""The linear shortcut starts as an orthonormal DCT that undoes itself."""

import pytest
import torch
from torch import nn

from lictor.layers.shortcut import LinearAnalysis, LinearSynthesis, color_dct_basis


class Nothing(nn.Module):
    """A branch that contributes nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        del x
        return torch.zeros(())


@pytest.mark.parametrize(("count", "size"), [(12, 2), (40, 8), (128, 16), (768, 16)])
def test_the_basis_is_orthonormal(count, size):
    basis = color_dct_basis(count, size).reshape(count, -1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(count), atol=1e-5, rtol=0)


def test_the_first_function_is_the_mean_of_a_grey_block():
    first = color_dct_basis(1, 8)[0]
    assert (first > 0).all()
    assert first.std(dim=(1, 2)).max() < 1e-6
    grey = torch.ones(3, 8, 8)
    others = color_dct_basis(192, 8)[1:]
    luma_axis = first[:, 0, 0] / first[:, 0, 0].norm()
    # Only the mean functions of the three colour axes see a grey block at all.
    seen = (torch.einsum("mcuv,cuv->m", others, grey).abs() > 1e-4).sum()
    assert seen <= 2
    assert luma_axis.argmax() == 1  # green weighs most


def test_with_all_functions_synthesis_undoes_analysis_exactly():
    torch.manual_seed(0)
    analysis = LinearAnalysis(Nothing(), 3 * 16, 4)
    synthesis = LinearSynthesis(Nothing(), 3 * 16, 4)
    x = torch.rand(2, 3, 12, 20)
    torch.testing.assert_close(synthesis(analysis(x)), x, atol=1e-5, rtol=0)


def test_with_fewer_functions_smooth_pictures_survive_better_than_noise():
    analysis, synthesis = LinearAnalysis(Nothing(), 40, 16), LinearSynthesis(Nothing(), 40, 16)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    errors = [(synthesis(analysis(x)) - x).square().mean() for x in (ramp, noise)]
    assert errors[0] < 1e-3 < errors[1]


def test_a_mid_grey_picture_is_the_zero_latent():
    analysis = LinearAnalysis(Nothing(), 40, 16)
    latent = analysis(torch.full((1, 3, 32, 32), 0.5))
    assert latent.abs().max() < 1e-3  # rounding of sums of 768 terms; a symbol is 1 wide
