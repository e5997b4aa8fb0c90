"""Pictures in, crops out; and what happens to files that are no pictures."""

import errno
import itertools
import logging
import os
import shutil
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import photo
from lictor.data.crops import Crops, batch_to_tensor, draws, random_crop
from lictor.data.decoded import Decoded
from lictor.data.folder import ImageFolder, cache_folder, open_image_folder
from lictor.data.images import image_size, image_to_tensor, list_images, load_image, tensor_to_image
from lictor.data.prefetch import Prefetcher
from lictor.errors import DataError

PLENTY = 2**30


@pytest.fixture
def image() -> np.ndarray:
    return photo(20, 33)


def save(array: np.ndarray, path: Path, mode: str | None = None, **options) -> Path:
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


def png16(path: Path, colour_type: int, channels: int) -> Path:
    """A 4x4 PNG with 16 bits a sample, which Pillow cannot write in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + np.arange(4 * channels, dtype=">u2").tobytes() for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


# ------------------------------------------------------------------------------- one picture


def test_lossless_files_give_their_pixels(tmp_path, image):
    assert np.array_equal(load_image(save(image, tmp_path / "a.png")), image)
    assert np.array_equal(load_image(save(image, tmp_path / "a.webp", lossless=True)), image)
    grey = image[:, :, 0]
    assert np.array_equal(load_image(save(grey, tmp_path / "g.png")), grey[:, :, None])


def test_jpeg_and_webp_come_close(tmp_path, image):
    for name in ("a.jpg", "a.JPEG", "a.webp"):
        loaded = load_image(save(image, tmp_path / name, quality=95))
        assert loaded.shape == image.shape
        assert np.abs(loaded.astype(int) - image).mean() < 4


def test_modes_become_grey_or_rgb(tmp_path, image):
    for mode, name, channels in [
        ("1", "a.png", 1),
        ("L", "b.png", 1),
        ("L", "c.jpg", 1),
        ("P", "d.png", 3),
        ("CMYK", "e.jpg", 3),
    ]:
        assert load_image(save(image, tmp_path / name, mode)).shape == (20, 33, channels)


def test_a_palette_gives_its_colours(tmp_path, image):
    picture = Image.fromarray(image).quantize(16)
    picture.save(tmp_path / "p.png")
    assert np.array_equal(load_image(tmp_path / "p.png"), np.asarray(picture.convert("RGB")))


def test_an_opaque_alpha_channel_is_dropped_and_a_transparent_one_refused(tmp_path, image):
    opaque = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    assert np.array_equal(load_image(save(opaque, tmp_path / "o.png")), image)
    opaque[3, 4, 3] = 254
    grey_alpha = opaque[:, :, 2:]
    palette = Image.fromarray(image).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    save(opaque, tmp_path / "rgba.png")
    save(grey_alpha, tmp_path / "la.png")
    for name in ("palette.png", "rgba.png", "la.png"):
        with pytest.raises(DataError, match=rf"{name}: has transparency; flatten"):
            load_image(tmp_path / name)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_are_refused_instead_of_cut_down(tmp_path, colour_type, channels):
    with pytest.raises(DataError, match=r"deep\.png: .*8 bits"):
        load_image(png16(tmp_path / "deep.png", colour_type, channels))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_the_orientation_tag_is_applied(tmp_path, image, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(image, tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_image(path), upright(image))
    assert image_size(path) == upright(image).shape[1::-1]


def test_the_size_of_what_is_no_picture_is_a_data_error(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for path in (tmp_path / "text.png", tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match=path.name):
            image_size(path)


def test_what_is_no_picture_is_named_with_the_reason(tmp_path, image):
    whole = save(image, tmp_path / "whole.png").read_bytes()
    save(image, tmp_path / "whole.jpg", quality=95)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    cut = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "folder.png").mkdir()
    for name, reason in [
        ("empty.png", "empty file"),
        ("text.png", "not a readable picture"),
        ("cut.png", "not a readable picture"),
        ("cut.jpg", "not a readable picture"),
        ("folder.png", "is a folder"),
        ("absent.png", "no such file"),
    ]:
        with pytest.raises(DataError, match=reason) as raised:
            load_image(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)


@given(st.data())
def test_any_prefix_and_any_flipped_byte_is_a_picture_or_a_data_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    kind = data.draw(st.sampled_from(["png", "jpg", "webp"]))
    content = bytearray(save(photo(9, 9), folder / f"a.{kind}").read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / f"b.{kind}").write_bytes(content)
    try:
        assert load_image(folder / f"b.{kind}").dtype == np.uint8
    except DataError:
        return  # anything else, a warning included, is a failure


def test_large_photographs_are_welcome_and_larger_ones_named(tmp_path, image, monkeypatch):
    path = save(image, tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", image[:, :, 0].size - 1)
    assert np.array_equal(load_image(path), image)  # Pillow only warns here
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", image[:, :, 0].size // 2 - 1)
    with pytest.raises(DataError, match=r"large\.png: more than .* pixels"):
        load_image(path)


def test_the_tensor_of_an_image_gives_the_image_back():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    colour = np.dstack([every, every[::-1], every[:, ::-1]])
    for image in (every, colour):
        x = image_to_tensor(image)
        assert x.shape == (1, 3, 16, 16)
        assert (x.min(), x.max()) == (0, 1)
        assert np.array_equal(tensor_to_image(x, channels=image.shape[2]), image)
    assert tensor_to_image(torch.full((1, 3, 1, 2), -7.0)).max() == 0
    assert tensor_to_image(torch.full((1, 3, 1, 2), 7.0)).min() == 255


# ----------------------------------------------------------------------------------- folders


def test_images_are_listed_in_sorted_order_whatever_their_case(tmp_path, image):
    (tmp_path / "b").mkdir()
    (tmp_path / "folder.png").mkdir()
    for name in ("z.PNG", "a.jpg", "b/c.webp", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).touch()
        else:
            save(image, tmp_path / name)
    listed = [str(p.relative_to(tmp_path)) for p in list_images(tmp_path)]
    assert listed == ["a.jpg", "b/c.webp", "z.PNG"]


def test_a_folder_without_readable_pictures_is_an_error(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("text")
    for folder, reason in [
        (tmp_path / "absent", "no such folder"),
        (tmp_path / "none", "contains no pictures"),
        (tmp_path / "bad", r"none of its 1 pictures can be read; first: .*x\.png"),
    ]:
        for cache_bytes in (PLENTY, -1):
            with pytest.raises(DataError, match=reason):
                open_image_folder(folder, cache_bytes=cache_bytes)
    assert not list(cache_folder().glob("*"))


def same_pictures(first: ImageFolder, second: ImageFolder) -> bool:
    return first.names == second.names and all(
        np.array_equal(first.load(i), second.load(i)) for i in range(len(first))
    )


def test_a_folder_holds_the_pixels_of_its_files_as_rgb(picture_folder):
    folder = open_image_folder(picture_folder, cache_bytes=PLENTY)
    assert len(folder) == 12
    for i, name in enumerate(folder.names):
        image = load_image(picture_folder / name)
        assert np.array_equal(folder.load(i), np.broadcast_to(image, (*image.shape[:2], 3)))


def test_decoding_on_demand_equals_the_cache_even_with_damaged_pictures(picture_folder):
    photo_jpg = next(picture_folder.rglob("*.jpg"))
    photo_jpg.write_bytes(photo_jpg.read_bytes()[:-300])  # its header is fine
    save(np.zeros((70, 70, 4), np.uint8), picture_folder / "transparent.png")
    cached = open_image_folder(picture_folder, cache_bytes=PLENTY)
    on_demand = open_image_folder(picture_folder, cache_bytes=0)
    assert len(cached) == 11
    assert same_pictures(cached, on_demand)
    assert cached.bad == on_demand.bad
    assert sum(p.stat().st_size for p in cache_folder().glob("names-*/*")) < 10_000


@pytest.mark.parametrize("cache_bytes", [PLENTY, 0])
def test_a_second_opening_decodes_nothing_and_gives_the_same(
    picture_folder, cache_bytes, monkeypatch
):
    first = open_image_folder(picture_folder, cache_bytes=cache_bytes)
    seen: list[tuple[int, int]] = []
    second = open_image_folder(
        picture_folder, cache_bytes=cache_bytes, on_progress=lambda *p: seen.append(p)
    )
    assert not seen
    assert same_pictures(first, second)


def test_progress_counts_every_file_once(picture_folder):
    seen: list[tuple[int, int]] = []
    open_image_folder(picture_folder, cache_bytes=PLENTY, on_progress=lambda *p: seen.append(p))
    assert seen == [(i, 12) for i in range(13)]


def test_a_changed_file_is_decoded_anew(picture_folder, image):
    before = open_image_folder(picture_folder, cache_bytes=PLENTY)
    save(image, picture_folder / before.names[0])
    after = open_image_folder(picture_folder, cache_bytes=PLENTY)
    assert np.array_equal(after.load(0), image)


def test_a_damaged_picture_is_named_counted_and_left_out(picture_folder, caplog):
    names = open_image_folder(picture_folder, cache_bytes=PLENTY).names
    (picture_folder / names[3]).write_bytes(b"")
    (picture_folder / names[5]).write_bytes((picture_folder / names[5]).read_bytes()[:100])
    for _ in ("decoding", "from the cache"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "lictor"):
            folder = open_image_folder(picture_folder, cache_bytes=PLENTY)
        assert folder.names == names[:3] + names[4:5] + names[6:]
        assert len(folder.bad) == 2
        for name in (names[3], names[5]):
            assert name in caplog.text
        assert "skipped 2 unreadable pictures" in caplog.text


class _FullDisk:
    """A file on a disk that has room for a few bytes more."""

    def __init__(self, file, room: int):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


def test_a_full_disk_leaves_no_cache_and_says_what_to_do(picture_folder, monkeypatch):
    open_file = Path.open

    def open_on_full_disk(path, mode="r", *args, **kwargs):
        file = open_file(path, mode, *args, **kwargs)
        return _FullDisk(file, 50_000) if path.name == "pixels.bin" else file

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_on_full_disk)
        with pytest.raises(DataError, match=r"No space left.*LICTOR_CACHE.*cache_mib"):
            open_image_folder(picture_folder, cache_bytes=PLENTY)
    assert not list(cache_folder().glob("*"))
    assert len(open_image_folder(picture_folder, cache_bytes=PLENTY)) == 12


def test_an_interrupted_decoding_leaves_no_cache(picture_folder):
    def interrupt(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_image_folder(picture_folder, cache_bytes=PLENTY, on_progress=interrupt)
    assert not list(cache_folder().glob("*"))


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LICTOR_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("LICTOR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lictor"


# ---------------------------------------------------------------------------- decoded on demand


def counting(sizes: list[int], **limits) -> tuple[Decoded, list[int]]:
    asked: list[int] = []

    def decode(number: int) -> np.ndarray:
        asked.append(number)
        return np.full((sizes[number], 8, 3), number % 256, np.uint8)

    options = {"most": 3, "most_bytes": PLENTY, "what": "photos"} | limits
    return Decoded(decode, **options), asked


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 6))
def test_what_was_asked_for_last_is_not_decoded_again(numbers, most):
    decoded, asked = counting([4] * 6, most=most)
    wanted: list[int] = []
    for place, number in enumerate(numbers):
        recent = list(dict.fromkeys(reversed(numbers[:place])))[:most]
        wanted += [] if number in recent else [number]
        assert decoded(number)[0, 0, 0] == number
    assert asked == wanted


def test_decoded_pictures_keep_to_the_budget_and_say_when_it_is_too_small(caplog):
    decoded, asked = counting([100] * 3, most_bytes=5600)
    for number in (0, 1, 0, 2, 1, 0):
        decoded(number)
    assert asked == [0, 1, 2, 1, 0]  # two of them have room
    assert caplog.text.count("raise data.cache_mib") == 1
    decoded, asked = counting([1000], most_bytes=5600)
    decoded(0), decoded(0)
    assert asked == [0]  # one always


def test_threads_that_want_the_same_picture_decode_it_once():
    begun, go_on, asked = threading.Event(), threading.Event(), []

    def decode(number: int) -> np.ndarray:
        asked.append(number)
        begun.set()
        assert go_on.wait(60)
        return np.full((1, 1, 3), number, np.uint8)

    decoded = Decoded(decode, most=1, most_bytes=0, what="photos")
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(decoded, 7)
        assert begun.wait(60)
        others = [pool.submit(decoded, 7) for _ in range(2)]
        go_on.set()
        assert all(future.result()[0, 0, 0] == 7 for future in [first, *others])
    assert asked == [7]


def test_a_picture_that_cannot_be_decoded_is_tried_again():
    failures = [DataError("x.png: away"), DataError("x.png: away again")]

    def decode(number: int) -> np.ndarray:
        if failures:
            raise failures.pop(0)
        return np.zeros((1, 1, 3), np.uint8)

    decoded = Decoded(decode, most=3, most_bytes=PLENTY, what="photos")
    for reason in ("away$", "away again"):
        with pytest.raises(DataError, match=reason):
            decoded(0)
    assert decoded(0).shape == (1, 1, 3)


@pytest.mark.parametrize("workers", [1, 3])
def test_belts_decode_every_picture_once_for_all_its_crops(workers):
    k, batch_size, steps = 4, 6, 80
    decoded, asked = counting([8] * 1000, most=batch_size * (k + 4))
    crops = Crops(ImageFolder(tuple(map(str, range(1000))), decoded), 8, batch_size, 1.0, 0, k)
    batches = list(itertools.islice(Prefetcher(crops.batch, workers=workers), steps))
    drawn = {crops.order.picture(s, p) for s in range(steps) for p in range(batch_size)}
    assert set(asked) >= drawn
    # Further pictures are those of batches made in advance, and of the few that come back.
    assert len(asked) <= batch_size * (steps + 8) / k + batch_size * k
    for step in (0, 17, 79):
        wanted = [crops.order.picture(step, p) % 256 for p in range(batch_size)]
        assert batches[step][:, 0, 0, 0].tolist() == wanted


# ------------------------------------------------------------------------------- held-out split


def numbered(names: list[str]) -> ImageFolder:
    return ImageFolder(
        tuple(names), lambda i: np.full((1, 1, 3), int(names[i].strip("x")), np.uint8)
    )


NAMES = st.lists(st.integers(0, 255).map("x{}".format), min_size=2, max_size=120, unique=True)


@given(NAMES, st.integers(1, 40))
def test_the_split_is_disjoint_complete_and_takes_at_most_a_tenth(names, held_out):
    folder = numbered(names)
    training, held = folder.split(held_out)
    assert sorted(training.names + held.names) == sorted(names)
    assert len(held) == max(1, min(held_out, len(names) // 10))
    for part in (training, held):
        assert [f"x{part.load(i)[0, 0, 0]}" for i in range(len(part))] == list(part.names)


@given(NAMES, st.integers(1, 40), st.randoms())
def test_the_split_depends_on_names_not_on_their_order(names, held_out, random):
    shuffled = list(names)
    random.shuffle(shuffled)
    first, second = numbered(names).split(held_out), numbered(shuffled).split(held_out)
    assert set(first[1].names) == set(second[1].names)


@given(NAMES, NAMES, st.integers(1, 40))
def test_new_pictures_do_not_reorder_who_is_held_out_first(names, more, held_out):
    # Held out are the first of one fixed order, so among the old pictures it is again the first
    # ones: fewer or more of them, never others.
    _, before = numbered(names).split(held_out)
    _, after = numbered(sorted({*names, *more})).split(held_out)
    old = set(after.names) & set(names)
    assert old <= set(before.names) or set(before.names) <= old


def test_names_that_are_no_unicode_are_split_too(picture_folder):
    name = os.fsdecode(b"\xff\xfe.png")
    (picture_folder / "photo2.png").rename(picture_folder / name)
    folder = open_image_folder(picture_folder, cache_bytes=PLENTY)
    training, held = folder.split(1)
    assert sorted((*training.names, *held.names)) == sorted(folder.names)
    assert name in folder.names


def test_one_picture_cannot_be_split():
    with pytest.raises(DataError, match="at least 2"):
        numbered(["x1"]).split(1)


# ------------------------------------------------------------------------------------- batches


def batch(folder: ImageFolder, **changes) -> np.ndarray:
    options = {"step": 5, "seed": 1, "positions": range(3)} | changes
    return Crops(folder, 64, 3, seed=options["seed"]).batch(options["step"], options["positions"])


def test_a_batch_is_a_pure_function_of_seed_and_step(picture_folder):
    folder = open_image_folder(picture_folder, cache_bytes=PLENTY)
    first = batch(folder)
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state must stay
    batch(folder, step=6)
    assert np.array_equal(batch(folder), first)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert not np.array_equal(batch(folder, step=6), first)
    assert not np.array_equal(batch(folder, seed=2), first)
    assert np.array_equal(batch(folder, positions=[2, 0]), first[[2, 0]])


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.floats(0.1, 1), st.integers(0, 9)
)
def test_a_crop_has_its_size_and_the_colours_of_its_picture(height, width, size, min_scale, seed):
    image = np.broadcast_to(np.array([10, 120, 250], np.uint8), (height, width, 3))
    crop = random_crop(image, size, min_scale, draws(seed))
    assert crop.shape == (size, size, 3)
    assert (crop == [10, 120, 250]).all()


def test_unscaled_crops_are_cut_from_the_picture_and_come_mirrored_half_of_the_time():
    image = np.arange(40 * 50, dtype=np.int64).reshape(40, 50)
    image = np.stack([image % 256, image // 256, np.zeros_like(image)], -1).astype(np.uint8)
    mirrored, places = 0, set()
    for seed in range(300):
        crop = random_crop(image, 32, 1.0, draws(seed)).astype(int)
        number = crop[:, :, 0] + 256 * crop[:, :, 1]
        flipped = number[0, 0] > number[0, 1]
        number = number[:, ::-1] if flipped else number
        top, left = divmod(int(number[0, 0]), 50)
        wanted = np.arange(top, top + 32)[:, None] * 50 + np.arange(left, left + 32)
        assert np.array_equal(number, wanted)
        mirrored += flipped
        places.add((top, left))
    assert 110 < mirrored < 190  # 150 +- 4.6 standard deviations
    assert {0, 8} <= {top for top, _ in places}
    assert {0, 18} <= {left for _, left in places}


@given(
    st.integers(20, 250),
    st.integers(8, 80),
    st.booleans(),
    st.sampled_from([0.0, 0.6, 0.9999]),
    st.integers(0, 99),
)
def test_a_rescaled_crop_is_what_pillow_makes_of_it(side, size, mirrored, corner, seed):
    image = photo(side, side, seed)
    if seed % 2:
        image.flags.writeable = False  # as a decoder gives it, or a file that is mapped
    before = image.copy()
    chance = (0.0, corner, corner, 0.4 if mirrored else 0.5)
    crop = random_crop(image, size, 0.1, chance)
    edge = min(10 * size, side)
    first = int(corner * (side - edge + 1))
    square = Image.fromarray(image).crop((first, first, first + edge, first + edge))
    wanted = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    wanted = wanted[:, ::-1] if mirrored else wanted
    difference = np.abs(crop.astype(int) - wanted)
    assert difference.max() <= 2
    assert difference.mean() < 0.1
    assert np.array_equal(image, before)


def test_draws_look_random_and_belong_to_their_key():
    seen = np.array([draws(1, step, position) for step in range(300) for position in range(8)])
    assert ((seen >= 0) & (seen < 1)).all()
    assert np.abs(seen.mean(0) - 0.5).max() < 0.036  # 6 standard deviations
    assert np.abs(np.corrcoef(np.hstack([seen[:-1], seen[1:]]).T) - np.eye(8)).max() < 0.13
    assert draws(1, 2, 3) == draws(1, 2, 3)
    assert len({draws(1, 2, 3), draws(2, 1, 3), draws(1, 3, 2), draws(2**63 - 1, 2, 3)}) == 4


def test_the_tensor_of_a_batch_has_its_pixels_channels_last():
    crops = np.stack([photo(8, 8), photo(8, 8, 1)])
    x = batch_to_tensor(crops)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(
        (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1), torch.from_numpy(crops)
    )


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("first_step", [0, 3])
def test_the_prefetcher_gives_the_batches_of_the_steps_from_any_start(depth, first_step, workers):
    second_done = threading.Event()

    def make(step: int) -> np.ndarray:
        if workers > 1 and step == first_step:
            assert second_done.wait(60)  # what is made first need not be done first
        if step == first_step + 1:
            second_done.set()
        return np.full((1, 2, 2, 3), step, np.uint8)

    prefetcher = Prefetcher(make, first_step, depth, workers)
    taken = [int(x.max()) for x in itertools.islice(prefetcher, 6)]
    assert taken == list(range(first_step, first_step + 6))
    assert prefetcher.waited_s > 0


@pytest.mark.parametrize("workers", [1, 3])
def test_what_goes_wrong_in_the_prefetchers_thread_reaches_the_consumer(workers):
    def make(step: int) -> np.ndarray:
        if step == 2:
            raise DataError("x.png: vanished")
        return np.zeros((1, 2, 2, 3), np.uint8)

    batches = iter(Prefetcher(make, workers=workers))
    next(batches), next(batches)
    with pytest.raises(DataError, match="vanished"):
        next(batches)


def test_a_picture_that_vanishes_is_named(picture_folder):
    folder = open_image_folder(picture_folder, cache_bytes=0)
    shutil.rmtree(picture_folder)
    with pytest.raises(DataError, match="no such file"):
        batch(folder)


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".ppm", ".png", ".jpg"])
@pytest.mark.parametrize("width", [16, 35, 171, 205])
def test_8_bits_are_8_bits_whatever_the_size(tmp_path, suffix, width):
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(photo(9, width)).save(path)
    assert load_image(path).shape == (9, width, 3)


@pytest.mark.parametrize("greatest", [1023, 65535])
def test_deep_pixmaps_are_refused(tmp_path, greatest):
    path = tmp_path / "deep.ppm"
    path.write_bytes(f"P6 2 1 {greatest}\n".encode() + bytes(12))
    with pytest.raises(DataError, match="8 bits"):
        load_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        load_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("name", ["pixels.bin", "index.json"])
def test_a_damaged_cache_is_made_anew(picture_folder, tmp_path, monkeypatch, name):
    monkeypatch.setenv("LICTOR_CACHE", str(tmp_path / "cache"))
    first = open_image_folder(picture_folder, cache_bytes=2**30)
    expected = [first.load(i).copy() for i in range(len(first))]
    (damaged,) = (tmp_path / "cache").glob(f"*/{name}")
    damaged.write_bytes(b"")
    again = open_image_folder(picture_folder, cache_bytes=2**30)
    for number, image in enumerate(expected):
        np.testing.assert_array_equal(again.load(number), image)
