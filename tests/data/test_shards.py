"""Shards: packed whole or gone on with, read by index, and what happens to damaged ones."""

import io
import json
import logging
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import photo
from lictor.data.crops import Crops
from lictor.data.folder import cache_folder, open_image_folder
from lictor.data.images import load_image
from lictor.data.pack import Packing, pack
from lictor.data.places import is_url, joined, list_files, read_bytes, remove, whole_file
from lictor.data.shards import JOURNAL, MANIFEST, open_shards
from lictor.data.sources import Source, open_pictures, source_of, titles
from lictor.errors import ConfigError, DataError

PLENTY = 2**30
SMALL = Packing(shard_bytes=40_000)
SMALL_RAW = Packing(raw=True, shard_bytes=80_000)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


def equal(first, second) -> bool:
    return first.names == second.names and all(
        np.array_equal(first.load(i), second.load(i)) for i in range(len(first))
    )


# ------------------------------------------------------------------------- what is in a shard


@pytest.mark.parametrize("cache_bytes", [PLENTY, 0], ids=["cached", "on demand"])
@pytest.mark.parametrize("how", [SMALL, SMALL_RAW], ids=["files", "raw"])
def test_shards_hold_the_pictures_of_the_folder(picture_folder, tmp_path, how, cache_bytes):
    pack([picture_folder], tmp_path / "shards", how)
    there = open_image_folder(picture_folder, cache_bytes=PLENTY)
    packed = open_shards(tmp_path / "shards", cache_bytes=cache_bytes)
    assert equal(packed, there)
    assert packed.identity == there.identity  # a run goes on from a folder with its shards
    assert packed.on_demand == (not how.raw and not cache_bytes)
    assert len(list((tmp_path / "shards").glob("*.tar"))) > 2


@pytest.mark.parametrize("how", [SMALL, SMALL_RAW], ids=["files", "raw"])
def test_shards_are_tar_files_of_pictures_numbered_through(picture_folder, tmp_path, how):
    manifest = pack([picture_folder], tmp_path / "shards", how).manifest
    members = []
    for path in sorted((tmp_path / "shards").glob("*.tar")):
        assert path.stat().st_size <= how.shard_bytes + 1024
        with tarfile.open(path) as tar:
            members += [(m.name, tar.extractfile(m).read()) for m in tar]  # pyright: ignore[reportOptionalMemberAccess]
    assert [name.split(".")[0] for name, _ in members] == [f"{i:08d}" for i in range(12)]
    for (name, data), source in zip(members, manifest.names, strict=True):
        if how.raw:
            wanted = load_image(picture_folder / source)
            wanted = np.broadcast_to(wanted, (*wanted.shape[:2], 3))
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), wanted)
        else:
            assert data == (picture_folder / source).read_bytes()
            assert name.endswith(Path(source).suffix)


def test_webdataset_reads_shards(picture_folder, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    pack([picture_folder], tmp_path / "shards", SMALL_RAW)
    samples = []
    for path in sorted((tmp_path / "shards").glob("*.tar")):
        with path.open("rb") as stream:  # it leaves open what it opens by itself
            members = webdataset.tariterators.tar_file_expander([{"url": "", "stream": stream}])
            grouped = webdataset.tariterators.group_by_keys(members)
            samples += map(
                webdataset.autodecode.Decoder([webdataset.imagehandler("rgb8")]), grouped
            )
    packed = open_shards(tmp_path / "shards", cache_bytes=0)
    assert [sample["__key__"] for sample in samples] == [f"{i:08d}" for i in range(12)]
    for number, sample in enumerate(samples):
        assert np.array_equal(sample["ppm"], packed.load(number))


@pytest.mark.parametrize("raw", [False, True])
def test_huge_pictures_are_shrunk_and_small_ones_stay(tmp_path, raw):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("large.png", "large.jpg"):
        Image.fromarray(photo(150, 300)).save(folder / name, quality=95)
    Image.fromarray(photo(50, 64)).save(folder / "small.png")
    pack([folder], tmp_path / "shards", Packing(raw=raw, max_side=100))
    packed = open_shards(tmp_path / "shards", cache_bytes=0)
    assert [packed.load(i).shape for i in range(3)] == [(50, 100, 3), (50, 100, 3), (50, 64, 3)]
    assert np.array_equal(packed.load(2), load_image(folder / "small.png"))
    wanted = Image.fromarray(photo(150, 300)).resize((100, 50), Image.Resampling.BOX)
    for number in (0, 1):
        assert np.abs(packed.load(number).astype(int) - np.asarray(wanted)).mean() < 3


def test_turned_pictures_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "pictures").mkdir()
    for i in range(2):
        Image.fromarray(photo(20, 30, i)).save(tmp_path / "pictures" / f"{i}.png", exif=exif)
    pack([tmp_path / "pictures"], tmp_path / "shards")
    for cache_bytes in (0, PLENTY):
        loaded = open_shards(tmp_path / "shards", cache_bytes=cache_bytes).load(1)
        assert np.array_equal(loaded, np.rot90(photo(20, 30, 1), -1))


