"""Tiles: what is decoded does not depend on threads, regions or damage elsewhere."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import photo, tiny_model
from lictor.codecs import tiles as tiles_module
from lictor.codecs.learned import Codec
from lictor.codecs.refinement import Refinement
from lictor.codecs.tiles import ONE_TILE_PIXELS, TILE, TileCoder, choose_side, synthesis_margin
from lictor.coding.container import Container, Tile
from lictor.coding.grid import Grid, Rectangle
from lictor.errors import BitstreamError, ConfigError, CorruptError, DataError, DesyncError
from lictor.models.zoo import MODELS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.freeze(tiny_model("checkerboard"))


@pytest.fixture(scope="module")
def tiled(codec) -> tuple[np.ndarray, bytes, np.ndarray]:
    """A picture of nine tiles, its file and what that decodes to."""
    image = photo(150, 170)
    data = codec.encode(image, tile_side=64)
    assert len(Container.from_bytes(data).tiles) == 9
    return image, data, codec.decode(data)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_codes_tiles(name):
    codec, image = Codec.freeze(tiny_model(name)), photo(100, 140)
    encoded = codec.encode_verbose(image, tile_side=64)
    file = Container.from_bytes(encoded.data)
    assert file.grid == Grid(140, 100, 64)
    assert file.symbol_crc == encoded.symbol_crc
    np.testing.assert_array_equal(codec.decode(encoded.data), encoded.reconstruction)
    assert codec.estimate_bytes(encoded.data) == encoded.estimated_bytes


@pytest.mark.parametrize("width", [63, 64, 65, 127, 128, 129, 191, 192, 193])
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_around_borders_come_back(codec, width, channels):
    image = photo(66, width)[:, :, :channels]
    encoded = codec.encode_verbose(image, tile_side=64)
    decoded = codec.decode(encoded.data)
    assert decoded.shape == image.shape
    np.testing.assert_array_equal(decoded, encoded.reconstruction)


def test_a_picture_of_one_tile_is_coded_as_without_tiles(codec):
    image = photo(64, 128)
    assert codec.encode(image, tile_side=128) != codec.encode(image)  # the side is in the header
    one, plain = (Container.from_bytes(codec.encode(image, tile_side=s)) for s in (128, None))
    assert one.tiles == plain.tiles
    assert plain.tile_side == 0


def test_only_pictures_of_more_than_two_megapixels_are_cut():
    assert choose_side(2048, 1024, 64) == 0
    assert choose_side(2048, 1025, 64) == TILE
    assert choose_side(ONE_TILE_PIXELS + 1, 1, 16) == TILE
    assert choose_side(4096, 4096, 128) == 0  # tiles would not lie on the latents' grid
    for side, stride in ((63, 64), (-64, 64), (64, 128), (1, 1)):
        with pytest.raises(ConfigError, match="multiple of 64"):
            choose_side(100, 100, stride, side)
    assert choose_side(100, 100, 64, 192) == 192


@settings(max_examples=30)
@given(st.data())
def test_a_region_is_the_crop_of_the_whole(codec, tiled, data):
    image, file, whole = tiled
    height, width, _ = image.shape
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    region = codec.decode(file, region=(x, y, w, h))
    np.testing.assert_array_equal(region, whole[y : y + h, x : x + w])


def test_a_region_decodes_only_the_tiles_around_it(codec, tiled, monkeypatch):
    decoded, decode = [], TileCoder.decode

    def counted(self, tile, index):
        decoded.append(index)
        return decode(self, tile, index)

    monkeypatch.setattr(TileCoder, "decode", counted)
    _, file, whole = tiled
    corner = codec.decode(file, region=(0, 0, 5, 5))
    np.testing.assert_array_equal(corner, whole[:5, :5])
    assert sorted(decoded) == [0, 1, 3, 4]


def test_decoding_reads_each_tile_once_and_holds_three_rows_of_them(codec):
    """Of pictures of any height; with tiles of 64 pixels a margin of 64 is one row each way."""
    image = photo(700, 100)
    data = codec.encode(image, tile_side=64)
    file, held, most, read = Container.from_bytes(data), set(), 0, []
    tiles = TileCoder(codec.model, codec.tables, CPU, file.grid, 64)

    class Told(dict):
        """Latents that tell when they are let go."""

        def __init__(self, index: int):
            super().__init__(tiles.decode(file.tiles[index], index))
            self.index = index
            held.add(index)

        def __del__(self):
            held.discard(self.index)

    def told(index: int) -> Told:
        nonlocal most
        read.append(index)
        latents = Told(index)
        most = max(most, len(held))
        return latents

    with torch.inference_mode():
        picture, missing = tiles.restore(told, Rectangle(0, 0, 100, 700), 3)
    np.testing.assert_array_equal(picture, codec.decode(data))
    assert missing == []
    assert read == list(range(file.grid.count))
    assert file.grid.count == 22
    assert 6 <= most <= 8


@pytest.mark.parametrize("region", [(0, 0, 171, 1), (170, 0, 1, 1), (-1, 0, 5, 5), (0, 0, 0, 5)])
def test_a_region_outside_of_the_picture_is_refused(codec, tiled, region):
    with pytest.raises(ConfigError, match="not within the picture of 170x150"):
        codec.decode(tiled[1], region=region)


def test_a_region_of_a_picture_of_one_tile_is_its_crop(codec):
    data = codec.encode(photo(70, 90))
    whole = codec.decode(data)
    np.testing.assert_array_equal(codec.decode(data, region=(7, 9, 30, 40)), whole[9:49, 7:37])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_byte_and_no_pixel(codec, tiled, threads):
    image, file, whole = tiled
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert codec.encode(image, tile_side=64) == file
        np.testing.assert_array_equal(codec.decode(file), whole)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_thread_ends_the_work_and_leaves_torch_as_it_was():
    before, done = torch.get_num_threads(), []

    def work(item: int) -> None:
        if item == 2:
            raise DataError("two")
        done.append(item)

    with pytest.raises(DataError, match="two"):
        tiles_module.in_threads(work, range(1000), 1)
    assert done[:2] == [0, 1]
    assert len(done) < 1000
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", MODELS)
def test_pixels_reach_no_farther_than_the_margin_and_no_less(name):
    """The same latents, in one piece and in tiles: equal but for the last bits."""
    codec = Codec.freeze(tiny_model(name))
    model, grid = codec.model, Grid(512, 512, 256)
    margin = synthesis_margin(model, CPU)
    assert 0 < margin <= 128
    tiles = TileCoder(model, codec.tables, CPU, grid, margin)
    with torch.inference_mode():
        x = torch.from_numpy(photo(512, 512)).permute(2, 0, 1)[None].float() / 255
        whole = {name: 3 * t for name, t in model.analyse(x).items()}
        expected = tiles.model.synthesise(whole)
        bare = {i: tiles.piece(i, 0) for i in range(grid.count)}
        parts = {i: piece.of(whole, tiles.whole) for i, piece in bare.items()}
        for index in range(grid.count):
            there = grid.tile(index)
            seen = tiles.piece(index, margin)
            inner = seen.within
            x_hat = model.synthesise(tiles._joined(parts, index, seen))
            got = x_hat[..., inner.rows.seen, inner.columns.seen]
            wanted = expected[
                ..., there.y : there.y + there.height, there.x : there.x + there.width
            ]
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))


def test_without_a_margin_there_would_be_seams(codec):
    """The law above has teeth: what is around a tile does change it."""
    image = photo(128, 256)
    file = Container.from_bytes(codec.encode(image, tile_side=128))
    tiles = TileCoder(codec.model, codec.tables, CPU, file.grid, 64)
    with torch.inference_mode():
        latents = {i: tiles.decode(tile, i) for i, tile in enumerate(file.tiles)}
        alone = tiles.synthesise({0: latents[0]}, 0, 3)
        together = tiles.synthesise(latents, 0, 3)
    assert (alone != together).any()
    np.testing.assert_array_equal(alone[:, :64], together[:, :64])


# ------------------------------------------------------------------------------------ damage


def test_every_truncation_and_every_flipped_byte_is_an_error_or_marks_exactly_one_tile(codec):
    image = photo(60, 100)
    data = codec.encode(image, tile_side=64)
    file = Container.from_bytes(data)
    lengths = [len(tile.payload) for tile in file.tiles]
    begin = len(data) - sum(lengths)
    assert len(lengths) == 2
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            codec.decode(data[:length])
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(BitstreamError):
            codec.decode(bytes(damaged))
        if at < begin:
            with pytest.raises(BitstreamError):
                codec.salvage(bytes(damaged))
        elif at % 16 == 0:
            rest, lost = codec.salvage(bytes(damaged))
            index = int(at >= begin + lengths[0])
            assert lost == [file.grid.tile(index)]
            gone, kept = (rest[:, :64], rest[:, 64:])[:: 1 if index == 0 else -1]
            assert set(np.unique(gone)) == {64, 128}
            assert len(np.unique(kept)) > 2


def test_a_damaged_tile_leaves_those_that_do_not_touch_it_as_they_are(codec, tiled):
    _, data, whole = tiled
    file = Container.from_bytes(data)
    lost = bytearray(data)
    lost[-3] ^= 1  # of the last tile
    image, damaged = codec.salvage(bytes(lost))
    corner = file.grid.tile(8)
    assert damaged == [corner]
    assert str(corner) == "42x22 at 128,128"
    np.testing.assert_array_equal(image[:64], whole[:64])
    np.testing.assert_array_equal(image[:, :64], whole[:, :64])
    assert set(np.unique(image[128:, 128:])) == {64, 128}
    with pytest.raises(CorruptError, match=r"tile 8 \(42x22 at 128,128\)"):
        codec.decode(bytes(lost))
    cut, gone = codec.salvage(data[: -len(file.tiles[8].payload) - 1])
    assert gone == [file.grid.tile(7), corner]
    np.testing.assert_array_equal(cut[:64], whole[:64])


def test_salvage_of_a_whole_file_is_decoding(codec, tiled):
    _, data, whole = tiled
    image, damaged = codec.salvage(data)
    np.testing.assert_array_equal(image, whole)
    assert damaged == []


def test_a_tile_of_other_symbols_is_named_and_salvaged_around(codec, tiled):
    file = Container.from_bytes(tiled[1])
    parts = list(file.tiles)
    parts[3] = Tile(parts[3].payload, parts[3].symbol_crc ^ 1)
    wrong = Container(file.fingerprint, 170, 150, 3, parts, 64).to_bytes()
    with pytest.raises(DesyncError, match=r"tile 3 \(64x64 at 0,64\)"):
        codec.decode(wrong)
    with pytest.raises(DesyncError, match="tile 3"):
        codec.estimate_bytes(wrong)
    assert codec.salvage(wrong)[1] == [Rectangle(0, 64, 64, 64)]
    assert codec.decode(wrong, region=(128, 0, 42, 60)).shape == (60, 42, 3)


# ----------------------------------------------------------------------------- limits, effort


def test_pictures_above_a_limit_are_refused(codec, tiled):
    image, data, whole = tiled
    for limit in (1, 150 * 170 - 1):
        with pytest.raises(DataError, match=f"max_pixels = {limit}"):
            codec.encode(image, max_pixels=limit)
        with pytest.raises(CorruptError, match=f"max_pixels = {limit}"):
            codec.decode(data, max_pixels=limit)
        with pytest.raises(CorruptError, match=f"max_pixels = {limit}"):
            codec.salvage(data, max_pixels=limit)
    np.testing.assert_array_equal(codec.decode(data, max_pixels=150 * 170), whole)


def cost(codec: Codec, data: bytes, image: np.ndarray, lmbda: float) -> float:
    error = codec.decode(data).astype(float) - image
    bits = 8 * codec.estimate_bytes(data)
    return bits + lmbda * (error**2).sum() / image.shape[2]


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_refinement_goes_tile_by_tile(codec, steps, channels):
    image, how = photo(100, 140)[:, :, :channels], Refinement(steps=steps, lmbda=0.01)
    plain = codec.encode(image, tile_side=64)
    told: list[tuple[int, int]] = []

    def watch(done: int, total: int) -> bool:
        told.append((done, total))
        return False

    refined = codec.encode(image, refinement=how, watch=watch, tile_side=64)
    count = 6 * max(steps, 1)
    assert told == [(i + 1, count) for i in range(count)]
    assert refined != plain
    assert cost(codec, refined, image, 0.01) < cost(codec, plain, image, 0.01)


def test_tiles_after_a_stop_are_plain(codec):
    image, how = photo(100, 140), Refinement(steps=0, lmbda=0.01)
    plain, refined, stopped = (
        Container.from_bytes(codec.encode(image, tile_side=64, refinement=r, watch=watch)).tiles
        for r, watch in ((None, _never), (how, _never), (how, _after_two))
    )
    assert stopped[:2] == refined[:2] != plain[:2]
    assert stopped[2:] == plain[2:]


def _never(done: int, total: int) -> bool:
    return False


def _after_two(done: int, total: int) -> bool:
    return done >= 2


def test_a_codec_that_does_not_know_its_lmbda_refines_tiles(codec):
    assert codec.lmbda is None
    data = codec.encode(photo(64, 100), refinement=Refinement(), tile_side=64)
    assert codec.decode(data).shape == (64, 100, 3)
