"""Volumes as signals: NIfTI files; the fourth axis of one, time, makes items."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lictor.data.signals.quiet import needed
from lictor.data.signals.signal import Signal, Wanted, filled, signal_of
from lictor.errors import DataError

# Fields of a header that say how the samples lie in the file, not what they are.
_OWN = ("sizeof_hdr", "magic", "eol_check", "dim", "datatype", "bitpix", "vox_offset", "scl_slope",
        "scl_inter")  # fmt: skip


def read_volume(path: Path, wanted: Wanted) -> Signal:
    """Read a volume, or several along a fourth axis, as they are stored: slope and intercept apart.

    The form has the affine, and what else the header says beside it. Raises `DataError` on files
    of other numbers of axes, and of colours or complex numbers.
    """
    del wanted
    nibabel = needed("nibabel", "volumes")
    image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Image):  # the second version is one of the first, too
        raise DataError("is no NIfTI file; convert it")
    samples = np.asanyarray(image.dataobj.get_unscaled())
    shape = samples.shape
    if samples.dtype.kind not in "iuf":
        raise DataError(f"holds {samples.dtype}; only integers and floats can be coded")
    while samples.ndim > 3 and samples.shape[-1] == 1:
        samples = samples[..., 0]
    if samples.ndim not in (3, 4):
        raise DataError(f"has {samples.ndim} axes; a volume has three, or four with time")
    items = np.moveaxis(samples, 3, 0) if samples.ndim == 4 else samples[None]
    form: dict[str, Any] = {"affine": np.asarray(image.affine, np.float64).tolist()}
    if isinstance(image, nibabel.Nifti2Image):
        form["version"] = 2
    if shape != samples.shape:
        form["shape"] = list(shape)
    slope, inter = float(image.dataobj.slope), float(image.dataobj.inter)
    if (slope, inter) != (1, 0):
        form["scaling"] = [slope, inter]
    usual = _image(nibabel, form, np.broadcast_to(np.zeros((), samples.dtype), shape)).header
    form["header"] = {
        key: _plain(image.header[key])
        for key in usual
        if key not in _OWN and not _same(image.header[key], usual[key])
    }
    return signal_of(np.ascontiguousarray(items)[..., None], "volume", form)


def _same(a: Any, b: Any) -> bool:
    kind = np.asarray(a).dtype.kind
    return bool(np.array_equal(a, b, equal_nan=kind == "f"))


def _plain(value: Any) -> Any:
    """Return a field as plain JSON: bytes as text of as many letters, not-a-number as "nan"."""
    array = np.asarray(value)
    if array.dtype.kind == "S":
        return array.item().decode("latin-1")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return array.astype(str).tolist()
    return array.tolist()


def _image(nibabel: Any, form: Any, data: np.ndarray) -> Any:
    """Return a file's image as nibabel makes it of nothing but samples and affine."""
    kind = nibabel.Nifti2Image if form.get("version") == 2 else nibabel.Nifti1Image
    affine = np.array(form["affine"]) if "affine" in form else np.eye(4)
    return kind(data, affine, dtype=data.dtype)


def write_volume(path: Path, signal: Signal) -> None:
    """Write a NIfTI file with the affine, the scaling and the header that were read.

    Raises `DataError` on other axes or several channels.
    """
    nibabel = needed("nibabel", "volumes")
    samples = filled(signal)[..., 0]
    if signal.channels != 1 or samples.ndim != 4:
        raise DataError(
            f"a volume has three axes and one channel, not {signal.samples.shape}; write .npy"
        )
    data = samples[0] if len(samples) == 1 else np.moveaxis(samples, 0, 3)
    shape: Sequence[int] = signal.form.get("shape", data.shape)
    image = _image(nibabel, signal.form, data.reshape(shape))
    for key, value in signal.form.get("header", {}).items():
        if key in image.header and key not in _OWN:
            dtype = np.asarray(image.header[key]).dtype
            text = dtype.kind == "S"
            image.header[key] = value.encode("latin-1") if text else np.array(value).astype(dtype)
    image.header.set_slope_inter(*signal.form.get("scaling", (1, 0)))
    nibabel.save(image, path)
