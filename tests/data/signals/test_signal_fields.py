"""Fields in NetCDF, Zarr, GRIB and PP: values, gaps, coordinates and attributes come back."""

import json
import struct
import warnings

import eccodes
import numpy as np
import pytest
import xarray

from lictor.data.signals.formats import read_signal, write_signal
from lictor.data.signals.signal import Signal
from lictor.errors import DataError

RNG = np.random.default_rng(0)
LAT, LON = np.linspace(60, 50, 5), np.linspace(-10, 2, 7)


def assert_same(a: Signal, b: Signal) -> None:
    assert a.samples.dtype == b.samples.dtype
    np.testing.assert_array_equal(a.samples, b.samples)
    assert (a.mask is None) == (b.mask is None)
    if a.mask is not None:
        np.testing.assert_array_equal(a.mask, b.mask)
    assert a.form == b.form


def round_trip(path, suffix=None, **wanted) -> Signal:
    """Read a file, write it beside and read that: samples, mask and form are the same."""
    signal = read_signal(path, **wanted)
    assert signal.kind == "field"
    assert json.loads(json.dumps(dict(signal.form), allow_nan=False)) == signal.form
    again = path.with_name(f"again{suffix or path.suffix}")
    write_signal(again, signal)
    assert_same(signal, read_signal(again))
    return signal


