"""Files of pictures, sounds, volumes and arrays: what is read comes back, what is wrong is told."""

import json
import os
import sys
import warnings
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import soundfile
from PIL import Image

from conftest import photo
from lictor.data.signals.formats import FORMATS, read_signal, suffix_of, write_signal
from lictor.data.signals.items import as_stored, in_items
from lictor.data.signals.signal import Signal
from lictor.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
_ROTATED = np.array([[0, -1.5, 0, 7], [0.9, 0.1, 0, -3], [0, 0.2, 2.0, 1], [0, 0, 0, 1]])


def assert_same(a: Signal, b: Signal) -> None:
    assert a.kind == b.kind
    assert a.samples.dtype == b.samples.dtype
    np.testing.assert_array_equal(a.samples, b.samples)
    assert (a.mask is None) == (b.mask is None)
    if a.mask is not None:
        np.testing.assert_array_equal(a.mask, b.mask)
    assert a.form == b.form


def round_trip(path, **wanted) -> Signal:
    """Read a file, write it beside and read that: samples, mask and form are the same."""
    signal = read_signal(path, **wanted)
    assert json.loads(json.dumps(dict(signal.form), allow_nan=False)) == signal.form
    again = path.with_name(f"again{suffix_of(path)}")
    write_signal(again, signal)
    assert_same(signal, read_signal(again, **wanted))
    return signal


def write_sound(path, samples, subtype, rate=8000):
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def write_volume(path, data, *, slope=None, version=1, **fields):
    image = (nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image)(
        data, _ROTATED, dtype=data.dtype
    )
    image.header.set_xyzt_units("mm", "sec")
    for key, value in fields.items():
        image.header[key] = value
    if slope:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_pictures_come_back(tmp_path, suffix):
    pixels = photo(20, 31)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    signal = round_trip(path)
    np.testing.assert_array_equal(signal.samples, pixels[None])
    assert signal.kind == "image"
    assert signal.mask is None


def test_a_grey_picture_stays_grey(tmp_path):
    Image.fromarray(photo(9, 8)[..., 0]).save(tmp_path / "a.png")
    assert round_trip(tmp_path / "a.png").samples.shape == (1, 9, 8, 1)
    with Image.open(tmp_path / "again.png") as again:
        assert again.mode == "L"


