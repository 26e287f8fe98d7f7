"""The text of a comparison: metrics with intervals and differences, curves along the adapter's scale, worst prompts."""

import math
from collections.abc import Sequence

from b2diffurl.analysis.compare import AdapterComparison, Evaluated
from b2diffurl.evaluation.statistics import Interval
from b2diffurl.reporting.text import MISSING


def metric_lines(comparison: AdapterComparison, metrics: Sequence[str]) -> list[str]:
    """Give one table per metric: a row per variant, "*" where the interval of the difference excludes 0."""
    rows: list[tuple[str, ...]] = []
    for name in metrics:
        rows += [(), (name, "value", "interval", "difference", "interval", "")]
        for each in comparison.evaluated:
            value, difference = each.metrics[name], each.differences.get(name)
            cells = _cells(difference, sign="+") if difference else ("", "")
            mark = "*" if difference and difference.excludes_zero else ""
            rows.append((f"  {each.variant.label}", *_cells(value), *cells, mark))
    return _aligned(rows)


def curve_lines(comparison: AdapterComparison, metrics: Sequence[str]) -> list[str]:
    """Give the metrics along the scale of each adapter."""
    rows: list[tuple[str, ...]] = [("adapter", "scale", *metrics)]
    for adapter, points in comparison.curves().items():
        rows += [
            (adapter, f"{point.variant.scale:g}", *(f"{point.metrics[name].mean:.3f}" for name in metrics))
            for point in points
        ]
    return ["", *_aligned(rows)]


def worst_lines(comparison: AdapterComparison, metric: str, *, num: int) -> list[str]:
    """Give the prompts with the lowest values of a metric, by variant."""
    worst = comparison.worst(metric, num=num)
    rows: list[tuple[str, ...]] = [(f"lowest {metric}", "value", "prompt")]
    rows += [row for each in comparison.evaluated for row in _worst_rows(each, metric, worst[each.variant.label])]
    return ["", *_aligned(rows)]


def _worst_rows(each: Evaluated, metric: str, prompts: Sequence[str]) -> list[tuple[str, ...]]:
    values = each.by_prompt[metric]
    labels = [f"  {each.variant.label}", *[""] * (len(prompts) - 1)]
    return [(label, f"{values[prompt]:.3f}", prompt) for label, prompt in zip(labels, prompts, strict=True)]


def _cells(interval: Interval, *, sign: str = "") -> tuple[str, str]:
    if not math.isfinite(interval.low):
        return f"{interval.mean:{sign}.3f}", MISSING
    return f"{interval.mean:{sign}.3f}", f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Pad the cells of each column to its longest."""
    widths = [max(len(row[column]) for row in rows if len(row) > column) for column in range(max(map(len, rows)))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
