"""Signatures are checked while tests run: types, dtypes, ranks, and shapes against each other."""

import numpy as np
import pytest
import torch

from lictor.implicit.meta import Target
from lictor.metrics import psnr
from lictor.rates import bpp


def test_a_wrong_type_is_noticed():
    with pytest.raises(TypeError):
        bpp("many", 8, 8)  # pyright: ignore[reportArgumentType]


def test_arguments_of_two_shapes_are_noticed():
    one, other = (np.zeros((8, n, 3), np.uint8) for n in (8, 9))
    assert psnr(one, one) > 0
    with pytest.raises(TypeError):
        psnr(one, other)


def test_a_wrong_dtype_and_a_wrong_rank_are_noticed():
    y = torch.zeros(2, 5, 1)
    with pytest.raises(TypeError):
        Target.of(y, torch.zeros(2, 5))
    with pytest.raises(TypeError):
        Target.of(y, torch.zeros(2, 5, 1, dtype=torch.bool))


def test_a_wrong_result_is_noticed():
    target = Target(torch.zeros(2, 5, 1), torch.zeros(2, 5, 1))
    assert target.distortion(torch.zeros(2, 5, 1)).shape == (2,)
    with pytest.raises(TypeError):  # the batch of what comes back is not the argument's
        target.distortion(torch.zeros(1, 5, 1))
