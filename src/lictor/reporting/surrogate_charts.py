"""Charts of stand-ins for rounding, each from the tables that are written beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lictor.analysis.surrogates.tables import BATCHES, DECODERS, DRAWN_AT
from lictor.analysis.table import Cell, Table
from lictor.priors.families import SCALE_BOUND
from lictor.reporting.chart_file import save_chart

_LOOKS = {"font.size": 8.5, "axes.titlesize": 8.5, "axes.grid": True}
_COLOURS = (
    *("#0067a8", "#c04a00", "#00785a", "#9c3d80", "#8a6a00", "#4b4f9e", "#a1322d", "#4d5b66"),
    *("#2f8fd0", "#e08a3c", "#3aa982", "#c77bb0"),
)
_MARKERS = ("o", "s", "D", "^", "v", "X", "P", "*")
_TRAIN, _TEST, _GAP = "#1f6fb2", "#c0392b", "#4d4d4d"
# What a logarithmic axis shows of a squared bias that simulation cannot tell from none.
_LEAST_BIAS = 1e-3
_COLUMNS = 5
_Rows = Sequence[Mapping[str, Cell]]


def save_curve_chart(path: Path, curves: Table) -> None:
    """Draw value and jacobian over a latent, two panels a path, to a PNG file."""
    save_chart(path, lambda: _curve_figure(curves), _LOOKS)


def save_mismatch_chart(path: Path, moments: Table) -> None:
    """Draw how far a path's value is from the rounded and from the given, to a PNG file."""
    save_chart(path, lambda: _mismatch_figure(moments), _LOOKS)


def save_risk_chart(path: Path, risk: Table, spread: float) -> None:
    """Draw squared bias, variance and risk for latents of one spread, to a PNG file."""
    save_chart(path, lambda: _risk_figure(risk, spread), _LOOKS)


def save_gap_chart(path: Path, rates: Table) -> None:
    """Draw the rates of noise and of rounding over the scale, and their gap, to a PNG file."""
    save_chart(path, lambda: _gap_figure(rates), _LOOKS)


def save_bound_chart(path: Path, bounds: Table) -> None:
    """Draw what a lower bound of the scale saves and costs, to a PNG file."""
    save_chart(path, lambda: _bound_figure(bounds), _LOOKS)


def save_toy_chart(path: Path, annealing: Table, pairs: Table) -> None:
    """Draw losses of toy codecs over the temperature that annealing ends at, to a PNG file."""
    save_chart(path, lambda: _toy_figure(annealing, pairs), _LOOKS)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _numbers(rows: _Rows, key: str) -> np.ndarray:
    """Return a column; NaN where there is no number."""
    return np.array([np.nan if row[key] is None else row[key] for row in rows], dtype=np.float64)


def _names(table: Table) -> list[str]:
    return list(dict.fromkeys(str(row["path"]) for row in table.rows))


def _of(table: Table, **where: Cell) -> _Rows:
    return [row for row in table.rows if all(row[key] == value for key, value in where.items())]


