"""Folders of signals: what is read, split and drawn, each patch once an epoch."""

import logging

import numpy as np
import pytest
import soundfile
from PIL import Image

from conftest import photo
from lictor.data.signals.drawn import AllPatches, DrawnPatches
from lictor.data.signals.folder import SignalFolder, open_signals
from lictor.data.signals.patches import Patching
from lictor.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture
def sounds(tmp_path):
    """Ten mono sounds of 100 to 190 samples in a tree, all of whose samples differ."""
    (tmp_path / "inner").mkdir()
    for i in range(10):
        place = tmp_path / "inner" if i % 3 == 0 else tmp_path
        samples = np.arange(1000 * i, 1000 * i + 100 + 10 * i, dtype=np.int16)
        soundfile.write(place / f"{i}.wav", samples, 8000, subtype="PCM_16")
    return tmp_path


def numbered(*lengths: int, mask: bool = False) -> SignalFolder:
    """Items of one axis whose samples tell item and place: 1000 times the one and the other."""
    items = []
    for i, length in enumerate(lengths):
        values = (1000.0 * i + np.arange(length))[:, None]
        items.append((values, np.arange(length) % 5 > 0 if mask else None))
    return SignalFolder(tuple(f"item {i}" for i in range(len(items))), tuple(items))


def test_a_folder_has_all_sounds_of_its_tree_in_their_dtype(sounds):
    folder = open_signals([sounds], kind="audio", axes=1, channels=1)
    assert len(folder) == 10
    assert folder.bad == ()
    for name, (values, mask) in zip(folder.names, folder.items, strict=True):
        i = int(name.removeprefix("inner/").removesuffix(".wav"))
        assert values.dtype == np.int16
        assert mask is None
        np.testing.assert_array_equal(values[:, 0], 1000 * i + np.arange(100 + 10 * i))
    one = open_signals([sounds / "1.wav"], kind="audio", axes=1, channels=1)
    assert one.names == ("1.wav",)


def test_what_cannot_be_read_is_named_and_left_out(sounds, caplog):
    (sounds / "broken.wav").write_bytes(b"no sound at all")
    soundfile.write(sounds / "stereo.wav", np.zeros((9, 2)), 8000)
    seen = []
    with caplog.at_level(logging.WARNING):
        folder = open_signals(
            [sounds], kind="audio", axes=1, channels=1, on_progress=lambda *at: seen.append(at)
        )
    assert len(folder) == 10
    assert len(folder.bad) == 2
    assert f"{sounds / 'stereo.wav'}: has 2 channels, signal.channels says 1" in folder.bad
    assert any("broken.wav" in line for line in caplog.messages)
    assert caplog.messages[-1] == "skipped 2 unreadable files"
    assert seen == [(i, 12) for i in range(13)]


def test_folders_without_signals_are_told(sounds, tmp_path):
    with pytest.raises(DataError, match="contains no signals of kind volume"):
        open_signals([sounds], kind="volume", axes=3, channels=1)
    with pytest.raises(DataError, match="no such file or folder"):
        open_signals([sounds / "absent"], kind="audio", axes=1, channels=1)
    with pytest.raises(
        DataError, match=r"none of its 10 files can be read; first: .*has 1 axes, .*has 3"
    ):
        open_signals([sounds], kind="audio", axes=3, channels=1)
    with pytest.raises(DataError, match=r"need more than data\.cache_mib = 0"):
        open_signals([sounds], kind="audio", axes=1, channels=1, most_bytes=1000)


