"""Volumes as signals: NIfTI files; the fourth axis of one, time, makes items."""

from pathlib import Path
from typing import Any

import numpy as np

from lictor.data.signals.extras import needed
from lictor.data.signals.signal import Signal, masked_where_nan
from lictor.errors import DataError

_HEADER = ("pixdim", "xyzt_units", "qform_code", "sform_code", "scl_slope", "scl_inter", "descrip",
           "cal_min", "cal_max", "intent_code", "toffset", "slice_code", "dim_info")  # fmt: skip


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind == "S":
        return array.item().decode("latin-1")
    if array.dtype.kind == "f":
        listed = array.astype(float).tolist()
        cleaned = [None if np.isnan(x) else x for x in np.atleast_1d(listed).tolist()]
        return cleaned if array.ndim else cleaned[0]
    return array.tolist()


def read_volume(path: Path, axes: int, variable: str | None) -> Signal:
    """Read a volume, or several along a fourth axis, as they are stored: slope and intercept apart.

    Raises `DataError` on files of other numbers of axes, and of colours or complex numbers.
    """
    del axes, variable
    nibabel = needed("nibabel", "volumes")
    image = nibabel.load(path)
    samples = np.asanyarray(image.dataobj.get_unscaled())
    shape = samples.shape
    if samples.dtype.kind not in "iuf":
        raise DataError(f"holds {samples.dtype}; only integers and floats can be coded")
    while samples.ndim > 3 and samples.shape[-1] == 1:
        samples = samples[..., 0]
    if samples.ndim not in (3, 4):
        raise DataError(f"has {samples.ndim} axes; a volume has three, or four with time")
    items = np.moveaxis(samples, 3, 0) if samples.ndim == 4 else samples[None]
    items = np.ascontiguousarray(items)[..., None]
    items = items.astype(items.dtype.newbyteorder("="))
    header = {key: _plain(image.header[key]) for key in _HEADER if key in image.header}
    form = {
        "affine": image.affine.tolist(),
        "header": header,
        "shape": list(shape),
        "version": int(image.header["sizeof_hdr"] == 540) + 1,
    }
    return Signal(items, masked_where_nan(items), "volume", form)


def write_volume(path: Path, signal: Signal) -> None:
    """Write a NIfTI file with the affine and the header's settings that were read."""
    nibabel = needed("nibabel", "volumes")
    samples = signal.samples[..., 0]
    if signal.channels != 1 or samples.ndim != 4:
        raise DataError(f"a volume has three axes and one channel, not {signal.samples.shape}")
    if signal.mask is not None and samples.dtype.kind == "f":
        samples = np.where(signal.mask, samples, np.nan).astype(samples.dtype)
    data = samples[0] if len(samples) == 1 else np.moveaxis(samples, 0, 3)
    shape = signal.form.get("shape", list(data.shape))
    if np.prod(shape, dtype=np.int64) == data.size:
        data = data.reshape(shape)
    kind = nibabel.Nifti2Image if signal.form.get("version") == 2 else nibabel.Nifti1Image
    affine = np.array(signal.form.get("affine", np.eye(4).tolist()))
    image = kind(data, affine, dtype=data.dtype)
    slope, inter = None, None
    for key, value in dict(signal.form.get("header", {})).items():
        if key in ("scl_slope", "scl_inter"):
            slope, inter = (value, inter) if key == "scl_slope" else (slope, value)
        elif key in _HEADER and value is not None:
            image.header[key] = value
    image.header.set_slope_inter(slope, inter)
    # A suffix of its own: nibabel looks at it.
    nibabel.save(image, path)
