"""A rate-distortion curve and its file: points, rows of pictures behind them, where they are from.

The file is CompressAI's (`name`, `description`, `results` with one list a column) and more: the
rows of every picture, both ways of averaging PSNR, the codec's configuration, versions and hashes.
A file of CompressAI's own, without these, loads too.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lictor.comparison.unit import BITS_PER_PIXEL, Unit, unit_from_json
from lictor.errors import DataError
from lictor.files import json_ready
from lictor.metrics import ms_ssim_db, psnr_of_mse

CURVE_FORMAT = "lictor-curve-1"
MEAN_PSNR, MEAN_MSE = "mean-psnr", "mean-mse"
AGGREGATIONS = {
    MEAN_PSNR: "mean over images of the PSNR in dB",
    MEAN_MSE: "PSNR of the mean over images of the squared error",
}


@dataclass(frozen=True)
class Metric:
    """A measure of quality: its column in a file, how a table calls it, and its direction.

    `squared_error` names the row's column that the PSNR comes from: such a metric has two averages.
    """

    column: str
    label: str
    digits: int = 2
    higher_is_better: bool = True
    squared_error: str | None = None


METRICS = {
    "psnr": Metric("psnr", "PSNR dB", squared_error="mse"),
    "psnr-y": Metric("psnr-y", "PSNR-Y dB", squared_error="mse_y"),
    "ms-ssim": Metric("ms-ssim", "MS-SSIM", digits=4),
    "ms-ssim-db": Metric("ms-ssim-db", "MS-SSIM dB"),
    "lpips": Metric("lpips", "LPIPS", digits=4, higher_is_better=False),
}
# Further columns of signals: mean of the rows' column, left out where no row has it.
BESIDE = {"baseline-psnr": "baseline_psnr", "psnr-lat": "psnr_lat"}
# CompressAI writes the colour space behind the metric since 1.2.
_ALIASES = {
    "psnr-rgb": "psnr",
    "ms-ssim-rgb": "ms-ssim",
    "ms-ssim-rgb-db": "ms-ssim-db",
    "ms-ssim-db-rgb": "ms-ssim-db",
}


@dataclass(frozen=True)
class ImageResult:
    """One picture through one codec at one setting; rates count every byte of the file.

    Distortions are of 8-bit pictures: `mse` over R, G and B, `mse_y` of the luma (BT.601), both in
    squared grey levels; PSNR in dB, infinite for a lossless setting; times in seconds. NaN stands
    for what does not exist: MS-SSIM under 161 pixels, LPIPS unless asked for, the estimated rate of
    a codec that does not estimate. `sha256` is of the original's shape and pixels. `jobs` says how
    many pictures were measured beside each other, which makes times longer; 0 if nobody knows.

    A row may also be of an item of another signal: a sound, a volume, a field. Then `width` is its
    last axis and `height` the product of the others, `bpp` is bits per sample of its grid, `mse` is
    as if its range were 0 to 255, and `mse_y`, `psnr_y` and `ms_ssim` do not exist. `baseline_psnr`
    is what silence or the mean value would have, `psnr_lat` weights a field by the cosine of the
    latitude.
    """

    setting: str
    image: str
    sha256: str
    width: int
    height: int
    bytes: int
    bpp: float
    mse: float
    mse_y: float
    psnr: float
    psnr_y: float
    ms_ssim: float
    encode_s: float
    decode_s: float
    lpips: float = math.nan
    estimated_bpp: float = math.nan
    jobs: int = 0
    baseline_psnr: float = math.nan
    psnr_lat: float = math.nan

    def quality(self, metric: str) -> float:
        """Return the value of a metric of `METRICS`."""
        if metric == "ms-ssim-db":
            return ms_ssim_db(self.ms_ssim)
        return float(getattr(self, metric.replace("-", "_")))


@dataclass(frozen=True)
class Curve:
    """A codec's points on a set of pictures, by rising rate.

    `columns` has one number a point for each name: `bpp`, metrics of `METRICS`, `psnr-of-mean-mse`,
    `encoding_time` and `decoding_time` in seconds; NaN where a number does not exist. `settings`
    names the points; of signals there may be more columns, see `BESIDE`. `unit` is what people call
    the rate. `rows` are the pictures behind the points, none for a published curve.
    `aggregation` is a key of `AGGREGATIONS`, or empty when the source does not say; it is then
    taken for the usual mean of PSNRs. `counts_header` says whether the rate is of whole files, None
    if nobody knows.
    """

    name: str
    settings: tuple[str, ...]
    columns: Mapping[str, Float[np.ndarray, " points"]]
    rows: tuple[ImageResult, ...] = ()
    description: str = ""
    dataset: str = ""
    aggregation: str = ""
    counts_header: bool | None = None
    codec: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    unit: Unit = BITS_PER_PIXEL

    @property
    def bpp(self) -> Float[np.ndarray, " points"]:
        """Mean over pictures of the bits per pixel, rising."""
        return self.columns["bpp"]

    @property
    def of_signals(self) -> bool:
        """Whether what was measured are signals: results of pictures have no baseline."""
        return "baseline-psnr" in self.columns

    @property
    def images(self) -> dict[str, str]:
        """Hash of each picture by its name; empty without rows."""
        return {row.image: row.sha256 for row in self.rows}

    def aggregations(self, metric: str) -> tuple[str, ...]:
        """Return the ways of averaging in which a metric of `METRICS` is known."""
        if METRICS[metric].squared_error is None:
            return (MEAN_PSNR,) if metric in self.columns else ()
        if self.rows and metric in self.columns:
            return (MEAN_PSNR, MEAN_MSE)
        known = [self.aggregation or MEAN_PSNR] if metric in self.columns else []
        if metric == "psnr" and "psnr-of-mean-mse" in self.columns and MEAN_MSE not in known:
            known.append(MEAN_MSE)
        return tuple(known)

    def quality(
        self, metric: str = "psnr", aggregation: str = MEAN_PSNR
    ) -> Float[np.ndarray, " points"]:
        """Return a metric at each point; raises `DataError` when the curve does not have it."""
        if aggregation not in self.aggregations(metric):
            has = [f"{m} ({a})" for m in METRICS for a in self.aggregations(m)]
            raise DataError(
                f"{self.name}: has no {metric} as {AGGREGATIONS.get(aggregation, aggregation)}; "
                f"it has {', '.join(has) or 'no quality at all'}"
            )
        column = METRICS[metric].squared_error
        if column is None or aggregation == (self.aggregation or MEAN_PSNR):
            return self.columns[metric]
        if aggregation == MEAN_PSNR:
            rows = [[row.quality(metric) for row in self.at(s)] for s in self.settings]
            return np.array([np.mean(values) for values in rows])
        if metric == "psnr" and "psnr-of-mean-mse" in self.columns:
            return self.columns["psnr-of-mean-mse"]
        return np.array([_psnr_of_mean(self.at(s), column) for s in self.settings])

    def at(self, setting: str) -> tuple[ImageResult, ...]:
        """Return the rows of one point."""
        return tuple(row for row in self.rows if row.setting == setting)


def _psnr_of_mean(rows: Sequence[ImageResult], column: str) -> float:
    return psnr_of_mse(float(np.mean([getattr(row, column) for row in rows])))


def curve_from_rows(name: str, rows: Sequence[ImageResult], **about: Any) -> Curve:
    """Average rows into a curve; `about` are further fields of `Curve`.

    A point is made of each setting; all must have the same pictures. A metric that one picture does
    not have (NaN) is NaN at that point. Raises `DataError` when settings differ in their pictures.
    """
    by_setting: dict[str, list[ImageResult]] = {}
    # In one order, whoever measured first: a sum of floats depends on it in its last bit.
    for row in sorted(rows, key=lambda row: row.image):
        by_setting.setdefault(row.setting, []).append(row)
    pictures = {s: sorted(r.image for r in group) for s, group in by_setting.items()}
    if not rows or any(p != next(iter(pictures.values())) for p in pictures.values()):
        raise DataError(f"{name}: every setting needs rows of the same pictures, each once")
    points = sorted(
        by_setting.items(), key=lambda item: (float(np.mean([r.bpp for r in item[1]])), item[0])
    )

    def column(value: str) -> Float[np.ndarray, " points"]:
        return np.array([np.mean([getattr(r, value) for r in group]) for _, group in points])

    def metric(key: str) -> Float[np.ndarray, " points"]:
        return np.array([np.mean([r.quality(key) for r in group]) for _, group in points])

    columns = {"bpp": column("bpp"), **{key: metric(key) for key in METRICS}}
    columns["psnr-of-mean-mse"] = np.array([_psnr_of_mean(group, "mse") for _, group in points])
    columns["encoding_time"], columns["decoding_time"] = column("encode_s"), column("decode_s")
    columns |= {key: column(name) for key, name in BESIDE.items()}
    for key in ("lpips", "psnr-y", *BESIDE):
        if np.isnan(columns[key]).all():
            del columns[key]
    ordered = [row for _, group in points for row in group]
    settings = tuple(setting for setting, _ in points)
    about = {"counts_header": True, "aggregation": MEAN_PSNR, **about}
    return Curve(name, settings, columns, tuple(ordered), **about)


def curve_to_json(curve: Curve) -> dict[str, Any]:
    """Return a curve as plain values for `json.dumps(..., allow_nan=False)`; not finite is None."""
    columns = {key: json_ready([float(v) for v in c]) for key, c in curve.columns.items()}
    return {
        "format": CURVE_FORMAT,
        "name": curve.name,
        "description": curve.description,
        "results": {"setting": list(curve.settings), **columns},
        "dataset": curve.dataset,
        "aggregation": curve.aggregation,
        "counts_header": curve.counts_header,
        **({} if curve.unit == BITS_PER_PIXEL else {"unit": asdict(curve.unit)}),
        "codec": dict(curve.codec),
        "provenance": dict(curve.provenance),
        "errors": list(curve.errors),
        "images": [row_to_json(row) for row in curve.rows],
    }


def row_to_json(row: ImageResult) -> dict[str, Any]:
    """Return a row as plain values; not finite is None."""
    return json_ready(asdict(row))


def load_curve(path: Path | str) -> Curve:
    """Read a results file of `lictor evaluate` or of CompressAI.

    Raises `DataError`, naming file and field, when it is not one, or numbers are missing.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the results files in it, like {path}/*.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such results file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error
    try:
        return curve_from_json(_printable(content))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _printable(content: Any) -> Any:
    """Replace halves of characters (lone surrogates), which JSON can hold and nobody can print."""
    if isinstance(content, str):
        return content.encode(errors="replace").decode()
    if isinstance(content, list):
        return [_printable(value) for value in content]
    if isinstance(content, dict):
        return {_printable(key): _printable(value) for key, value in content.items()}
    return content


def curve_from_json(content: object) -> Curve:
    """Return the curve that a results file's content holds; raises `DataError` if it is none."""
    content = _mapping(content, "the file")
    known = content.get("format", CURVE_FORMAT)
    if known != CURVE_FORMAT:
        raise DataError(f"format is {known!r}, but this release reads {CURVE_FORMAT!r}")
    results = _mapping(content.get("results"), "'results'")
    columns = {
        _ALIASES.get(key, key): _numbers(values, f"results.{key}")
        for key, values in results.items()
        if key != "setting"
    }
    if "bpp" not in columns:
        raise DataError("results.bpp is missing: a results file needs the rate of each point")
    if not any(metric in columns for metric in METRICS):
        raise DataError(f"results has no metric: it needs one of {', '.join(METRICS)}")
    count = len(columns["bpp"])
    settings = results.get("setting", [str(i + 1) for i in range(count)])
    if not isinstance(settings, list) or not all(isinstance(s, str) for s in settings):
        raise DataError("results.setting must be a list of strings")
    for key, values in {"setting": settings, **columns}.items():
        if len(values) != count:
            raise DataError(f"results.{key} has {len(values)} values, but results.bpp {count}")
    if not np.isfinite(columns["bpp"]).all() or (columns["bpp"] <= 0).any():
        raise DataError("results.bpp must be positive numbers")
    rows = tuple(
        row_from_json(row, f"images[{number}]")
        for number, row in enumerate(_list(content.get("images", []), "images"))
    )
    columns = _restore_infinite(columns, rows, settings)
    order = np.argsort(columns["bpp"], kind="stable")
    aggregation = _text(content, "aggregation")
    if aggregation and aggregation not in AGGREGATIONS:
        raise DataError(f"aggregation is {aggregation!r}, not one of {', '.join(AGGREGATIONS)}")
    return Curve(
        name=_text(content, "name") or "unnamed",
        settings=tuple(settings[i] for i in order),
        columns={key: values[order] for key, values in columns.items()},
        rows=rows,
        description=_text(content, "description"),
        dataset=_text(content, "dataset"),
        aggregation=aggregation,
        counts_header=_flag(content, "counts_header"),
        codec=_mapping(content.get("codec") or {}, "'codec'"),
        provenance=_mapping(content.get("provenance") or {}, "'provenance'"),
        errors=tuple(map(str, _list(content.get("errors", []), "errors"))),
        unit=unit_from_json(content.get("unit")),
    )


def _restore_infinite(
    columns: dict[str, Float[np.ndarray, " points"]],
    rows: Sequence[ImageResult],
    settings: Sequence[str],
) -> dict[str, Float[np.ndarray, " points"]]:
    """Tell an infinite PSNR, which JSON cannot say, from a missing one: a row has no error."""
    lossless = {row.setting for row in rows if row.mse == 0}
    lossy = {row.setting for row in rows if row.mse != 0}
    # One item without error makes a mean of decibels infinite, that of errors needs all of them.
    for key, found in (
        ("psnr", lossless),
        ("psnr-y", lossless),
        ("psnr-of-mean-mse", lossless - lossy),
    ):
        if key in columns:
            hit = np.array([s in found for s in settings], bool)
            columns[key] = np.where(hit & np.isnan(columns[key]), math.inf, columns[key])
    return columns


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        kind = "missing" if value is None else f"a {type(value).__name__}"
        raise DataError(f"{what} must be a JSON object, but is {kind}; not a results file")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{what} must be a list, not {type(value).__name__}")
    return value


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key) or ""
    if not isinstance(value, str):
        raise DataError(f"{key} must be text, not {type(value).__name__}")
    return value


def _flag(content: Mapping[str, Any], key: str) -> bool | None:
    value = content.get(key)
    if value is not None and not isinstance(value, bool):
        raise DataError(f"{key} must be true, false or null, not {value!r}")
    return value


def _number(value: object, what: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{what} must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise DataError(f"{what} is too large a number") from None


def _numbers(values: object, what: str) -> Float[np.ndarray, " points"]:
    return np.array([_number(v, what) for v in _list(values, what)], np.float64)


def row_from_json(content: object, what: str) -> ImageResult:
    """Return the row that `row_to_json` wrote; raises `DataError`, naming `what`, if it is none.

    Fields that this release does not know are left out.
    """
    row = _mapping(content, what)
    values: dict[str, Any] = {}
    for column in fields(ImageResult):
        if column.name not in row:
            if column.default is MISSING:
                raise DataError(f"{what}.{column.name} is missing")
            continue
        value = row[column.name]
        if column.type is float:
            value = _number(value, f"{what}.{column.name}")
        elif type(value) is not column.type:  # a bool is no int here
            raise DataError(f"{what}.{column.name} must not be {value!r}")
        values[column.name] = value
    for name, least in (("width", 1), ("height", 1), ("bytes", 1), ("mse", 0), ("mse_y", 0)):
        missing = name == "mse_y" and math.isnan(values[name])  # signals have no luma
        if not values[name] >= least and not missing:
            raise DataError(f"{what}.{name} must be at least {least}, not {values[name]}")
    for psnr_name, mse_name in (("psnr", "mse"), ("psnr_y", "mse_y")):
        if values[mse_name] == 0:
            values[psnr_name] = math.inf
    return ImageResult(**values)
