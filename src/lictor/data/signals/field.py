"""Fields on the sphere as signals: rows are latitudes, columns longitudes, all else makes items."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lictor.config import nearest
from lictor.data.signals.quiet import needed
from lictor.data.signals.signal import Signal, Wanted, filled, signal_of
from lictor.errors import DataError

# Names of axes whose coordinates do not say what they are.
_ROWS = ("latitude", "lat", "nav_lat", "grid_latitude", "rlat", "y", "j")
_COLUMNS = ("longitude", "lon", "nav_lon", "grid_longitude", "rlon", "x", "i")
_UNITS = {"north": "latitude", "n": "latitude", "east": "longitude", "e": "longitude"}
_PACKED = ("scale_factor", "add_offset", "_Unsigned")
_SHOWN = 12


def read_field(path: Path, wanted: Wanted) -> Signal:
    """Read fields of one variable of a NetCDF file or a Zarr folder.

    Packed integers become the floats they stand for; others stay, without a value where they are
    the fill value. Times stay numbers with their units. Raises `DataError` on several variables
    when none is named, and on variables without latitudes and longitudes.
    """
    with _opened(path, decoded=True) as dataset:
        chosen = _choose([dataset], wanted.variable)
        _, array = chosen
        kind, fill = _stored(array)
        if kind not in "iu" or fill is None or any(key in array.encoding for key in _PACKED):
            return _signal(*chosen, None if kind in "iu" else fill)
    # Only the integers themselves are exact: with gaps they would be decoded to floats.
    with _opened(path, decoded=False) as raw:
        return _signal(raw, raw[array.name], fill)


def _opened(path: Path, *, decoded: bool) -> Any:
    xarray = needed("xarray", "fields")
    settings: dict[str, Any] = {"decode_times": False, "mask_and_scale": decoded}
    if path.suffix.lower() == ".zarr":
        needed("zarr", "fields")
        return xarray.open_zarr(path, chunks=None, **settings)
    needed("netCDF4", "fields")
    return xarray.open_dataset(path, engine="netcdf4", **settings)


def _stored(array: Any) -> tuple[str, Any]:
    """Return the kind of a variable's dtype in its file, and what stands for a missing value."""
    encoding = array.encoding
    fill = encoding.get("_FillValue", encoding.get("missing_value"))
    return np.dtype(encoding.get("dtype", array.dtype)).kind, fill


def read_grib(path: Path, wanted: Wanted) -> Signal:
    """Read fields of one variable of a GRIB file; raises as `read_field` does.

    A variable that comes on several kinds of levels is named `name@kind`.
    """
    needed("xarray", "fields")
    cfgrib = needed("cfgrib", "fields")
    # No index beside the file; what is damaged is an error, not left out.
    settings: dict[str, Any] = {
        "backend_kwargs": {"indexpath": "", "errors": "raise"},
        "decode_times": False,
    }
    try:
        found = [cfgrib.open_dataset(str(path), **settings)]
    except cfgrib.DatasetBuildError:  # of several levels or times: twice the time
        found = cfgrib.open_datasets(str(path), **settings)
    if not any(len(dataset.data_vars) for dataset in found):
        raise DataError("holds no GRIB message")
    names = [str(name) for dataset in found for name in dataset.data_vars]
    datasets = []
    for dataset in found:
        dataset.attrs.pop("history", None)  # says when and where from it was read
        twice = {
            name: f"{name}@{array.attrs.get('GRIB_typeOfLevel', 'level')}"
            for name, array in dataset.data_vars.items()
            if names.count(str(name)) > 1
        }
        datasets.append(dataset.rename_vars(twice))
    return _signal(*_choose(datasets, wanted.variable), None)


