"""The codec of signals: what goes in comes out, files are small, and wrong input is told apart."""

import dataclasses
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lictor.codecs.learned import Codec
from lictor.codecs.signals import network as network_module
from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.signals.domain import Domain
from lictor.codecs.signals.network import Network, blocks
from lictor.codecs.signals.store import read_signal_codec
from lictor.codecs.signals.weights import DTYPES, packed, rounded, unpacked
from lictor.codecs.store import Stored
from lictor.coding.archive import Archive
from lictor.data.signals.signal import Signal
from lictor.errors import (
    BitstreamError,
    CheckpointError,
    ConfigError,
    DataError,
    LictorError,
    ModelMismatchError,
)
from lictor.implicit.coordinates import COORDINATES
from lictor.implicit.model import IMPLICIT, ImplicitModel
from lictor.implicit.pca import fit_pca
from lictor.implicit.refine import Effort

PICTURES = Domain("image", 3, (8, 8), form={"suffix": ".png"})
SOUNDS = Domain("audio", 1, (50,), coordinates="audio", low=-1.0, clip=(0.0, 1.0))
FIELDS = Domain(
    "field", 1, (6, 10), whole=True, coordinates="sphere", low=200.0, high=320.0, clip=None
)
VOLUMES = Domain("volume", 1, (4, 4, 4), own_range=True, clip=(0.0, 2.0))


def picture(height: int = 20, width: int = 30, seed: int = 0) -> Signal:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / 30
    waves = [np.sin(a * rows + b) + np.cos(c * columns) for a, b, c in rng.uniform(1, 8, (3, 3))]
    x = 120 + 40 * np.stack(waves, -1) + rng.normal(0, 3, (height, width, 3))
    return Signal(x.clip(0, 255).astype(np.uint8)[None], None, "image", {"suffix": ".png"})


def sound(length: int = 777, seed: int = 0, dtype: str = "int16") -> Signal:
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    x = sum(np.sin(t * f + p) for f, p in rng.uniform(0.05, 0.6, (4, 2))) / 5
    x = x * (1 + np.sin(t / 90))[:] / 2
    samples = (x * 32767).astype(np.int16) if dtype == "int16" else x.astype(dtype)
    return Signal(samples[None, :, None], None, "audio", {"sample_rate": 8000})


def field(items: int = 12, seed: int = 0, masked: bool = True) -> Signal:
    rng = np.random.default_rng(seed)
    base = 260 + 40 * np.cos(np.linspace(-1.5, 1.5, 6))[:, None]
    waves = rng.normal(size=(items, 3)).cumsum(0) @ rng.normal(size=(3, 60))
    x = (base + waves.reshape(items, 6, 10)).astype(np.float32)[..., None]
    mask = rng.random((items, 6, 10)) < 0.8 if masked else None
    if mask is not None:
        x[~mask] = np.nan
    return Signal(x, mask, "field", {"units": "K", "time": list(range(items))})


def volume(seed: int = 0, scale: float = 900.0) -> Signal:
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[0:9, 0:10, 0:13] / 5
    values = np.exp(-((z - 1) ** 2) - (y - 1) ** 2 - rng.uniform(0.3, 1) * (x - 1) ** 2)
    samples = (values * scale + rng.normal(0, scale / 50, values.shape)).astype(np.int16)
    return Signal(samples[None, ..., None], None, "volume", {"affine": np.eye(4).tolist()})


SIGNALS = [(PICTURES, picture), (SOUNDS, sound), (FIELDS, field), (VOLUMES, volume)]


def components(domain: Domain, signals: list[Signal], latent: int = 6) -> ImplicitModel:
    """Principal components of signals: a linear network, found at once."""
    model = IMPLICIT["pca"](
        COORDINATES[domain.coordinates](domain.grid), domain.channels, latent=latent
    )
    network = Network(model, domain)
    grids = [(len(s.samples), *domain.patches(s.samples.shape[1:-1])) for s in signals]
    limits = [domain.range_of(s) for s in signals]
    values = []
    for block in network.blocks(grids):
        y, mask = network.cut(signals, limits, block)
        values.append((y.nan_to_num(0).numpy(), None if mask is None else mask.numpy()))
    model.start_from(fit_pca(values, latent))
    return model