def test_the_identity_is_of_names_and_shapes_wherever_they_lie(sounds, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "b"
    (elsewhere / "inner").mkdir(parents=True)
    for path in sounds.rglob("*.wav"):
        (elsewhere / path.relative_to(sounds)).write_bytes(path.read_bytes())
    settings = {"kind": "audio", "axes": 1, "channels": 1}
    first, second = (open_signals([place], **settings) for place in (sounds, elsewhere))
    assert first.identity == second.identity
    (elsewhere / "1.wav").unlink()
    assert open_signals([elsewhere], **settings).identity != first.identity


def test_a_sheet_of_pictures_is_as_many_items(tmp_path):
    pictures = RNG.integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
    Image.fromarray(pictures.reshape(20, 16, 3)).save(tmp_path / "sheet.png")
    folder = open_signals([tmp_path], kind="image", axes=2, channels=3, item_shape=(4, 4))
    np.testing.assert_array_equal(np.stack([values for values, _ in folder.items]), pictures)
    assert folder.names[7] == "sheet.png#7"
    training, held_out = folder.split(0.1)
    assert (len(training), len(held_out)) == (18, 2)


def test_grey_pictures_stand_among_coloured_ones(tmp_path):
    Image.fromarray(photo(8, 9)).save(tmp_path / "a.png")
    Image.fromarray(photo(8, 9)[..., 0]).save(tmp_path / "b.png")
    folder = open_signals([tmp_path], kind="image", axes=2, channels=3)
    grey = folder.item(1)[0]
    assert (grey == grey[..., :1]).all()
    assert grey.shape == (8, 9, 3)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.99])
def test_a_split_leaves_nothing_out_and_does_not_depend_on_order(share):
    folder = numbered(*range(10, 40))
    training, held_out = folder.split(share)
    assert set(training.names) | set(held_out.names) == set(folder.names)
    assert set(training.names) & set(held_out.names) == set()
    assert len(held_out) == min(max(1, round(30 * share)), 29)
    turned = SignalFolder(folder.names[::-1], folder.items[::-1])
    assert set(turned.split(share)[1].names) == set(held_out.names)
    assert list(training.names) == [name for name in folder.names if name in training.names]
    with pytest.raises(DataError, match="at least 2 signals"):
        numbered(10).split(0.5)


def test_whole_files_are_held_out_where_there_are_enough(tmp_path):
    for i in range(10):
        np.save(tmp_path / f"{i}.npy", np.full((6, 20), i, np.int16))
    folder = open_signals([tmp_path], kind="array", axes=1, channels=1)
    assert len(folder) == 60
    training, held_out = folder.split(0.2)
    assert len(held_out) == 12
    files = [{name[0] for name in part.names} for part in (training, held_out)]
    assert len(files[1]) == 2
    assert not files[0] & files[1]
    # Of less than a file, items.
    assert len(folder.split(0.05)[1]) == 3


def drawn(folder, size=(10,), batch_size=4, seed=3, **settings) -> DrawnPatches:
    return DrawnPatches(folder, size, seed, batch_size, 0.0, 1.0, **settings)


def test_a_batch_depends_on_seed_step_and_position_alone():
    patches = drawn(numbered(35, 60, 101))
    values, mask = patches.batch(7, range(4))
    assert mask is None
    assert values.dtype == np.float32
    assert values.shape == (4, 10, 1)
    again = drawn(numbered(35, 60, 101))
    again.batch(1, range(4))
    np.testing.assert_array_equal(again.batch(7, range(4))[0], values)
    np.testing.assert_array_equal(again.batch(7, range(1, 3))[0], values[1:3])
    assert (drawn(numbered(35, 60, 101), seed=4).batch(7, range(4))[0] != values).any()


def test_patches_are_contiguous_pieces_of_their_items_from_every_place():
    patches = drawn(numbered(12, 31), batch_size=6)
    firsts = []
    for step in range(200):
        values, _ = patches.batch(step, range(6))
        np.testing.assert_array_equal(np.diff(values[..., 0]), 1)
        firsts += values[:, 0, 0].astype(int).tolist()
    assert set(firsts) == set(range(3)) | set(range(1000, 1022))


