"""COIN as a codec: weights come back, its own files and no others, and rate buys quality."""

import dataclasses

import numpy as np
import pytest

from lictor.codecs.signals.coin import QUALITIES, CoinCodec
from lictor.coding.archive import Archive
from lictor.data.signals.signal import Signal
from lictor.errors import BitstreamError, ConfigError, DataError, ModelMismatchError
from lictor.implicit.coin import CoinFit, CoinSettings

CODEC = CoinCodec(CoinSettings(width=8, layers=3), CoinFit(steps=60, learning_rate=5e-3))


def picture(items: int = 2) -> Signal:
    rows, columns = np.mgrid[:6, :9] / 9
    planes = [np.stack([rows, columns, rows * columns], -1) * (200 + 20 * i) for i in range(items)]
    return Signal(np.stack(planes).astype(np.uint8), None, "image", {"who": "me"})


def field() -> Signal:
    values = np.linspace(250, 300, 40, dtype=np.float32).reshape(1, 5, 8, 1)
    mask = np.ones((1, 5, 8), bool)
    mask[0, 1, 2:5] = False
    values[0, 1, 2:5] = np.nan
    return Signal(values, mask, "field", {})


@pytest.fixture(scope="module")
def fitted():
    return CODEC.fitted([picture()])


def test_a_fine_file_decodes_to_what_the_fitted_weights_show(fitted):
    from lictor.implicit.coin import decode_coin
    from lictor.implicit.coordinates import COORDINATES

    (decoded,) = CODEC.decode(CODEC.encode([picture()], QUALITIES[1], fitted=fitted))
    assert decoded.form == {"who": "me"}
    for item, weights in zip(decoded.samples, fitted, strict=True):
        shown = decode_coin(
            {k: w[None] for k, w in weights.items()}, COORDINATES["pixels"]((6, 9)), CODEC.settings
        )
        exact = np.clip(shown.numpy().reshape(6, 9, 3), 0, 1) * 255
        # Half a level of rounding, and what weights half a step off may do: 255 * 30 * 2^-19 * 3.
        assert np.abs(item - exact).max() <= 0.5 + 0.05


def test_finer_steps_cost_more_and_show_more(fitted):
    bytes_, errors = [], []
    for q in (8, 20, 40):
        data = CODEC.encode([picture()], q, fitted=fitted)
        bytes_.append(len(data))
        decoded = CODEC.decode(data)[0].samples.astype(float)
        errors.append(np.square(decoded - picture().samples).mean())
    assert bytes_ == sorted(bytes_)
    assert errors[0] > errors[1] >= errors[2] * 0.99


def test_masked_fields_and_archives_come_back_with_their_names():
    signals = [field(), dataclasses.replace(field(), form={"units": "K"})]
    data = CODEC.encode(signals, 40, names=["a", "b"])
    assert [entry.name for entry in Archive.from_bytes(data).entries] == ["a", "b"]
    for signal, decoded in zip(signals, CODEC.decode(data), strict=True):
        assert decoded.form == signal.form
        assert np.array_equal(np.isnan(decoded.samples), np.isnan(signal.samples))
        assert np.nanmax(np.abs(decoded.samples - signal.samples)) < 15


def test_what_a_mask_hides_changes_nothing():
    other = field().samples.copy()
    other[~field().mask] = 1e6
    again = dataclasses.replace(field(), samples=other)
    assert CODEC.encode([field()], 30) == CODEC.encode([again], 30)


def test_other_files_and_damaged_ones_are_refused(fitted):
    data = CODEC.encode([picture()], 20, fitted=fitted)
    with pytest.raises(ModelMismatchError, match="another codec"):
        dataclasses.replace(CODEC, settings=CoinSettings(width=9, layers=3)).decode(data)
    for cut in (0, 5, len(data) // 2, len(data) - 1):
        with pytest.raises(BitstreamError):
            CODEC.decode(data[:cut])
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 4
        with pytest.raises(BitstreamError):
            CODEC.decode(bytes(flipped))


def test_what_cannot_be_encoded_is_told(fitted):
    with pytest.raises(ConfigError, match="quality 73"):
        CODEC.encode([picture()], 73, fitted=fitted)
    with pytest.raises(DataError, match="as many names"):
        CODEC.encode([picture(), picture()], 20)
