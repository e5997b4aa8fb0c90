"""Files decode to the same symbols, whoever computes: laws of every model's exact path."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from conftest import lively_model
from lictor.codecs.learned import Codec
from lictor.coders import DecodeCoder
from lictor.coding.codec_file import read_codec_file
from lictor.coding.container import Container
from lictor.coding.reference import decode_latents
from lictor.data.images import tensor_to_image
from lictor.errors import CheckpointError, LictorError
from lictor.layers.entropy_network import EntropyNetwork
from lictor.models.base import AbstractCodecModel
from lictor.models.context import CheckerboardModel
from lictor.models.zoo import MODELS
from lictor.ptq.quantize import quantize
from lictor.ptq.scheme import parse_scheme

GOLDEN = Path(__file__).parents[1] / "golden"
HEIGHT, WIDTH = 90, 140


def lively(name: str, **options) -> AbstractCodecModel:
    """A model whose latents and scales are not all alike, as a trained one's."""
    model = lively_model(name, **options)
    with torch.no_grad():
        if options.get("prior_z") == "channel":
            model.get_parameter("prior_z.means").uniform_(-2, 2)
    return model


CASES = [(name, {}) for name in MODELS]
CASES += [(name, {"prior_z": "channel"}) for name in MODELS if name != "bmshj2018-factorized"]


@pytest.fixture(
    scope="module", params=CASES, ids=lambda case: "-".join([case[0], *case[1].values()])
)
def frozen(request, tmp_path_factory) -> tuple[Codec, Path, bytes]:
    name, options = request.param
    codec = Codec.freeze(lively(name, **options))
    path = tmp_path_factory.mktemp("exact") / "codec.lcodec"
    codec.save(path)
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (12, 18, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return codec, path, codec.encode(blocks[:HEIGHT, :WIDTH])


def latents_of(codec: Codec, data: bytes) -> dict[str, np.ndarray]:
    """What the codec's model makes of a file's symbols, without its checks."""
    model, payload = codec.model, payload_of(data)
    shape = model.padded_shape(1, HEIGHT, WIDTH)
    with torch.inference_mode():
        found = model.code(DecodeCoder(payload, codec.tables), None, shape)
    return {name: value.contiguous().numpy().copy() for name, value in found.items()}


def payload_of(data: bytes) -> bytes:
    return Container.from_bytes(data).tiles[0].payload


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_reference_decoder_finds_the_same_latents(frozen):
    codec, path, data = frozen
    file = read_codec_file(path)
    assert file.fingerprint == codec.fingerprint
    assert file.path is not None
    *_, height, width = codec.model.padded_shape(1, HEIGHT, WIDTH)
    found, crc = decode_latents(file.path, dict(file.tables), payload_of(data), height, width)
    assert crc == Container.from_bytes(data).symbol_crc
    wanted = latents_of(codec, data)
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value / 1024, wanted[name][0])
        assert len(np.unique(value)) > 3  # or nothing is proven


def test_no_float_weight_takes_part(frozen):
    codec, path, data = frozen
    wanted = latents_of(codec, data)
    other = Codec.load(path)
    prior_means = {id(p) for name, p in other.model.named_parameters() if name.endswith("z.means")}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.model.parameters():
            if id(parameter) not in prior_means:
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.mul_(1 + 1e-3 * noise)
    assert same(latents_of(other, data), wanted)
    picture, moved = (tensor_to_image(c.model.synthesise(_tensors(wanted))) for c in (codec, other))
    assert not np.array_equal(picture, moved)  # the noise was there