@pytest.mark.parametrize(
    ("suffix", "subtype", "dtype"),
    [
        (".wav", "PCM_U8", "int16"),
        (".wav", "PCM_16", "int16"),
        (".wav", "PCM_24", "int32"),
        (".wav", "PCM_32", "int32"),
        (".wav", "FLOAT", "float32"),
        (".wav", "DOUBLE", "float64"),
        (".wav", "ULAW", "int16"),
        (".wav", "ALAW", "int16"),
        (".flac", "PCM_S8", "int16"),
        (".flac", "PCM_16", "int16"),
        (".flac", "PCM_24", "int32"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sounds_come_back_with_width_and_rate(tmp_path, suffix, subtype, dtype, channels):
    sound = RNG.uniform(-0.9, 0.9, (77, channels))
    signal = round_trip(write_sound(tmp_path / f"a{suffix}", sound, subtype, 22050))
    assert signal.samples.shape == (1, 77, channels)
    assert signal.samples.dtype == dtype
    again = soundfile.info(tmp_path / f"again{suffix}")
    assert (again.samplerate, again.channels, again.subtype) == (22050, channels, subtype)


def test_samples_of_16_bits_are_the_files_own(tmp_path):
    sound = np.array([-32768, -1, 0, 1, 32767], np.int16)
    signal = read_signal(write_sound(tmp_path / "a.wav", sound, "PCM_16"))
    np.testing.assert_array_equal(signal.samples[0, :, 0], sound)


def test_ogg_is_read_as_floats_and_written_as_floats_elsewhere(tmp_path):
    sound = 0.5 * np.sin(np.arange(300_000)[:, None] * [0.05, 0.07])
    signal = read_signal(write_sound(tmp_path / "a.ogg", sound, "VORBIS", 16000))
    assert signal.samples.dtype == np.float32
    assert np.abs(signal.samples[0] - sound).mean() < 0.02
    write_signal(tmp_path / "b.wav", signal)
    np.testing.assert_array_equal(read_signal(tmp_path / "b.wav").samples, signal.samples)
    write_signal(tmp_path / "b.ogg", signal)
    lossy = read_signal(tmp_path / "b.ogg")
    assert lossy.form == signal.form
    assert np.abs(lossy.samples - signal.samples).mean() < 0.02
    with pytest.raises(DataError, match=r"b\.flac: FLAC holds no float32; write \.wav"):
        write_signal(tmp_path / "b.flac", signal)


def test_a_sound_is_never_rounded_to_fit(tmp_path):
    wide = Signal(np.full((1, 4, 1), 0x12345678, np.int32), None, "audio")
    with pytest.raises(DataError, match=r"24 bits a sample, these have more; write \.wav"):
        write_signal(tmp_path / "a.flac", wide)
    write_signal(tmp_path / "a.wav", wide)
    np.testing.assert_array_equal(read_signal(tmp_path / "a.wav").samples, wide.samples)
    changed = Signal(np.full((1, 4, 1), 0.1, np.float32), None, "audio", {"subtype": "PCM_16"})
    write_signal(tmp_path / "b.wav", changed)
    np.testing.assert_array_equal(read_signal(tmp_path / "b.wav").samples, changed.samples)
    assert not (tmp_path / "a.flac").exists()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint16", "float32", "float64"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
def test_volumes_come_back(tmp_path, dtype, suffix, version):
    data = (RNG.uniform(0, 100, (5, 6, 7))).astype(dtype)
    path = write_volume(tmp_path / f"a{suffix}", data, version=version, descrip=b"made up")
    signal = round_trip(path)
    np.testing.assert_array_equal(signal.samples[0, ..., 0], data)
    assert signal.samples.dtype == dtype
    one, two = nibabel.load(path), nibabel.load(tmp_path / f"again{suffix}")
    assert type(one) is type(two)
    for key in one.header:
        assert one.header[key].tobytes() == two.header[key].tobytes(), key


def test_the_slope_of_a_volume_is_kept_apart_from_its_samples(tmp_path):
    data = RNG.integers(-99, 99, (4, 5, 6)).astype(np.int16)
    path = write_volume(tmp_path / "a.nii", data, slope=(0.25, -3.0))
    signal = round_trip(path)
    np.testing.assert_array_equal(signal.samples[0, ..., 0], data)
    assert signal.form["scaling"] == [0.25, -3.0]
    np.testing.assert_array_equal(nibabel.load(tmp_path / "again.nii").get_fdata(), data / 4 - 3)


def test_a_volume_with_two_different_transforms_keeps_both(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), _ROTATED)
    image.set_qform(np.diag([1.1, 2.2, 3.3, 1]), code=1)
    image.set_sform(_ROTATED, code=4)
    nibabel.save(image, tmp_path / "a.nii")
    round_trip(tmp_path / "a.nii")
    again = nibabel.load(tmp_path / "again.nii")
    np.testing.assert_allclose(again.get_qform(), np.diag([1.1, 2.2, 3.3, 1]), atol=1e-6)
    np.testing.assert_allclose(again.get_sform(), _ROTATED, atol=1e-6)


def test_the_fourth_axis_of_a_volume_is_items(tmp_path):
    data = RNG.integers(0, 99, (3, 4, 5, 6)).astype(np.uint8)
    signal = round_trip(write_volume(tmp_path / "a.nii", data))
    np.testing.assert_array_equal(signal.samples[..., 0], np.moveaxis(data, 3, 0))
    single = round_trip(write_volume(tmp_path / "b.nii", data[..., :1]))
    assert single.samples.shape == (1, 3, 4, 5, 1)
    assert nibabel.load(tmp_path / "again.nii").shape == (3, 4, 5, 1)


@pytest.mark.parametrize(
    ("shape", "axes", "channels", "samples"),
    [
        ((6, 7), 2, None, (1, 6, 7, 1)),
        ((6, 7, 3), 2, None, (1, 6, 7, 3)),
        ((6, 7, 9), 2, None, (6, 7, 9, 1)),
        ((6, 7, 9), 2, 9, (1, 6, 7, 9)),
        ((6, 7, 3), 2, 1, (6, 7, 3, 1)),
        ((6, 7, 9, 5), 2, 5, (6, 7, 9, 5)),
        ((6, 7, 9), None, None, (1, 6, 7, 9, 1)),
        ((50,), 1, 1, (1, 50, 1)),
    ],
)
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "float64"])
def test_arrays_come_back_by_axes_and_channels(tmp_path, shape, axes, channels, samples, dtype):
    array = RNG.integers(0, 99, shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    signal = round_trip(tmp_path / "a.npy", axes=axes, channels=channels)
    assert signal.samples.shape == samples
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), array)


