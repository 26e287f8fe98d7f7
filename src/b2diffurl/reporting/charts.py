"""Charts as inline SVG that follows the page's colours, in light and dark mode.

Matplotlib writes fixed colours. Each chart is therefore drawn in stand-in colours that occur nowhere else, and the SVG
text then gets the page's CSS variables in their place. No pyplot: the caller's figures and backend stay as they are.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from b2diffurl.reporting.metric_docs import reward_part, score_of
from b2diffurl.reporting.run_reader import RunFolder
from b2diffurl.reporting.text import format_duration, format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID, FIRST, SECOND, THIRD = "#010203", "#020304", "#030405", "#040506", "#050607"
CSS_COLORS = {
    INK: "var(--muted)",
    GRID: "var(--line)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
}
WIDE, NARROW, SMALL = (670, 240), (320, 240), (225, 165)
"""Chart sizes in CSS pixels: the place they get on a desktop page."""

PHASES = (("time/rollout_s", "rollout", FIRST), ("time/reward_s", "reward", SECOND), ("time/update_s", "update", THIRD))
MAX_MARKED_POINTS = 30

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 5),
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One chart, ready for the page.

    Attributes:
        title: what is drawn.
        latest: the last value, as text.
        caption: axes and marks in one line.
        svg: the chart for its place on a desktop page.
        svg_phone: the same for a narrow screen, or "" where one serves both.
    """

    title: str
    latest: str
    caption: str
    svg: str
    svg_phone: str = ""


def reward_chart(run: RunFolder) -> Chart | None:
    """Draw the mean reward over reward queries, with a band of one standard deviation over the images."""
    points = _points(run, "reward/mean")
    if not points:
        return None
    queries, stds = run.series("reward_queries"), run.series("reward/std")
    by_queries = all(math.isfinite(queries[index]) for index in points)
    axis = queries if by_queries else [float(number) for number in run.round_numbers()]
    xs, means = [axis[index] for index in points], list(points.values())
    spreads = [0.0 if math.isnan(stds[index]) else stds[index] for index in points]

    def plot(axes: "Axes") -> None:
        if any(spreads):
            lows = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
            highs = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
            axes.fill_between(xs, lows, highs, color=FIRST, alpha=0.18, linewidth=0)
            if len(xs) == 1:
                axes.vlines(xs, lows, highs, color=FIRST, alpha=0.4)
        _plot_line(axes, xs, means)
        axes.set_xlabel("reward queries" if by_queries else "round")
        _count_axis(axes.xaxis)

    return Chart(
        title="Reward",
        latest=format_number(means[-1]),
        caption="Mean over the round's images; band: ± one standard deviation over them.",
        svg=_draw("reward", plot, size=WIDE),
        svg_phone=_draw("reward-phone", plot, size=NARROW),
    )


