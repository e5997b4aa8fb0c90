"""Regions, salvage and limits on the command line."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import photo, tiny_model
from lictor.cli.main import main
from lictor.codecs.learned import Codec
from lictor.coding.container import Container
from lictor.data.images import load_image


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.freeze(tiny_model("checkerboard"))


@pytest.fixture
def place(tmp_path, codec) -> Path:
    """A folder with a codec and a file of six tiles."""
    codec.save(tmp_path / "tiny.lcodec")
    (tmp_path / "a.lic").write_bytes(codec.encode(photo(100, 150), tile_side=64))
    return tmp_path


@pytest.fixture
def lictor(capsys, place):
    """Run a command; return exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, args), "--codec", str(place / "tiny.lcodec")])
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out, printed.err

    return run


def damage(file: Path, *tiles: int) -> None:
    """Change a byte of some tiles."""
    data = bytearray(file.read_bytes())
    lengths = [len(tile.payload) for tile in Container.from_bytes(bytes(data)).tiles]
    begin = len(data) - sum(lengths)
    for tile in tiles:
        data[begin + sum(lengths[:tile])] ^= 4
    file.write_bytes(data)


def test_a_region_is_written(lictor, place, codec):
    code, out, _ = lictor("decompress", place / "a.lic", "--region", "60,20,50,70")
    assert (code, "50x70" in out) == (0, True)
    whole = codec.decode((place / "a.lic").read_bytes())
    np.testing.assert_array_equal(load_image(place / "a.png"), whole[20:90, 60:110])


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ("60,20,50", "four numbers"),
        ("a,b,c,d", "four numbers"),
        ("1,1,0,5", "no pixel"),
        ("100,0,51,1", "not within the picture of 150x100"),
    ],
)
def test_an_impossible_region_is_refused(lictor, place, region, words):
    code, _, err = lictor("decompress", place / "a.lic", "--region", region)
    assert (code, len(err.splitlines())) == (1, 1)
    assert words in err
    assert not (place / "a.png").exists()


def test_a_damaged_tile_is_named_and_nothing_is_written(lictor, place):
    damage(place / "a.lic", 4)
    code, _, err = lictor("decompress", place / "a.lic")
    assert (code, len(err.splitlines())) == (1, 1)
    grid = Container.salvage((place / "a.lic").read_bytes()).container.grid
    assert f"tile 4 ({grid.tile(4)})" in err
    assert "--salvage restores the 5 of 6 tiles" in err
    assert not (place / "a.png").exists()


def test_salvage_writes_the_rest_and_names_what_is_lost(lictor, place, codec):
    whole = codec.decode((place / "a.lic").read_bytes())
    damage(place / "a.lic", 0, 5)
    code, out, err = lictor("decompress", place / "a.lic", "--salvage")
    assert (code, out) == (1, "")
    grid = Container.salvage((place / "a.lic").read_bytes()).container.grid
    assert f"2 tiles are damaged, and grey in {place / 'a.png'}" in err
    assert f": {grid.tile(0)}; {grid.tile(5)}" in err
    restored = load_image(place / "a.png")
    assert restored.shape == whole.shape
    lost = grid.tile(5)
    assert set(np.unique(restored[lost.y :, lost.x :])) == {64, 128}


def test_salvage_of_a_whole_file_is_no_failure(lictor, place, codec):
    code, _, err = lictor("decompress", place / "a.lic", "--salvage")
    assert (code, err) == (0, "")
    whole = codec.decode((place / "a.lic").read_bytes())
    np.testing.assert_array_equal(load_image(place / "a.png"), whole)


def test_region_and_salvage_do_not_go_together(lictor, place):
    code, _, err = lictor("decompress", place / "a.lic", "--salvage", "--region", "0,0,5,5")
    assert code == 1
    assert "do not go together" in err


@pytest.mark.parametrize("limit", [14999, 1])
def test_pictures_above_the_limit_are_refused_with_a_remedy(lictor, place, limit):
    Image.fromarray(photo(100, 150)).save(place / "b.png")
    for command in (("compress", place / "b.png"), ("decompress", place / "a.lic")):
        code, _, err = lictor(*command, "--max-pixels", limit)
        assert (code, len(err.splitlines())) == (1, 1)
        assert str(limit) in err
        assert "raise --max-pixels" in err
        assert str(command[1]) in err
        assert lictor(*command, "--max-pixels", 15000)[0] == 0
    assert lictor("compress", place / "b.png", "--max-pixels", 0)[0] == 1


def test_a_file_that_claims_a_huge_picture_is_refused_with_the_same_remedy(lictor, place):
    file = place / "a.lic"
    bomb = dataclasses.replace(
        Container.from_bytes(file.read_bytes()), width=2**20, height=2**20, tile_side=0,
        tiles=Container.from_bytes(file.read_bytes()).tiles[:1],
    )  # fmt: skip
    file.write_bytes(bomb.to_bytes())
    _, _, err = lictor("decompress", file)
    assert "raise --max-pixels" in err


def test_info_tells_the_version_and_the_tiles(capsys, place):
    with pytest.raises(SystemExit):
        main(["info", str(place / "a.lic")])
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (said["version"], said["tiles"]) == ("2", "6")