def test_every_item_is_drawn_once_an_epoch_for_each_of_its_patches():
    folder = numbered(30, 41, 7, 10)
    patches = drawn(folder, batch_size=5)
    assert patches.items == 3 + 5 + 1 + 1
    for epoch in range(5):
        steps = [patches.batch(2 * epoch + k, range(5))[0] for k in range(2)]
        items = (np.concatenate(steps)[:, 0, 0] // 1000).astype(int)
        assert np.bincount(items).tolist() == [3, 5, 1, 1]


def test_values_are_normalised_masked_ones_are_nought_and_short_items_padded():
    folder = numbered(7, 40, mask=True)
    folder.items[0][0][~folder.items[0][1]] = np.nan
    patches = DrawnPatches(folder, (10,), 0, 5, -1.0, 3.0)
    short = 0
    for step in range(20):
        values, mask = patches.batch(step, range(5))
        assert np.isfinite(values).all()
        for value, there in zip(values[..., 0], mask, strict=True):
            raw = value * 4.0 - 1.0
            first = raw[there].min()
            if first < 1000:  # the short item, which begins at its begin
                short += 1
                np.testing.assert_allclose(raw[there], [1, 2, 3, 4, 6], atol=1e-4)
            else:
                assert (np.round(raw[there]) % 5 > 0).all()
                assert there.sum() == 8
    assert short == 20


def test_mirrored_patches_are_about_half():
    plain, turned = (drawn(numbered(500), batch_size=400, mirrored=m) for m in (False, True))
    a, b = plain.batch(0, range(400))[0], turned.batch(0, range(400))[0]
    same = (a == b).all((1, 2))
    np.testing.assert_array_equal(b[~same], a[~same][:, ::-1])
    assert 140 < same.sum() < 260  # 6 standard deviations


@pytest.mark.parametrize("size", [(4,), (3, 4), (2, 3, 4), (2, 2, 2, 3)])
def test_patches_of_any_axes_are_drawn_from_within(size):
    grid = tuple(side + 3 for side in size)
    values = np.arange(np.prod(grid), dtype=float).reshape(*grid, 1)
    folder = SignalFolder(("a",), ((values, None),))
    batch = drawn(folder, size).batch(0, range(4))[0].reshape(4, *size)
    windows = np.lib.stride_tricks.sliding_window_view(values[..., 0], size)
    every = {window.tobytes() for window in windows.reshape(-1, *size).astype(np.float32)}
    assert {patch.tobytes() for patch in batch} <= every


@pytest.mark.parametrize("mask", [False, True])
def test_all_patches_are_those_of_cutting_in_order(mask, monkeypatch):
    monkeypatch.setattr("lictor.data.signals.drawn._BLOCK_SAMPLES", 70)
    folder = numbered(35, 60, 8, mask=mask)
    patching = Patching((10,))
    patches = AllPatches(folder, (10,), 0.0, 2.0)
    blocks = list(patches)
    assert [len(values) for values, _ in blocks] == [7, 4]
    values = np.concatenate([values for values, _ in blocks])[..., 0]
    wanted = [patching.cut(v, 0, patching.count(v.shape[:-1]))[..., 0] for v, _ in folder.items]
    np.testing.assert_allclose(values, np.concatenate(wanted) / 2, rtol=1e-6)
    there = np.concatenate([np.ones(v.shape[:2], bool) if m is None else m for v, m in blocks])
    whole = [np.ones(len(v), bool) if m is None else m for v, m in folder.items]
    np.testing.assert_array_equal(
        there, np.concatenate([patching.cut_mask(m, 0, -(-len(m) // 10)) for m in whole])
    )


def test_a_part_of_all_patches_is_drawn_without_repeats():
    folder = numbered(*range(200, 300, 7))
    every = np.concatenate([values for values, _ in AllPatches(folder, (10,), 0.0, 1.0)])
    some = np.concatenate([v for v, _ in AllPatches(folder, (10,), 0.0, 1.0, at_most=50)])
    assert len(some) == 50
    assert len({patch.tobytes() for patch in some}) == 50
    assert {patch.tobytes() for patch in some} <= {patch.tobytes() for patch in every}
    other = np.concatenate([v for v, _ in AllPatches(folder, (10,), 0.0, 1.0, 50, seed=1)])
    assert (other != some).any()
