"""All plots: the charts of the report as inline SVG, and line plots as image files.

The charts follow the page's colors in light and dark mode: each is plotted in placeholder colors, which are then
replaced by CSS variables in the SVG text. Figures are created without pyplot, so its state and backend do not change.
Matplotlib is imported in functions, because it takes half a second to load.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b2diffurl.reporting.metric_docs import reward_term, score_of
from b2diffurl.reporting.text import format_duration, format_number
from b2diffurl.run.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _GRID, _FIRST, _SECOND, _THIRD = "#010203", "#020304", "#030405", "#040506", "#050607"
_LINES = (_FIRST, _SECOND, _THIRD, "#060708", "#070809", "#08090a")
_CSS_VARIABLES = {_INK: "muted", _GRID: "line"} | dict(
    zip(_LINES, ("first", "second", "third", "fourth", "fifth", "sixth"), strict=True)
)
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 3)))
Curve = tuple[str, list[float], list[float]]  # label, horizontal and vertical values
Ends = tuple[float, float, float]  # a value, and the lower and upper end of its interval
_WIDE, _LARGE, _SMALL = (720, 230), (490, 240), (225, 165)  # in CSS pixels, as shown on a desktop page; the SVG scales
_PHASES = {"rollout": _FIRST, "reward": _SECOND, "update": _THIRD}
_MAX_MARKED_POINTS = 30
_WINDOW_QUERIES = 192  # small rounds are noisy: curves show the mean over at least this many images
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "font.size": 10.5, "text.color": _INK,
    "axes.edgecolor": _GRID, "axes.labelcolor": _INK, "axes.labelsize": 10.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": _GRID, "grid.linewidth": 1,
    "axes.formatter.useoffset": False, "axes.formatter.limits": (-3, 5),
    "xtick.color": _GRID, "ytick.color": _GRID, "xtick.labelcolor": _INK, "ytick.labelcolor": _INK,
    "ytick.major.size": 0, "legend.frameon": False,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One chart of the report.

    Attributes:
        title: display name.
        latest: last value as text, or "".
        caption: what is plotted.
        svg: the plot as an SVG element.
        legend: CSS variable and label of each curve, where there are several.
    """

    title: str
    latest: str
    caption: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()