def make(domain: Domain, source, latent: int = 6, **options) -> SignalCodec:
    signals = [source(seed=seed) for seed in range(1, 9)]
    model = components(domain, signals, latent)
    options = {"qualities": (-4, 12), "weight_dtype": torch.float32} | options
    return SignalCodec.freeze(model, domain, signals, **options)


@pytest.fixture(scope="module")
def codecs() -> dict[str, SignalCodec]:
    return {domain.kind: make(domain, source) for domain, source in SIGNALS}


def same(one: Signal, other: Signal) -> bool:
    masks = (one.mask is None) == (other.mask is None)
    if masks and one.mask is not None:
        masks = np.array_equal(one.mask, other.mask)
    return (
        masks
        and one.samples.dtype == other.samples.dtype
        and np.array_equal(one.samples, other.samples, equal_nan=one.samples.dtype.kind == "f")
        and (one.kind, dict(one.form)) == (other.kind, dict(other.form))
    )


def error(one: Signal, other: Signal) -> float:
    there = np.ones(one.samples.shape[:-1], bool) if one.mask is None else one.mask
    rest = one.samples[there].astype(float) - other.samples[there]
    return float(np.square(rest).mean())


@pytest.mark.parametrize(("domain", "source"), SIGNALS, ids=[d.kind for d, _ in SIGNALS])
def test_files_hold_what_the_encoder_saw(codecs, domain, source):
    codec, signal = codecs[domain.kind], source(seed=20)
    found = codec.encode_verbose([signal], 6)
    (restored,) = codec.decode(found.data)
    assert same(restored, found.reconstructions[0])
    assert restored.samples.shape == signal.samples.shape
    assert restored.samples.dtype == signal.samples.dtype
    assert dict(restored.form) == dict(signal.form)
    if signal.mask is not None:
        assert np.array_equal(restored.mask, signal.mask)
        assert np.isnan(restored.samples[~signal.mask]).all()
        assert np.isfinite(restored.samples[signal.mask]).all()
    assert codec.encode([signal], 6) == found.data
    assert codec.estimate_bytes(found.data) == pytest.approx(found.estimated_bytes)
    assert abs(len(found.data) - found.estimated_bytes) <= 0.005 * len(found.data) + 64


@pytest.mark.parametrize(("domain", "source"), SIGNALS, ids=[d.kind for d, _ in SIGNALS])
def test_finer_files_are_larger_and_better(codecs, domain, source):
    codec, signal = codecs[domain.kind], source(seed=21)
    sizes, errors = [], []
    for q in (-4, 0, 4, 8, 12):
        data = codec.encode([signal], q)
        sizes.append(len(data))
        errors.append(error(signal, codec.decode(data)[0]))
    assert (np.diff(sizes) > 0).all()
    assert (np.diff(errors) <= 0.02 * errors[-1]).all()
    assert errors[0] > 1.1 * errors[-1]
    (mean,) = [float(np.nanvar(signal.samples.astype(float)))]
    assert errors[-1] < 0.7 * mean


@pytest.mark.parametrize(("domain", "source"), SIGNALS, ids=[d.kind for d, _ in SIGNALS])
def test_a_saved_codec_reads_the_files_of_the_first(codecs, tmp_path, domain, source):
    codec, signal = codecs[domain.kind], source(seed=22)
    path = tmp_path / "a.lcodec"
    codec.save(path)
    loaded = SignalCodec.load(path)
    assert loaded.fingerprint == codec.fingerprint
    assert loaded.describe() == codec.describe()
    assert loaded.domain == codec.domain
    data = codec.encode([signal], 3)
    assert loaded.encode([signal], 3) == data
    assert same(loaded.decode(data)[0], codec.decode(data)[0])


PROGRAM = """
import sys, zlib
from lictor.codecs.signals.codec import SignalCodec
folder = sys.argv[1]
codec = SignalCodec.load(folder + "/codec")
for signal in codec.decode(open(folder + "/file", "rb").read()):
    print(zlib.crc32(signal.samples.tobytes()), signal.samples.shape)
"""


@pytest.mark.slow
def test_a_fresh_process_restores_the_encoders_reconstruction(codecs, tmp_path):
    codec = codecs["audio"]
    found = codec.encode_verbose([sound(900, 3), sound(55, 4)], 5, names=["a", "b"])
    codec.save(tmp_path / "codec")
    (tmp_path / "file").write_bytes(found.data)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    expected = [
        f"{zlib.crc32(s.samples.tobytes())} {s.samples.shape}" for s in found.reconstructions
    ]
    assert done.stdout.splitlines() == expected