def interval_chart(run: RunFolder) -> Chart | None:
    """Draw the interval's length by round, below the sampler's number of steps."""
    points = _points(run, "interval/length")
    if not points:
        return None
    num_steps = run.num_inference_steps()

    def plot(axes: "Axes") -> None:
        _plot_stairs(axes, run, points)
        if num_steps:
            axes.axhline(num_steps, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylim(0, 1.1 * max([*points.values(), num_steps or 1]))
        _count_axis(axes.yaxis)

    return Chart(
        title="Interval length",
        latest=format_number(list(points.values())[-1]),
        caption="Denoising steps trained" + ("; dashed: all there are." if num_steps else "."),
        svg=_draw("interval", plot, size=NARROW),
    )


def selection_chart(run: RunFolder) -> Chart | None:
    """Draw the number of selected trajectories by round."""
    points = _points(run, "selection/num_trajectories")
    if not points:
        return None

    def plot(axes: "Axes") -> None:
        _plot_stairs(axes, run, points)
        axes.set_ylim(0, 1.15 * max(1, *points.values()))
        _count_axis(axes.yaxis)

    return Chart(
        title="Selected trajectories",
        latest=format_number(list(points.values())[-1]),
        caption="By round; 0: no update.",
        svg=_draw("selection", plot, size=SMALL),
    )


def kl_chart(run: RunFolder) -> Chart | None:
    """Draw how far each round's update moved the policy."""
    return _line_chart(run, "policy/kl_to_old", title="KL to old policy", caption="Nats an element, by round.")


def grad_norm_chart(run: RunFolder) -> Chart | None:
    """Draw the gradient norm by round."""
    return _line_chart(run, "policy/grad_norm", title="Gradient norm", caption="Before clipping, by round.")


def score_charts(run: RunFolder) -> list[Chart]:
    """Draw every score of the evaluations on the way, over reward queries; the first point is before training."""
    head = "evaluation/"
    before = run.evaluation.before if run.evaluation else {}
    charts: list[Chart] = []
    for metric in run.metric_names():
        points = _points(run, metric) if metric.startswith(head) else {}
        if not points:
            continue
        name = metric.removeprefix(head)
        score, queries = score_of(name), run.series("reward_queries")
        xs, ys = [queries[index] for index in points], list(points.values())
        if math.isfinite(before.get(name, math.nan)):
            xs, ys = [0.0, *xs], [before[name], *ys]
        title = score.label if score else name
        charts.append(_small_chart(metric, xs, ys, title=title, caption="By reward queries.", x_label="reward queries"))
    return charts


def part_charts(run: RunFolder) -> list[Chart]:
    """Draw the mean of each part of the reward, and of each reward that is only watched, by round."""
    found = [(metric, part) for metric in run.metric_names() if (part := reward_part(metric))]
    charts = [_line_chart(run, metric, title=part, caption="Mean reward, by round.") for metric, part in found]
    return [chart for chart in charts if chart]


def time_chart(run: RunFolder) -> Chart | None:
    """Draw the seconds of each phase of a round, stacked."""
    phases = {label: (run.series(metric), color) for metric, label, color in PHASES if _points(run, metric)}
    if not phases:
        return None
    edges = _edges(run.round_numbers())
    totals = [0.0] * len(run.rounds)
    layers: list[tuple[str, str, list[float], list[float]]] = []
    for label, (seconds, color) in phases.items():
        tops = [total + (0.0 if math.isnan(value) else value) for total, value in zip(totals, seconds, strict=True)]
        layers.append((label, color, totals, tops))
        totals = tops

    def plot(axes: "Axes") -> None:
        for label, color, bottoms, tops in layers:
            axes.stairs(tops, edges, baseline=bottoms, fill=True, color=color, linewidth=0, label=label)
        axes.set_ylim(0, 1.3 * max(totals) or 1)
        axes.set_xlabel("round")
        _count_axis(axes.xaxis)
        axes.legend(ncols=len(layers), loc="upper left", fontsize=9.5, handlelength=0.8, handleheight=0.8,
                    columnspacing=0.9, handletextpad=0.4, borderpad=0, borderaxespad=0.1)  # fmt: skip

    return Chart(
        title="Time per round",
        latest=format_duration(totals[-1]),
        caption="Seconds by phase, stacked.",
        svg=_draw("time", plot, size=SMALL),
    )


def _line_chart(run: RunFolder, metric: str, *, title: str, caption: str) -> Chart | None:
    points = _points(run, metric)
    if not points:
        return None
    rounds = run.round_numbers()
    xs, ys = [float(rounds[index]) for index in points], list(points.values())
    return _small_chart(
        metric, xs, ys, title=title, caption=caption, x_label="round", from_zero=not reward_part(metric)
    )


def _small_chart(
    metric: str, xs: list[float], ys: list[float], *, title: str, caption: str, x_label: str, from_zero: bool = False
) -> Chart:
    def plot(axes: "Axes") -> None:
        _plot_line(axes, xs, ys)
        if from_zero:
            axes.set_ylim(bottom=min(0.0, *ys))
        axes.set_xlabel(x_label)
        _count_axis(axes.xaxis)

    return Chart(
        title=title,
        latest=format_number(ys[-1]),
        caption=caption,
        svg=_draw(re.sub(r"[^\w]+", "-", metric), plot, size=SMALL),
    )


def _points(run: RunFolder, metric: str) -> dict[int, float]:
    """Give a metric's finite values by their place in `run.rounds`."""
    return {index: value for index, value in enumerate(run.series(metric)) if math.isfinite(value)}


def _edges(rounds: Sequence[int]) -> list[float]:
    return [*(number - 0.5 for number in rounds), rounds[-1] + 0.5]


def _plot_line(axes: "Axes", xs: Sequence[float], ys: Sequence[float]) -> None:
    marker = "o" if len(xs) <= MAX_MARKED_POINTS else ""
    axes.plot(xs, ys, color=FIRST, linewidth=2, marker=marker, markersize=3.5, solid_capstyle="round")


def _plot_stairs(axes: "Axes", run: RunFolder, points: dict[int, float]) -> None:
    rounds = run.round_numbers()
    edges = _edges([rounds[index] for index in points])
    values = list(points.values())
    axes.stairs(values, edges, baseline=0, fill=True, color=FIRST, alpha=0.18, linewidth=0)
    axes.stairs(values, edges, baseline=None, color=FIRST, linewidth=2)
    axes.set_xlabel("round")
    _count_axis(axes.xaxis)


def _count_axis(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _draw(name: str, plot: "Callable[[Axes], None]", *, size: tuple[int, int]) -> str:
    # Matplotlib takes a second to import, and only a report needs it.
    import matplotlib
    from matplotlib.figure import Figure

    buffer = StringIO()
    style: Any = STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        axes = figure.subplots()
        axes.margins(x=0.02, y=0.08)
        axes.locator_params(axis="y", nbins=5)
        plot(axes)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline_svg(buffer.getvalue(), name=name)


def _inline_svg(document: str, *, name: str) -> str:
    """Turn an SVG file into an element of the page: no prolog, its own ids, the page's colours."""
    body = document[document.index("<svg") :]
    head, _, rest = body.partition(">")
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box, "matplotlib writes a viewBox"
    rest = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", rest)
    for stand_in, css in CSS_COLORS.items():
        rest = rest.replace(stand_in, css)
    return f'<svg {view_box[0]} aria-hidden="true">{rest.strip()}'
