"""A study's results as files: table.md, cells.csv and curves.png."""

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from b2diffurl.analysis.study.compare import Decision, StudyResults, summary
from b2diffurl.analysis.study.results import Point
from b2diffurl.analysis.study.spec import BASE, StudyFile
from b2diffurl.evaluation.statistics import Interval, paired_difference
from b2diffurl.reporting.plots import save_panels
from b2diffurl.run import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COSTS = ("reward_queries", "trunks", "network_evaluations", "seconds")
_LABELS = {"trunks": "trunks, as public code counts"}
_MAX_DIFFERENCE_METRICS = 4
_Curve = Sequence[tuple[float | None, float | None]]


def write_tables(study: StudyFile, comparison: StudyResults, folder: Path, *, command: str) -> str:
    """Write table.md, cells.csv and curves.png, and return the text of table.md.

    Args:
        study: the study.
        comparison: its results.
        folder: folder of the files.
        command: the command that makes them, for the text.
    """
    files.make_directory(folder)
    text = study_text(study, comparison, command=command)
    files.write_text(folder / "table.md", text)
    files.write_text(folder / "cells.csv", _csv(comparison))
    if comparison.metrics():
        _save_curves(study, comparison, folder / "curves.png")
    return text


def study_text(study: StudyFile, comparison: StudyResults, *, command: str) -> str:
    """Return the study's page: the tables by condition, paired differences, claims, what the paper reports."""
    commits = sorted({result.commit for result in comparison.results.values() if result.commit})
    machines = sorted({result.environment.get("processor", "") for result in comparison.results.values()} - {""})
    lines = [f"# {study.title}", "", study.text, "", f"`{command}`", ""]
    along_the_run = f", {study.interim_images:,} along the run" if study.evaluate_every_images else ""
    lines += [
        "Mean over seeds ± half the width of the 95 % interval (Student's t). "
        f"{study.evaluation_images:,} images per evaluation before and after training{along_the_run}.",
        "",
        f"Commit: {', '.join(commits) or 'unknown'}. Processor: {', '.join(machines) or 'unknown'}.",
        "",
    ]
    if comparison.num_missing:
        lines += [f"**Incomplete: {comparison.num_missing} of the runs have no result yet.**", ""]
    for condition in comparison.conditions:
        lines += [f"## {condition}", ""] if condition else []
        lines += [*_arms_table(comparison, condition), ""]
        lines += [*_differences(study, comparison, condition), ""]
        lines += [*_rounds_table(study, comparison, condition), ""] if study.round_metrics else []
    stopped = [(key, result) for key, result in comparison.results.items() if result.stopped]
    lines += [f"- stopped: {' '.join(map(str, key)).strip()}, {result.stopped}" for key, result in stopped]
    if study.claims:
        decisions = [decision for claim in study.claims for decision in comparison.decide(claim)]
        lines += ["", "## Claims", "", *claims_table(decisions), ""]
    if study.published:
        rows = [[item.condition, item.arm, item.metric, f"{item.value:g}", item.source] for item in study.published]
        lines += ["## Published values", "", *_markdown([["", "arm", "metric", "value", "source"], *rows]), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _arms_table(comparison: StudyResults, condition: str) -> list[str]:
    metrics = comparison.metrics(condition)
    rows = [["arm", "seeds", "images", "trunks", "network evaluations", "seconds", *metrics]]
    for arm in (BASE, *comparison.arms):
        seeds = comparison.seeds(condition, arm)
        if not seeds:
            continue
        last = [points[-1] for points in seeds.values()]
        costs = [f"{_mean(_column(last, name)):,.0f}" for name in _COSTS]
        rows.append([arm, str(len(seeds)), *costs, *(summary(_column(last, name), _number) for name in metrics)])
    return _markdown(rows) if len(rows) > 1 else ["No results yet."]


def _differences(study: StudyFile, comparison: StudyResults, condition: str) -> list[str]:
    baseline = study.baseline or comparison.arms[0]
    metrics = comparison.metrics(condition)[:_MAX_DIFFERENCE_METRICS]
    rows = [[f"minus {baseline}, paired by seed", "seeds", *metrics]]
    for arm in comparison.arms:
        pairs = comparison.pairs(condition, arm, baseline)
        if arm == baseline or not pairs:
            continue
        ends = [(ours[-1], other[-1]) for ours, other in pairs]
        cells = [_difference([(ours.value(name), other.value(name)) for ours, other in ends]) for name in metrics]
        rows.append([arm, str(len(pairs)), *cells])
    return _markdown(rows) if len(rows) > 1 else []


def _rounds_table(study: StudyFile, comparison: StudyResults, condition: str) -> list[str]:
    """Return the metrics of rounds at the first and at the last round, and the difference, paired by seed."""
    places = ("first round", "last round", "last minus first")
    rows = [["round metrics", "seeds", *(f"{name}, {place}" for name in study.round_metrics for place in places)]]
    for arm in comparison.arms:
        if not comparison.seeds(condition, arm):
            continue
        by_metric = [list(comparison.rounds(condition, arm, name).values()) for name in study.round_metrics]
        cells: list[str] = []
        for runs in by_metric:
            ends = [(rounds[0][1], rounds[-1][1]) for rounds in runs]
            cells += [summary([first for first, _ in ends], _number), summary([last for _, last in ends], _number)]
            cells.append(_difference([(last, first) for first, last in ends]))
        rows.append([arm, str(max(map(len, by_metric))), *cells])
    return _markdown(rows) if len(rows) > 1 else []


def claims_table(decisions: Sequence[Decision]) -> list[str]:
    """Return one row per claim that has data, and one line that counts the others, as lines of Markdown."""
    rows = [["claim", "measured", "bound", "seeds", "verdict"]]
    num_without = sum(decision.interval is None for decision in decisions)
    for decision in decisions:
        if decision.interval is None:
            continue
        claim = decision.claim
        place = "".join(f" at {name} {value:g}" for name, value in claim.at.items())
        place += f" at the final {claim.reaches} of {decision.against}" if claim.reaches else ""
        sign = "-" if claim.kind == "difference" else "/"
        bound = f"at least {claim.at_least:g}" if claim.at_least > float("-inf") else f"at most {claim.at_most:g}"
        what = f"{claim.metric}{place}: {decision.arm} {sign} {decision.against}"
        measured, verdict = _interval(decision.interval), f"**{decision.verdict}**"
        text = f"{decision.condition}: {claim.text}" if decision.condition else claim.text
        rows.append([f"{text} ({what})", measured, bound, str(decision.num_seeds), verdict])
    lines = _markdown(rows) if len(rows) > 1 else []
    if num_without:
        lines += ["", f"Claims without data, because runs are missing or do not reach the value: {num_without}."]
    return lines


def _csv(comparison: StudyResults) -> str:
    """Return one line per evaluation."""
    metrics = comparison.metrics()
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["condition", "arm", "seed", *_COSTS, "images", *metrics])
    for condition in comparison.conditions:
        for arm in (BASE, *comparison.arms):
            for seed, points in sorted(comparison.seeds(condition, arm).items()):
                for point in points:
                    costs = [point.value(name) for name in _COSTS]
                    scores = [point.scores.get(name, "") for name in metrics]
                    writer.writerow([condition, arm, seed, *costs, point.num_images, *scores])
    return content.getvalue()