def test_equal_names_of_several_folders_are_kept_apart(tmp_path):
    for number, folder in enumerate(("one/set", "two/set", "other")):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(photo(20, 30, number)).save(tmp_path / folder / "a.png")
    folders = [tmp_path / "one/set", tmp_path / "two/set", tmp_path / "other"]
    pack(folders, tmp_path / "shards")
    packed = open_shards(tmp_path / "shards", cache_bytes=0)
    assert packed.names == ("set/a.png", "set-2/a.png", "other/a.png")
    assert all(np.array_equal(packed.load(i), photo(20, 30, i)) for i in range(3))
    together = open_pictures(folders, cache_bytes=PLENTY)
    assert equal(together, packed)


def test_titles_are_never_equal():
    places = ["/x/a", "/y/a", "/z/a-2", "memory://bucket/a/", "/x/a"]
    found = titles(places)
    assert len(set(found)) == len(places)
    assert found[0] == "a/"


# ------------------------------------------------------------------- packing, stopped and again


def test_unreadable_pictures_are_named_counted_and_left_out(picture_folder, tmp_path, caplog):
    names = open_image_folder(picture_folder, cache_bytes=PLENTY).names
    for number in (0, 5, 11):
        (picture_folder / names[number]).write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING, "lictor"):
        packed = pack([picture_folder], tmp_path / "shards", SMALL)
    assert len(packed.manifest.skipped) == 3
    for number, reason in zip((0, 5, 11), packed.manifest.skipped, strict=True):
        assert names[number] in reason
        assert reason in caplog.text
    assert "skipped 3 unreadable" in caplog.text
    caplog.clear()
    opened = open_shards(tmp_path / "shards", cache_bytes=0)
    assert equal(opened, open_image_folder(picture_folder, cache_bytes=PLENTY))
    assert "without 3 unreadable pictures" in caplog.text


def test_a_folder_without_readable_pictures_leaves_no_shards(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_text("text")
    with pytest.raises(DataError, match="none of the 1 pictures can be read"):
        pack([tmp_path / "pictures"], tmp_path / "shards")
    assert not files(tmp_path / "shards")


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("stop", range(0, 13, 3))
def test_packing_that_was_stopped_goes_on_to_the_same_bytes(picture_folder, tmp_path, stop, jobs):
    (picture_folder / "z.png").write_text("text")
    pack([picture_folder], tmp_path / "whole", SMALL)

    def interrupt(done: int, total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    how = Packing(shard_bytes=SMALL.shard_bytes, jobs=jobs)
    with pytest.raises(KeyboardInterrupt):
        pack([picture_folder], tmp_path / "shards", how, on_progress=interrupt)
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("*.tar")}
    assert not list((tmp_path / "shards").glob(".*.part"))
    if stop:
        with pytest.raises(DataError, match="its packing was stopped"):
            open_pictures(tmp_path / "shards", cache_bytes=0)
    packed = pack([picture_folder], tmp_path / "shards", how)
    assert files(tmp_path / "shards") == files(tmp_path / "whole")
    assert packed.shards_before == len(there)
    assert all(path.stat().st_mtime_ns == before for path, before in there.items())


@pytest.mark.parametrize("damage", ["journal", "shard", "lost"])
def test_what_a_stopped_packing_left_damaged_is_made_anew(picture_folder, tmp_path, damage):
    pack([picture_folder], tmp_path / "whole", SMALL)

    def interrupt(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    out = tmp_path / "shards"
    with pytest.raises(KeyboardInterrupt):
        pack([picture_folder], out, SMALL, on_progress=interrupt)
    last = max(out.glob("*.tar"))
    if damage == "journal":
        (out / JOURNAL).write_bytes((out / JOURNAL).read_bytes()[:-20])
    elif damage == "shard":
        last.write_bytes(last.read_bytes()[:-1])
    else:
        last.unlink()
    pack([picture_folder], out, SMALL)
    assert files(out) == files(tmp_path / "whole")


def test_a_complete_collection_stays_as_it_is(picture_folder, tmp_path):
    first = pack([picture_folder], tmp_path / "shards", SMALL)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "shards").iterdir()}
    again = pack([picture_folder], tmp_path / "shards", SMALL)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "shards").iterdir()} == before
    assert first.shards_before == 0
    assert again.shards_before == len(first.manifest.shards)