def test_blocks_have_a_bounded_size_and_all_patches_in_order(monkeypatch):
    monkeypatch.setattr(network_module, "BLOCK_SAMPLES", 10)
    made = list(blocks([(2, 3), (1, 7), (1, 1)], 2))
    flat = [(p.signal, p.item, i) for b in made for p in b for i in range(p.start, p.stop)]
    assert flat == [(0, i, j) for i in range(2) for j in range(3)] + [
        (1, 0, j) for j in range(7)
    ] + [(2, 0, 0)]  # fmt: skip
    assert all(sum(p.stop - p.start for p in b) == 5 for b in made[:-1])
    assert len(list(blocks([(1, 3)], 1000))) == 3


@pytest.mark.parametrize("samples", [1, 200, 1000])
def test_the_size_of_blocks_does_not_change_symbols(codecs, monkeypatch, samples):
    for domain, source in SIGNALS:
        codec, signal = codecs[domain.kind], source(seed=23)
        whole = codec.encode_verbose([signal], 2)
        with monkeypatch.context() as patch:
            patch.setattr(network_module, "BLOCK_SAMPLES", samples)
            cut = codec.encode_verbose([signal], 2)
        assert cut.symbol_crc == whole.symbol_crc
        assert cut.data == whole.data


def test_an_archive_costs_less_than_its_files_and_keeps_them_apart(codecs):
    codec, sounds = codecs["audio"], [sound(300 + 30 * i, i) for i in range(10)]
    names = [f"digits/{i}.wav" for i in range(10)]
    singles = [codec.encode([one], 4) for one in sounds]
    archive = codec.encode(sounds, 4, names=names)
    assert len(archive) < sum(map(len, singles)) - 9 * 14
    found_names, found = codec.decode_named(archive)
    assert found_names == names
    for one, data in zip(found, singles, strict=True):
        (alone,) = codec.decode(data)
        assert one.samples.shape == alone.samples.shape
        assert np.abs(one.samples.astype(int) - alone.samples).max() <= 1
        assert dict(one.form) == dict(alone.form)


def test_copies_in_an_archive_share_what_they_can(codecs):
    codec, one = codecs["field"], field(1)
    single = len(codec.encode([one], 4))
    copies = len(codec.encode([one] * 10, 4, names=[str(i) for i in range(10)]))
    assert copies < 0.5 * 10 * single


def test_a_single_field_has_few_bytes_around_its_symbols():
    codec = make(FIELDS, lambda seed: field(12, seed, masked=False), latent=4)
    plain = Signal(field(1, 30, masked=False).samples, None, "field", {})
    data = codec.encode([plain], 0)
    assert len(data) < 22 + 16


