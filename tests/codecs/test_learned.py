"""The frozen codec: files round-trip; foreign and damaged ones are refused."""

import contextlib
import dataclasses

import numpy as np
import pytest
import safetensors.torch
import skimage.data
import torch

from conftest import photo, tiny_model
from lictor.codecs.learned import Codec
from lictor.coding.container import HEADER_BYTES, Container, Tile
from lictor.coding.stream import choose_lanes, expected_overhead_bytes
from lictor.data.images import image_to_tensor
from lictor.errors import (
    BitstreamError,
    CheckpointError,
    ConfigError,
    CorruptError,
    DataError,
    DesyncError,
    LictorError,
    ModelMismatchError,
)
from lictor.evaluation.rd import evaluate_image
from lictor.models.zoo import MODELS


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.freeze(tiny_model("checkerboard"))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_decoding_gives_what_the_encoder_said_it_would(name, channels):
    codec = Codec.freeze(tiny_model(name))
    image = photo(45, 70)[:, :, :channels]
    encoded = codec.encode_verbose(image)
    decoded = codec.decode(encoded.data)
    assert decoded.shape == image.shape
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, encoded.reconstruction)
    assert Container.from_bytes(encoded.data).symbol_crc == encoded.symbol_crc


@pytest.mark.parametrize("size", [(1, 1), (1, 130), (67, 1), (64, 64), (65, 63)])
def test_any_size_from_one_pixel_up_comes_back(codec, size):
    image = photo(*size)
    assert codec.decode(codec.encode(image)).shape == image.shape


def test_the_reconstruction_is_the_models_hard_forward_pass(codec):
    image = photo(50, 81)
    model = codec._model
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        x_hat = model(x).x_hat
    expected = (x_hat[0] * 255).round().clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    np.testing.assert_array_equal(codec.decode(codec.encode(image)), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_another_number_of_threads_changes_no_symbol_and_no_pixel_by_more_than_a_level(
    codec, threads
):
    image = photo(90, 130)
    encoded = codec.encode_verbose(image)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        decoded = codec.decode(encoded.data)  # a DesyncError if a symbol changed
    finally:
        torch.set_num_threads(before)
    assert np.abs(decoded.astype(int) - encoded.reconstruction).max() <= 1


def test_encoding_is_a_pure_function(codec):
    image = photo(40, 40)
    untouched = image.copy()
    assert codec.encode(image) == codec.encode(image)
    np.testing.assert_array_equal(image, untouched)


def test_freezing_leaves_the_model_as_it_was():
    model = tiny_model("mbt2018-mean").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    Codec.freeze(model, weight_dtype=torch.float16)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


def test_another_codecs_file_is_refused_by_name(codec):
    other = Codec.freeze(tiny_model("checkerboard", seed=1))
    assert other.fingerprint != codec.fingerprint
    with pytest.raises(ModelMismatchError, match=codec.fingerprint.hex()):
        other.decode(codec.encode(photo(20, 20)))


def test_a_changed_weight_changes_the_fingerprint():
    model = tiny_model("bmshj2018-factorized")
    first = Codec.freeze(model).fingerprint
    assert Codec.freeze(model).fingerprint == first
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] += 1e-3
    assert Codec.freeze(model).fingerprint != first


def test_every_truncation_and_every_flipped_byte_is_a_bitstream_error(codec):
    data = codec.encode(photo(33, 47))
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            codec.decode(data[:length])
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        with pytest.raises(BitstreamError):
            codec.decode(bytes(damaged))


def test_other_symbols_than_the_encoders_are_a_desync(codec):
    file = Container.from_bytes(codec.encode(photo(33, 47)))
    wrong = dataclasses.replace(file, tiles=[Tile(file.tiles[0].payload, file.symbol_crc ^ 1)])
    with pytest.raises(DesyncError):
        codec.decode(wrong.to_bytes())


def test_a_file_that_claims_a_huge_picture_is_refused_before_work_is_done(codec):
    file = Container.from_bytes(codec.encode(photo(16, 16)))
    bomb = dataclasses.replace(file, width=2**20, height=2**20)
    with pytest.raises(CorruptError, match="pixels"):
        codec.decode(bomb.to_bytes())


def test_a_payload_for_another_size_is_refused(codec):
    file = Container.from_bytes(codec.encode(photo(60, 60)))
    for width, height in [(60, 200), (200, 60)]:
        wrong = dataclasses.replace(file, width=width, height=height)
        with pytest.raises(BitstreamError):
            codec.decode(wrong.to_bytes())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4), np.uint8), "shape"),
        (np.zeros((4, 4, 4), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        ([[1]], "list"),
    ],
)
def test_what_is_not_an_8_bit_image_is_refused(image, message):
    from lictor.codecs.learned import _check_image

    with pytest.raises(DataError, match=message):
        _check_image(image)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_codec_file_gives_back_the_same_codec(tmp_path, dtype):
    codec = Codec.freeze(tiny_model("mbt2018-mean"), weight_dtype=dtype, notes={"steps": 3})
    path = tmp_path / "small.lcodec"
    codec.save(path)
    loaded = Codec.load(path)
    image = photo(70, 50)
    assert loaded.describe() == codec.describe()
    assert loaded.encode(image) == codec.encode(image)
    np.testing.assert_array_equal(
        loaded.decode(codec.encode(image)), codec.encode_verbose(image).reconstruction
    )


