"""What a codec costs: hand counts, clocks that obey, and memory that was really held."""

import json
import os

import numpy as np
import pytest
import torch
from torch import nn

from conftest import photo, tiny_model
from lictor.codecs.learned import Codec
from lictor.coding import rans
from lictor.coding.stopwatch import time_coding
from lictor.coding.stream import SymbolDecoder
from lictor.errors import ConfigError, DataError, LictorError, TruncatedError
from lictor.evaluation.peers import webp
from lictor.evaluation.speed import (
    OTHER_PART,
    _kmac_per_pixel,
    cpu_name,
    measure_speed,
    peak_rss_bytes,
)
from lictor.layers.gdn import GDN
from lictor.models.zoo import MODELS

EVERY = pytest.mark.parametrize("name", MODELS)
MIB = 2**20
KEYS = [
    "encode_s",
    "decode_s",
    "encode_s_per_megapixel",
    "decode_s_per_megapixel",
    "encode_entropy_share",
    "decode_entropy_share",
    "peak_rss_encode_bytes",
    "peak_rss_decode_bytes",
    "baseline_rss_bytes",
    "parameters",
    "kmac_per_pixel",
    "kmac_per_pixel_encode",
    "kmac_per_pixel_decode",
    "threads",
    "repeats",
    "num_images",
]


