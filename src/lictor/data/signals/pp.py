"""Fields of PP files, the UK Met Office's: a header of 64 words and a grid of values, repeated.

Source: Met Office, Unified Model documentation paper F3; words are counted from 0 here.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lictor.config import nearest
from lictor.data.signals.signal import Signal, Wanted, signal_of
from lictor.errors import DataError

_HEADER_BYTES = 256  # and 45 of its words are integers, 19 are floats
_ROWS, _COLUMNS, _EXTRA, _PACKING, _TYPE, _STASH = 17, 18, 19, 20, 38, 41
# Of the floats: the pole's latitude; the first latitude and longitude less one step, each with its
# step; what stands for a missing value.
_POLE, _SOUTH, _WEST, _MISSING = 10, 13, 15, 17


@dataclass(frozen=True)
class _Field:
    name: str
    time: str
    grid: tuple[float, ...]
    values: np.ndarray


def read_pp(path: Path, wanted: Wanted) -> Signal:
    """Read the fields of one variable, named by its STASH code, which must lie on one grid.

    Raises `DataError` on several variables when none is named, on packed fields, on several grids,
    and on a file that is cut short or none of PP.
    """
    data, at, fields = path.read_bytes(), 0, list[_Field]()
    while at < len(data):
        header, at = _record(data, at)
        body, at = _record(data, at)
        fields.append(_field(header, body))
    names = list(dict.fromkeys(field.name for field in fields))
    variable = wanted.variable or names[0]
    if variable not in names:
        raise DataError(f"has no variable {variable!r}; {nearest(variable, names)}")
    if wanted.variable is None and len(names) > 1:
        raise DataError(
            f"has {len(names)} variables ({', '.join(names)}): "
            "choose one with --variable, or signal.variable in a recipe"
        )
    fields = [field for field in fields if field.name == variable]
    grids = {(field.values.shape, field.grid) for field in fields}
    if len(grids) > 1:
        raise DataError(f"its fields lie on {len(grids)} grids; split it")
    samples = np.stack([field.values for field in fields])[..., None]
    return signal_of(samples, "field", _form(fields))


def _record(data: bytes, at: int) -> tuple[bytes, int]:
    """Return what lies between two equal lengths, and the place behind."""
    length = int.from_bytes(data[at : at + 4])
    end = at + 4 + length
    if data[at : at + 4] != data[end : end + 4] or end + 4 > len(data):
        raise DataError("not a PP file, or cut short: the lengths around a record differ")
    return data[at + 4 : end], end + 4


def _field(header: bytes, body: bytes) -> _Field:
    if len(header) != _HEADER_BYTES:
        raise DataError(f"not a PP file: a header of {len(header)} bytes, not {_HEADER_BYTES}")
    words, reals = struct.unpack(">45i", header[:180]), struct.unpack(">19f", header[180:])
    rows, columns, stash = words[_ROWS], words[_COLUMNS], words[_STASH]
    if words[_PACKING] or words[_EXTRA] or words[_TYPE] != 1:
        raise DataError("packed fields, integers and extra data of PP files are not read")
    if len(body) != 4 * rows * columns or not body:
        raise DataError(f"{rows} x {columns} values do not fit {len(body)} bytes")
    values = np.frombuffer(body, ">f4").reshape(rows, columns).astype(np.float32)
    values[values == np.float32(reals[_MISSING])] = np.nan
    year, month, day, hour, minute = words[:5]
    return _Field(
        f"m01s{stash // 1000:02}i{stash % 1000:03}",
        f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}",
        (reals[_POLE], *reals[_SOUTH : _SOUTH + 2], *reals[_WEST : _WEST + 2]),
        values,
    )


def _form(fields: list[_Field]) -> dict[str, Any]:
    rows, columns = fields[0].values.shape
    pole, south, down, west, east = fields[0].grid
    prefix = "" if pole == 90 else "grid_"  # of a pole that was moved
    return {
        "name": fields[0].name,
        "dims": ["item", f"{prefix}latitude", f"{prefix}longitude"],
        "rows": f"{prefix}latitude",
        "columns": f"{prefix}longitude",
        "shape": [len(fields), rows, columns],
        "attrs": {},
        "coords": {
            "time": {
                "dims": ["item"],
                "dtype": "str",
                "values": [field.time for field in fields],
                "attrs": {},
            },
            f"{prefix}latitude": _axis(f"{prefix}latitude", south, down, rows),
            f"{prefix}longitude": _axis(f"{prefix}longitude", west, east, columns),
        },
        "beside": {},
        "dataset": {},
    }


def _axis(name: str, before: float, step: float, count: int) -> dict[str, Any]:
    direction = "north" if name.endswith("latitude") else "east"
    return {
        "dims": [name],
        "dtype": "float64",
        "values": (before + step * np.arange(1, count + 1)).tolist(),
        "attrs": {
            "units": "degrees" if name.startswith("grid_") else f"degrees_{direction}",
            "standard_name": name,
        },
    }