def _choose(datasets: Sequence[Any], variable: str | None) -> tuple[Any, Any]:
    """Return the variable that is asked for, or the only one that has rows and columns.

    With it comes its dataset.
    """
    every = {
        str(name): dataset
        for dataset in datasets
        for name in dataset.data_vars
        if name not in _bounds(dataset)
    }
    found = [name for name, dataset in every.items() if _rows_and_columns(dataset[name])]
    if variable is None:
        if not found:
            shapes = _listed(
                f"{name} on {_shape(dataset[name])}" for name, dataset in every.items()
            )
            raise DataError(f"has no variable with latitudes and longitudes ({shapes or 'none'})")
        if len(found) > 1:
            raise DataError(
                f"has {len(found)} variables ({_listed(found)}): "
                "choose one with --variable, or signal.variable in a recipe"
            )
        variable = found[0]
    if variable not in every:
        raise DataError(f"has no variable {variable!r}; {nearest(variable, found)}")
    if variable not in found:
        shape = _shape(every[variable][variable])
        raise DataError(f"{variable!r} has no latitudes and longitudes, only {shape}")
    return every[variable], every[variable][variable]


def _bounds(dataset: Any) -> set[str]:
    """Return the names of variables that only say where the cells of others end."""
    return {
        str(v.attrs.get("bounds", v.encoding.get("bounds"))) for v in dataset.variables.values()
    }


def _listed(words: Iterable[str]) -> str:
    words = list(words)
    return ", ".join(words[:_SHOWN]) + (", ..." if len(words) > _SHOWN else "")


def _shape(array: Any) -> str:
    return " x ".join(f"{name} {size}" for name, size in array.sizes.items()) or "one number"


def _rows_and_columns(array: Any) -> tuple[str, str] | None:
    """Return the names of an array's latitude and longitude axes, None where it lacks one.

    What coordinates say of themselves (CF conventions, sections 4.1 and 4.2) counts first.
    """
    names = [str(name) for name in array.dims]
    said = {_said(array[name].attrs): name for name in names if name in array.coords}
    rows = said.get("latitude") or next((n for n in names if n.lower() in _ROWS), None)
    columns = said.get("longitude") or next((n for n in names if n.lower() in _COLUMNS), None)
    return None if rows is None or columns is None or rows == columns else (rows, columns)


def _said(attrs: dict[str, Any]) -> str | None:
    standard = str(attrs.get("standard_name", "")).removeprefix("grid_")
    if standard in _UNITS.values():
        return standard
    unit, _, direction = str(attrs.get("units", "")).lower().replace("_", "").partition("degree")
    return None if unit else _UNITS.get(direction.removeprefix("s").strip())


def _signal(dataset: Any, array: Any, fill: Any) -> Signal:
    """Return a variable as a signal; `fill` is what its file has for a missing value, if raw."""
    axes = _rows_and_columns(array)
    assert axes is not None
    first = [name for name in array.dims if name not in axes]
    values = np.asarray(array.transpose(*first, *axes).values)
    if values.dtype.kind not in "iuf":
        raise DataError(f"{array.name!r} is of {values.dtype}; only numbers can be coded")
    if 0 in values.shape:
        raise DataError(f"{array.name!r} is empty: {_shape(array)}")
    gaps = values == fill if values.dtype.kind in "iu" and fill is not None else None
    form = {
        "name": str(array.name),
        "dims": [str(name) for name in array.dims],
        "rows": axes[0],
        "columns": axes[1],
        "shape": list(values.shape),
        "attrs": _attributes(array.attrs),
        "coords": {str(name): _values(coord) for name, coord in array.coords.items()},
        "beside": {name: _values(dataset[name]) for name in _named(dataset, array)},
        "dataset": _attributes(dataset.attrs),
    }
    if fill is not None:
        form["fill"] = _json(values.dtype.type(fill))
        form["attrs"].pop("_FillValue", None)
        form["attrs"].pop("missing_value", None)
    grid = values.shape[len(first) :]
    signal = signal_of(values.reshape(-1, *grid, 1), "field", form)
    if gaps is None or not gaps.any():
        return signal
    return Signal(signal.samples, ~gaps.reshape(-1, *grid), "field", form)


def _named(dataset: Any, array: Any) -> list[str]:
    """Return the variables that say how the coordinates are to be read: bounds and the mapping."""
    sources = [array, *array.coords.values()]
    names = [
        str(source.attrs.get(key, source.encoding.get(key)))
        for source in sources
        for key in ("bounds", "grid_mapping")
    ]
    return [name for name in dict.fromkeys(names) if name in dataset.data_vars]