class Clock:
    """Stands still until somebody moves it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def during(self, function, seconds: float):
        """Return `function` so that each call takes `seconds`."""

        def slow(*args):
            self.now += seconds
            return function(*args)

        return slow


class ScriptedCodec:
    """Takes the scripted seconds for its calls, one after the other."""

    name = "scripted"

    def __init__(self, clock: Clock, encode_s: list[float], decode_s: list[float]):
        self.clock, self.encode_s, self.decode_s = clock, iter(encode_s), iter(decode_s)

    def encode(self, image: np.ndarray) -> bytes:
        self.clock.now += next(self.encode_s)
        return b""

    def decode(self, data: bytes) -> np.ndarray:
        self.clock.now += next(self.decode_s)
        return photo(1, 1)


class HungryCodec:
    """Holds 200 MiB while it encodes."""

    name = "hungry"

    def encode(self, image: np.ndarray) -> bytes:
        return bytes(np.ones(200 * MIB, np.uint8)[:10])

    def decode(self, data: bytes) -> np.ndarray:
        return photo(1, 1)


def die() -> HungryCodec:
    os._exit(1)


# ------------------------------------------------------------------------------------------ time


def test_a_picture_takes_the_median_of_its_warm_calls():
    clock = Clock()
    codec = ScriptedCodec(clock, [100, 1, 9, 2], [100, 5, 4, 30])
    speed = measure_speed(codec, [photo(20, 50)], repeats=3, clock=clock)
    assert (speed.encode_s, speed.decode_s) == (2, 5)
    assert speed.encode_s_per_megapixel == pytest.approx(2000)
    assert speed.decode_s_per_megapixel == pytest.approx(5000)
    assert (speed.repeats, speed.num_images) == (3, 1)


def test_pictures_take_the_median_of_theirs_each_per_its_own_pixels():
    clock = Clock()
    codec = ScriptedCodec(clock, [50, 1, 1, 50, 2, 2, 50, 30, 30], [0, 1, 1] * 3)
    images = [photo(10, 10), photo(10, 40), photo(10, 100)]
    speed = measure_speed(codec, images, repeats=2, clock=clock)
    assert speed.encode_s == 2
    assert speed.encode_s_per_megapixel == pytest.approx(1e4)  # of 1e4, 0.5e4 and 3e4
    assert speed.num_images == 3


@EVERY
def test_the_entropy_share_is_the_integer_coders_part_of_the_time(name, monkeypatch):
    codec, clock = Codec.freeze(tiny_model(name)), Clock()
    encode, decode = clock.during(rans.encode, 1), clock.during(rans.decode, 3)
    monkeypatch.setattr("lictor.coding.rans.encode", encode)
    monkeypatch.setattr("lictor.coding.rans.decode", decode)
    codec.model.g_a.register_forward_pre_hook(clock.during(lambda *_: None, 10))
    codec.model.g_s.register_forward_pre_hook(clock.during(lambda *_: None, 20))
    speed = measure_speed(codec, [photo(70, 70), photo(30, 90)], repeats=2, clock=clock)
    groups = {"bmshj2018-factorized": 1, "checkerboard": 3}.get(name, 2)
    coder_s = round(speed.encode_s * speed.encode_entropy_share)
    assert coder_s == groups
    assert speed.encode_s - coder_s in (10, 30)  # with g_s, if encoding runs it
    assert speed.decode_s == 3 * groups + 20
    assert speed.decode_entropy_share == pytest.approx(3 * groups / (3 * groups + 20))


def test_with_a_real_clock_every_call_is_partly_networks_and_partly_coder():
    speed = measure_speed(Codec.freeze(tiny_model("mbt2018-mean")), [photo(64, 64)], repeats=2)
    assert 0 < speed.encode_entropy_share < 1
    assert 0 < speed.decode_entropy_share < 1


def test_a_stopwatch_hears_only_what_runs_in_its_block():
    codec, image, clock = Codec.freeze(tiny_model("checkerboard")), photo(64, 64), Clock()
    with time_coding(clock) as outer:
        data = codec.encode(image)
        with time_coding(clock) as inner:
            codec.decode(data)
    codec.decode(data)
    assert outer.calls == 3 + 1  # groups put, and finish
    assert inner.calls == 1 + 3 + 1  # a stream opened, groups got, and finish
    with pytest.raises(TruncatedError), time_coding(clock) as failed:
        SymbolDecoder(b"")
    codec.encode(image)
    assert (outer.calls, inner.calls, failed.calls) == (4, 5, 1)


# ------------------------------------------------------------------------------- multiplications


def hand_count(name: str, n: int, m: int, depth: int) -> dict[str, float]:
    """Multiplications per pixel, layer by layer: kernel * in * out / stride^2.

    A layer at 1/s of the sides works on 1/s^2 of the pixels; a transposed convolution multiplies
    once for each of its *input* pixels; GDN is a matrix product at each pixel.
    """

    def layer(kernel, channels_in, channels_out, side):
        return kernel**2 * channels_in * channels_out / side**2

    if name == "checkerboard":
        t = n // 2
        block = [2 * layer(3, c, c, s) for c, s in ((t, 4), (n, 8))]
        blocks = block[0] + depth * block[1]
        analysis = layer(3, 48, t, 4) + layer(3, t, n, 8) + layer(3, n, m, 16)
        synthesis = layer(1, m, 4 * n, 16) + layer(1, n, 4 * t, 8) + layer(3, t, 48, 4)
        linear = layer(16, 3, m, 16)
        h_s = layer(5, t, t, 64) + layer(5, t, n, 32) + layer(1, n, 2 * m, 16)
        half = 2  # the parameter networks see each colour of the checkerboard alone
        return {
            "g_a": analysis + blocks + linear,
            "g_s": synthesis + blocks + linear,
            "h_a": layer(3, m, t, 16) + layer(5, t, t, 32) + layer(5, t, t, 64),
            "h_s": h_s,
            "parameters_even": 2 * layer(1, 2 * m, 2 * m, 16) / half,
            # Of 25 taps 15 at half of the elements: the even half, where the odd one is asked for.
            "context": 0.3 * layer(5, m, m, 16),
            "parameters_odd": (layer(1, 3 * m, 3 * m, 16) + layer(1, 3 * m, 2 * m, 16)) / half,
        }
    gdn = layer(1, n, n, 2) + layer(1, n, n, 4) + layer(1, n, n, 8)
    middle = layer(5, n, n, 4) + layer(5, n, n, 8)
    transform = layer(5, 3, n, 2) + middle + layer(5, n, m, 16) + gdn
    parts = {"g_a": transform, "g_s": transform}
    if name != "bmshj2018-factorized":
        parts["h_a"] = layer(3, m, n, 16) + layer(5, n, n, 32) + layer(5, n, n, 64)
    if name == "bmshj2018-hyperprior":
        parts["h_s"] = layer(5, n, n, 64) + layer(5, n, n, 32) + layer(3, n, m, 16)
    if name == "mbt2018-mean":
        wide = m * 3 // 2
        parts["h_s"] = layer(5, n, m, 64) + layer(5, m, wide, 32) + layer(3, wide, 2 * m, 16)
    return parts


@EVERY
def test_multiplications_are_those_of_the_hand_count(name):
    sizes = {"n": 4, "m": 6, "depth": 2}
    codec = Codec.freeze(MODELS[name](**{key: sizes[key] for key in MODELS[name].tiny}))
    speed = measure_speed(codec, [photo(33, 65)], repeats=1)
    expected = {part: macs / 1000 for part, macs in hand_count(name, 4, 6, 2).items()}
    assert speed.kmac_per_pixel == pytest.approx(expected, rel=1e-12)
    decoding = sum(kmac for part, kmac in expected.items() if part not in ("g_a", "h_a"))
    assert speed.kmac_per_pixel_decode == pytest.approx(decoding)
    encoding = sum(expected.values())  # `g_s` too, unless encoding learns to leave it out
    assert any(
        speed.kmac_per_pixel_encode == pytest.approx(encoding - left_out)
        for left_out in (0, expected["g_s"])
    )
    assert speed.parameters == codec.num_parameters


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.Conv2d(4, 6, 5, padding=2), 25 * 4 * 6),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), 9 * 2 * 6),
        (nn.Conv2d(4, 6, 2, stride=2), 4 * 4 * 6 / 4),
        (nn.ConvTranspose2d(4, 6, 5, stride=2, padding=2, output_padding=1), 25 * 4 * 6),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), 4 * 4 * 3),
        (nn.Conv2d(4, 6, 1).double(), 24),
        (GDN(4), 16),
        (GDN(4, inverse=True), 16),
        (nn.LeakyReLU(), 0),
    ],
    ids=str,
)
def test_every_kind_of_layer_multiplies_as_its_formula_says(layer, macs):
    dtype = next(layer.parameters(), torch.zeros(0)).dtype
    x = torch.randn(1, 4, 8, 12, dtype=dtype)
    model = nn.ModuleDict({"layer": layer})
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            kmac, y = _kmac_per_pixel(model, lambda: layer(x), 8 * 12)
            assert torch.equal(y, layer(x))
        assert kmac == {"layer": macs / 1000}


def test_a_multiplication_belongs_to_one_part_or_to_the_rest():
    inner = nn.Conv2d(2, 2, 1)
    outer = nn.Sequential(nn.Conv2d(2, 2, 1), inner)
    model, x = nn.ModuleDict({"outer": outer, "inner": inner}), torch.ones(1, 2, 5, 5)

    def call():
        return outer(x), inner(x), torch.ones(3, 25) @ torch.ones(25, 2)

    kmac, _ = _kmac_per_pixel(model, call, 25)
    assert kmac == pytest.approx({"outer": 0.008, "inner": 0.004, OTHER_PART: 0.006})
    assert not outer._forward_hooks
    assert not outer._forward_pre_hooks


@pytest.mark.parametrize("stride", [64, 192, 1024])
def test_padding_is_not_counted(stride):
    model = tiny_model("bmshj2018-hyperprior")
    plain = measure_speed(Codec.freeze(model), [photo(8, 8)], repeats=1)
    model.stride = stride
    padded = measure_speed(Codec.freeze(model), [photo(8, 8)], repeats=1)
    assert padded.kmac_per_pixel == pytest.approx(plain.kmac_per_pixel)


# ---------------------------------------------------------------------------------------- memory


@pytest.mark.slow
def test_memory_is_of_the_call_alone_and_not_of_the_process_that_asks():
    ballast = np.ones(400 * MIB, np.uint8)
    mine = peak_rss_bytes()
    speed = measure_speed(HungryCodec(), [photo(8, 8)], repeats=1, make=HungryCodec)
    assert ballast[-1] == 1
    assert mine > 400 * MIB
    assert 20 * MIB < speed.baseline_rss_bytes < mine - 150 * MIB
    above_encode = speed.peak_rss_encode_bytes - speed.baseline_rss_bytes
    above_decode = speed.peak_rss_decode_bytes - speed.baseline_rss_bytes
    assert 150 * MIB < above_encode < 300 * MIB
    assert above_decode < 50 * MIB


@pytest.mark.slow
def test_a_codec_that_cannot_be_made_elsewhere_is_told_in_one_line():
    codec, images = HungryCodec(), [photo(8, 8)]
    with pytest.raises(ConfigError, match="make must be picklable"):
        measure_speed(codec, images, make=lambda: codec)
    with pytest.raises(LictorError, match="memory died"):
        measure_speed(codec, images, repeats=1, make=die)


# -------------------------------------------------------------------------------------- the whole


def test_what_does_not_exist_is_none():
    speed = measure_speed(webp(50), [photo(40, 60), photo(9, 9)[:, :, :1]], repeats=1)
    values = speed.to_json()
    assert values.pop("kmac_per_pixel") == {}
    assert {key for key, value in values.items() if value is None} == {
        *("encode_entropy_share", "decode_entropy_share", "parameters"),
        *("kmac_per_pixel_encode", "kmac_per_pixel_decode"),
        *("peak_rss_encode_bytes", "peak_rss_decode_bytes", "baseline_rss_bytes"),
    }
    assert 0 < speed.decode_s < speed.encode_s < speed.encode_s_per_megapixel


def test_json_has_the_keys_and_nothing_that_is_not_plain():
    speed = measure_speed(Codec.freeze(tiny_model("checkerboard")), [photo(20, 20)], repeats=1)
    values = json.loads(json.dumps(speed.to_json(), allow_nan=False))
    assert list(values) == KEYS
    assert values == speed.to_json()
    assert values["threads"] == torch.get_num_threads()
    assert (speed.cpu, speed.torch_version) == (cpu_name(), torch.__version__)
    assert speed.cpu


@pytest.mark.parametrize(
    ("images", "repeats", "error"), [([], 1, DataError), ([photo(8, 8)], 0, ConfigError)]
)
def test_nothing_to_measure_is_an_error(images, repeats, error):
    with pytest.raises(error):
        measure_speed(webp(50), images, repeats=repeats)