def save_panels(
    panels: Sequence[Callable[["Axes"], None]],
    file: Path,
    *,
    panel_inches: tuple[float, float],
    share_y: bool = False,
    num_rows: int = 1,
    shared_legend: bool = False,
) -> None:
    """Plot panels into an image file, in rows of equal length; each function plots one.

    Args:
        panels: the functions.
        file: image file to write.
        panel_inches: width and height of a panel.
        share_y: whether all panels have the same y axis.
        num_rows: number of rows.
        shared_legend: whether one legend below the panels names each label once.
    """
    from matplotlib.figure import Figure

    width, height = panel_inches
    num_columns = len(panels) // num_rows
    figure = Figure(figsize=(width * num_columns, height * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharey=share_y, squeeze=False)
    for axes, plot in zip(grid.flat, panels, strict=True):
        plot(axes)
    labels = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if shared_legend and labels:
        figure.legend(labels.values(), labels, loc="outside lower center", ncols=num_columns, fontsize=8)
    figure.savefig(file, dpi=120)


def save_reward_curve(rounds: Sequence[Mapping[str, Any]], file: Path, *, title: str) -> None:
    """Plot the mean reward of a run over its reward queries.

    Args:
        rounds: the metrics of each round.
        file: image file to write.
        title: title of the plot.
    """

    def plot(axes: "Axes") -> None:
        queries, rewards = smoothed_rewards(rounds)
        axes.plot(queries, rewards, marker="o" if len(queries) == 1 else "")
        axes.set(title=title, xlabel="reward queries", ylabel="mean training reward")

    save_panels([plot], file, panel_inches=(3.2, 3.2))


def smoothed_rewards(rounds: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    """Return reward queries and mean rewards, averaged over consecutive rounds until a window has enough images.

    The last, incomplete window is dropped unless it is the only one.

    >>> smoothed_rewards([{"reward_queries": 128 * n, "reward/mean": float(n)} for n in (1, 2, 3)])
    ([256], [1.5])
    """
    queries: list[int] = []
    means: list[float] = []
    window: list[tuple[int, float]] = []
    previous = 0
    for index, metrics in enumerate(rounds, start=1):
        window.append((metrics["reward_queries"] - previous, metrics["reward/mean"]))
        previous = metrics["reward_queries"]
        num_images = sum(num for num, _ in window)
        if num_images >= _WINDOW_QUERIES or (index == len(rounds) and not queries):
            queries.append(previous)
            means.append(sum(num * mean for num, mean in window) / num_images)
            window = []
    return queries, means


def save_trade_off(
    curves: Mapping[str, Sequence[tuple[str, Ends, Ends]]], file: Path, *, x_label: str, y_label: str
) -> None:
    """Plot one metric against another along the scale of each adapter, with the intervals of both.

    Args:
        curves: by adapter, the points in order: label, horizontal and vertical value, each with the ends of its
            interval.
        file: image file to write.
        x_label: name of the horizontal metric.
        y_label: name of the vertical metric.
    """

    def plot(axes: "Axes") -> None:
        for name, points in curves.items():
            xs, ys = [x for _, x, _ in points], [y for _, _, y in points]
            errors = [[_half_length(ends) for ends in values] for values in (xs, ys)]
            axes.errorbar([x for x, _, _ in xs], [y for y, _, _ in ys], xerr=errors[0], yerr=errors[1], label=name,
                          marker="o", markersize=4, linewidth=1.5, elinewidth=0.7)  # fmt: skip
            for label, x, y in points:
                axes.annotate(label, (x[0], y[0]), textcoords="offset points", xytext=(5, 5), fontsize=8)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.legend(fontsize=8)

    save_panels([plot], file, panel_inches=(5.2, 4.0))


def _half_length(ends: Ends) -> float:
    half = (ends[2] - ends[1]) / 2
    return half if math.isfinite(half) else 0.0


def together_chart(run: RunRecord) -> Chart | None:
    """Plot reward, judged metrics, held-out ones and watched rewards over reward queries, as changes since the start.

    None if there is only the reward. A reward that rises while a watched one or the held-out prompts fall is visible at
    a glance, whatever their units.
    """
    watched = [str(name) for name in run.settings.get("watch", ())]
    queries = run.series("reward_queries")
    trained = [(queries[index], value) for index, value in _points(run, "reward/mean").items()]
    curves: list[tuple[str, list[tuple[float, float]]]] = [("reward", trained)]
    for name in _main_scores(run):
        score = score_of(name)
        curves.append((score.label if score else name, _score_curve(run, name)))
    for name in watched:
        points = [(queries[index], value) for index, value in _points(run, f"reward/{name}/mean").items()]
        curves.append((f"watched: {name}", points))
    usable = [
        (label, points) for label, points in curves if len(points) > 1 and all(math.isfinite(x) for x, _ in points)
    ][: len(_LINES)]
    if len(usable) < 2:
        return None
    changes = [_relative_curve(label, points) for label, points in usable]
    svg = _svg("together", partial(_plot_curves, curves=changes), size=_WIDE, x_label="reward queries")
    caption = (
        "Change since the start, in % of the first value (of the largest change where that is near 0). All should "
        "rise; a watched reward or a held-out metric that falls while the reward rises is a warning."
    )
    title = "Reward, judge, held-out and watched"
    return Chart(title=title, latest="", caption=caption, svg=svg, legend=_legend(changes))


def _main_scores(run: RunRecord) -> list[str]:
    """Return the alignment metric that decides, and the same on held-out prompts."""
    known = [*(run.evaluation.before if run.evaluation else {}), *(run.evaluation.after if run.evaluation else {})]
    main = next((name for name in ("scene_accuracy", "clip_score") if name in known), None)
    return [name for name in (main, f"held_out_{main}") if main and name in known]


def _score_curve(run: RunRecord, name: str) -> list[tuple[float, float]]:
    """Return an evaluation metric over reward queries, before and after training included."""
    before, after = (run.evaluation.before, run.evaluation.after) if run.evaluation else ({}, {})
    queries = run.series("reward_queries")
    curve = [(queries[index], value) for index, value in _points(run, f"evaluation/{name}").items()]
    if math.isfinite(before.get(name, math.nan)):
        curve.insert(0, (0.0, before[name]))
    if math.isfinite(after.get(name, math.nan)) and queries and (not curve or curve[-1][0] < queries[-1]):
        curve.append((queries[-1], after[name]))
    return curve


def _relative_curve(label: str, points: Sequence[tuple[float, float]]) -> Curve:
    values = [value for _, value in points]
    spread = max(values) - min(values)
    unit = abs(values[0]) if abs(values[0]) >= 0.1 * spread else spread
    ends = f"{format_number(values[0])} → {format_number(values[-1])}"
    changes = [100 * (value - values[0]) / (unit or 1.0) for value in values]
    return f"{label}  {ends}", [x for x, _ in points], changes


def _plot_curves(axes: "Axes", *, curves: Sequence[Curve]) -> None:
    """Plot curves that differ in color and in dashes; the page has their legend."""
    for (_, xs, ys), color, dashes in zip(curves, _LINES, _DASHES, strict=False):
        marker = "o" if len(xs) <= _MAX_MARKED_POINTS else ""
        axes.plot(xs, ys, color=color, linestyle=dashes, linewidth=2, marker=marker, markersize=3.5)


def _legend(curves: Sequence[Curve]) -> tuple[tuple[str, str], ...]:
    return tuple((_CSS_VARIABLES[color], label) for (label, _, _), color in zip(curves, _LINES, strict=False))


def overlay_chart(title: str, curves: Sequence[Curve], *, caption: str) -> Chart:
    """Plot the curves of several runs over reward queries.

    Args:
        title: title of the chart, also its name.
        curves: one per run, at most six.
        caption: what is plotted.
    """
    svg = _svg(f"overlay-{title}", partial(_plot_curves, curves=curves), size=_WIDE, x_label="reward queries")
    return Chart(title=title, latest="", caption=caption, svg=svg, legend=_legend(curves))


def reward_curve(run: RunRecord) -> tuple[list[float], list[float]]:
    """Return reward queries and mean rewards of a run."""
    queries = run.series("reward_queries")
    points = {i: value for i, value in _points(run, "reward/mean").items() if math.isfinite(queries[i])}
    return [queries[index] for index in points], list(points.values())


def large_charts(run: RunRecord) -> list[Chart]:
    """Plot the reward and the interval length."""
    num_steps = run.num_inference_steps()
    caption = "Trained denoising steps" + ("; dashed: all steps." if num_steps else ".")
    interval = _stairs_chart(run, "interval/length", "Interval length", caption, size=_LARGE, maximum=num_steps)
    return [chart for chart in (_reward_chart(run), interval) if chart]


def small_charts(run: RunRecord) -> list[Chart]:
    """Plot the selected trajectories, the size of the updates and the time per round."""
    charts = (
        _stairs_chart(run, "selection/num_trajectories", "Selected trajectories", "By round; 0: no update."),
        _line_chart(run, "policy/kl_to_old", "KL to old policy", "Nats per element, by round.", from_zero=True),
        _line_chart(run, "policy/grad_norm", "Gradient norm", "Before clipping, by round.", from_zero=True),
        _time_chart(run),
    )
    return [chart for chart in charts if chart]


def score_charts(run: RunRecord) -> list[Chart]:
    """Plot every score evaluated during training over reward queries, with those before and after training."""
    charts: list[Chart] = []
    for metric in run.metric_names():
        name = metric.removeprefix("evaluation/")
        if name == metric or not _points(run, metric):
            continue
        curve = _score_curve(run, name)
        score = score_of(name)
        plot = partial(_plot_line, xs=[x for x, _ in curve], ys=[y for _, y in curve])
        title, latest = score.label if score else name, format_number(curve[-1][1])
        svg = _svg(metric, plot, x_label="reward queries")
        charts.append(Chart(title=title, latest=latest, caption="By reward queries.", svg=svg))
    return charts


def term_charts(run: RunRecord) -> list[Chart]:
    """Plot the mean of each reward term and of each watched reward by round."""
    terms = [(metric, term) for metric in run.metric_names() if (term := reward_term(metric))]
    charts = [_line_chart(run, metric, term, "Mean reward, by round.") for metric, term in terms]
    return [chart for chart in charts if chart]


def _reward_chart(run: RunRecord) -> Chart | None:
    points, queries, stds = _points(run, "reward/mean"), run.series("reward_queries"), run.series("reward/std")
    if not points:
        return None
    has_queries = all(math.isfinite(queries[index]) for index in points)
    axis = queries if has_queries else [float(number) for number in run.round_numbers()]
    xs, means = [axis[index] for index in points], list(points.values())
    lows = [mean - _zero_if_nan(stds[index]) for index, mean in points.items()]
    highs = [mean + _zero_if_nan(stds[index]) for index, mean in points.items()]

    def plot(axes: "Axes") -> None:
        axes.fill_between(xs, lows, highs, color=_FIRST, alpha=0.18, linewidth=0)
        if len(xs) == 1:
            axes.vlines(xs, lows, highs, color=_FIRST, alpha=0.4)
        _plot_line(axes, xs=xs, ys=means)

    svg = _svg("reward", plot, size=_LARGE, x_label="reward queries" if has_queries else "round")
    caption = "Mean over the round's images; band: ± one standard deviation over them."
    return Chart(title="Reward", latest=format_number(means[-1]), caption=caption, svg=svg)


def _time_chart(run: RunRecord) -> Chart | None:
    phases = [phase for phase in _PHASES if _points(run, f"time/{phase}_s")]
    if not phases:
        return None
    edges, totals = _edges(run.round_numbers()), [0.0] * len(run.rounds)
    layers: list[tuple[str, list[float], list[float]]] = []
    for phase in phases:
        seconds = map(_zero_if_nan, run.series(f"time/{phase}_s"))
        bottoms, totals = totals, [total + value for total, value in zip(totals, seconds, strict=True)]
        layers.append((phase, bottoms, totals))

    def plot(axes: "Axes") -> None:
        for phase, bottoms, tops in layers:
            axes.stairs(tops, edges, baseline=bottoms, fill=True, color=_PHASES[phase], linewidth=0, label=phase)
        axes.set_ylim(0, 1.3 * max(totals) or 1)
        axes.legend(ncols=len(layers), loc="upper left", fontsize=9.5, handlelength=0.8, handleheight=0.8,
                    columnspacing=0.9, handletextpad=0.4, borderpad=0, borderaxespad=0.1)  # fmt: skip

    latest, caption = format_duration(totals[-1]), "Seconds by phase, stacked."
    return Chart(title="Time per round", latest=latest, caption=caption, svg=_svg("time", plot))


def _stairs_chart(
    run: RunRecord, metric: str, title: str, caption: str, *, size: tuple[int, int] = _SMALL, maximum: int | None = None
) -> Chart | None:
    """Plot a count by round; `maximum` is shown as a dashed line."""
    points, rounds = _points(run, metric), run.round_numbers()
    if not points:
        return None
    values, edges = list(points.values()), _edges([rounds[index] for index in points])

    def plot(axes: "Axes") -> None:
        axes.stairs(values, edges, baseline=0, fill=True, color=_FIRST, alpha=0.18, linewidth=0)
        axes.stairs(values, edges, baseline=None, color=_FIRST, linewidth=2)
        if maximum:
            axes.axhline(maximum, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylim(0, 1.15 * max(*values, maximum or 1))
        _format_counts(axes.yaxis)

    return Chart(title=title, latest=format_number(values[-1]), caption=caption, svg=_svg(metric, plot, size=size))


def _line_chart(run: RunRecord, metric: str, title: str, caption: str, *, from_zero: bool = False) -> Chart | None:
    points, rounds = _points(run, metric), run.round_numbers()
    if not points:
        return None
    xs, ys = [float(rounds[index]) for index in points], list(points.values())
    svg = _svg(metric, partial(_plot_line, xs=xs, ys=ys, from_zero=from_zero))
    return Chart(title=title, latest=format_number(ys[-1]), caption=caption, svg=svg)


def _points(run: RunRecord, metric: str) -> dict[int, float]:
    """Return the finite values of a metric by their index in `run.rounds`."""
    return {index: value for index, value in enumerate(run.series(metric)) if math.isfinite(value)}


def _zero_if_nan(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _edges(rounds: Sequence[int]) -> list[float]:
    return [*(number - 0.5 for number in rounds), rounds[-1] + 0.5]


def _plot_line(axes: "Axes", *, xs: Sequence[float], ys: Sequence[float], from_zero: bool = False) -> None:
    marker = "o" if len(xs) <= _MAX_MARKED_POINTS else ""
    axes.plot(xs, ys, color=_FIRST, linewidth=2, marker=marker, markersize=3.5, solid_capstyle="round")
    if from_zero:
        axes.set_ylim(bottom=min(0.0, *ys))


def _format_counts(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _svg(metric: str, plot: Callable[["Axes"], None], *, size: tuple[int, int] = _SMALL, x_label: str = "round") -> str:
    """Plot into an SVG element whose ids begin with the metric's name and whose colors are CSS variables."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = StringIO()
    style: Any = _STYLE | {"svg.hashsalt": metric}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        axes = figure.subplots()
        axes.margins(x=0.02, y=0.08)
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel(x_label)
        plot(axes)
        _format_counts(axes.xaxis)
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _inline(buffer.getvalue(), prefix=re.sub(r"[^\w]+", "-", metric))


def _inline(document: str, *, prefix: str) -> str:
    head, _, body = document[document.index("<svg") :].partition(">")
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box, "matplotlib writes a viewBox"
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    for placeholder, variable in _CSS_VARIABLES.items():
        body = body.replace(placeholder, f"var(--{variable})")
    return f'<svg {view_box[0]} aria-hidden="true">{body.strip()}'