@pytest.mark.parametrize("size", [8, 40])
def test_more_effort_costs_less_in_bits_and_error_together(size):
    """Where no patch has neighbours, it must; where they are predicted, it may not cost more."""
    sources = [picture(size, size, seed) for seed in range(1, 300 if size == 8 else 9)]
    model = components(PICTURES, sources, 12)
    codec = SignalCodec.freeze(model, PICTURES, sources, qualities=(0, 0))
    signals = [picture(size, size, 1000 + seed) for seed in range(60 if size == 8 else 2)]
    names = [str(i) for i in range(len(signals))]
    costs, errors = [], []
    for effort in (None, Effort(steps=25)):
        data = codec.encode(signals, 0, effort, names=names)
        found = codec.decode(data)
        errors.append(np.mean([error(*pair) for pair in zip(signals, found, strict=True)]) / 255**2)
        bits = 8 * codec.estimate_bytes(data) / (len(signals) * (size // 8) ** 2)
        costs.append(errors[-1] + codec.describe()["lmbda"] * bits)
    assert costs[1] < (0.998 if size == 8 else 1.0005) * costs[0]
    assert size == 40 or errors[1] > errors[0]  # it is the bits that are saved


@pytest.mark.slow
def test_the_papers_quantizer_makes_larger_files():
    signals = [picture(64, 64, seed) for seed in range(1, 9)]
    model = components(PICTURES, signals, 16)
    options = {"weight_dtype": torch.float32}
    ours = SignalCodec.freeze(model, PICTURES, signals, qualities=(0, 10), **options)
    theirs = SignalCodec.freeze(model, PICTURES, signals, bits=(5, 5), **options)
    other = picture(160, 160, 30)
    data = theirs.encode([other], 5)
    (restored,) = theirs.decode(data)
    for q in range(11):
        better = ours.encode([other], q)
        if error(other, ours.decode(better)[0]) <= error(other, restored):
            break
    assert error(other, ours.decode(better)[0]) <= error(other, restored)
    assert len(better) < 0.9 * len(data)


def test_integers_are_rounded_and_clipped_to_their_range(codecs):
    loud = Signal(
        np.where(np.arange(500) % 40 < 20, 32767, -32768).astype(np.int16)[None, :, None],
        None, "audio", {},
    )  # fmt: skip
    (restored,) = codecs["audio"].decode(codecs["audio"].encode([loud], 8))
    assert restored.samples.dtype == np.int16
    assert error(loud, restored) < 0.5 * 32768**2
    assert np.array_equal(
        SOUNDS.samples(
            np.array([-1.0, 0.0, 0.5, 1.0, 2.0], np.float32), np.dtype("int16"), (-1, 1)
        ),
        [-32768, -32768, 0, 32767, 32767],
    )
    assert np.array_equal(
        PICTURES.samples(np.array([-1.0, 0.5, 9.0], np.float32), np.dtype("uint16"), (0, 1)),
        [0, 32768, 65535],
    )


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("domain", [PICTURES, SOUNDS, VOLUMES], ids=lambda d: d.kind)
def test_normalisation_is_undone(domain, dtype):
    if domain is PICTURES and dtype[0] == "i":
        dtype = f"u{dtype}"
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype) if dtype[0] in "iu" else None
    low, high = (info.min, info.max) if info else (domain.low, domain.high)
    x = (low + (high - low) * rng.random(1000)).astype(dtype)
    limits = domain.range_of(Signal(x[None, :, None], None, domain.kind, {}))
    y = domain.normalised(x, limits)
    assert y.dtype == np.float32
    assert y.min() >= -1e-6
    assert y.max() <= 1.01
    back = domain.samples(y, np.dtype(dtype), limits)
    assert back.dtype == np.dtype(dtype)
    assert np.abs(back.astype(float) - x).max() <= (high - low) * 2e-7 + 1e-6


def test_the_same_sound_as_float_and_as_integers_has_nearly_the_same_size(codecs):
    sizes = [len(codecs["audio"].encode([sound(2000, 5, d)], 4)) for d in ("int16", "float32")]
    assert abs(sizes[0] - sizes[1]) <= 4


@pytest.mark.parametrize(
    ("form", "stored"),
    [
        ({"suffix": ".png"}, None),
        ({"suffix": ".jpg"}, {"suffix": ".jpg"}),
        ({"suffix": ".png", "a": 1}, {"a": 1}),
        ({}, {"=": {}}),
        ({"suffix": ".png", "=": 2}, {"=": {"suffix": ".png", "=": 2}}),
        ({"suffix": ".png", "=range": 2}, {"=": {"suffix": ".png", "=range": 2}}),
    ],
)
def test_forms_are_stored_by_what_differs(form, stored):
    assert PICTURES.stored_form(form, (0, 1)) == stored
    assert PICTURES.form_and_range(stored) == (form, (0, 1))
    ranged = dataclasses.replace(PICTURES, own_range=True)
    assert ranged.form_and_range(ranged.stored_form(form, (-3.5, 9))) == (form, (-3.5, 9))


@pytest.mark.parametrize("limits", [None, 3, [1], [2, 1], ["a", 2], [True, 2], [0, 1e999]])
def test_ranges_that_cannot_be_are_refused(limits):
    with pytest.raises(DataError, match="range"):
        VOLUMES.form_and_range({"=range": limits})


def test_patches_without_values_cost_little():
    codec = make(PICTURES, picture)
    mask = np.zeros((1, 64, 64), bool)
    mask[:, :8, :8] = True
    full, masked = picture(64, 64, 3), picture(64, 64, 3)
    masked = dataclasses.replace(masked, mask=mask)
    sizes = [len(codec.encode([s], 8)) for s in (full, masked)]
    assert sizes[1] < 0.3 * sizes[0]
    (restored,) = codec.decode(codec.encode([masked], 8))
    assert (restored.samples[~mask] == 0).all()
    nothing = dataclasses.replace(masked, mask=np.zeros_like(mask))
    assert (codec.decode(codec.encode([nothing], 8))[0].samples == 0).all()


def with_value(value: float, mask: np.ndarray | None = None) -> Signal:
    samples = sound(100, 0, "float32").samples.copy()
    samples[0, 7, 0] = value
    return Signal(samples, mask, "audio", {})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: picture(), "kind audio, not image"),
        (lambda: Signal(np.zeros((1, 9, 2), np.int16), None, "audio", {}), "2 channels"),
        (lambda: Signal(np.zeros((1, 9, 9, 1), np.int16), None, "audio", {}), "1 axes"),
        (lambda: Signal(np.zeros((1, 0, 1), np.int16), None, "audio", {}), None),
        (lambda: Signal(np.zeros((0, 9, 1), np.int16), None, "audio", {}), None),
        (lambda: Signal(np.zeros((9, 1), np.int16), None, "audio", {}), None),
        (lambda: Signal(np.zeros((1, 9, 1), np.complex64), None, "audio", {}), None),
        (lambda: Signal(np.zeros((1, 9, 1)), np.ones((1, 8), bool), "audio", {}), "mask"),
        (lambda: Signal(np.zeros((1, 9, 1)), np.ones((1, 9)), "audio", {}), "mask"),
        (lambda: with_value(np.nan), None),
        (lambda: with_value(np.inf), None),
        (lambda: with_value(np.nan, np.ones((1, 100), bool)), None),
        (lambda: Signal(np.zeros((1, 9, 1)), None, "audio", {"a": np.zeros(2)}), "JSON"),
    ],
)
def test_wrong_signals_are_refused(codecs, source, message):
    with pytest.raises(DataError, match=message):
        codecs["audio"].encode([source()], 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_went_bad_are_named(codecs, value):
    """A signal's arrays can be written to after it was checked."""
    signal = with_value(0.0)
    signal.samples[0, 3, 0] = value
    with pytest.raises(DataError, match="item 0 has values that are not finite"):
        codecs["audio"].encode([signal], 0)


def test_a_field_of_another_grid_is_refused(codecs):
    with pytest.raises(DataError, match=r"\(6, 11\)"):
        codecs["field"].encode([Signal(np.zeros((1, 6, 11, 1)), None, "field", {})], 0)


def test_wrong_requests_are_refused(codecs):
    codec = codecs["audio"]
    for q in (-5, 13):
        with pytest.raises(ConfigError, match="-4 to 12"):
            codec.encode([sound()], q)
    for signals, names in (([], None), ([sound()] * 2, None), ([sound()], ["a", "b"]), ([], [])):
        with pytest.raises(DataError):
            codec.encode(signals, 0, names=names)


def test_files_of_other_codecs_are_refused(codecs):
    data = codecs["audio"].encode([sound()], 0)
    for codec in (codecs["image"], make(SOUNDS, sound, latent=5)):
        with pytest.raises(ModelMismatchError, match=codec.fingerprint.hex()):
            codec.decode(data)


def test_damaged_files_raise(codecs):
    codec = codecs["audio"]
    data = codec.encode([sound(300)], 0)
    for at in range(len(data)):
        with pytest.raises(BitstreamError):
            codec.decode(data[:at])
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(BitstreamError):
            codec.decode(bytes(damaged))


def forged(codec: SignalCodec, data: bytes, **changes) -> bytes:
    """A file with a right checksum that no encoder wrote."""
    outline = changes.pop("outline", {})
    entry = changes.pop("entry", {})
    file = Archive.from_bytes(data)
    entries = [
        dataclasses.replace(e, outline=dataclasses.replace(e.outline, **outline), **entry)
        for e in file.entries
    ]
    return dataclasses.replace(file, entries=entries, **changes).to_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"payload": b"\x01\x00\x00\x00\x00\x01\x00"}, "symbol stream|differ|has not"),
        ({"payload": bytes(3)}, "empty|has not"),
        ({"quality": 90}, "quality 90"),
        ({"outline": {"channels": 2}}, "cannot write"),
        ({"outline": {"kind": "image"}}, "cannot write"),
        ({"outline": {"grid": (300, 2)}}, "cannot write"),
        ({"outline": {"grid": (1 << 27,)}}, "has not"),
        ({"outline": {"grid": (1000,)}}, "symbol stream|differ|has not"),
        ({"symbol_crc": 1}, "differ"),
        ({"entry": {"form": {"=": 3}}}, "JSON object"),
    ],
)
def test_forged_files_raise(codecs, changes, message):
    codec = codecs["audio"]
    data = codec.encode([sound(300)], 0)
    with pytest.raises(BitstreamError, match=message):
        codec.decode(forged(codec, data, **changes))


