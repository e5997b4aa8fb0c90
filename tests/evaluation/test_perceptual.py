"""LPIPS is optional: without package or weights it says so, and nothing is downloaded."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import photo
from lictor.errors import ConfigError
from lictor.evaluation.peers import PEERS
from lictor.evaluation.perceptual import BACKBONE_FILE, Lpips, backbone_path
from lictor.evaluation.rd import evaluate_image


class _Distance(torch.nn.Module):
    """Stands in for the network: the mean absolute difference of what it is given."""

    def __init__(self, net: str, verbose: bool):
        super().__init__()
        assert (net, verbose) == ("alex", False)

    def forward(self, a, b):
        assert a.shape == b.shape
        assert a.shape[:2] == (1, 3)
        assert a.min() >= -1
        assert a.max() <= 1
        return (a - b).abs().mean()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ConfigError, match=r"lictor\[lpips\]"):
        Lpips()


def test_without_the_weights_their_place_is_named(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=_Distance))
    with pytest.raises(ConfigError, match=BACKBONE_FILE) as error:
        Lpips()
    assert str(hub) in str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_with_both_a_row_has_it(hub, monkeypatch, channels):
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=_Distance))
    backbone_path().parent.mkdir()
    backbone_path().write_bytes(b"weights")
    image = photo(20, 30)[:, :, :channels]
    row, decoded = evaluate_image(PEERS["jpeg"].make(30), image, "a", lpips=Lpips())
    expected = np.abs(image.astype(float) - decoded).mean() / 127.5
    assert row.lpips == pytest.approx(expected, rel=1e-5)