@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_a_complete_collection_that_lost_something_is_packed_again(
    picture_folder, tmp_path, caplog, damage
):
    out = tmp_path / "shards"
    pack([picture_folder], out, SMALL)
    before, path = files(out), max(out.glob("*.tar"))
    path.write_bytes(before[path.name][:-1])
    if damage == "lost":
        path.unlink()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack([picture_folder], out, SMALL, on_progress=interrupt)
    assert f"{path.name}: the shard" in caplog.text
    with pytest.raises(DataError, match="its packing was stopped"):
        open_pictures(out, cache_bytes=0)
    assert pack([picture_folder], out, SMALL).shards_before == 0
    assert files(out) == before
    open_pictures(out, cache_bytes=0)


@pytest.mark.parametrize("stopped", [False, True])
def test_another_packing_in_the_same_folder_is_refused(picture_folder, tmp_path, stopped):
    def interrupt(done: int, total: int) -> None:
        if stopped and done == 9:
            raise KeyboardInterrupt

    try:
        pack([picture_folder], tmp_path / "shards", SMALL, on_progress=interrupt)
    except KeyboardInterrupt:
        assert stopped
    before = files(tmp_path / "shards")
    shutil.copy(picture_folder / "photo2.png", tmp_path / "more.png")
    for folders, how in [
        ([picture_folder], SMALL_RAW),
        ([picture_folder], Packing(shard_bytes=SMALL.shard_bytes, max_side=50)),
        ([picture_folder, picture_folder], SMALL),
    ]:
        with pytest.raises(ConfigError, match=r"shards: holds a packing of other pictures"):
            pack(folders, tmp_path / "shards", how)
    assert files(tmp_path / "shards") == before


def test_tar_files_of_others_are_not_overwritten(picture_folder, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "shard-000000.tar").write_text("mine")
    with pytest.raises(ConfigError, match="holds tar files already"):
        pack([picture_folder], tmp_path / "shards")
    assert files(tmp_path / "shards") == {"shard-000000.tar": b"mine"}


# ------------------------------------------------------------------------------ damaged shards


@pytest.fixture
def shards(picture_folder, tmp_path) -> Path:
    pack([picture_folder], tmp_path / "shards", SMALL)
    return tmp_path / "shards"


def test_a_shard_that_is_cut_short_or_missing_is_named(shards):
    path = max(shards.glob("*.tar"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"{path.name}: the shard has {len(whole) - 1} bytes in"):
        open_pictures(shards, cache_bytes=0)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}: the shard is missing"):
        open_pictures(shards, cache_bytes=0)


def test_a_picture_with_damaged_bytes_is_named(shards):
    manifest = json.loads((shards / MANIFEST).read_text())
    file = shards / manifest["shards"][0][0]
    content = bytearray(file.read_bytes())
    content[manifest["offset"][1] + 60] ^= 1
    file.write_bytes(content)
    folder = open_shards(shards, cache_bytes=0)
    folder.load(0)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"{file.name}: {folder.names[1]}: its bytes are dam"):
            folder.load(1)
    cached = open_shards(shards, cache_bytes=PLENTY)
    assert cached.names == (*folder.names[:1], *folder.names[2:])
    assert len(cached.bad) == 1
    content[manifest["offset"][1] + 60] ^= 1  # copied again, as the error says
    file.write_bytes(content)
    mended = open_shards(shards, cache_bytes=PLENTY)
    assert mended.names == folder.names
    assert mended.bad == ()


