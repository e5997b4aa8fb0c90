"""Quantized codec files: small, exact, and refused when damaged."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import combined, photo, photo_tensor, tiny_model
from lictor.codecs.learned import Codec
from lictor.errors import CheckpointError, ConfigError, ModelMismatchError
from lictor.models.zoo import MODELS
from lictor.ptq.calibrate import observe
from lictor.ptq.fake_quant import along
from lictor.ptq.quantize import quantize
from lictor.ptq.scheme import Scheme
from lictor.ptq.storage import pack_codes, quantized_layers, unpack_codes

W8A8 = Scheme(8, 8)


def quantized_codec(name: str = "checkerboard", scheme: Scheme = W8A8, **kwargs) -> Codec:
    model = tiny_model(name)
    return Codec.freeze(
        quantize(model, scheme, observe(model, [photo_tensor(2, 64, 64)])), **kwargs
    )


@given(st.integers(2, 16), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_packing_keeps_every_code(bits, count, seed):
    half = 2 ** (bits - 1)
    codes = np.random.default_rng(seed).integers(-half, half, count)
    codes[0] = -half
    packed = pack_codes(codes, bits)
    assert packed.size == -(-count * bits // 8)
    np.testing.assert_array_equal(unpack_codes(packed, bits, count), codes)
    with pytest.raises(CheckpointError):
        unpack_codes(np.append(packed, packed[-1:]), bits, count)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_codec_decodes_what_it_encoded(name, tmp_path):
    codec = quantized_codec(name)
    codec.save(tmp_path / "q.lcodec")
    loaded = Codec.load(tmp_path / "q.lcodec")
    assert loaded.fingerprint == codec.fingerprint
    encoded = codec.encode_verbose(photo(50, 70))
    np.testing.assert_array_equal(loaded.decode(encoded.data), encoded.reconstruction)
    assert loaded.encode(photo(50, 70)) == encoded.data


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    combined(
        [Scheme(4, 8), Scheme(6, None), Scheme(None, 8), Scheme(16, 16), Scheme(5, 7, "g_s")],
        [torch.float32, torch.float16],
    ),
)
def test_every_scheme_survives_the_file(scheme, dtype, tmp_path):
    codec = quantized_codec(scheme=scheme, weight_dtype=dtype)
    codec.save(tmp_path / "q.lcodec")
    loaded = Codec.load(tmp_path / "q.lcodec")
    assert loaded.fingerprint == codec.fingerprint
    for (key, a), b in zip(
        codec.model.state_dict().items(), loaded.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), key
    data = codec.encode(photo(40, 64))
    np.testing.assert_array_equal(loaded.decode(data), codec.decode(data))


def test_float_weights_survive_16_bits_behind_the_finest_steps():
    """Multiplied by steps of 16-bit activations, weights are below what float16 can hold."""
    model = tiny_model("checkerboard")
    quantized = quantize(model, Scheme(None, 16), observe(model, [photo_tensor(2, 64, 64)]))
    whole, half = (
        quantized_layers(Codec.freeze(quantized, weight_dtype=dtype).model)
        for dtype in (torch.float32, torch.float16)
    )
    for name, layer in whole.items():
        exact, rounded = (
            q.layer.weight * along(q.scales, q.axis, q.layer.weight.dim())
            for q in (layer, half[name])
        )
        assert float((rounded - exact).abs().max()) <= 2**-11 * float(exact.abs().max()), name


@pytest.mark.slow
def test_another_process_decodes_the_same(tmp_path):
    codec = quantized_codec()
    codec.save(tmp_path / "q.lcodec")
    encoded = codec.encode_verbose(photo(50, 70))
    (tmp_path / "a.lic").write_bytes(encoded.data)
    script = (
        "import sys, numpy as np; from lictor import Codec\n"
        "codec = Codec.load(sys.argv[1])\n"
        "np.save(sys.argv[3], codec.decode(open(sys.argv[2], 'rb').read()))\n"
        "print(codec.fingerprint.hex())"
    )
    paths = [str(tmp_path / name) for name in ("q.lcodec", "a.lic", "out.npy")]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == codec.fingerprint.hex()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), encoded.reconstruction)


def test_files_shrink_with_the_bits(tmp_path):
    torch.manual_seed(0)
    model = MODELS["checkerboard"](n=48, m=48, depth=1)
    seen = observe(model, [photo_tensor(1, 64, 64)])
    Codec.freeze(model).save(tmp_path / "float.lcodec")
    whole = (tmp_path / "float.lcodec").stat().st_size
    tables = 100_000  # the tables and the densities of the priors stay
    for bits in (8, 4):
        path = tmp_path / f"{bits}.lcodec"
        Codec.freeze(quantize(model, Scheme(bits, 8), seen)).save(path)
        assert path.stat().st_size < (whole - tables) * bits / 32 * 1.1 + tables


@pytest.mark.slow
def test_a_codec_without_integers_says_nothing_of_them():
    codec = Codec.freeze(tiny_model("checkerboard"))
    assert "quantization" not in codec.describe()
    assert quantized_codec().describe()["quantization"] == "W8A8 all"
    assert quantized_codec().num_parameters == codec.num_parameters
    assert quantized_codec().fingerprint != codec.fingerprint
    with pytest.raises(ModelMismatchError):
        codec.decode(quantized_codec().encode(photo(40, 40)))


def test_thawing_gives_the_model_back_and_refuses_integers():
    model = tiny_model("checkerboard")
    thawed = Codec.freeze(model).thaw()
    for (key, a), b in zip(model.state_dict().items(), thawed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert Codec.freeze(thawed).fingerprint == Codec.freeze(model).fingerprint
    with pytest.raises(ConfigError, match="already"):
        quantized_codec().thaw()


def _edited(path, change_config=lambda _: None, change_tensors=lambda _: None):
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = json.loads(metadata["config"])
    change_config(config["quantization"])
    change_tensors(tensors)
    metadata["config"] = json.dumps(config, sort_keys=True)
    path.write_bytes(safetensors.torch.save(tensors, metadata))


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (lambda q: q["layers"].update(nowhere={"weights": 8, "inputs": 8, "zero": 0}), None),
        (lambda q: q["layers"]["g_a.linear"].update(weights=99), None),
        (lambda q: q["layers"]["g_a.linear"].update(weights=4), None),
        (lambda q: q["layers"]["g_a.linear"].update(zero=3), None),
        (lambda q: q["layers"].pop("g_a.linear"), None),
        (lambda q: q.pop("layers"), None),
        (lambda q: q.update(scheme="W4A4 all"), None),
        (None, lambda t: t["weights/g_a.linear.layer.weight"].add_(1)),
        (None, lambda t: t.update({"weights/g_a.linear.layer.weight": torch.zeros(3).byte()})),
        (None, lambda t: t.pop("weights/g_a.linear.scales")),
        (None, lambda t: t["weights/g_a.linear.steps"].mul_(2)),
    ],
)
def test_a_damaged_file_is_refused(config, tensors, tmp_path):
    path = tmp_path / "q.lcodec"
    quantized_codec().save(path)
    _edited(path, config or (lambda _: None), tensors or (lambda _: None))
    with pytest.raises(CheckpointError, match=r"q\.lcodec"):
        Codec.load(path)
