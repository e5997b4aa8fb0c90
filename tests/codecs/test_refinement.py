"""Refined files: any decoder reads them, they cost no more, and a search can be stopped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

from conftest import photo, tiny_model
from lictor.codecs import refinement
from lictor.codecs.learned import Codec
from lictor.codecs.pieces import cut
from lictor.codecs.refinement import MAX_EFFORT, Refinement, effort
from lictor.data.images import image_to_tensor
from lictor.errors import ConfigError
from lictor.layers.quantize.gumbel import GumbelAnnealing, annealed
from lictor.layers.quantize.paths import AdditiveNoise
from lictor.layers.quantize.surrogate import Surrogate
from lictor.models.zoo import MODELS

# Whole tables of models and cases.
pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
LMBDA = 0.0067  # of the codec that ships
PHOTOGRAPH = skimage.data.astronaut()[60:124, 190:254]
BYTE = 8  # what a search cannot see: the number of lanes
FEW = Refinement(steps=6, lmbda=LMBDA)
EVERY = pytest.mark.parametrize("name", MODELS)
_SGA = GumbelAnnealing()
_NOISE = AdditiveNoise()


@pytest.fixture(scope="module")
def shipped() -> Codec:
    return Codec.default()


def frozen(name: str = "checkerboard", **notes: object) -> Codec:
    return Codec.freeze(tiny_model(name), notes=notes)


def cost(codec: Codec, data: bytes, image: np.ndarray) -> float:
    """What a file costs by what a decoder makes of it, in bits; the rate as the model tells it."""
    error = (codec.decode(data).astype(float) - image) ** 2
    return 8 * codec.estimate_bytes(data) + LMBDA * float(error.sum()) / image.shape[2]


@EVERY
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("steps", [0, 6])
def test_the_plain_decoder_gives_the_encoders_picture_at_no_higher_cost(
    name, channels, steps, tmp_path
):
    codec, image = frozen(name), photo(70, 90)[:, :, :channels]
    codec.save(tmp_path / "codec.lcodec")
    refined = codec.encode_verbose(image, refinement=replace(FEW, steps=steps))
    decoded = Codec.load(tmp_path / "codec.lcodec").decode(refined.data)
    np.testing.assert_array_equal(decoded, refined.reconstruction)
    plain = codec.encode(image)
    assert cost(codec, refined.data, image) <= cost(codec, plain, image) + BYTE


@pytest.mark.parametrize(
    "how",
    [
        Refinement(steps=8, lr=5.0, lmbda=LMBDA),  # a search that goes astray
        Refinement(lmbda=LMBDA, damping=1.0),
        Refinement(steps=4, lmbda=LMBDA, surrogate=Surrogate(_SGA, _SGA, temperature=annealed)),
        Refinement(steps=4, lmbda=LMBDA, surrogate=Surrogate(_NOISE, _NOISE)),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (33, 130)])
def test_a_refined_file_never_costs_more(how, size):
    codec, image = frozen(), photo(*size)
    plain = cost(codec, codec.encode(image), image)
    assert cost(codec, codec.encode(image, refinement=how), image) <= plain + BYTE


@pytest.mark.parametrize("channels", [1, 3])
def test_a_trained_codecs_files_cost_less_and_less(shipped, channels):
    image = PHOTOGRAPH[:, :, :channels]
    plain = cost(shipped, shipped.encode(image), image)
    costs = [
        cost(shipped, shipped.encode(image, refinement=Refinement(steps)), image)
        for steps in (0, 24)
    ]
    assert costs[0] < 0.99 * plain
    assert costs[1] < 0.99 * costs[0]


def test_it_is_a_pure_function_and_touches_no_generator(shipped):
    codec, image = shipped, PHOTOGRAPH
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = codec.encode(image, refinement=FEW)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert codec.encode(image, refinement=FEW) == first
    assert codec.encode(image) != first
    assert codec.encode(image, refinement=replace(FEW, seed=1)) != first


@pytest.mark.parametrize("after", [1, 3])
def test_a_search_that_is_stopped_gives_what_it_has(after, shipped):
    codec, image, seen = shipped, PHOTOGRAPH, []

    def watch(done: int, total: int) -> bool:
        seen.append((done, total))
        return done == after

    how = replace(FEW, checks=1)  # no other look at the cost than the last one
    data = codec.encode(image, refinement=how, watch=watch)
    assert seen == [(done, 6) for done in range(1, after + 1)]
    assert cost(codec, data, image) < 0.99 * cost(codec, codec.encode(image), image)
    assert data != codec.encode(image, refinement=how)


def test_a_larger_lmbda_gives_a_better_picture_and_a_larger_file(shipped):
    image = PHOTOGRAPH
    hows = [Refinement(steps=10, lmbda=lmbda) for lmbda in (0.003, 0.015)]
    files = [shipped.encode(image, refinement=how) for how in hows]
    errors = [float(((shipped.decode(f).astype(float) - image) ** 2).mean()) for f in files]
    assert len(files[0]) < len(files[1])
    assert errors[0] > errors[1]


@pytest.mark.parametrize("steps", [0, 4])
def test_a_large_picture_is_refined_in_pieces(steps, shipped, monkeypatch):
    monkeypatch.setattr(refinement, "TILE", 64)
    image = skimage.data.astronaut()[60:120, :300]
    codec, seen, shapes = shipped, [], set()
    search = refinement._Search.choose_integers

    def noted(self, latents):
        shapes.add(self.shape[2:])
        search(self, latents)

    monkeypatch.setattr(refinement._Search, "choose_integers", noted)

    def watch(done: int, total: int) -> bool:
        seen.append((done, total))
        return False

    refined = codec.encode_verbose(image, refinement=replace(FEW, steps=steps), watch=watch)
    np.testing.assert_array_equal(codec.decode(refined.data), refined.reconstruction)
    assert cost(codec, refined.data, image) < 0.995 * cost(codec, codec.encode(image), image)
    total = 5 * max(steps, 1)
    assert seen == [(done, total) for done in range(1, total + 1)]
    assert max(width for _, width in shapes) <= 64 + 2 * 64


@pytest.mark.parametrize("size", [(64, 64), (128, 1024), (640, 1920)])
def test_pieces_cover_a_picture_once_with_margins(size):
    whole = (1, 3, *size)
    latents = {
        "y": torch.randn(1, 2, size[0] // 16, size[1] // 16),
        "z": torch.randn(1, 2, size[0] // 64, size[1] // 64),
    }
    pieces = cut(whole, 64, 256, 10)
    found = {name: torch.full_like(t, torch.nan) for name, t in latents.items()}
    x = torch.randn(1, 3, size[0] - 5, size[1] - 7)
    for piece in pieces:
        shape = piece.shape(whole)
        assert shape[2] % 64 == shape[3] % 64 == 0
        assert max(shape) <= 256 + 2 * 64 + 64
        seen = piece.of(latents, whole)
        assert seen["y"].shape[2:] == (shape[2] // 16, shape[3] // 16)
        assert piece.picture(x).shape[2] in (shape[2], shape[2] - 5)
        piece.put(seen, found, whole)
    for name, latent in latents.items():
        assert torch.equal(found[name], latent)


def test_lmbda_is_the_trainings_where_it_is_known():
    assert frozen(recipe={"loss": {"lmbda": 0.01}}).lmbda == 0.01
    for notes in (
        {},
        {"recipe": 3},
        {"recipe": {"loss": {"lmbda": "x"}}},
        {"recipe": {"loss": {"lmbda": -1}}},
    ):
        assert frozen(**notes).lmbda is None
    image = photo(64, 64)
    known = frozen(recipe={"loss": {"lmbda": LMBDA}})
    data = known.encode(image, refinement=Refinement(4))
    assert data == known.encode(image, refinement=Refinement(4, lmbda=LMBDA))


def test_an_estimate_of_lmbda_is_near_that_of_the_training(shipped):
    codec, image = shipped, skimage.data.astronaut()[:128, 150:278]
    x = image_to_tensor(image)
    latents = codec.model.analyse(x)
    networks = refinement.Networks(codec.model, None, torch.device("cpu"))
    pieces = cut((1, 3, 128, 128), 64, 768, 64)
    assert codec.lmbda is not None
    estimate = refinement.estimate_lmbda(networks, latents, x, pieces)
    assert codec.lmbda / 2 < estimate < 2 * codec.lmbda


@EVERY
def test_a_codec_that_does_not_know_its_lmbda_refines_all_the_same(name):
    codec, image = frozen(name), photo(64, 64)
    data = codec.encode(image, refinement=Refinement(2))
    assert codec.decode(data).shape == image.shape
    flat = np.zeros((64, 64, 1), np.uint8)
    assert codec.decode(codec.encode(flat, refinement=Refinement(2))).shape == flat.shape


@pytest.mark.parametrize("steps", [0, 2])
def test_a_quantized_codec_refuses_and_says_why(steps):
    codec = Codec.load(GOLDEN / "quantized.lcodec")
    with pytest.raises(ConfigError, match=r"quantized \(.*\): no gradient"):
        codec.encode(photo(20, 20), refinement=Refinement(steps))


def test_efforts_are_a_scale():
    assert effort(0) is None
    levels = [effort(level, lmbda=0.1) for level in range(1, MAX_EFFORT + 1)]
    steps = [how.steps for how in levels if how is not None]
    assert steps[0] == 0
    assert steps == sorted(set(steps))
    assert all(how is not None and how.lmbda == 0.1 for how in levels)
    for level in (-1, MAX_EFFORT + 1):
        with pytest.raises(ConfigError, match="from 0 to 9"):
            effort(level)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1},
        {"lr": 0.0},
        {"lmbda": 0.0},
        {"lmbda": float("nan")},
        {"damping": 0.5},
        {"checks": 0},
    ],
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Refinement(**wrong)