def _values(array: Any) -> dict[str, Any]:
    """Return a variable that is not the fields, as plain JSON."""
    values = np.asarray(array.values)
    if values.dtype.kind not in "iufb":
        values = values.astype(str)
    return {
        "dims": [str(name) for name in array.dims],
        "dtype": values.dtype.name if values.dtype.kind in "iufb" else "str",
        "values": _spelt(values),
        "attrs": _attributes(array.attrs),
    }


def _attributes(attrs: Any) -> dict[str, Any]:
    return {str(key): _json(value) for key, value in dict(attrs).items()}


def _json(value: Any) -> Any:
    """Return an attribute as plain JSON; numbers of other types than JSON's come with theirs."""
    array = np.asarray(value)
    if array.dtype.kind not in "iufb":
        return array.astype(str).tolist()
    if array.ndim == 0 and array.dtype in (np.int64, np.float64) and np.isfinite(array):
        return array.item()
    return {"dtype": array.dtype.name, "values": _spelt(array)}


def _spelt(values: np.ndarray) -> Any:
    """Return an array as lists, as strings where numbers are not finite, which JSON lacks."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return values.astype(str).tolist()
    return values.tolist()


def _attribute(value: Any) -> Any:
    """Undo `_json`."""
    if not isinstance(value, dict):
        return value
    array = np.array(value["values"]).astype(value["dtype"])
    return array if array.ndim else array[()]


def _variable(form: dict[str, Any]) -> tuple[Any, ...]:
    """Undo `_values`: dimensions, values, attributes, and how to write them."""
    values = np.array(form["values"]).astype(form["dtype"])
    attrs = {key: _attribute(value) for key, value in form["attrs"].items()}
    # xarray would declare not-a-number a fill value, even where there is none.
    encoding = {"_FillValue": None} if values.dtype.kind == "f" else {}
    return form["dims"], values, attrs, encoding


def write_field(path: Path, signal: Signal) -> None:
    """Write a NetCDF file or a Zarr folder with the coordinates, names and attributes of before.

    Raises `DataError` on signals of other axes, and on integers with gaps but no fill value.
    """
    xarray = needed("xarray", "fields")
    form = signal.form
    if signal.channels != 1 or signal.samples.ndim != 4:
        raise DataError(
            f"fields have rows, columns and one channel, not {signal.samples.shape}; write .npy"
        )
    fill = _attribute(form.get("fill"))
    samples = (filled(signal) if fill is None else _with_gaps(signal, fill))[..., 0]
    rows, columns = form.get("rows", "latitude"), form.get("columns", "longitude")
    dims = form.get("dims", ["item", rows, columns])
    first = [name for name in dims if name not in (rows, columns)]
    array = xarray.DataArray(
        samples.reshape(form.get("shape", samples.shape)),
        dims=(*first, rows, columns),
        attrs={key: _attribute(value) for key, value in form.get("attrs", {}).items()},
    )
    variable = array.transpose(*dims).variable
    variable.encoding["_FillValue"] = fill
    dataset = xarray.Dataset(
        {
            form.get("name", "field"): variable,
            **{name: _variable(v) for name, v in form.get("beside", {}).items()},
        },
        {name: _variable(v) for name, v in form.get("coords", {}).items()},
        {key: _attribute(value) for key, value in form.get("dataset", {}).items()},
    )
    if path.suffix.lower() == ".zarr":
        needed("zarr", "fields")
        dataset.to_zarr(path, mode="w", consolidated=False)
    else:
        needed("netCDF4", "fields")
        dataset.to_netcdf(path, engine="netcdf4")


def _with_gaps(signal: Signal, fill: Any) -> np.ndarray:
    """Return samples with the fill value where there is none, and nowhere else."""
    samples = signal.samples
    if samples.dtype.kind == "f":
        return filled(signal)  # xarray puts the fill value in
    fill = int(fill)
    near = fill + 1 if fill == np.iinfo(samples.dtype).min else fill - 1
    there = np.where(samples == fill, samples.dtype.type(near), samples)
    if signal.mask is None:
        return there
    return np.where(signal.mask[..., None], there, samples.dtype.type(fill))