def rewrite(path: Path, *, config: dict | None = None, tensors: dict | None = None) -> None:
    """Change a codec file and make its fingerprint right again: only checks can refuse it."""
    with safetensors.safe_open(path, framework="pt") as file:
        about = dict(file.metadata())
        content = {key: file.get_tensor(key) for key in file.keys()} | (tensors or {})  # noqa: SIM118
    content = {key: tensor for key, tensor in content.items() if tensor is not None}
    settings = json.loads(about["config"])
    for key, value in (config or {}).items():
        inner = settings
        *outer, last = key.split(".")
        for name in outer:
            inner = inner[name]
        inner[last] = value
    about["config"] = json.dumps(settings, sort_keys=True)
    about["fingerprint"] = Stored(settings, content, torch.float32, {}, ()).fingerprint.hex()
    path.write_bytes(safetensors.torch.save(content, about))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"model": "other"}}, "no network 'other'"),
        ({"config": {"domain.coordinates": "moon"}}, "moon"),
        ({"config": {"hyperparameters": {"latent": 60000}}}, "not those of"),
        ({"config": {"hyperparameters": {"latents": 6}}}, "latents"),
        ({"config": {"domain.grid": [1 << 30]}}, "too large"),
        ({"config": {"domain.grid": []}}, "no codec"),
        ({"config": {"domain.channels": 2}}, "not those of"),
        ({"config": {"domain.kind": "smell"}}, "smell"),
        ({"config": {"domain.high": -2.0}}, "scaled"),
        ({"config": {"domain.clip": [1, 0]}}, "within"),
        ({"config": {"domain.clip": 7}}, "damaged"),
        ({"config": {"domain": {}}}, "damaged"),
        ({"config": {"steps": -1}}, "steps"),
        ({"config": {"latents.type": "other"}}, "unknown"),
        ({"config": {"latents.qualities": [0, 3]}}, "rows"),
        ({"config": {"latents.qualities": [0, 1, 2]}}, "damaged"),
        ({"tensors": {"latents/means": None}}, "damaged"),
        ({"tensors": {"latents/rows": torch.zeros(3)}}, "rows"),
        ({"tensors": {"latents/steps": torch.zeros(6)}}, "positive"),
        ({"tensors": {"latents/near/01": torch.zeros(6, 6, dtype=torch.int16)}}, "damaged"),
        ({"tensors": {"weights/linear.mean": None}}, "not those of"),
        ({"tensors": {"weights/linear.mean": torch.zeros(7, 1)}}, "not those of"),
    ],
)
def test_codec_files_that_cannot_be_are_refused(codecs, tmp_path, changes, message):
    path = tmp_path / "a.lcodec"
    codec = codecs["audio"]
    codec.save(path)
    if "latents/near/01" in str(changes):
        changes = {"tensors": {**changes["tensors"], "latents/own/01": None}}
    rewrite(path, **changes)
    with pytest.raises(CheckpointError, match=message):
        SignalCodec.load(path)


