"""Rows hold what the files and the pictures say; peers keep their byte budget."""

import itertools
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from conftest import photo, tiny_model
from lictor.codecs.learned import Codec
from lictor.errors import BitstreamError, ConfigError, LictorError
from lictor.evaluation.peers import PEERS, JpegXlCodec, encode_to_size
from lictor.evaluation.rd import check_estimate, evaluate_image, image_hash
from lictor.metrics import luma, ms_ssim, mse, psnr

WHOLE_RANGE = ("jpeg", "jpeg-444", "webp", "avif")  # every whole quality from 0 to 100


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.freeze(tiny_model("mbt2018-mean"))


def test_a_row_counts_the_whole_file_and_the_decoded_picture(codec):
    image = photo(170, 200)
    row, decoded = evaluate_image(codec, image, "a", setting="s")
    data = codec.encode(image)
    assert (row.setting, row.image, row.width, row.height) == ("s", "a", 200, 170)
    np.testing.assert_array_equal(decoded, codec.decode(data))
    assert row.bytes == len(data)
    assert row.bpp == 8 * len(data) / (170 * 200)
    assert row.psnr == psnr(image, decoded)
    assert row.mse == mse(image, decoded)
    assert row.mse_y == mse(luma(image), luma(decoded))
    assert row.psnr_y == pytest.approx(10 * math.log10(255**2 / row.mse_y))
    assert math.isnan(row.lpips)
    assert row.ms_ssim == ms_ssim(image, decoded)
    assert row.estimated_bpp == pytest.approx(row.bpp, rel=0.01, abs=16 * 8 / (170 * 200))


def test_a_rate_that_does_not_predict_the_file_is_an_error(codec):
    row, _ = evaluate_image(codec, photo(64, 64), "a")
    check_estimate(row)
    for factor, slack in ((1.02, 32), (0.98, -32)):
        wrong = (row.bytes * factor + slack) * 8 / 64**2
        with pytest.raises(LictorError, match="more than 1 % apart"):
            check_estimate(replace(row, estimated_bpp=wrong))


def test_the_hash_is_of_pixels_and_shape():
    image = photo(20, 30)
    assert image_hash(image) == image_hash(image.copy(order="F"))
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    hashes = {image_hash(x) for x in (image, changed, image.reshape(30, 20, 3))}
    assert len(hashes) == 3


class _Shrinks:
    name = "shrinks"

    def encode(self, image):
        return b"x"

    def decode(self, data):
        return np.zeros((5, 5, 3), np.uint8)


def test_a_picture_of_another_size_is_an_error():
    with pytest.raises(LictorError, match="6x4 came back as 5x5"):
        evaluate_image(_Shrinks(), photo(4, 6), "a")


@pytest.mark.parametrize("name", WHOLE_RANGE)
def test_a_peer_takes_the_best_quality_within_the_budget(name):
    image = photo(60, 80)
    make = PEERS[name].make
    target = len(make(50).encode(image)) + 3
    qualities = range(0, 101, 10)
    codec, data = encode_to_size(make, image, target, qualities)
    assert len(data) <= target
    better = [len(make(q).encode(image)) for q in qualities if q > codec.quality]
    assert min(better) > target
    assert codec.decode(data).shape == image.shape


@pytest.mark.parametrize("name", WHOLE_RANGE)
def test_a_peer_that_cannot_keep_the_budget_gives_its_smallest(name):
    image = photo(60, 80)
    codec, data = encode_to_size(PEERS[name].make, image, 1)
    assert data == PEERS[name].make(0).encode(image)
    assert codec.quality == 0


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_peers_keep_the_size_and_refuse_garbage(name, channels):
    image = photo(33, 47)[:, :, :channels]
    codec = PEERS[name].make(PEERS[name].qualities[-1])
    row, decoded = evaluate_image(codec, image, "a")
    assert decoded.shape[:2] == image.shape[:2]
    assert row.psnr > 25
    with pytest.raises(BitstreamError):
        codec.decode(b"garbage")


@pytest.mark.parametrize("name", PEERS)
def test_the_usual_qualities_make_a_curve(name):
    image = photo(96, 128)
    rows = [evaluate_image(PEERS[name].make(q), image, "a")[0] for q in PEERS[name].qualities]
    assert len(rows) >= 6
    for worse, better in itertools.pairwise(rows):
        assert worse.bytes < better.bytes
        assert worse.psnr < better.psnr


@pytest.mark.parametrize("name", WHOLE_RANGE)
def test_a_file_is_the_whole_file(name, tmp_path):
    """What counts is what another program opens: Pillow reads the bytes as a file."""
    from PIL import Image

    data = PEERS[name].make(70).encode(photo(40, 50))
    (tmp_path / "file").write_bytes(data)
    with Image.open(tmp_path / "file") as image:
        assert image.size == (50, 40)


def test_chroma_costs_bytes_and_gives_quality():
    image = photo(96, 128)
    image[:, :, 2] = image[:, ::-1, 2]  # detail in colour
    half, full = (PEERS[name].make(80) for name in ("jpeg", "jpeg-444"))
    assert len(half.encode(image)) < len(full.encode(image))
    assert psnr(image, half.decode(half.encode(image))) < psnr(
        image, full.decode(full.encode(image))
    )


def test_jpeg_xl_needs_its_library_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ConfigError, match=r"lictor\[jpegxl\]"):
        JpegXlCodec(80).encode(photo(8, 8))


def test_jpeg_xl_distances_fall_with_quality():
    distances = [JpegXlCodec(q).distance for q in range(0, 101)]
    assert all(a >= b for a, b in itertools.pairwise(distances))
    assert JpegXlCodec(90).distance == pytest.approx(1.0)
    assert distances[-1] == pytest.approx(0.1)