def _save_curves(study: StudyFile, comparison: StudyResults, file: Path) -> None:
    """Plot metrics over images scored, alignment over trunks and network evaluations, diversity over alignment.

    Then the metrics of rounds.

    A row per condition that has results; the band is the range of the seeds.
    """
    more: list[tuple[str, str]] = []
    if {"scene_accuracy", "style_entropy"} <= set(comparison.metrics()):
        more = [
            *((x, "scene_accuracy") for x in ("trunks", "network_evaluations")),
            ("scene_accuracy", "style_entropy"),
        ]
    metrics = {name: found for name in comparison.conditions if (found := comparison.metrics(name))}
    length = min(3, *map(len, metrics.values()))  # rows are equally long
    panels: list[Callable[[Axes], None]] = []
    for condition, names in metrics.items():
        pairs = [*(("reward_queries", name) for name in names[:length]), *more]
        panels += [partial(_plot, comparison=comparison, condition=condition, x=x, y=y) for x, y in pairs]
        panels += [
            partial(_plot_rounds, comparison=comparison, condition=condition, metric=name)
            for name in study.round_metrics
        ]
    save_panels(panels, file, panel_inches=(3.6, 3.4), num_rows=len(metrics), shared_legend=True)


def _plot(axes: "Axes", *, comparison: StudyResults, condition: str, x: str, y: str) -> None:
    for number, arm in enumerate(comparison.arms):
        runs = comparison.seeds(condition, arm).values()
        curves = [[(point.value(x), point.value(y)) for point in points] for points in runs]
        _plot_arm(axes, curves, label=arm, color=f"C{number}", has_band=x in _COSTS)
    _name_axes(axes, x, y, title=condition)


def _plot_rounds(axes: "Axes", *, comparison: StudyResults, condition: str, metric: str) -> None:
    for number, arm in enumerate(comparison.arms):
        runs = comparison.rounds(condition, arm, metric).values()
        curves = [[(float(queries), value) for queries, value in rounds] for rounds in runs]
        _plot_arm(axes, curves, label=arm, color=f"C{number}", has_band=True)
    _name_axes(axes, "reward_queries", metric, title=condition)


def _plot_arm(axes: "Axes", curves: Sequence[_Curve], *, label: str, color: str, has_band: bool) -> None:
    """Plot the mean over seeds, up to the end of the shortest curve; an arm has one color in all panels."""
    by_point = [pairs for pairs in zip(*curves, strict=False) if any(y is not None for _, y in pairs)]
    xs, ys = [[_mean([pair[axis] for pair in pairs]) for pairs in by_point] for axis in (0, 1)]
    if xs:
        axes.plot(xs, ys, marker="o", markersize=3, label=label, color=color)
    if xs and has_band:
        known = [[y for _, y in pairs if y is not None] for pairs in by_point]
        axes.fill_between(xs, [*map(min, known)], [*map(max, known)], color=color, alpha=0.12)


def _name_axes(axes: "Axes", x: str, y: str, *, title: str) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set(xlabel=_LABELS.get(x, x.replace("_", " ")), ylabel=y.replace("_", " "), title=title)
    if x in _COSTS:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k


def _column(points: Sequence[Point], name: str) -> list[float | None]:
    return [point.value(name) for point in points]


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / max(1, len(known))


def _number(value: float) -> str:
    return f"{value:.3f}"


def _difference(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    """Return the mean of the differences with its interval, over the pairs that are known, as text."""
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return _interval(paired_difference([a for a, _ in known], [b for _, b in known])) if known else "-"


def _interval(interval: Interval) -> str:
    if interval.low == -float("inf") or interval.high == float("inf"):
        return f"{interval.mean:+.3f}"
    return f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return ["| " + " | ".join(line) + " |" for line in lines]