def dataset(**variables) -> xarray.Dataset:
    """Six fields at two levels and three times, on latitudes and longitudes."""
    if not variables:
        values = RNG.normal(280, 9, (3, 2, 5, 7)).astype(np.float32)
        attrs = {"units": "K", "long_name": "temperature", "valid_range": np.float32([200, 330])}
        variables = {"t": (("time", "level", "lat", "lon"), values, attrs)}
    return xarray.Dataset(
        variables,
        {
            "time": ("time", [0, 6, 12], {"units": "hours since 2001-02-03", "calendar": "noleap"}),
            "level": ("level", np.array([850, 500], np.int32), {"units": "hPa"}),
            "lat": ("lat", LAT, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", LON.astype(np.float32), {"units": "degrees_east"}),
            "member": ((), 7),
        },
        {"title": "made up", "version": 3, "ratio": 0.5, "missing": np.float32(np.nan)},
    )


def saved(data: xarray.Dataset, path, encoding=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".zarr":
            data.to_zarr(path, consolidated=False, encoding=encoding)
        else:
            data.to_netcdf(path, engine="netcdf4", encoding=encoding)
    return path


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_fields_come_back_with_all_that_is_said_of_them(tmp_path, suffix):
    data = dataset()
    signal = round_trip(saved(data, tmp_path / f"a{suffix}"))
    assert signal.samples.shape == (6, 5, 7, 1)
    np.testing.assert_array_equal(signal.samples.reshape(3, 2, 5, 7), data["t"].values)
    open_again = xarray.open_zarr if suffix == ".zarr" else xarray.open_dataset
    settings = {"chunks": None, "consolidated": False} if suffix == ".zarr" else {}
    with open_again(tmp_path / f"again{suffix}", decode_times=False, **settings) as again:
        xarray.testing.assert_identical(again.load(), data)
        assert again["lon"].dtype == np.float32
        assert again["level"].dtype == np.int32
        if suffix == ".nc":  # attributes of Zarr are JSON, without types
            assert again["t"].attrs["valid_range"].dtype == np.float32


def test_one_suffix_may_be_written_as_the_other(tmp_path):
    data = dataset()
    del data["t"].attrs["valid_range"], data.attrs["missing"]  # JSON would not keep their types
    signal = round_trip(saved(data, tmp_path / "a.nc"), ".zarr")
    write_signal(tmp_path / "b.nc", signal)
    assert_same(read_signal(tmp_path / "b.nc"), signal)


@pytest.mark.parametrize("order", [("lat", "lon", "time"), ("lon", "time", "lat"), ("lat", "lon")])
def test_axes_may_lie_in_any_order(tmp_path, order):
    sizes = {"time": 3, "lat": 5, "lon": 7}
    values = RNG.normal(size=[sizes[name] for name in order])
    data = dataset(t=(order, values)).drop_vars("level")
    signal = round_trip(saved(data, tmp_path / "a.nc"))
    first = [name for name in order if name == "time"]
    expected = data["t"].transpose(*first, "lat", "lon").values.reshape(-1, 5, 7, 1)
    np.testing.assert_array_equal(signal.samples, expected)
    with xarray.open_dataset(tmp_path / "again.nc") as again:
        assert again["t"].dims == order


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_packed_integers_are_what_they_mean(tmp_path, suffix):
    data = dataset()
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -999}
    data["t"][0, 0, 1, 2] = np.nan
    signal = round_trip(saved(data, tmp_path / f"a{suffix}", {"t": packing}))
    assert signal.samples.dtype.kind == "f"
    assert np.argwhere(~signal.mask).tolist() == [[0, 1, 2]]
    there = signal.mask
    error = signal.samples[there][:, 0] - data["t"].values.reshape(6, 5, 7)[there]
    assert np.abs(error).max() < 0.0051


@pytest.mark.parametrize("fill", [1e20, -1.0, np.nan])
def test_the_fill_value_of_floats_is_kept(tmp_path, fill):
    data = dataset()
    data["t"][1, 1, 2, 3] = np.nan
    path = saved(data, tmp_path / "a.nc", {"t": {"_FillValue": np.float32(fill)}})
    signal = round_trip(path)
    assert np.argwhere(~signal.mask).tolist() == [[3, 2, 3]]
    with xarray.open_dataset(tmp_path / "again.nc", mask_and_scale=False) as again:
        np.testing.assert_array_equal(again["t"].attrs["_FillValue"], np.float32(fill))
        np.testing.assert_array_equal(again["t"].values[1, 1, 2, 3], np.float32(fill))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int64"])
@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_integers_with_a_fill_value_stay_integers_with_a_mask(tmp_path, dtype, suffix):
    top = np.iinfo(dtype).max
    values = RNG.integers(top - 100, top, (5, 7), dtype=dtype, endpoint=True)
    values[0, :3] = [top, 5, 5]
    data = dataset(n=(("lat", "lon"), values, {"_FillValue": values.dtype.type(5)}))
    signal = round_trip(saved(data.drop_vars(["time", "level"]), tmp_path / f"a{suffix}"))
    assert signal.samples.dtype == dtype
    assert np.argwhere(~signal.mask).tolist() == [[0, 0, 1], [0, 0, 2]]
    np.testing.assert_array_equal(signal.samples[0, ..., 0][signal.mask[0]], values[values != 5])
    # A value that a codec makes may be the fill value by chance: it is no gap.
    made = Signal(np.full_like(signal.samples, 5), signal.mask, "field", signal.form)
    write_signal(tmp_path / f"b{suffix}", made)
    again = read_signal(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(again.mask, signal.mask)
    assert set(np.unique(again.samples[again.mask])) == {4}


def test_nan_without_a_fill_value_is_masked(tmp_path):
    data = dataset()
    data["t"][2, 0, 0, 0] = np.nan
    signal = round_trip(saved(data, tmp_path / "a.nc", {"t": {"_FillValue": None}}))
    assert np.argwhere(~signal.mask).tolist() == [[4, 0, 0]]
    assert "fill" not in signal.form


def test_infinite_values_are_refused_by_file(tmp_path):
    data = dataset()
    data["t"][2, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match=r"a\.nc: has infinite values; replace them"):
        read_signal(saved(data, tmp_path / "a.nc"))


def test_bounds_and_the_mapping_of_the_grid_come_along(tmp_path):
    data = dataset()
    data["lat"].attrs["bounds"] = "lat_bnds"
    data["lon"].attrs["bounds"] = "lon_bnds"
    data["lon_bnds"] = (("lat", "lon", "bnds"), np.ones((5, 7, 2)))
    data["lat_bnds"] = (("lat", "bnds"), np.stack([LAT - 1, LAT + 1], 1))
    data["t"].attrs["grid_mapping"] = "crs"
    data["crs"] = ((), np.int32(0), {"grid_mapping_name": "latitude_longitude"})
    assert round_trip(saved(data, tmp_path / "a.nc")).form["name"] == "t"
    with xarray.open_dataset(tmp_path / "again.nc", decode_times=False) as again:
        xarray.testing.assert_identical(again.load(), data)


def test_coordinates_of_two_axes_of_words_and_with_gaps_come_back(tmp_path):
    lat2 = LAT[:, None] + np.linspace(0, 1, 7)
    lat2[0, 0] = np.nan
    data = xarray.Dataset(
        {"t": (("run", "y", "x"), RNG.normal(size=(2, 5, 7)))},
        {
            "run": ("run", ["first", "the second"]),
            "lat": (("y", "x"), lat2, {"units": "degrees_north"}),
            "lon": (("y", "x"), np.broadcast_to(LON, (5, 7)), {"units": "degrees_east"}),
        },
    )
    signal = round_trip(saved(data, tmp_path / "a.nc"))
    assert (signal.form["rows"], signal.form["columns"]) == ("y", "x")
    with xarray.open_dataset(tmp_path / "again.nc") as again:
        xarray.testing.assert_equal(again.load(), data)


@pytest.mark.parametrize(
    ("rows", "columns", "attributes"),
    [
        ("latitude", "longitude", ({}, {})),
        ("LAT", "LON", ({}, {})),
        ("rlat", "rlon", ({}, {})),
        ("a", "b", ({"units": "degrees_north"}, {"units": "degrees_east"})),
        ("a", "b", ({"units": "degree_N"}, {"units": "degreeE"})),
        ("a", "b", ({"standard_name": "latitude"}, {"standard_name": "longitude"})),
        ("a", "b", ({"standard_name": "grid_latitude"}, {"standard_name": "grid_longitude"})),
        # What an axis says of itself is more than its name.
        ("lon", "lat", ({"units": "degrees_north"}, {"units": "degrees_east"})),
    ],
)
def test_latitudes_and_longitudes_are_found(tmp_path, rows, columns, attributes):
    data = xarray.Dataset(
        {"t": ((columns, rows), RNG.normal(size=(7, 5)))},
        {rows: (rows, LAT, attributes[0]), columns: (columns, LON, attributes[1])},
    )
    signal = round_trip(saved(data, tmp_path / "a.nc"))
    assert (signal.form["rows"], signal.form["columns"]) == (rows, columns)
    assert signal.grid == (5, 7)


def test_of_several_variables_one_must_be_named(tmp_path):
    grid = (("lat", "lon"), np.ones((5, 7)))
    data = dataset(u=grid, v=grid, words=("time", ["a", "b", "c"]), n=("time", [1, 2, 3]))
    path = saved(data, tmp_path / "a.nc")
    with pytest.raises(DataError, match=r"a\.nc: has 2 variables \(u, v\): .*--variable"):
        read_signal(path)
    assert round_trip(path, variable="v").form["name"] == "v"
    with pytest.raises(DataError, match=r"a\.nc: has no variable 'w'; valid: u, v"):
        read_signal(path, variable="w")
    with pytest.raises(DataError, match=r"a\.nc: 'n' has no latitudes and longitudes, only time 3"):
        read_signal(path, variable="n")
    path = saved(data[["words", "n"]], tmp_path / "b.nc")
    with pytest.raises(DataError, match=r"b\.nc: has no variable with latitudes.*n on time 3"):
        read_signal(path)


def test_fields_without_values_or_of_no_numbers_are_refused(tmp_path):
    empty = xarray.Dataset({"t": (("k", "lat", "lon"), np.ones((0, 5, 7)))})
    path = saved(empty, tmp_path / "a.nc")
    with pytest.raises(DataError, match=r"a\.nc: 't' is empty: k 0 x lat 5 x lon 7"):
        read_signal(path)
    path = saved(xarray.Dataset({"t": (("lat", "lon"), [["a", "b"]])}), tmp_path / "b.nc")
    with pytest.raises(DataError, match=r"b\.nc: 't' is of .*only numbers"):
        read_signal(path)


def test_other_signals_may_be_written_as_fields(tmp_path):
    samples = RNG.normal(size=(3, 4, 5, 1))
    signal = Signal(samples, None, "field")
    write_signal(tmp_path / "a.nc", signal)
    np.testing.assert_array_equal(read_signal(tmp_path / "a.nc").samples, samples)
    gaps = Signal(np.ones((1, 2, 2, 1), int), np.eye(2, dtype=bool)[None], "field")
    with pytest.raises(DataError, match=r"b\.nc: integers with missing values"):
        write_signal(tmp_path / "b.nc", gaps)


def grib(path, *messages):
    """Write messages: short name, level, hour and values "5 7", NaN where there is none."""
    with path.open("wb") as file:
        for name, level, hour, values in messages:
            handle = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
            settings = {
                "Ni": 7, "Nj": 5, "latitudeOfFirstGridPointInDegrees": 60.0,
                "latitudeOfLastGridPointInDegrees": 50.0, "longitudeOfFirstGridPointInDegrees": 0.0,
                "longitudeOfLastGridPointInDegrees": 12.0, "iDirectionIncrementInDegrees": 2.0,
                "jDirectionIncrementInDegrees": 2.5, "dataDate": 20190301, "hour": hour,
                "shortName": name, "level": level, "bitsPerValue": 24,
            }  # fmt: skip
            for key, value in settings.items():
                eccodes.codes_set(handle, key, value)
            eccodes.codes_set(handle, "bitmapPresent", int(np.isnan(values).any()))
            eccodes.codes_set(handle, "missingValue", 9999.0)
            eccodes.codes_set_values(handle, np.nan_to_num(values, nan=9999.0).ravel())
            eccodes.codes_write(handle, file)
            eccodes.codes_release(handle)
    return path


def test_grib_is_read_with_gaps_and_written_as_netcdf(tmp_path):
    fields = RNG.normal(280, 9, (3, 5, 7))
    fields[1, 2, 3] = np.nan
    messages = [("t", 500, hour, field) for hour, field in zip((0, 6, 12), fields, strict=True)]
    path = grib(tmp_path / "a.grib", *messages)
    signal = round_trip(path, ".nc")
    assert list(tmp_path.glob("*.idx")) == []
    assert signal.samples.shape == (3, 5, 7, 1)
    assert np.argwhere(~signal.mask).tolist() == [[1, 2, 3]]
    np.testing.assert_allclose(signal.samples[..., 0], fields, atol=1e-4)
    assert signal.form["attrs"]["units"] == "K"
    assert signal.form["coords"]["latitude"]["values"] == [60, 57.5, 55, 52.5, 50]
    assert str(tmp_path) not in json.dumps(dict(signal.form))
    with pytest.raises(DataError, match=r"b\.grib: \.grib cannot be written; write \.nc"):
        write_signal(tmp_path / "b.grib", signal)


def test_of_several_variables_in_grib_one_must_be_named(tmp_path):
    fields = RNG.normal(0, 9, (2, 5, 7))
    path = grib(tmp_path / "a.grib", ("u", 500, 0, fields[0]), ("v", 500, 0, fields[1]))
    with pytest.raises(DataError, match=r"a\.grib: has 2 variables \(u, v\): .*--variable"):
        read_signal(path)
    np.testing.assert_allclose(
        read_signal(path, variable="v").samples[0, ..., 0], fields[1], atol=1e-3
    )


def test_variables_of_grib_may_come_at_other_times_and_levels(tmp_path):
    fields = RNG.normal(0, 9, (5, 5, 7))
    path = grib(
        tmp_path / "a.grib",
        *(("u", level, 0, field) for level, field in zip((500, 850), fields[:2], strict=True)),
        *(("t", 300, hour, field) for hour, field in enumerate(fields[2:])),
    )
    with pytest.raises(DataError, match=r"a\.grib: has 2 variables \([tu], [tu]\): .*--variable"):
        read_signal(path)
    for name, wanted in (("t", fields[2:]), ("u", fields[:2])):
        samples = round_trip(path, ".nc", variable=name).samples[..., 0]
        order = np.argsort([np.abs(wanted - sample).max((1, 2)).argmin() for sample in samples])
        np.testing.assert_allclose(samples[order], wanted, atol=1e-3)


def pp(*fields, missing=-99.0, **words):
    """Return the bytes of a PP file of fields: STASH code, hour and values "rows columns"."""
    data = b""
    for stash, hour, values in fields:
        header = [0] * 45
        header[:4] = [2001, 2, 3, hour]
        header[17:19] = values.shape
        header[38], header[41] = 1, stash
        for place, word in words.items():
            header[int(place[1:])] = word
        reals = [0.0] * 19
        reals[10], reals[13:17], reals[17] = 90.0, [-91.0, 1.0, -2.0, 2.0], missing
        record = struct.pack(">45i19f", *header, *reals)
        body = np.where(np.isnan(values), missing, values).astype(">f4").tobytes()
        for part in (record, body):
            length = struct.pack(">I", len(part))
            data += length + part + length
    return data


def test_pp_is_read_with_gaps_and_written_as_netcdf(tmp_path):
    fields = RNG.normal(280, 9, (2, 4, 6)).astype(np.float32)
    fields[1, 0, 0] = np.nan
    path = tmp_path / "a.pp"
    path.write_bytes(pp((24, 0, fields[0]), (24, 6, fields[1])))
    signal = round_trip(path, ".nc")
    np.testing.assert_array_equal(signal.samples[..., 0], fields)
    assert signal.form["name"] == "m01s00i024"
    with xarray.open_dataset(tmp_path / "again.nc") as again:
        assert again["latitude"].values.tolist() == [-90, -89, -88, -87]
        assert again["longitude"].values.tolist() == [0, 2, 4, 6, 8, 10]
        assert again["time"].values.tolist() == ["2001-02-03T00:00", "2001-02-03T06:00"]


def test_of_several_variables_in_pp_one_must_be_named(tmp_path):
    fields = RNG.normal(280, 9, (2, 4, 6)).astype(np.float32)
    path = tmp_path / "a.pp"
    path.write_bytes(pp((24, 0, fields[0]), (3236, 0, fields[1])))
    with pytest.raises(DataError, match=r"2 variables \(m01s00i024, m01s03i236\): .*--variable"):
        read_signal(path)
    np.testing.assert_array_equal(
        read_signal(path, variable="m01s03i236").samples[0, ..., 0], fields[1]
    )
    path.write_bytes(pp((24, 0, fields[0]), (24, 0, fields[1, :3])))
    with pytest.raises(DataError, match=r"a\.pp: its fields lie on 2 grids; split it"):
        read_signal(path)


@pytest.mark.parametrize("words", [{"w20": 1}, {"w19": 3}, {"w38": 2}, {"w17": 9}])
def test_pp_of_other_packings_is_refused(tmp_path, words):
    path = tmp_path / "a.pp"
    path.write_bytes(pp((24, 0, np.ones((4, 6))), **words))
    with pytest.raises(DataError, match=r"a\.pp: (packed fields|9 x 6 values do not fit)"):
        read_signal(path)


@pytest.mark.parametrize("suffix", [".nc", ".grib", ".pp"])
def test_damaged_files_are_told_in_one_line(tmp_path, suffix, capfd):
    path = tmp_path / f"a{suffix}"
    fields = RNG.normal(280, 9, (3, 5, 7)).astype(np.float32)
    if suffix == ".nc":
        saved(dataset(), path)
    elif suffix == ".grib":
        grib(path, *(("t", 500, hour, field) for hour, field in enumerate(fields)))
    else:
        path.write_bytes(pp(*((24, hour, field) for hour, field in enumerate(fields))))
    data = path.read_bytes()
    for bad in (b"no such thing " * 99, data[:-99], data[:7], b"\0" * 400, b""):
        path.write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DataError) as caught:
                read_signal(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 450
        printed = capfd.readouterr()
        assert printed.out + printed.err == ""


def test_a_zarr_folder_without_its_words_is_told_in_one_line(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(DataError, match=r"a\.zarr: cannot be read as \.zarr") as caught:
        read_signal(tmp_path / "a.zarr")
    assert "\n" not in str(caught.value)