def test_a_shard_that_vanishes_is_named(shards):
    folder = open_shards(shards, cache_bytes=0)
    shutil.rmtree(shards)
    with pytest.raises(DataError, match=r"shard-000000\.tar: cannot read"):
        folder.load(0)


def test_a_manifest_of_another_format_is_named(shards):
    tree = json.loads((shards / MANIFEST).read_text())

    def refused(text: str, reason: str) -> None:
        (shards / MANIFEST).write_text(text)
        with pytest.raises(DataError, match=reason) as raised:
            open_pictures(shards, cache_bytes=0)
        assert str(shards / MANIFEST) in str(raised.value)

    refused(json.dumps(tree | {"format": "lictor-shards-9"}), "its format is 'lictor-shards-9'")
    refused(json.dumps(tree)[:-30], "no manifest of shards")
    refused("[1, 2]", "no manifest of shards")
    refused("{}", "no manifest of shards")
    for name, value in [
        ("offset", [10**12, *tree["offset"][1:]]),
        ("offset", [-1, *tree["offset"][1:]]),
        ("offset", [2**70, *tree["offset"][1:]]),
        ("shard", [99, *tree["shard"][1:]]),
        ("height", tree["height"][1:]),
        ("height", [0, *tree["height"][1:]]),
        ("names", []),
        ("crc32", None),
        ("raw", "yes"),
    ]:
        refused(json.dumps(tree | {name: value}), "no manifest of shards")
    for key in tree:
        refused(json.dumps({k: v for k, v in tree.items() if k != key}), "no manifest of shards")


# ------------------------------------------------------------------------------------ by URL


@pytest.fixture
def url(shards) -> str:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.put(str(shards), "/bucket/shards", recursive=True)
    yield "memory://bucket/shards"
    system.rm("/bucket", recursive=True)


@pytest.mark.parametrize("cache_bytes", [PLENTY, 0])
def test_shards_behind_a_url_are_those_of_the_folder(shards, url, cache_bytes):
    remote = open_pictures(url, cache_bytes=cache_bytes)
    assert equal(remote, open_shards(shards, cache_bytes=0))
    assert remote.on_demand == (not cache_bytes)
    crops = [
        Crops(folder, 64, 4).batch(3) for folder in (remote, open_shards(shards, cache_bytes=0))
    ]
    assert np.array_equal(*crops)


def test_raw_shards_behind_a_url(picture_folder, tmp_path):
    pack([picture_folder], tmp_path / "shards", SMALL_RAW)
    remote = open_shards((tmp_path / "shards").as_uri(), cache_bytes=0)
    assert equal(remote, open_shards(tmp_path / "shards", cache_bytes=0))
    assert remote.on_demand


def test_shards_behind_a_url_that_are_cut_short_or_missing_are_named(url):
    import fsspec

    system = fsspec.filesystem("memory")
    content = system.cat_file("/bucket/shards/shard-000000.tar")
    folder = open_shards(url, cache_bytes=0)
    system.pipe_file("/bucket/shards/shard-000000.tar", content[:700])
    with pytest.raises(DataError, match=rf"{url}/shard-000000\.tar: .*: the shard is cut short"):
        folder.load(0)
    system.rm("/bucket/shards/shard-000000.tar")
    with pytest.raises(DataError, match=rf"{url}/shard-000000\.tar: cannot read"):
        folder.load(0)
    system.rm(f"/bucket/shards/{MANIFEST}")
    with pytest.raises(DataError, match=rf"{url}/manifest\.json: cannot read"):
        open_shards(url, cache_bytes=0)


@pytest.mark.parametrize("damage", ["cut short", "cannot read"])
def test_what_a_url_does_not_give_is_not_left_out_of_the_cache(url, damage):
    import fsspec

    system = fsspec.filesystem("memory")
    content = system.cat_file("/bucket/shards/shard-000001.tar")
    if damage == "cut short":
        system.pipe_file("/bucket/shards/shard-000001.tar", content[:700])
    else:
        system.rm("/bucket/shards/shard-000001.tar")
    with pytest.raises(DataError, match=rf"{url}/shard-000001\.tar: .*{damage}"):
        open_shards(url, cache_bytes=PLENTY)
    system.pipe_file("/bucket/shards/shard-000001.tar", content)
    assert open_shards(url, cache_bytes=PLENTY).names == open_shards(url, cache_bytes=0).names