def test_an_array_may_be_of_any_kind_and_keeps_its_shape(tmp_path):
    np.save(tmp_path / "a.npy", RNG.normal(size=(40, 2)))
    signal = round_trip(tmp_path / "a.npy", kind="audio", axes=1, channels=2)
    assert signal.kind == "audio"
    assert np.load(tmp_path / "again.npy").shape == (40, 2)
    write_signal(tmp_path / "a.wav", signal)
    np.testing.assert_array_equal(read_signal(tmp_path / "a.wav").samples, signal.samples)


@pytest.mark.parametrize("suffix", [".wav", ".nii", ".npy"])
def test_nan_is_masked_and_comes_back(tmp_path, suffix):
    data = RNG.uniform(-1, 1, (5, 2) if suffix == ".wav" else (5, 6, 7)).astype(np.float32)
    data[1, 0] = np.nan
    path = tmp_path / f"a{suffix}"
    if suffix == ".wav":
        write_sound(path, data, "FLOAT")
    elif suffix == ".nii":
        write_volume(path, data)
    else:
        np.save(path, data)
    signal = round_trip(path)
    assert (~signal.mask).sum() == (1 if suffix == ".wav" else 7)
    assert np.isnan(signal.samples[~signal.mask]).all()
    # What stands where there is no value does not matter to the file.
    guessed = Signal(np.nan_to_num(signal.samples), signal.mask, signal.kind, signal.form)
    write_signal(path, guessed)
    assert_same(read_signal(path), signal)