def _curve_figure(curves: Table) -> Any:
    names = _names(curves)
    columns = min(len(names), _COLUMNS)
    bands = -(-len(names) // columns)
    figure = _figure(max(2.5 * columns, 5), 3.9 * bands)
    panels = figure.subplots(2 * bands, columns, squeeze=False, sharex=True)
    for axes in panels.flat[:]:
        axes.set_visible(False)
    for number, name in enumerate(names):
        band, column = divmod(number, columns)
        rows = _of(curves, path=name)
        y, at = _numbers(rows, "y"), rows[0]["temperature"]
        for row, key, colour in ((0, "value", _TRAIN), (1, "jacobian", _TEST)):
            axes = panels[2 * band + row, column]
            axes.set_visible(True)
            low, high = (_numbers(rows, f"{key} {share} %") for share in (10, 90))
            axes.fill_between(y, low, high, color=colour, alpha=0.25, linewidth=0)
            axes.plot(y, _numbers(rows, key), color=colour, linewidth=1.2)
            axes.tick_params(labelbottom=row == 1)
        values, slopes = panels[2 * band, column], panels[2 * band + 1, column]
        values.plot(y, np.round(y), color="#8c8c8c", linewidth=0.7, linestyle=":", zorder=1)
        values.set(title=name if at is None else f"{name}, t = {at:g}", ylim=(-2.3, 2.3))
        slopes.set_ylim(-0.2, max(2.2, 1.15 * float(np.nanmax(_numbers(rows, "jacobian 90 %")))))
        slopes.set_xlabel("y")
        if column == 0:
            values.set_ylabel("value v")
            slopes.set_ylabel("jacobian dv/dy")
    figure.suptitle(
        f"lines: mean over the noise; bands: its middle 80 %; dots: rounding"
        f"   (t = {DRAWN_AT:g} where a path has a temperature)"
    )
    return figure


def _look(number: int) -> dict[str, Any]:
    return {"color": _COLOURS[number % len(_COLOURS)], "linewidth": 1.2}


def _over_temperature(axes: Any, table: Table, key: str, least: float, **where: Cell) -> None:
    """Plot a column over the temperature: a line a path, a dashed level without temperature."""
    for number, name in enumerate(_names(table)):
        rows = _of(table, path=name, **where)
        t, values = _numbers(rows, "temperature"), np.maximum(_numbers(rows, key), least)
        if f"error of {key}" in rows[0]:
            doubt = 2 * _numbers(rows, f"error of {key}")
            values[(values < doubt) & (doubt > least)] = np.nan
        if np.isnan(t).all():
            axes.axhline(values[0], label=name, linestyle="--", **_look(number))
        else:
            marker = _MARKERS[number % len(_MARKERS)]
            axes.plot(t, values, marker, markersize=3.5, ls="-", label=name, **_look(number))


def _legend(figure: Any, axes: Any, title: str) -> None:
    lines, names = axes.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper center", ncols=min(len(names), 5), title=title)


def _mismatch_figure(moments: Table) -> Any:
    figure = _figure(8.2, 4.2)
    panels = figure.subplots(1, 2)
    titles = {
        "E (v - round y)^2": "from what a codec decodes: train-test mismatch",
        "E (v - y)^2": "from the latent: the error that training sees",
    }
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        _over_temperature(axes, moments, key, 0.0)
        axes.set(title=title, xlabel="temperature", ylabel=key.replace("^2", r"$^2$"))
        axes.set_ylim(bottom=-0.005)
    panels[1].axhline(1 / 12, color="#8c8c8c", linewidth=0.8, linestyle=":", zorder=1)
    panels[1].annotate(
        *("rounding", (1.0, 1 / 12)),
        xytext=(-2, 3),
        textcoords="offset points",
        horizontalalignment="right",
        color="#6c6c6c",
    )
    _legend(
        figure, panels[0], "mean squared distance of a path's value v  (dashed: no temperature)"
    )
    return figure


def _risk_figure(risk: Table, spread: float) -> Any:
    keys = {
        "bias^2": r"bias$^2$",
        "variance": "variance, one sample",
        **{f"risk of {n}": f"risk, batch of {n}" for n in BATCHES},
    }
    figure = _figure(2.5 * len(keys), 5.6)
    panels = figure.subplots(len(DECODERS), len(keys), sharex=True, sharey="row")
    for row, decoder in zip(panels, DECODERS, strict=True):
        for axes, (key, title) in zip(row, keys.items(), strict=True):
            _over_temperature(axes, risk, key, _LEAST_BIAS, decoder=decoder, spread=spread)
            axes.set_yscale("log")
            if decoder == next(iter(DECODERS)):
                axes.set_title(title)
            else:
                axes.set_xlabel("temperature")
        row[0].set_ylabel(f"{decoder} decoder\nshare of the squared gradient")
    title = (
        f"gradient of the distortion, latents of standard deviation {spread:g}"
        f"   (bias: left out where simulation cannot tell it from 0; dashed: no temperature)"
    )
    _legend(figure, panels[0, 0], title)
    return figure


def _log_ticks(axis: Any) -> None:
    """Label a logarithmic axis with 0.1, 0.2, 0.5, 1, ..."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _gap_figure(rates: Table) -> Any:
    figure = _figure(6.4, 4.0)
    axes = figure.subplots()
    scale = _numbers(rates.rows, "scale")
    lines = (
        ("noise", _TRAIN, "-", r"$R_{noise}$: charged in training"),
        ("rounding", _TEST, "-", r"$R_{round}$: paid by a codec"),
        ("gap", _GAP, "--", "gap"),
    )
    for key, colour, style, label in lines:
        axes.plot(scale, _numbers(rates.rows, key), style, color=colour, label=label)
    axes.axvline(SCALE_BOUND, color="#8c8c8c", linewidth=0.8, linestyle=":")
    axes.annotate(
        *(f"customary bound {SCALE_BOUND:g}", (SCALE_BOUND, 0.97)),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-3, 0),
        textcoords="offset points",
        rotation=90,
        verticalalignment="top",
        horizontalalignment="right",
        color="#6c6c6c",
    )
    axes.set_xscale("log")
    _log_ticks(axes.xaxis)
    axes.set(xlabel=r"standard deviation $\sigma$ of latent and prior", ylabel="bits a latent")
    axes.set_ylim(bottom=-0.05)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _bound_figure(bounds: Table) -> Any:
    figure = _figure(6.4, 4.0)
    axes = figure.subplots()
    bound = _numbers(bounds.rows, "bound")
    for number, name in enumerate(key for key in bounds.rows[0] if key != "bound"):
        rate = _numbers(bounds.rows, name)
        marker = _MARKERS[number]
        axes.plot(
            *(bound, 100 * (rate / rate[0] - 1), marker),
            ls="-",
            markersize=3.5,
            label=f"{name} ({rate[0]:.3f} bits without)",
            **_look(number),
        )
    axes.axhline(0, color="#8c8c8c", linewidth=0.8)
    axes.axvline(SCALE_BOUND, color="#8c8c8c", linewidth=0.8, linestyle=":")
    axes.annotate(
        *(f"{SCALE_BOUND:g}", (SCALE_BOUND, 0.97)),
        xycoords=axes.get_xaxis_transform(),
        xytext=(3, 0),
        textcoords="offset points",
        verticalalignment="top",
        color="#6c6c6c",
    )
    axes.set_ylim(-7, 12)
    axes.set_xlabel(r"lower bound $\sigma_b$ of the scale")
    axes.set_ylabel("rate with rounding, % of that without a bound")
    title = "latents of 26 spreads, 0.01 to 1.5, under the scales that are best with noise"
    lines = axes.get_legend_handles_labels()
    figure.legend(*lines, loc="outside upper center", ncols=2, title=title)
    return figure


def _toy_figure(annealing: Table, pairs: Table) -> Any:
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    rows = annealing.rows
    ends = _numbers(rows, "tau_end")
    axes.plot(ends, _numbers(rows, "J train"), "o-", ms=4, color=_TRAIN, label="sua: J train")
    axes.errorbar(
        *(ends, _numbers(rows, "J test"), np.nan_to_num(_numbers(rows, "between replicas"))),
        fmt="s-",
        ms=4,
        color=_TEST,
        capsize=2.5,
        label="sua: J test, and deviation between replicas",
    )
    for name, style in (("noise", "--"), ("mixed", ":")):
        for row in pairs.rows:
            if row["pair"] == name:
                level = _numbers([row], "J test")[0]
                axes.axhline(level, color=_GAP, linestyle=style, label=f"{name}: J test")
    axes.set_xlabel("temperature at the end (1: noise, 0: rounding)")
    axes.set_ylabel("J = bits + lambda x squared error")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=2,
        title=annealing.title,
    )
    return figure
