"""Rows hold what the files and the pictures say; peers keep their byte budget."""

import json
import math
from dataclasses import replace

import pytest

from conftest import photo, tiny_model
from lictor.codec import Codec
from lictor.errors import BitstreamError, LictorError
from lictor.evaluation.peers import PEERS, encode_to_size
from lictor.evaluation.rd import check_estimate, evaluate_image, mean_result, results_to_json
from lictor.metrics import ms_ssim, psnr


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.freeze(tiny_model("mbt2018-mean"))


def test_a_row_counts_the_whole_file_and_the_decoded_picture(codec):
    image = photo(170, 200)
    row = evaluate_image(codec, image, "a")
    data = codec.encode(image)
    assert row.bytes == len(data)
    assert row.bpp == 8 * len(data) / (170 * 200)
    assert row.psnr == psnr(image, codec.decode(data))
    assert row.ms_ssim == ms_ssim(image, codec.decode(data))
    assert row.estimated_bpp == pytest.approx(row.bpp, rel=0.01, abs=16 * 8 / (170 * 200))


def test_a_rate_that_does_not_predict_the_file_is_an_error(codec):
    row = evaluate_image(codec, photo(64, 64), "a")
    check_estimate(row)
    for factor, slack in ((1.02, 32), (0.98, -32)):
        wrong = (row.bytes * factor + slack) * 8 / 64**2
        with pytest.raises(LictorError, match="more than 1 % apart"):
            check_estimate(replace(row, estimated_bpp=wrong))


def test_means_leave_out_what_is_not_defined(codec):
    small, large = photo(20, 30), photo(170, 200)
    rows = [evaluate_image(codec, image, "x") for image in (small, large)]
    means = mean_result(rows)
    assert math.isnan(rows[0].ms_ssim)
    assert means["ms_ssim"] == rows[1].ms_ssim
    assert means["psnr"] == pytest.approx((rows[0].psnr + rows[1].psnr) / 2)


def test_results_are_strict_json(codec):
    rows = [evaluate_image(codec, photo(20, 30), "x")]
    text = json.dumps(results_to_json(codec, rows), allow_nan=False)
    assert json.loads(text)["images"][0]["bytes"] == rows[0].bytes


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_takes_the_best_quality_within_the_budget(name):
    image = photo(120, 160)
    make = PEERS[name]
    target = len(make(50).encode(image)) + 3
    codec, data = encode_to_size(make, image, target)
    assert len(data) <= target
    better = [len(make(q).encode(image)) for q in range(codec.quality + 1, 101)]
    assert min(better) > target
    assert codec.decode(data).shape == image.shape


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_that_cannot_keep_the_budget_gives_its_smallest(name):
    image = photo(120, 160)
    codec, data = encode_to_size(PEERS[name], image, 1)
    assert data == PEERS[name](0).encode(image)
    assert codec.quality == 0


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_peers_keep_the_shape_and_refuse_garbage(name, channels):
    image = photo(33, 47)[:, :, :channels]
    codec = PEERS[name](80)
    decoded = codec.decode(codec.encode(image))
    assert decoded.shape[:2] == image.shape[:2]
    with pytest.raises(BitstreamError):
        codec.decode(b"garbage")
