"""One file through a codec of signals: results, what counts as finished, names, sizes, rates."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lictor.codecs.batch import LSIG, Item, Rules
from lictor.codecs.signals.batch import (
    EFFORT_STEPS,
    Choices,
    SignalCoder,
    signal_coder_from_bytes,
)
from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.signals.domain import Domain
from lictor.codecs.signals.files import lsig_beside, plain_suffix, rate_text, restored_name
from lictor.coding.archive import Entry, Outline
from lictor.coding.codec_file import is_signal_codec
from lictor.data.signals.signal import Signal
from lictor.errors import ConfigError
from lictor.implicit.coordinates import COORDINATES
from lictor.implicit.model import IMPLICIT, ImplicitModel
from lictor.implicit.pca import fit_pca


def series(length: int, seed: int) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(size=(length, 1))
    return steps.cumsum(0).astype(np.float32)


def pca(grid: tuple[int, ...], channels: int, patches: np.ndarray) -> ImplicitModel:
    settings = IMPLICIT["pca"].settings(latent=4)
    model = IMPLICIT["pca"].make(settings, COORDINATES["unit"](grid), channels)
    model.start_from(fit_pca([(patches, None)], 4))
    return model


def frozen(kind: str, bits: tuple[int, int] | None = None) -> SignalCodec:
    torch.manual_seed(0)
    values = np.stack([series(160, seed) for seed in range(4)])
    domain = Domain(kind, 1, (16,), low=-30.0, high=30.0, clip=None)
    patches = ((values + 30) / 60).astype(np.float32).reshape(-1, 16, 1)
    signals = [Signal(value[None], kind=kind) for value in values]
    return SignalCodec.freeze(
        pca((16,), 1, patches), domain, signals, qualities=(0, 8), bits=bits, steps=0
    )


@pytest.fixture(scope="module")
def codec() -> SignalCodec:
    return frozen("array")


@pytest.fixture
def item(tmp_path) -> Item:
    source = tmp_path / "x.npy"
    np.save(source, series(100, 9))
    return Item(str(source), str(tmp_path / "x.lsig"))


def test_an_item_is_done_then_skipped_then_made_again_when_its_source_changes(codec, item):
    coder = SignalCoder(codec, Rules("compress"))
    assert coder(item).status == "done"
    assert coder(item).status == "skipped"
    first = Path(item.target).read_bytes()
    assert first == codec.encode([Signal(np.load(item.source)[None], None, "array",
                                         {"array_shape": [100, 1]})], 4)  # fmt: skip
    later = Path(item.target).stat().st_mtime_ns + 10**9
    os.utime(item.source, ns=(later, later))
    assert coder(item).status == "failed"
    assert SignalCoder(codec, Rules("compress", force=True))(item).status == "done"


@pytest.mark.parametrize("other", ["quality", "codec", "shape", "damage", "archive"])
def test_what_an_earlier_run_cannot_have_made_is_no_result(other, codec, item):
    made, target = codec, Path(item.target)
    signal = Signal(np.load(item.source)[None], None, "array", {"array_shape": [100, 1]})
    if other == "codec":
        made = frozen("array", bits=(2, 6))
    if other == "shape":
        signal = Signal(signal.samples[:, :50], None, "array", {"array_shape": [50, 1]})
    names = ["x"] if other == "archive" else None
    data = made.encode([signal], 5 if other == "quality" else 4, names=names)
    target.write_bytes(data[:-1] if other == "damage" else data)
    result = SignalCoder(codec, Rules("compress"))(item)
    assert result.status == "failed"
    assert "exists already" in result.text
    assert target.read_bytes() == (data[:-1] if other == "damage" else data)


def test_a_worker_needs_only_the_bytes_of_the_codec(codec, item, tmp_path):
    path = tmp_path / "c.lcodec"
    codec.save(path)
    assert is_signal_codec(path)
    assert not is_signal_codec(item.source)
    assert not is_signal_codec(tmp_path / "missing")
    make = signal_coder_from_bytes(path.read_bytes(), Rules("compress"), Choices(quality=7))
    assert make(item).status == "done"
    back = Item(item.target, str(tmp_path / "back.npy"))
    restore = signal_coder_from_bytes(path.read_bytes(), Rules("decompress"), Choices())
    assert restore(back).status == "done"
    assert restore(back).status == "skipped"
    step = float(codec.latents.quantize(np.zeros((1, 4)), 7).sum())
    assert np.isfinite(step)
    before, after = np.load(item.source), np.load(back.target)
    assert after.shape == before.shape
    assert np.mean((after - before) ** 2) < 0.1 * np.var(before)


def test_choices_are_those_of_the_codec(codec):
    assert Choices().checked(codec).quality == 4
    assert Choices(effort=0).search is None
    steps = [Choices(effort=level).search for level in range(1, len(EFFORT_STEPS))]
    assert [effort.steps for effort in steps if effort] == list(EFFORT_STEPS[1:])
    assert list(EFFORT_STEPS) == sorted(set(EFFORT_STEPS))
    pooled = frozen("array", bits=(2, 6))
    assert Choices().checked(pooled).quality == 4
    for wrong in (Choices(quality=9), Choices(quality=-1), Choices(effort=10), Choices(effort=-1),
                  Choices(variable="t")):  # fmt: skip
        with pytest.raises(ConfigError):
            wrong.checked(codec)
    with pytest.raises(ConfigError, match="no search"):
        Choices(effort=1).checked(pooled)


def test_rates_are_told_in_the_unit_of_their_kind():
    picture = Outline("image", "uint8", 1, (20, 30), 3)
    assert rate_text(picture, {}, 75) == "1.000 bpp"
    sound = Outline("audio", "int16", 1, (16000,), 2)
    assert rate_text(sound, {"sample_rate": 8000}, 1000) == "4.00 kbps"  # 8000 bits in 2 seconds
    assert rate_text(sound, {}, 1000) == "0.2500 bits per sample"
    fields = Outline("field", "float32", 4, (10, 10), 1)
    assert rate_text(fields, {}, 50) == "1.0000 bits per sample"


@pytest.mark.parametrize(
    ("source", "target"),
    [("a/b.nii.gz", "a/b.lsig"), ("b.NII.GZ", "b.lsig"), ("x.tar.wav", "x.tar.lsig"),
     ("x.grib", "x.lsig"), ("f.zarr", "f.lsig")],
)  # fmt: skip
def test_compressed_files_are_named_by_the_whole_end_of_their_source(source, target):
    assert lsig_beside(source) == target
    assert target.endswith(LSIG)


@pytest.mark.parametrize(
    ("name", "restored"),
    [("a.wav", "a.wav"), ("b/a.flac", "b/a.flac"), ("a.ogg", "a.wav"), ("a", "a.wav"),
     ("a.txt", "a.txt.wav"), ("a.npy", "a.npy"), ("a.png", "a.wav")],
)  # fmt: skip
def test_names_keep_ends_that_lose_nothing(name, restored):
    codec = frozen("audio")
    entry = Entry(Outline("audio", "int16", 1, (50,), 1), {"sample_rate": 8000}, None, name)
    assert restored_name(codec, entry) == restored


def test_what_files_of_a_kind_do_not_hold_becomes_an_array():
    codec = frozen("audio")
    two = Entry(Outline("audio", "int16", 2, (50,), 1), {"sample_rate": 8000})
    read_from_array = Entry(Outline("audio", "int16", 1, (50,), 1), {"array_shape": [50]})
    assert plain_suffix(codec, two) == plain_suffix(codec, read_from_array) == ".npy"
