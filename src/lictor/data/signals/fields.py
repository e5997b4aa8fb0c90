"""Fields on the sphere as signals: rows are latitudes, columns longitudes, all else makes items."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lictor.config import nearest
from lictor.data.signals.extras import needed
from lictor.data.signals.signal import Signal, masked_where_nan
from lictor.errors import ConfigError, DataError

_ROWS, _COLUMNS = ("latitude", "lat", "y", "rlat"), ("longitude", "lon", "x", "rlon")
_SHOWN = 12
# Of a UK Met Office header (words of 4 bytes, counted from 0): rows, columns, the first latitude
# and longitude less one step, the steps, what stands for a missing value.
_PP_ROWS, _PP_COLUMNS, _PP_EXTRA, _PP_PACKING, _PP_TYPE = 17, 18, 19, 20, 38
_PP_LATITUDE, _PP_LONGITUDE, _PP_MISSING = 58 - 45, 60 - 45, 62 - 45


def read_field(path: Path, axes: int, variable: str | None) -> Signal:
    """Read fields of one variable of a NetCDF file or a Zarr folder."""
    del axes
    xarray = needed("xarray", "fields")
    zarr = path.suffix.lower() == ".zarr"
    needed("zarr" if zarr else "netCDF4", "fields")
    with (
        _quiet(),
        xarray.open_zarr(path, chunks=None) if zarr else xarray.open_dataset(path) as dataset,
    ):
        return _from_dataset(dataset, variable)


def read_grib(path: Path, axes: int, variable: str | None) -> Signal:
    """Read fields of one variable of a GRIB file."""
    del axes
    xarray = needed("xarray", "fields")
    needed("cfgrib", "fields")
    with (
        _quiet(),
        xarray.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""}) as dataset,
    ):
        return _from_dataset(dataset, variable)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _choose(dataset: Any, variable: str | None) -> Any:
    """Return the variable that is asked for, or the only one that has rows and columns."""
    found = [str(n) for n, v in dataset.data_vars.items() if _rows_and_columns(v) is not None]
    if variable is not None:
        if variable not in dataset.data_vars:
            names = [str(name) for name in dataset.data_vars]
            raise ConfigError(f"has no variable {variable!r}; {nearest(variable, names)}")
        if variable not in found:
            raise DataError(
                f"{variable!r} has no latitudes and longitudes: {_shape(dataset[variable])}"
            )
        return dataset[variable]
    if not found:
        raise DataError("has no variable with latitudes and longitudes")
    if len(found) > 1:
        names = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
        raise ConfigError(f"has {len(found)} variables ({names}): choose one with --variable")
    return dataset[found[0]]


def _shape(array: Any) -> str:
    return ", ".join(f"{name} {size}" for name, size in array.sizes.items())


def _rows_and_columns(array: Any) -> tuple[str, str] | None:
    """Return the names of an array's latitude and longitude axes, None where it lacks one."""
    names = [str(name) for name in array.dims]

    def axis(words: tuple[str, ...], units: str, standard: str) -> str | None:
        for name in names:
            attributes = array[name].attrs if name in array.coords else {}
            if attributes.get("standard_name") == standard or units in str(attributes.get("units")):
                return name
        return next((name for name in names if name.lower() in words), None)

    rows = axis(_ROWS, "degrees_north", "latitude")
    columns = axis(_COLUMNS, "degrees_east", "longitude")
    return None if rows is None or columns is None else (rows, columns)


def _from_dataset(dataset: Any, variable: str | None) -> Signal:
    array = _choose(dataset, variable)
    axes = _rows_and_columns(array)
    assert axes is not None
    dims = [str(name) for name in array.dims]
    first = [name for name in dims if name not in axes]
    values = np.asarray(array.transpose(*first, *axes).values)
    if values.dtype.kind not in "iuf":
        raise DataError(f"{array.name!r} is of {values.dtype}; only numbers can be coded")
    grid = values.shape[len(first) :]
    samples = np.ascontiguousarray(values).reshape(-1, *grid, 1)
    # Everything but the values, as xarray itself writes it down.
    outline = array.drop_attrs(deep=False).assign_attrs(array.attrs).to_dict(data=False)
    coords = {str(name): _coordinate(coord) for name, coord in array.coords.items()}
    form = {
        "name": str(array.name),
        "dims": dims,
        "first": first,
        "rows": axes[0],
        "columns": axes[1],
        "shape": list(values.shape),
        "attrs": _json(outline["attrs"]),
        "coords": coords,
        "dataset": _json(dict(dataset.attrs)),
    }
    return Signal(samples, masked_where_nan(samples), "field", form)


def _coordinate(coord: Any) -> dict[str, Any]:
    values = np.asarray(coord.values)
    kind = values.dtype.str
    if values.dtype.kind in "mM":
        values = values.astype(f"{kind[1]}8[ns]").astype(np.int64)
        kind = f"{coord.values.dtype.kind}8[ns]"
    elif values.dtype.kind not in "iufbU":
        values, kind = values.astype(str), "U"
    return {
        "dims": [str(name) for name in coord.dims],
        "dtype": kind,
        "values": values.tolist(),
        "attrs": _json(dict(coord.attrs)),
    }


