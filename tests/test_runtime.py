"""A runtime is possible or refused, and its precision is that of the transforms alone."""

import pytest
import torch

from lictor.errors import ConfigError
from lictor.runtime import Runtime


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "float16"}, r"precision = 'float16' must be one of float32, bfloat16"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"rank": -1}, "rank -1 of 1"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Runtime(**settings)


def test_precision_is_that_of_matrix_products():
    a = torch.rand(4, 4)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with Runtime(precision=precision).autocast():
            assert (a @ a).dtype == dtype