def _tensors(latents: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in latents.items()}


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_do_not_matter(frozen, threads):
    codec, _, data = frozen
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = latents_of(codec, data)
    finally:
        torch.set_num_threads(before)
    assert same(found, latents_of(codec, data))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_neither_onednn_nor_autocast_nor_memory_layout_matters(frozen):
    codec, path, data = frozen
    wanted = latents_of(codec, data)
    with torch.backends.mkldnn.flags(enabled=False):  # pyright: ignore[reportAttributeAccessIssue]
        assert same(latents_of(codec, data), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(latents_of(codec, data), wanted)
    other = Codec.load(path)
    other.model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    assert same(latents_of(other, data), wanted)


def test_the_dtype_of_the_transforms_moves_pixels_by_one_level_at_most(frozen):
    codec, path, data = frozen
    wanted = codec.decode(data).astype(int)
    other = Codec.load(path)
    for part in other.model.transforms():
        part.double()
    assert same(latents_of(other, data), latents_of(codec, data))
    quantized = {name: value.astype(float) for name, value in latents_of(other, data).items()}
    picture = tensor_to_image(other.model.synthesise(_tensors(quantized)))[:HEIGHT, :WIDTH]
    difference = np.abs(picture.astype(int) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-2


def test_networks_give_the_same_alone_and_in_a_batch(frozen):
    codec, _, _ = frozen
    torch.manual_seed(0)
    for module in codec.model.modules():
        if isinstance(module, EntropyNetwork):
            assert module.integers is not None
            features = torch.randn(3, module.integers.channels, 4, 6)
            together = module(features)
            alone = torch.cat([module(each[None]) for each in features])
            assert torch.equal(together, alone)


def test_integers_are_the_float_network_but_for_rounding():
    model = lively("checkerboard")
    codec = Codec.freeze(model)
    torch.manual_seed(0)
    for name, module in model.named_modules():
        if isinstance(module, EntropyNetwork):
            exact = codec.model.get_submodule(name)
            assert isinstance(exact, EntropyNetwork)
            assert exact.integers is not None
            features = (2 * torch.randn(2, exact.integers.channels, 4, 6) * 1024).round() / 1024
            difference = (module(features) - exact(features)).abs().max()
            assert 0 < difference < 1e-2


@pytest.mark.parametrize("scheme", ["W8A8", "W8", "A8"])
def test_quantized_networks_are_integers_too(scheme, tmp_path):
    from lictor.ptq.calibrate import observe

    model = lively("checkerboard")
    torch.manual_seed(1)
    observed = observe(model, [torch.rand(2, 3, 128, 128)])
    codec = Codec.freeze(quantize(model, parse_scheme(scheme), observed))
    codec.save(tmp_path / "q.lcodec")
    rng = np.random.default_rng(0)
    data = codec.encode(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    file = read_codec_file(tmp_path / "q.lcodec")
    assert file.path is not None
    found, crc = decode_latents(file.path, dict(file.tables), payload_of(data), 128, 192)
    assert crc == Container.from_bytes(data).symbol_crc
    wanted = latents_of(Codec.load(tmp_path / "q.lcodec"), data)
    for name, value in found.items():
        np.testing.assert_array_equal(value / 1024, wanted[name][0])


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.lcodec")), ids=lambda path: path.stem)
def test_a_converted_codec_is_exact_and_reads_what_the_old_one_wrote(file, tmp_path):
    if json.loads(_config(file)).get("path") is not None:
        pytest.skip("of the present format")
    converted = Codec.convert(file)
    converted.save(tmp_path / "new.lcodec")
    again = Codec.load(tmp_path / "new.lcodec")
    assert again.fingerprint == converted.fingerprint
    assert again.margins
    for old in GOLDEN.glob(f"{file.stem.removesuffix('-format1')}-?.lic"):
        picture = again.decode(old.read_bytes())
        new = again.encode(picture)
        assert not np.array_equal(again.decode(new), np.zeros_like(picture))
        expected = Codec.load(GOLDEN / f"{file.stem.removesuffix('-format1')}.lcodec")
        assert np.array_equal(picture, expected.decode(old.read_bytes()))


def _config(path: Path) -> str:
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata()["config"]


class _Rude(CheckerboardModel):
    """Does with a context what no path can say."""

    name = "rude"

    def code(self, coder, latents, shape):
        steered = coder

        class Doubled:
            def code(self, name, latent, prior, *params, shape):
                params = tuple(2 * value for value in params)
                return steered.code(name, latent, prior, *params, shape=shape)

        return super().code(Doubled(), latents, shape)


def test_a_model_with_no_integer_form_says_what_it_does():
    with pytest.raises(LictorError, match=r"`code` calls .*mul.* has no integer form"):
        Codec.freeze(_Rude(8, 8, 1))


def test_an_entropy_network_of_unknown_layers_is_refused_by_name():
    model = lively("checkerboard")
    model.get_submodule("h_s").net = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Conv2d(4, 16, 1))
    with pytest.raises(LictorError, match="h_s: Tanh has no form in integers"):
        Codec.freeze(model)


def test_weights_too_large_for_a_proof_are_refused():
    model = lively("checkerboard")
    with torch.no_grad():
        model.get_parameter("context.net.bias").fill_(1e12)
    with pytest.raises(LictorError, match="context: a bias of 1e"):
        Codec.freeze(model)


DAMAGE = {
    "an unknown operation": lambda path: path["networks"]["h_s"]["ops"][0].update(op="multiply"),
    "a weight that is not there": lambda path: path["networks"]["h_s"]["ops"][0].update(
        weight="no"
    ),
    "another shape": lambda path: path["networks"]["h_s"]["ops"][0].update(shape=[1, 1, 9, 9]),
    "a huge stride": lambda path: path["networks"]["h_s"]["ops"][0].update(stride=1 << 40),
    "a slope that is no integer": lambda path: path["networks"]["h_s"]["ops"][2].update(slope=0.5),
    "channels that are not there": lambda path: path["networks"]["h_s"].update(channels=10**9),
    "an unknown step": lambda path: path["steps"][0].update(step="goto"),
    "a value of the future": lambda path: path["steps"][1].update(inputs=[7]),
    "a network that is not there": lambda path: path["steps"][1].update(network="h_t"),
    "results that are not there": lambda path: path["results"].update(y=99),
    "no steps": lambda path: path.pop("steps"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_path_is_refused(damage, tmp_path):
    codec = Codec.freeze(lively("checkerboard"))
    codec.save(tmp_path / "good.lcodec")
    tensors = safetensors.torch.load_file(tmp_path / "good.lcodec")
    with safetensors.safe_open(tmp_path / "good.lcodec", framework="pt") as file:
        metadata = dict(file.metadata())
    config = json.loads(metadata["config"])
    path = copy.deepcopy(config["path"])
    DAMAGE[damage](path)
    _with_path(metadata, config, tensors, path, tmp_path / "bad.lcodec")
    for read in (Codec.load, read_codec_file):
        with pytest.raises(CheckpointError, match=r"bad\.lcodec"):
            read(tmp_path / "bad.lcodec")


def _with_path(metadata, config, tensors, path, target: Path) -> None:
    """Write a codec file whose fingerprint fits what its path says."""
    from lictor.coding.codec_file import fingerprint_of

    config = {**config, "path": path}
    listed = [(key, str(tensors[key].dtype), tensors[key].numpy()) for key in sorted(tensors)]
    metadata = {
        **metadata,
        "config": json.dumps(config, sort_keys=True),
        "fingerprint": fingerprint_of(config, listed).hex(),
    }
    safetensors.torch.save_file(tensors, target, metadata)