def test_half_weights_make_a_codec_file_of_about_half_the_size(tmp_path):
    model = MODELS["bmshj2018-factorized"](n=32, m=32)
    sizes = {}
    for dtype in (torch.float32, torch.float16):
        path = tmp_path / f"{dtype}.lcodec"
        Codec.freeze(model, weight_dtype=dtype).save(path)
        sizes[dtype] = path.stat().st_size
    assert sizes[torch.float16] < 0.6 * sizes[torch.float32]


def test_a_damaged_codec_file_is_never_loaded(tmp_path):
    path = tmp_path / "small.lcodec"
    Codec.freeze(tiny_model("checkerboard")).save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [*rng.integers(0, len(data), 40), 0, 9, len(data) - 1]:
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"small\.lcodec"):
            Codec.load(path)
    for length in (0, 1, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"small\.lcodec"):
            Codec.load(path)


def test_a_codec_file_of_another_kind_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "other.lcodec"
    safetensors.torch.save_file({"w": torch.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="lictor freeze"):
        Codec.load(path)
    with pytest.raises(CheckpointError, match="missing"):
        Codec.load(tmp_path / "missing.lcodec")
    with pytest.raises(CheckpointError):
        Codec.load(tmp_path)


def test_what_cannot_be_frozen_says_why():
    model = tiny_model("mbt2018-mean")
    with pytest.raises(ConfigError, match="float64"):
        Codec.freeze(model, weight_dtype=torch.float64)
    with torch.no_grad():
        model.g_a[0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(LictorError, match=r"g_a\.0\.weight"):
        Codec.freeze(model)


def test_the_shipped_codec_predicts_its_files_within_one_percent():
    codec = Codec.default()
    image = np.asarray(skimage.data.chelsea())
    encoded = codec.encode_verbose(image)
    assert len(encoded.data) > HEADER_BYTES + 1000  # so that 1 % means something
    assert encoded.estimated_bytes == pytest.approx(len(encoded.data), rel=0.01, abs=16)
    np.testing.assert_array_equal(codec.decode(encoded.data), encoded.reconstruction)


@pytest.mark.parametrize("state", ["autocast", "float64", "meta"])
def test_the_callers_torch_state_changes_nothing(codec, tmp_path, state):
    image = photo(60, 70)
    data = codec.encode(image)
    expected = codec.decode(data)
    codec.save(tmp_path / "a.lcodec")
    contexts = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "float64": contextlib.nullcontext,
        "meta": lambda: torch.device("meta"),
    }
    if state == "float64":
        torch.set_default_dtype(torch.float64)
    try:
        with contexts[state]():
            assert codec.encode(image) == data
            np.testing.assert_array_equal(codec.decode(data), expected)
            assert Codec.load(tmp_path / "a.lcodec").fingerprint == codec.fingerprint
        assert torch.get_default_dtype() == (torch.float64 if state == "float64" else torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("data", [None, "text", 3, [1, 2]])
def test_what_is_no_bytes_is_refused(codec, data):
    from lictor.codecs.learned import _check_bytes

    with pytest.raises(DataError, match="must be bytes"):
        _check_bytes(data)


def test_any_kind_of_bytes_decodes(codec):
    data = codec.encode(photo(20, 20))
    for kind in (bytearray, memoryview):
        np.testing.assert_array_equal(codec.decode(kind(data)), codec.decode(data))


@pytest.mark.parametrize("name", MODELS)
def test_encoding_runs_no_synthesis_and_decoding_no_analysis(name):
    codec, runs = Codec.freeze(tiny_model(name)), {"analyse": 0, "synthesise": 0}

    def counted(part):
        run = getattr(codec.model, part)

        def count(argument):
            runs[part] += 1
            return run(argument)

        return count

    for part in runs:
        setattr(codec.model, part, counted(part))
    data = codec.encode(photo(64, 64))
    assert runs == {"analyse": 1, "synthesise": 0}
    codec.decode(data)
    assert runs == {"analyse": 1, "synthesise": 1}
    codec.estimate_bytes(data)
    assert runs == {"analyse": 1, "synthesise": 1}
    evaluate_image(codec, photo(64, 64), "a")
    assert runs == {"analyse": 2, "synthesise": 2}


@pytest.mark.parametrize("name", MODELS)
def test_the_estimate_read_off_a_file_is_the_models_own_rate(name):
    codec, image = Codec.freeze(tiny_model(name)), photo(70, 130)
    with torch.inference_mode():
        payload = float(codec.model(image_to_tensor(image)).total_bits) / 8
    data = codec.encode(image)
    around = len(data) - len(Container.from_bytes(data).tiles[0].payload)
    assert HEADER_BYTES + 10 <= around <= HEADER_BYTES + 11
    overhead = expected_overhead_bytes(choose_lanes(int(payload))) + around
    assert codec.estimate_bytes(data) == pytest.approx(payload + overhead, rel=1e-6)


def test_the_estimate_of_a_damaged_or_foreign_file_is_refused(codec):
    data = codec.encode(photo(64, 64))
    with pytest.raises(BitstreamError):
        codec.estimate_bytes(data[:-1])
    with pytest.raises(ModelMismatchError):
        Codec.freeze(tiny_model("mbt2018-mean")).estimate_bytes(data)


def test_a_device_without_room_for_the_transforms_is_said(monkeypatch):
    def full(self, device):
        raise torch.OutOfMemoryError("out of memory")

    codec = Codec.freeze(tiny_model("checkerboard"))
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(ConfigError, match="cpu: no memory is left"):
        codec.to("cpu")