def _json(value: Any) -> Any:
    """Return attributes as plain JSON."""
    if isinstance(value, dict):
        return {str(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return _json(value.tolist())
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def write_field(path: Path, signal: Signal) -> None:
    """Write a NetCDF file or a Zarr folder with the coordinates, names and attributes of before."""
    xarray = needed("xarray", "fields")
    form, samples = signal.form, signal.samples[..., 0]
    if signal.channels != 1 or samples.ndim != 3:
        raise DataError(f"fields have rows, columns and one channel, not {signal.samples.shape}")
    if signal.mask is not None and samples.dtype.kind == "f":
        samples = np.where(signal.mask, samples, np.nan).astype(samples.dtype)
    first = list(form.get("first", ["item"]))
    rows, columns = form.get("rows", "latitude"), form.get("columns", "longitude")
    shape = form.get("shape", list(samples.shape))
    coords = {
        name: (c["dims"], np.array(c["values"], dtype=c["dtype"]), c["attrs"])
        for name, c in dict(form.get("coords", {})).items()
    }
    dims = (*first, rows, columns)
    array = xarray.DataArray(
        samples.reshape(shape), coords, dims, form.get("name", "field"), form.get("attrs", {})
    )
    dataset = array.transpose(*form.get("dims", dims)).to_dataset()
    dataset.attrs.update(form.get("dataset", {}))
    with _quiet():
        if path.suffix.lower() == ".zarr":
            needed("zarr", "fields")
            dataset.to_zarr(path, mode="w", consolidated=False)
        else:
            needed("netCDF4", "fields")
            dataset.to_netcdf(path, engine="netcdf4")


def read_pp(path: Path, axes: int, variable: str | None) -> Signal:
    """Read all fields of a UK Met Office PP file; they must lie on one grid.

    Each is two records of big-endian words between their lengths: a header of 45 integers and 19
    floats, then the values.
    """
    del axes, variable
    data, at = path.read_bytes(), 0
    fields, grids = [], set()
    while at < len(data):
        header, at = _record(data, at)
        body, at = _record(data, at)
        if len(header) != 256:
            raise DataError(f"a header of {len(header)} bytes; PP headers have 256")
        words, reals = struct.unpack(">45i", header[:180]), struct.unpack(">19f", header[180:])
        rows, columns = words[_PP_ROWS], words[_PP_COLUMNS]
        if words[_PP_PACKING] or words[_PP_EXTRA] or words[_PP_TYPE] != 1:
            raise DataError("packed fields, integers and extra data of PP files are not read")
        if len(body) != 4 * rows * columns or not body:
            raise DataError(f"{rows} x {columns} values do not fit {len(body)} bytes")
        values = np.frombuffer(body, ">f4").reshape(rows, columns).astype(np.float32)
        values[values == np.float32(reals[_PP_MISSING])] = np.nan
        steps = tuple(
            reals[_PP_LATITUDE : _PP_LATITUDE + 2] + reals[_PP_LONGITUDE : _PP_LONGITUDE + 2]
        )
        grids.add((rows, columns, *steps))
        fields.append(values)
    if len(grids) != 1:
        raise DataError(f"its fields lie on {len(grids)} grids; split it")
    ((rows, columns, south, down, west, east),) = grids
    latitudes = south + down * np.arange(1, rows + 1)
    longitudes = west + east * np.arange(1, columns + 1)
    form = {
        "name": path.stem,
        "dims": ["item", "latitude", "longitude"],
        "first": ["item"],
        "rows": "latitude",
        "columns": "longitude",
        "shape": [len(fields), rows, columns],
        "attrs": {},
        "coords": {
            "latitude": _plain_coordinate("latitude", latitudes, "degrees_north"),
            "longitude": _plain_coordinate("longitude", longitudes, "degrees_east"),
        },
        "dataset": {},
    }
    samples = np.stack(fields)[..., None]
    return Signal(samples, masked_where_nan(samples), "field", form)


def _plain_coordinate(name: str, values: np.ndarray, units: str) -> dict[str, Any]:
    return {
        "dims": [name],
        "dtype": "<f8",
        "values": values.tolist(),
        "attrs": {"units": units, "standard_name": name},
    }


def _record(data: bytes, at: int) -> tuple[bytes, int]:
    """Return a record and the place behind it; raises `DataError` when it is cut short."""
    if at + 4 > len(data):
        raise DataError("ends within a record: the file is cut short")
    (length,) = struct.unpack_from(">I", data, at)
    end = at + 4 + length
    if end + 4 > len(data) or struct.unpack_from(">I", data, end)[0] != length:
        raise DataError("not a PP file, or cut short: the lengths around a record differ")
    return data[at + 4 : end], end + 4
