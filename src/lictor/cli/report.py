"""`lictor report`: results as one HTML page, and as charts for a paper."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from lictor.cli.messages import complain, say
from lictor.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lictor.reporting.charts import View
    from lictor.reporting.sources import Source

Results = Annotated[tuple[str, ...], arg(metavar="RESULT...", help_behavior_hint="")]
Page = Annotated[Path | None, arg(aliases=["-o"], metavar="FILE.html", help_behavior_hint="")]
Charts = Annotated[
    UseAppendAction[tuple[Path, ...]], arg(name="chart", metavar="FILE", help_behavior_hint="")
]
Metric = Literal["psnr", "psnr-y", "ms-ssim", "ms-ssim-db", "lpips"]
Aggregation = Literal["mean-psnr", "mean-mse"]


def report(
    results: Positional[Results],
    /,
    *,
    out: Page = None,
    anchor: str = "",
    title: str = "",
    pictures: int = 3,
    picture_mb: float = 20.0,
    charts: Charts = (),
    metric: Metric = "psnr",
    aggregation: Aggregation = "mean-psnr",
    log_rate: bool = False,
    force: bool = False,
) -> int:
    """Make one HTML page of results, with charts, BD-rates, times and pictures side by side.

    A result is a results file of `lictor evaluate` or of CompressAI, a folder of them, or the name
    of a published curve (see `lictor anchors`). The page is one file that loads nothing.

    Args:
        results: What the page is about.
        out: The page to write.
        anchor: Curve that BD-rates are against at first; the first of at least four points if not
            given, of signals preferably a codec without a network.
        title: Title of the page.
        pictures: Show this many of the pictures that `lictor evaluate --keep` kept.
        picture_mb: Let pictures take so many megabytes of the page, with fewer rates if need be.
        charts: Write a rate-distortion chart for a paper (.pdf, .svg, .png); again for more.
        metric: Measure of quality of these charts.
        aggregation: How PSNR is averaged over pictures in these charts.
        log_rate: Give these charts a logarithmic rate axis.
        force: Overwrite existing files.
    """
    from lictor.files import write_file
    from lictor.reporting.charts import CHART_FORMATS, save_chart
    from lictor.reporting.page import Options, build_report
    from lictor.reporting.sources import load_sources

    if not results:
        complain("report needs at least one results file, folder or published curve; see --help")
        return 2
    if out is None and not charts:
        complain("report needs a page to write (-o report.html) or a --chart; see --help")
        return 2
    if pictures < 0 or not 0 <= picture_mb < float("inf"):
        raise ConfigError("--pictures and --picture-mb must be at least 0")
    _check_outputs([] if out is None else [out], (".html", ".htm"), force=force)
    _check_outputs(charts, tuple(CHART_FORMATS), force=force)
    sources, notes = load_sources(results)
    for note in notes:
        print(f"lictor: warning: {note}", file=sys.stderr, flush=True)
    curves = [source.curve for source in sources]
    view = _view(metric, aggregation, sources)
    for path in charts:
        save_chart(path, curves, view, log_rate=log_rate)
        say(f"{path}  {view.label}, {sum(map(view.known, curves))} of {len(curves)} curves")
    if out is not None:
        options = Options(title, anchor, pictures, round(picture_mb * 1e6))
        page = build_report(sources, options, notes=notes).encode()
        write_file(out, page)
        say(f"{out}  {len(curves)} curves, {len(page) / 1e6:.1f} MB")
    return 0


def _view(metric: str, aggregation: str, sources: "Sequence[Source]") -> "View":
    """Return what charts show: the metric averaged as asked, if there are two ways."""
    from lictor.reporting.charts import View, views

    known = [v for v in views([source.curve for source in sources]) if v.metric == metric]
    wanted = View(metric, aggregation)
    return wanted if wanted in known or not known else known[0]


def _check_outputs(paths: Sequence[Path], suffixes: tuple[str, ...], *, force: bool) -> None:
    """Find out before the work what would stop it after; raises `ConfigError` and `DataError`."""
    for number, path in enumerate(paths):
        if path.suffix.lower() not in suffixes:
            raise ConfigError(f"{path}: must end in one of {', '.join(suffixes)}")
        if path in paths[:number]:
            raise ConfigError(f"{path}: is named as an output twice")
        try:
            folder, exists = path.parent.is_dir(), path.exists()
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a usable path ({error})") from error
        if not folder:
            raise DataError(f"{path}: there is no folder {path.parent}")
        if exists and not force:
            raise DataError(f"{path}: exists already; add --force to overwrite it")