@pytest.mark.parametrize("suffix", [".wav", ".nii", ".npy"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_values_are_refused_by_file(tmp_path, suffix, value):
    data = np.zeros((5, 6, 7) if suffix == ".nii" else (5, 2), np.float32)
    data[1, 1] = value
    path = tmp_path / f"a{suffix}"
    if suffix == ".wav":
        write_sound(path, data, "FLOAT")
    elif suffix == ".nii":
        write_volume(path, data)
    else:
        np.save(path, data)
    with pytest.raises(DataError, match=rf"a{suffix}: has infinite values; replace them"):
        read_signal(path)


def test_a_sheet_of_pictures_is_items_and_a_sheet_again(tmp_path):
    items = RNG.integers(0, 256, (10, 4, 6, 3)).astype(np.uint8)
    Image.fromarray(items.reshape(10, 24, 3)).save(tmp_path / "sheet.png")
    signal = round_trip(tmp_path / "sheet.png", item_shape=(4, 6))
    np.testing.assert_array_equal(signal.samples, items)
    with Image.open(tmp_path / "again.png") as again:
        assert again.size == (24, 10)
    whole = read_signal(tmp_path / "sheet.png")
    assert_same(as_stored(signal), whole)
    assert_same(as_stored(whole), whole)
    with pytest.raises(DataError, match=r"sheet\.png: 240 samples are no whole number of items"):
        read_signal(tmp_path / "sheet.png", item_shape=(7, 7))
    with pytest.raises(DataError, match=r"do not make the \(1, 10, 24\)"):
        as_stored(Signal(items[:9], None, "image", signal.form))


def test_masks_follow_items():
    mask = RNG.uniform(size=(1, 6, 8)) < 0.5
    samples = np.where(mask, 1.0, np.nan)[..., None]
    cut = in_items(Signal(samples, mask, "field"), (2, 4))
    np.testing.assert_array_equal(cut.mask, ~np.isnan(cut.samples[..., 0]))
    assert cut.mask.shape == (6, 2, 4)


@pytest.fixture
def good_files(tmp_path):
    """A sound file of each kind that can be damaged, by suffix."""
    files = {suffix: tmp_path / f"good{suffix}" for suffix in (".png", ".wav", ".flac", ".nii.gz")}
    Image.fromarray(photo(64, 64)).save(files[".png"])
    for suffix in (".wav", ".flac"):
        write_sound(files[suffix], RNG.uniform(-1, 1, (5000, 2)), "PCM_16")
    files[".ogg"] = write_sound(tmp_path / "good.ogg", RNG.uniform(-1, 1, (5000, 1)), "VORBIS")
    for suffix in (".nii", ".nii.gz"):
        data = RNG.integers(0, 99, (9, 9, 9)).astype(np.int16)
        files[suffix] = write_volume(tmp_path / f"good{suffix}", data)
    files[".npy"] = tmp_path / "good.npy"
    np.save(files[".npy"], RNG.normal(size=(30, 40)))
    return files


def refused(path, capfd) -> str:
    """Read what cannot be read, and return the one line that says so; nothing else is printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError) as caught:
            read_signal(path)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 450
    return message


def test_damaged_files_are_told_in_one_line(good_files, tmp_path, capfd):
    for suffix, path in good_files.items():
        data = path.read_bytes()
        bad = tmp_path / f"bad{suffix}"
        for damaged in (b"no such thing " * 99, data[: len(data) * 2 // 3], data[:7], b"\0" * 400):
            bad.write_bytes(damaged)
            refused(bad, capfd)
        bad.write_bytes(b"")
        assert refused(bad, capfd).endswith(": empty file")


def test_files_under_the_wrong_name_are_told_in_one_line(good_files, tmp_path, capfd):
    for suffix in good_files:
        for other, path in good_files.items():
            # Sounds of another format, and pictures, are told by what is in them.
            if suffix.split(".")[1] == other.split(".")[1] or {suffix, other} <= {
                ".wav", ".flac", ".ogg",
            }:  # fmt: skip
                continue
            bad = tmp_path / f"named{suffix}"
            bad.write_bytes(path.read_bytes())
            refused(bad, capfd)


def test_places_that_are_no_files_are_told(tmp_path, capfd):
    assert refused(tmp_path / "absent.wav", capfd).endswith("no such file")
    (tmp_path / "folder.wav").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.wav", capfd)
    (tmp_path / "file.zarr").write_bytes(b"x")
    assert "is not a folder" in refused(tmp_path / "file.zarr", capfd)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.wav")
        assert "not a regular file" in refused(tmp_path / "pipe.wav", capfd)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 0)), "nothing to code"),
        (np.zeros((3, 4), complex), "complex128"),
        (np.zeros((3, 4), bool), "bool"),
        (np.zeros(3, "U4"), "<U4"),
        (np.float64(3), "no signal of 0 axes"),
        (np.array([{}], object), "objects"),
    ],
)
def test_arrays_without_samples_are_refused(tmp_path, capfd, array, reason):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    assert reason in refused(tmp_path / "a.npy", capfd)


def test_an_array_of_other_axes_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4, 5, 6)))
    with pytest.raises(DataError, match=r"a\.npy: an array of shape .* no signal of 2 axes"):
        read_signal(tmp_path / "a.npy", axes=2)


def test_empty_sounds_colours_and_other_volumes_are_refused(tmp_path, capfd):
    assert "no samples" in refused(
        write_sound(tmp_path / "a.wav", np.zeros((0, 1)), "PCM_16"), capfd
    )
    for name, data in (
        ("flat", np.zeros((4, 5), np.uint8)),
        ("five", np.zeros((4, 5, 6, 2, 3), np.uint8)),
        ("complex", np.zeros((4, 5, 6), np.complex64)),
        ("colours", np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
    ):
        path = write_volume(tmp_path / f"{name}.nii", data)
        assert "volume" in (message := refused(path, capfd)) or "can be coded" in message


def test_a_suffix_that_is_not_known_is_told_with_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"a\.wave: .*did you mean '\.wav'"):
        read_signal(tmp_path / "a.wave")
    with pytest.raises(DataError, match=r"valid: \.png.*\.npy"):
        write_signal(tmp_path / "a.qqqqqq", Signal(np.zeros((1, 2, 1))))
    assert suffix_of(tmp_path / "A.b.NII.GZ") == ".nii.gz"


@pytest.mark.parametrize(
    ("module", "suffix", "extra"),
    [
        ("soundfile", ".wav", "audio"),
        ("nibabel", ".nii.gz", "volumes"),
        ("xarray", ".nc", "fields"),
        ("netCDF4", ".nc", "fields"),
        ("zarr", ".zarr", "fields"),
        ("cfgrib", ".grib", "fields"),
    ],
)
def test_a_missing_package_is_told_with_its_extra(tmp_path, monkeypatch, module, suffix, extra):
    path = tmp_path / f"a{suffix}"
    path.mkdir() if suffix == ".zarr" else path.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"package {module}.*pip install 'lictor\[{extra}\]'"):
        read_signal(path)


def test_kinds_and_variables_must_fit_the_file(tmp_path):
    path = write_sound(tmp_path / "a.wav", np.zeros((5, 1)), "PCM_16")
    with pytest.raises(DataError, match=r"a\.wav: holds a signal of kind audio, not image"):
        read_signal(path, kind="image")
    with pytest.raises(ConfigError, match=r"a\.wav: \.wav has no variables"):
        read_signal(path, variable="t")
    with pytest.raises(
        DataError, match=r"b\.png: \.png holds no signals of kind audio; write .wav"
    ):
        write_signal(tmp_path / "b.png", read_signal(path))
    with pytest.raises(DataError, match=r"b\.jpg: \.jpg cannot be written; write \.png"):
        write_signal(tmp_path / "b.jpg", Signal(np.zeros((1, 2, 2, 1), np.uint8), None, "image"))


@pytest.mark.parametrize(
    ("suffix", "kind", "shape", "dtype"),
    [
        (".png", "image", (2, 4, 4, 3), "uint8"),
        (".png", "image", (1, 4, 4, 2), "uint8"),
        (".png", "image", (1, 4, 4, 3), "uint16"),
        (".wav", "audio", (2, 9, 1), "int16"),
        (".wav", "audio", (1, 9, 1), "int64"),
        (".nii", "volume", (1, 4, 4, 4, 2), "uint8"),
        (".nii", "volume", (1, 4, 4, 1), "uint8"),
        (".nc", "field", (1, 4, 4, 2), "float32"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_left(
    tmp_path, suffix, kind, shape, dtype
):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"as it was")
    with pytest.raises(DataError, match=rf"a{suffix}: .*write \.npy"):
        write_signal(path, Signal(np.ones(shape, dtype), None, kind))
    assert path.read_bytes() == b"as it was"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", sorted(s for s, f in FORMATS.items() if f.write))
def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path, monkeypatch, suffix):
    kind = FORMATS[suffix].kinds[0]
    path = tmp_path / f"a{suffix}"
    shape = {"image": (1, 4, 5, 3), "audio": (1, 9, 1), "volume": (1, 3, 4, 5, 1)}
    samples = np.ones(shape.get(kind, (2, 4, 5, 1)), np.uint8 if kind == "image" else np.int16)
    signal = Signal(samples, None, kind)
    write_signal(path, signal)
    before = read_signal(path).samples

    line = FORMATS[suffix]
    with monkeypatch.context() as patch:
        patch.setitem(FORMATS, suffix, replace(line, write=_failing_after(line.write)))
        with pytest.raises(DataError, match=r"cannot be written \(in the middle\)"):
            write_signal(path, Signal(samples + 1, None, kind))
    np.testing.assert_array_equal(read_signal(path).samples, before)
    assert list(tmp_path.iterdir()) == [path]


def _failing_after(write):
    def fails(temporary, signal):
        write(temporary, signal)
        raise RuntimeError("in the\nmiddle")

    return fails


def test_a_folder_that_is_missing_or_of_something_else_is_told(tmp_path):
    signal = Signal(np.ones((1, 4, 5, 1)), None, "field")
    with pytest.raises(DataError, match="cannot write"):
        write_signal(tmp_path / "absent" / "a.nc", signal)
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.txt").write_text("all of it")
    with pytest.raises(DataError, match=r"mine\.zarr: is a folder of something else"):
        write_signal(tmp_path / "mine.zarr", signal)
    assert (tmp_path / "mine.zarr" / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize(
    ("samples", "mask", "kind", "reason"),
    [
        (np.zeros((1, 3)), None, "array", "nothing to code"),
        (np.zeros((0, 3, 1)), None, "array", "nothing to code"),
        (np.zeros((1, 3, 1), bool), None, "array", "only integers and floats"),
        (np.zeros((1, 3, 1), np.longdouble), None, "array", "only integers and floats"),
        (np.zeros((1, 3, 1)), np.ones((1, 2), bool), "array", "does not fit"),
        (np.zeros((1, 3, 1)), np.ones((1, 3), np.uint8), "array", "does not fit"),
        (np.full((1, 3, 1), np.nan), None, "array", "NaN"),
        (np.full((1, 3, 1), np.nan), np.array([[True, False, False]]), "array", "NaN"),
        (np.full((1, 3, 1), np.inf), np.zeros((1, 3), bool), "array", "infinite"),
        (np.zeros((1, 3, 1)), None, "smell", "must be one of image, audio"),
    ],
)
def test_signals_that_make_no_sense_are_refused(samples, mask, kind, reason):
    with pytest.raises(DataError, match=reason):
        Signal(samples, mask, kind)