def test_a_url_without_its_package_says_what_to_install(monkeypatch):
    with pytest.raises(ConfigError, match=r"nosuch://x: no URL that fsspec knows"):
        open_pictures("nosuch://x", cache_bytes=0)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ConfigError, match=r"s3://x/y: a package is not inst.*lictor\[remote\]"):
        open_pictures("s3://x/y", cache_bytes=0)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:1/x", "zip://gone.zip::file://x", "dir://x"])
def test_a_storage_that_cannot_be_reached_is_named(url):
    pytest.importorskip("fsspec")
    with pytest.raises(DataError, match=rf"^{url}: cannot be reached \("):
        open_pictures(url, cache_bytes=0)


def test_the_root_of_a_storage_is_a_url_like_another():
    pytest.importorskip("fsspec")
    with whole_file(joined("memory://", "at-the-root.bin")) as file:
        file.write(b"here")
    assert list_files("memory://", (".bin",)) == ["at-the-root.bin"]
    assert read_bytes("memory://at-the-root.bin") == b"here"
    remove("memory://at-the-root.bin")
    assert not is_url("://no-kind")


# -------------------------------------------------------------------------- several sources


def test_a_source_is_a_place_with_or_without_a_weight(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=2").mkdir()
    for given, wanted in [
        ("photos", Source("photos")),
        ("photos=2", Source("photos", 2.0)),
        ("photos=0.25", Source("photos", 0.25)),
        (Path("photos=1e2"), Source("photos", 100.0)),
        ("a=2", Source("a=2")),
        ("a=2=3", Source("a=2", 3.0)),
        ("photos=many", Source("photos=many")),
        ("s3://bucket/x=3", Source("s3://bucket/x", 3.0)),
        (Source("x", 1.0), Source("x", 1.0)),
    ]:
        assert source_of(given) == wanted
    for text in ("photos=0", "photos=-1", "photos=inf", "photos=nan"):
        with pytest.raises(ConfigError, match="weight of a source must be positive"):
            source_of(text)


def test_several_sources_come_one_after_the_other_with_their_shares(picture_folder, shards):
    both = open_pictures([f"{picture_folder}=3", f"{shards}=1"], cache_bytes=PLENTY)
    alone = open_pictures(picture_folder, cache_bytes=PLENTY)
    assert both.names == tuple(f"{d}/{n}" for d in ("pictures", "shards") for n in alone.names)
    for number in range(24):
        assert np.array_equal(both.load(number), alone.load(number % 12))
    assert both.groups == ((12, 3.0), (12, 1.0))
    training, held_out = both.split(5)
    assert sum(count for count, _ in training.groups) == len(training) == 22
    assert sum(count for count, _ in held_out.groups) == 2
    order = Crops(training, 64, 4).order
    first = [order.picture(s, p) < training.groups[0][0] for s in range(25) for p in range(4)]
    assert sum(first) == 75
    others = [[picture_folder, shards], [f"{picture_folder}=1", f"{shards}=1"]]
    opened = [open_pictures(each, cache_bytes=PLENTY) for each in others]
    assert len({both.identity, *(folder.identity for folder in opened)}) == 3
    assert not opened[0].groups


def test_sources_share_the_budget(picture_folder, shards):
    needed = open_pictures(picture_folder, cache_bytes=PLENTY).cached_bytes
    for budget, on_demand in ((2 * needed, False), (2 * needed - 1, True)):
        both = open_pictures([picture_folder, shards], cache_bytes=budget)
        assert both.on_demand == on_demand
        assert both.cached_bytes == 0
    assert len(list(cache_folder().glob("images-*"))) == 2


def test_some_weights_are_refused(picture_folder, shards):
    with pytest.raises(ConfigError, match=r"shards: has no weight, and other sources do"):
        open_pictures([f"{picture_folder}=3", shards], cache_bytes=PLENTY)
    with pytest.raises(ConfigError, match="at least one"):
        open_pictures([], cache_bytes=PLENTY)
