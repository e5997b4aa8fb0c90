"""Theorems that hold for every model: one statement of the data path, three coders."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import combined, lively_model, photo_tensor, tiny_model
from lictor.coders import DecodeCoder, EncodeCoder, LatentCoder, RateCoder, Shape
from lictor.coding.stream import choose_lanes, overhead_bytes
from lictor.coding.tables import TOTAL
from lictor.errors import BitstreamError, DataError
from lictor.layers.quantize.catalogue import SURROGATES, mixed
from lictor.layers.quantize.noise import Noise
from lictor.models.base import AbstractCodecModel
from lictor.models.zoo import MODELS, build_model
from lictor.ops import crop, pad_to_multiple
from lictor.priors.base import AbstractPrior
from lictor.priors.conditional import GaussianPrior, scale_table
from lictor.priors.factorized import FactorizedPrior

EVERY = pytest.mark.parametrize("name", MODELS)
GAUSSIAN = [n for n in MODELS if isinstance(tiny_model(n).priors()["y"], GaussianPrior)]


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def frozen_model(name: str) -> AbstractCodecModel:
    model = lively_model(name)
    model.freeze()
    return model


def tables_of(model: AbstractCodecModel):
    return {name: prior.tables() for name, prior in model.priors().items()}


# ------------------------------------------------------------------------------------- forward


@pytest.mark.parametrize(("name", "size"), combined(MODELS, [(1, 1), (65, 2), (47, 70)]))
def test_any_size_comes_back_in_its_size_and_costs_bits(name, size):
    model = tiny_model(name)
    x = photo_tensor(2, *size)
    for surrogate in (None, *(make() for make in SURROGATES.values())):
        out = model(x, surrogate=surrogate, noise=Noise())
        assert out.x_hat.shape == x.shape
        assert set(out.bits) == set(model.priors())
        for bits in out.bits.values():
            assert bits.shape == (2,)
            assert torch.isfinite(bits).all()
            assert (bits > 0).all()
        assert torch.allclose(out.total_bits, sum(out.bits.values()))


@EVERY
def test_every_weight_gets_a_gradient_from_rate_and_distortion(name):
    model, x = tiny_model(name), photo_tensor(1, 64, 64)
    out = model(x, surrogate=mixed(), noise=Noise())
    (out.total_bits.mean() + (out.x_hat - x).square().sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@EVERY
def test_an_image_costs_and_looks_alone_as_it_does_in_a_batch(name):
    model, x = frozen_model(name), photo_tensor(3, 70, 129)
    together = model(x)
    assert together.total_bits.unique().numel() == 3
    for i in range(3):
        alone = model(x[i : i + 1])
        # A latent near a half may round to either side: one of a thousand symbols.
        assert alone.total_bits[0].item() == pytest.approx(together.total_bits[i].item(), rel=2e-3)
        assert (alone.x_hat[0] - together.x_hat[i]).abs().mean() < 1e-3


@EVERY
def test_padding_repeats_the_edge_so_a_padded_picture_costs_the_same(name):
    model, x = frozen_model(name), photo_tensor(1, 50, 90)
    padded = pad_to_multiple(x, model.stride)
    assert torch.equal(crop(model(padded).x_hat, 50, 90), model(x).x_hat)
    assert torch.equal(model(padded).total_bits, model(x).total_bits)


@EVERY
def test_a_model_is_rebuilt_by_its_name_and_hyperparameters(name):
    model = tiny_model(name)
    twin = build_model(model.name, model.hyperparameters())
    twin.load_state_dict(model.state_dict())
    x = photo_tensor(1, 33, 65)
    assert torch.equal(twin(x).x_hat, model(x).x_hat)


@EVERY
def test_noise_comes_from_the_generator_and_from_nowhere_else(name):
    model, x = tiny_model(name), photo_tensor(1, 64, 64)
    for surrogate in (make() for make in SURROGATES.values()):
        before = torch.get_rng_state()
        first, second = (model(x, surrogate=surrogate, noise=Noise(4)) for _ in range(2))
        assert torch.equal(first.x_hat, second.x_hat)
        assert torch.equal(first.total_bits, second.total_bits)
        assert torch.equal(before, torch.get_rng_state())


# --------------------------------------------------------------------------- encode and decode


@pytest.mark.parametrize(("batch", "name"), combined([1, 2, 3], MODELS))
def test_decoding_gives_the_encoders_symbols_and_picture_to_the_bit(name, batch):
    model = frozen_model(name)
    tables = tables_of(model)
    x = photo_tensor(batch, 128, 64).contiguous(memory_format=torch.channels_last)
    shape = model.padded_shape(batch, 128, 64)
    decoded = {}
    with torch.inference_mode():
        for count in (1, 2):
            with threads(count):
                encoder = EncodeCoder(tables)
                seen = model.synthesise(model.code(encoder, model.analyse(x), shape))
                payload, crc = encoder.finish()
                evaluated = model(x).x_hat
            for other in (1, 2):
                with threads(other):
                    decoder = DecodeCoder(payload, tables)
                    decoded[other] = model.synthesise(model.code(decoder, None, shape))
                    # Whatever the number of threads, the symbols are the same ...
                    assert decoder.finish() == crc
                # ... and the picture is, up to the order in which float32 sums are taken.
                assert torch.allclose(decoded[other], seen, atol=1e-5, rtol=1e-5)
            assert torch.equal(decoded[count], seen)
            assert torch.equal(evaluated, seen)
    assert len(payload) > 80 * batch


@EVERY
def test_the_memory_layout_of_the_picture_does_not_reach_the_decoder(name):
    model = frozen_model(name)
    tables, shape = tables_of(model), model.padded_shape(2, 64, 128)
    x = photo_tensor(2, 64, 128)
    with torch.inference_mode():
        for memory_format in (torch.contiguous_format, torch.channels_last):
            encoder = EncodeCoder(tables)
            latents = model.analyse(x.contiguous(memory_format=memory_format))
            seen = model.synthesise(model.code(encoder, latents, shape))
            payload, crc = encoder.finish()
            decoder = DecodeCoder(payload, tables)
            decoded = model.synthesise(model.code(decoder, None, shape))
            assert decoder.finish() == crc
            assert torch.equal(decoded, seen)
            assert decoded.stride() == seen.stride()


@pytest.mark.parametrize("prior", [GaussianPrior(), FactorizedPrior(6)], ids=["means", "no means"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_all_coders_give_one_tensor_down_to_its_layout_and_the_sign_of_its_zeros(
    prior, memory_format
):
    # Both reach the next network: it sums in another order for another layout.
    shape = (2, 6, 4, 3)
    latent = torch.randn(shape).contiguous(memory_format=memory_format)
    params = (torch.zeros(shape), torch.ones(shape)) if isinstance(prior, GaussianPrior) else ()
    tables = {"y": prior.tables()}
    encoder = EncodeCoder(tables)
    encoded = encoder.code("y", latent, prior, *params, shape=shape)
    payload, _ = encoder.finish()
    decoded = DecodeCoder(payload, tables).code("y", None, prior, *params, shape=shape)
    evaluated = RateCoder().code("y", latent, prior, *params, shape=shape)
    assert (decoded == 0).any()
    for other in (encoded, evaluated):
        assert torch.equal(other.view(torch.int32), decoded.view(torch.int32))
        assert other.stride() == decoded.stride()


@EVERY
def test_every_truncation_and_most_flips_of_a_payload_are_noticed(name):
    model = frozen_model(name)
    tables, shape = tables_of(model), model.padded_shape(1, 64, 64)
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        encoder = EncodeCoder(tables)
        model.code(encoder, model.analyse(photo_tensor(1, 64, 64)), shape)
        payload, crc = encoder.finish()
        for _ in range(8):
            flipped = bytearray(payload)
            flipped[rng.integers(len(payload))] ^= 1 << rng.integers(8)
            cut = payload[: rng.integers(len(payload))]
            for damaged in (bytes(flipped), cut):
                try:
                    decoder = DecodeCoder(damaged, tables)
                    model.code(decoder, None, shape)
                    assert decoder.finish() != crc
                except BitstreamError:
                    pass


@EVERY
def test_an_overflowing_model_is_a_data_error_that_names_the_latent(name):
    model = frozen_model(name)
    encoder = EncodeCoder(tables_of(model))
    x = torch.full((1, 3, 64, 64), float("inf"))
    with pytest.raises(DataError, match=r"latent . is not finite"), torch.inference_mode():
        model.code(encoder, model.analyse(x), model.padded_shape(1, 64, 64))


@EVERY
def test_freezing_stops_learning_and_changes_the_output_little(name):
    model, x = tiny_model(name), photo_tensor(1, 64, 64)
    before = model(x)
    model.freeze()
    after = model(x)
    assert not any(p.requires_grad for p in model.parameters())
    assert not after.x_hat.requires_grad
    assert after.total_bits.item() == pytest.approx(before.total_bits.item(), rel=0.02)


class SampleCoder:
    """Ignores the latents it is given: draws them from their priors, charges and encodes them."""

    def __init__(self, model: AbstractCodecModel):
        self.tables = tables_of(model)
        self.rate, self.encoder = RateCoder(), EncodeCoder(self.tables)
        self.noisy = RateCoder(mixed(), Noise())
        self.rng = np.random.default_rng(0)

    def code(
        self, name: str, latent: Tensor | None, prior: AbstractPrior, *params: Tensor, shape: Shape
    ) -> Tensor:
        if isinstance(prior, GaussianPrior):
            scales = params[-1].clamp_min(float(scale_table()[0])).numpy()
            residual = self.rng.normal(0, scales)
        else:
            residual = np.empty(shape)
            tables = self.tables[name]
            rows = prior.indexes(shape, params, tables).numpy()
            for row in np.unique(rows):
                slots = self.rng.integers(0, TOTAL, (rows == row).sum())
                cdf = tables.cdf[row, : tables.lengths[row] + 1]
                symbol = np.searchsorted(cdf, slots, side="right") - 1
                residual[rows == row] = symbol + tables.offset[row]
        drawn = prior.restore(torch.from_numpy(residual).float(), params)
        for coder in (self.rate, self.noisy):
            coder.code(name, drawn, prior, *params, shape=shape)
        return self.encoder.code(name, drawn, prior, *params, shape=shape)


@EVERY
def test_the_rate_that_training_sees_is_the_size_of_the_payload(name):
    # For latents that follow their priors: within 1 % of the bits, and the stream's own overhead.
    # What is inside the 1 %: counts of 2^-16, 64 scales, 32-bit states; real rates lose as much.
    model = frozen_model(name)
    coder = SampleCoder(model)
    assert isinstance(coder, LatentCoder)
    with torch.inference_mode():
        latents = model.analyse(torch.rand(1, 3, 384, 512))
        model.code(coder, latents, model.padded_shape(1, 384, 512))
    bits = float(torch.stack(list(coder.rate.bits.values())).sum())
    payload, _ = coder.encoder.finish()
    overhead = overhead_bytes(choose_lanes(len(payload)))
    assert bits > 10_000
    assert 0.99 * bits / 8 <= len(payload) <= 1.01 * bits / 8 + overhead


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize("make", [tiny_model, lively_model])
def test_noise_charges_latents_that_follow_their_prior_no_less_than_rounding(name, make):
    # The statement of test_surrogate_laws through a whole model: much more where scales are narrow
    # (as they are in a model that has not been trained), the same where they are wide.
    model = make(name)
    model.freeze()
    coder = SampleCoder(model)
    with torch.inference_mode():
        latents = model.analyse(torch.rand(1, 3, 256, 256))
        model.code(coder, latents, model.padded_shape(1, 256, 256))
    noisy, hard = float(coder.noisy.bits["y"]), float(coder.rate.bits["y"])
    assert noisy > (1.5 if make is tiny_model else 0.995) * hard


@pytest.fixture(scope="module")
def compiled() -> dict:
    """What a compiler makes of the models, in a process where no types are checked."""
    script = Path(__file__).parents[1] / "fixtures" / "compiled.py"
    done = subprocess.run([sys.executable, script], capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.slow
@EVERY
def test_a_compiler_sees_a_model_as_one_graph(name, compiled):
    assert compiled["graphs"][name] == {"rounded": 1, "noisy": 1}


@pytest.mark.slow
def test_a_falling_temperature_does_not_compile_anew_at_each_step(compiled):
    assert compiled["annealing"]["mixed"] == 1
    # Once with the temperature as a constant, once as a number that moves, once where it is hard.
    assert max(compiled["annealing"].values()) <= 3


@pytest.mark.slow
def test_a_compiled_model_has_the_losses_and_gradients_of_itself(compiled):
    for plain, made in zip(*compiled["losses"], strict=True):
        assert made == pytest.approx(plain, rel=1e-5)
    for step in compiled["gradient_errors"]:
        assert max(step) < 1e-3
    assert compiled["same_names"]