def test_codec_files_of_pictures_and_signals_are_told_apart(codecs, tmp_path):
    path = tmp_path / "a.lcodec"
    codecs["audio"].save(path)
    with pytest.raises(CheckpointError, match="is a codec of signals"):
        Codec.load(path)
    picture_codec = tmp_path / "b.lcodec"
    Codec.default().save(picture_codec)
    with pytest.raises(CheckpointError, match="is a codec of pictures"):
        SignalCodec.load(picture_codec)
    with pytest.raises(CheckpointError, match="cannot read"):
        SignalCodec.load(tmp_path / "none.lcodec")
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        SignalCodec.load(path)


def test_a_flipped_byte_of_a_codec_file_is_found(codecs, tmp_path):
    path = tmp_path / "a.lcodec"
    codecs["field"].save(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="fingerprint"):
        SignalCodec.load(path)


def test_half_precision_halves_the_weights_and_changes_little(tmp_path):
    codecs = [make(PICTURES, picture, weight_dtype=d) for d in (torch.float32, torch.float16)]
    weights = []
    for i, codec in enumerate(codecs):
        codec.save(tmp_path / f"{i}.lcodec")
        content = read_signal_codec(tmp_path / f"{i}.lcodec")
        weights.append(
            sum(t.nbytes for name, t in content.tensors.items() if name.startswith("weights/"))
        )
        assert SignalCodec.load(tmp_path / f"{i}.lcodec").fingerprint == codec.fingerprint
    assert weights[1] == weights[0] / 2
    signal = picture(seed=9)
    errors = [error(signal, c.decode(c.encode([signal], 10))[0]) for c in codecs]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


