"""Charts of the noisy quadratic model: lines are closed forms, dots are simulations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lictor.analysis.nqm.closed_forms import (
    Averaging,
    Quadratic,
    excess_risk,
    ratio_feedback,
    ratio_no_feedback,
    risk_curve,
    settling_updates,
    spectrum,
    step_factor,
    v_sgd,
)
from lictor.analysis.nqm.tables import SIMULATED, Settings, start_of, steps_per_decade
from lictor.analysis.table import Cell, Table
from lictor.reporting.chart_file import save_chart

_LOOKS = {"font.size": 9, "axes.titlesize": 9, "axes.grid": True}
_FORMS = {"feedback": ratio_feedback, "no feedback": ratio_no_feedback}
_TITLES = {
    "feedback": "with feedback (Lookahead)",
    "no feedback": "without feedback (the average looks on)",
}
_FORM_COLOURS = {"sgd": "#4d4d4d", "feedback": "#c0392b", "no feedback": "#1f6fb2"}
_FORM_NAMES = {
    "sgd": "plain descent",
    "feedback": "SMA, feedback",
    "no feedback": "SMA, no feedback",
}
_GRADIENT_COLOURS = {"own": "#4d4d4d", "chain": "#c0392b", "chain, divided": "#1f6fb2"}
_FOOT = "lines: closed form; dots: simulation"


def save_alpha_chart(path: Path, settings: Settings, ratios: Table) -> None:
    """Draw the variance ratio over alpha, one line an interval, both forms, to a PNG file."""
    save_chart(path, lambda: _alpha_figure(settings, ratios), _LOOKS)


def save_interval_chart(path: Path, settings: Settings, ratios: Table) -> None:
    """Draw the variance ratio over the interval, one line an alpha, both forms, to a PNG file."""
    save_chart(path, lambda: _interval_figure(settings, ratios), _LOOKS)


def save_risk_chart(path: Path, settings: Settings, curves: Table) -> None:
    """Draw the excess risk of the spectrum over the steps, one panel a gamma, to a PNG file."""
    save_chart(path, lambda: _risk_figure(settings, curves), _LOOKS)


def save_speed_chart(path: Path, settings: Settings) -> None:
    """Draw steady risk over slowness, for one coordinate and for the spectrum, to a PNG file."""
    save_chart(path, lambda: _speed_figure(settings), _LOOKS)


def save_mode_chart(path: Path, settings: Settings, modes: Table) -> None:
    """Draw the variance of an embedded coordinate over the size of its mode, to a PNG file."""
    save_chart(path, lambda: _mode_figure(settings, modes), _LOOKS)


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](i) for i in np.linspace(0.0, 0.85, count)]


def _figure(columns: int, *, sharey: bool = True) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(1.2 + 3.5 * columns, 6.5), 3.7), layout="constrained")
    return figure, figure.subplots(1, columns, sharey=sharey, squeeze=False)[0]


def _dots(axes: Any, table: Table, x: str, key: str, colour: Any, **where: Cell) -> None:
    """Plot the simulated values of the rows that match, where there are any."""
    rows = [row for row in table.rows if all(row[k] == value for k, value in where.items())]
    points = [(row[x], row[key + SIMULATED]) for row in rows if row[key + SIMULATED] is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=3.5, zorder=3)


def _plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis with 1, 2, 5, 10, 20, ..."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _alpha_figure(settings: Settings, ratios: Table) -> Any:
    figure, panels = _figure(2)
    alphas = np.linspace(0.002, 1, 300)
    intervals = sorted(settings.intervals)
    for axes, (form, ratio) in zip(panels, _FORMS.items(), strict=True):
        for interval, colour in zip(intervals, _colours(len(intervals)), strict=True):
            rho = step_factor(settings.gamma, 1.0) ** interval
            name = "every step" if interval == 1 else f"every {interval} steps"
            axes.plot(alphas, ratio(alphas, rho), color=colour, label=name)
            _dots(axes, ratios, "alpha", form, colour, interval=interval)
        axes.set(title=_TITLES[form], xlim=(0, 1), ylim=(0, 1.02))
        axes.set_xlabel(r"interpolation $\alpha$")
    panels[0].set_ylabel("variance / variance of plain descent")
    _legend(figure, panels[0], f"sampled, with {_gamma_h(settings)}   ({_FOOT})")
    return figure


def _interval_figure(settings: Settings, ratios: Table) -> Any:
    figure, panels = _figure(2)
    longest = max(100, 2 * max(settings.intervals))
    intervals = np.unique(np.geomspace(1, longest, 200).round().astype(int))
    alphas = sorted(settings.alphas)
    for axes, (form, ratio) in zip(panels, _FORMS.items(), strict=True):
        rho = step_factor(settings.gamma, 1.0) ** intervals.astype(np.float64)
        for alpha, colour in zip(alphas, _colours(len(alphas)), strict=True):
            axes.plot(intervals, ratio(alpha, rho), color=colour, label=rf"$\alpha$ = {alpha:g}")
            _dots(axes, ratios, "interval", form, colour, alpha=alpha)
        axes.set_xscale("log")
        axes.set(title=_TITLES[form], xlim=(0.9, longest), ylim=(0, 1.02))
        _plain_numbers(axes.xaxis)
        axes.set_xlabel("sampling interval, steps")
    panels[0].set_ylabel("variance / variance of plain descent")
    _legend(figure, panels[0], f"interpolation, with {_gamma_h(settings)}   ({_FOOT})")
    return figure


def _gamma_h(settings: Settings) -> str:
    return rf"$\gamma h$ = {settings.gamma:g}"


def _legend(figure: Any, axes: Any, title: str) -> None:
    """Put the legend of one panel above all of them."""
    lines, names = axes.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper center", ncols=min(len(names), 5), title=title)


def _risk_figure(settings: Settings, curves: Table) -> Any:
    figure, panels = _figure(len(settings.gammas))
    problem, averagings = spectrum(settings.dimensions), settings.averagings
    for axes, gamma in zip(panels, settings.gammas, strict=True):
        end = max(
            averaging.interval * settling_updates(gamma, problem.curvatures, averaging)
            for averaging in averagings.values()
        )
        for form, averaging in averagings.items():
            steps = averaging.interval * np.arange(end // averaging.interval + 1)
            risks = risk_curve(
                gamma, problem, averaging, start=start_of(problem), num_updates=steps.size - 1
            )
            axes.plot(steps[1:], risks[1:], color=_FORM_COLOURS[form], label=_FORM_NAMES[form])
            _dots(axes, curves, "step", "excess risk", _FORM_COLOURS[form], gamma=gamma, form=form)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(rf"$\gamma$ = {gamma:g}")
        axes.set_xlabel("steps")
    panels[0].set_ylabel(f"excess risk (floor: {settings.dimensions / 2:g})")
    what = (
        f"h = 1/i, i = 1 to {settings.dimensions}; $\\alpha$ = {settings.alpha:g}, "
        f"every {settings.interval} steps"
    )
    _legend(figure, panels[0], f"{what}   ({_FOOT})")
    return figure


def _speed_figure(settings: Settings) -> Any:
    figure, panels = _figure(2, sharey=False)
    titles = (
        "one coordinate, h = 1",
        f"spectrum h = 1/i, i = 1 to {settings.dimensions}",
    )
    problems = (Quadratic(np.ones(1), np.ones(1)), spectrum(settings.dimensions))
    for axes, problem, title in zip(panels, problems, titles, strict=True):
        for form, averaging in settings.averagings.items():
            slowness, risks = _speeds(problem, averaging)
            axes.plot(slowness, risks, color=_FORM_COLOURS[form], label=_FORM_NAMES[form])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xlabel("steps until the slowest error is a tenth")
    panels[0].set_ylabel("excess risk at steady state")
    what = f"$\\alpha$ = {settings.alpha:g}, every {settings.interval} steps"
    _legend(figure, panels[0], f"each point of a line is a step size; lower left is better; {what}")
    return figure


def _speeds(problem: Quadratic, averaging: Averaging) -> tuple[Sequence[float], Sequence[float]]:
    """Return steps per decade and steady excess risk, for step sizes up to the fastest."""
    slowness, risks = list[float](), list[float]()
    for gamma in np.geomspace(0.01, 1.95, 200):
        steps = steps_per_decade(float(gamma), problem, averaging)
        if slowness and steps > 0.999 * slowness[-1]:
            break  # a larger step is noisier and no faster
        slowness.append(steps)
        risks.append(excess_risk(float(gamma), problem, averaging))
    return slowness, risks


def _mode_figure(settings: Settings, modes: Table) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    gamma, limit = settings.gamma, 2 / settings.gamma
    largest = max(*settings.sizes, 2)
    sizes = np.geomspace(1, largest, 400)
    stable = sizes[sizes < limit]
    lines = {
        "own": (sizes, np.full_like(sizes, float(v_sgd(gamma, 1.0, 1.0)))),
        "chain": (stable, gamma / (2 - gamma * stable)),
        "chain, divided": (sizes, gamma / sizes / (2 - gamma)),
    }
    names = {
        "own": "the reference's own gradient",
        "chain": "chain rule",
        "chain, divided": "chain rule, step divided by the sum of squared slopes",
    }
    for name, (x, y) in lines.items():
        axes.plot(x, y, color=_GRADIENT_COLOURS[name], label=names[name])
        _dots(axes, modes, "size", name, _GRADIENT_COLOURS[name])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=max(3.0, 20 * gamma / (2 - gamma)))
    if largest >= limit:
        axes.axvspan(limit, largest * 1.05, color="#f6e3e0", linewidth=0, zorder=0)
        axes.text(
            *(limit, 0.98, "chain rule diverges"),
            transform=axes.get_xaxis_transform(),
            rotation=90,
            verticalalignment="top",
            horizontalalignment="left",
        )
    axes.set_xlim(0.95, largest * 1.05)
    _plain_numbers(axes.xaxis)
    axes.set_xlabel("coordinates in the mode (alike, slopes 1)")
    axes.set_ylabel(r"variance of each coordinate, in units of $\sigma^2$")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper center",
        title=f"the reference follows, with {_gamma_h(settings)}   ({_FOOT})",
    )
    return figure
