"""Reward curves: mean reward of the training pictures by reward queries, as a picture file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Curve = tuple[list[int], list[float]]
_WINDOW_QUERIES = 192  # small rounds are noisy: what is drawn is the mean over at least so many pictures


def reward_curve(metrics_file: Path) -> Curve:
    """Reward queries and mean reward, rounds pooled until they hold enough pictures to tell something.

    Pictures that are left over are dropped, unless there are no others.
    """
    queries: list[int] = []
    means: list[float] = []
    pooled: list[tuple[int, float]] = []
    before = 0
    for line in metrics_file.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        pooled.append((told["reward_queries"] - before, told["reward/mean"]))
        before = told["reward_queries"]
        if sum(part for part, _ in pooled) >= _WINDOW_QUERIES:
            queries.append(before)
            means.append(_mean(pooled))
            pooled = []
    if pooled and not queries:
        return [before], [_mean(pooled)]
    return queries, means


def _mean(pooled: Sequence[tuple[int, float]]) -> float:
    return sum(num * mean for num, mean in pooled) / sum(num for num, _ in pooled)


def draw_curves(arms: Mapping[str, Sequence[Path]], file: Path) -> None:
    """Draw every arm's mean over its seeds, the range between them shaded; arms share a panel by their first word.

    A single arm has its name as title alone.

    Args:
        arms: metrics files of every arm, a seed each.
        file: the picture to write.
    """
    from matplotlib.figure import Figure  # takes a second, and only a few commands draw

    panels = list(dict.fromkeys(name.split(" ")[0] for name in arms))
    figure = Figure(figsize=(3.2 * len(panels), 3.2), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axes, panel in zip(grid[0], panels, strict=True):
        for name, files in arms.items():
            if name.split(" ")[0] != panel or not files:
                continue
            curves = [reward_curve(found) for found in files]
            length = min(len(queries) for queries, _ in curves)
            means = np.array([values[:length] for _, values in curves])
            queries = curves[0][0][:length]
            label = name.removeprefix(panel).strip() or name
            (line,) = axes.plot(queries, means.mean(axis=0), label=label, marker="o" if len(queries) == 1 else "")
            axes.fill_between(queries, means.min(axis=0), means.max(axis=0), color=line.get_color(), alpha=0.15)
        axes.set_title(panel)
        axes.set_xlabel("reward queries")
        if len(arms) > 1:
            axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("mean reward of training pictures")
    figure.savefig(file, dpi=120)