def test_vectors_in_8_bits_change_little_and_pack_to_the_same_again(tmp_path):
    codecs = [make(PICTURES, picture, weight_dtype=d) for d in (torch.float32, torch.int8)]
    path = tmp_path / "a.lcodec"
    codecs[1].save(path)
    content = read_signal_codec(path)
    vectors = [content.tensors[f"weights/linear.{part}"] for part in ("basis", "projection")]
    assert {tensor.dtype for tensor in vectors} == {torch.int8}
    # A power of two leaves no more than a bit unused, and nothing is cut off.
    assert all(t.int().abs().amax((0, 1)).min() >= 64 for t in vectors)
    again = SignalCodec.load(path)
    assert again.fingerprint == codecs[1].fingerprint
    signal = picture(seed=9)
    found = codecs[1].encode_verbose([signal], 10)
    assert same(again.decode(found.data)[0], found.reconstructions[0])
    errors = [error(signal, c.decode(c.encode([signal], 10))[0]) for c in codecs]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


@given(hnp.arrays(np.float32, (3, 2, 4), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
def test_packed_weights_are_near_and_stay(values):
    state = {"a": torch.from_numpy(values), "b": torch.ones(2)}
    once = rounded(state, torch.int8)
    most = np.abs(values).max((0, 1))
    assume(((most == 0) | (most > 1e-30)).all())
    assert (np.abs(once["a"].numpy() - values) <= most / 126).all()
    again = packed(once, torch.int8)
    assert all(torch.equal(t, packed(state, torch.int8)[k]) for k, t in again.items())


def test_vectors_without_their_scales_are_refused():
    tensors = packed({"a": torch.randn(3, 2, 4)}, torch.int8)
    for wrong in ({"a": tensors["a"]}, tensors | {"a.scales": torch.ones(3)}):
        with pytest.raises(CheckpointError, match="a has no scales"):
            unpacked(wrong)


def test_a_network_of_sines_codes_too(tmp_path):
    torch.manual_seed(0)
    points = COORDINATES["unit"]((8, 8))
    model = IMPLICIT["coinpp"](points, 3, latent=4, width=8, layers=3, rate=0.5)
    signals = [picture(seed=seed) for seed in range(3)]
    codec = SignalCodec.freeze(model, PICTURES, signals, steps=2)
    codec.save(tmp_path / "a")
    found = codec.encode_verbose([picture(seed=7)], 4)
    assert same(SignalCodec.load(tmp_path / "a").decode(found.data)[0], found.reconstructions[0])


@pytest.mark.parametrize("name", ["linear-coinpp", "linear"])
def test_a_network_that_knows_nothing_yet_makes_a_codec_all_the_same(name):
    points = COORDINATES[SOUNDS.coordinates](SOUNDS.grid)
    model = IMPLICIT[name](points, SOUNDS.channels, **IMPLICIT[name].tiny)
    signals = [sound(seed=1), sound(seed=2)]
    codec = SignalCodec.freeze(model, SOUNDS, signals, steps=0)
    found = codec.encode_verbose(signals[:1], 4)
    assert same(codec.decode(found.data)[0], found.reconstructions[0])


def test_what_cannot_be_frozen_is_refused():
    model = components(SOUNDS, [sound(seed=1), sound(seed=2)])
    with pytest.raises(DataError, match="there is none"):
        SignalCodec.freeze(model, SOUNDS, [])
    with pytest.raises(DataError, match="not image"):
        SignalCodec.freeze(model, SOUNDS, [picture()])
    with torch.no_grad():
        model.linear.basis[0] = torch.inf
    for dtype in DTYPES.values():
        with pytest.raises(LictorError, match="not finite"):
            SignalCodec.freeze(model, SOUNDS, [sound()], weight_dtype=dtype)
