"""Compare variants over seeds: train each run in its own process, then tabulate and plot the results.

A study can be resumed: finished runs are skipped, and interrupted runs continue.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from b2diffurl.algorithm.adaptive import Adaptive
from b2diffurl.algorithm.rollout import Rollout
from b2diffurl.algorithm.schedule import Full
from b2diffurl.algorithm.selection import All
from b2diffurl.config import to_toml
from b2diffurl.errors import UserError
from b2diffurl.reporting.plots import save_reward_curves
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.recipes import emoji_ddpo, emoji_dpo, emoji_dpok, emoji_policy_gradient, emoji_quickstart
from b2diffurl.run.settings import Run

Variants = dict[str, Run]  # by display name; each is trained with every seed
_GRID_ROUNDS = 6
_OBJECTIVES_REWARD_QUERIES = 1536
_SCORES = ("clip_score", "scene_accuracy", "style_entropy", "inception_score")
_TIMES = ("time/rollout_s", "time/reward_s", "time/update_s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One evaluation of a run.

    Attributes:
        reward_queries: images scored by the reward so far.
        seconds: time spent sampling, scoring and updating so far, without evaluation.
        scores: evaluation scores by metric name.
    """

    reward_queries: int
    seconds: float
    scores: dict[str, float]


def _quickstart() -> Variants:
    return {"emoji-quickstart": emoji_quickstart()}


def _b2_against_ddpo() -> Variants:
    """B² and DDPO, each with its best settings."""
    return _with_evaluations({"B²": emoji_quickstart(), "DDPO": emoji_ddpo()}, every=3)


def _grid() -> Variants:
    """A grid of learning rates and optimizer steps per round for both methods, over few rounds."""
    variants: Variants = {}
    for name, run in (("B²", emoji_quickstart()), ("DDPO", emoji_ddpo())):
        for learning_rate in (1e-3, 2e-3):
            for num_minibatches in (6, 12):
                changed = replace(run.optimization, learning_rate=learning_rate, num_minibatches=num_minibatches)
                variants[f"{name} lr {learning_rate:g}, {num_minibatches} steps"] = replace(
                    run, optimization=changed, num_rounds=_GRID_ROUNDS
                )
    return _with_evaluations(variants, every=6)


def _objectives() -> Variants:
    """Four objectives: vanilla, with backward training, and with branches as well; equal reward queries."""
    variants: Variants = {}
    for name, make in (
        ("DDPO", emoji_quickstart), ("PG", emoji_policy_gradient), ("DPOK", emoji_dpok), ("DPO", emoji_dpo),
    ):  # fmt: skip
        run = make()
        run = replace(run, num_rounds=_OBJECTIVES_REWARD_QUERIES // run.reward_queries_per_round)
        unbranched = replace(run, rollout=Rollout(num_branches=1), selection=All())
        variants[f"{name} vanilla"] = replace(unbranched, schedule=Full())
        variants[f"{name} backward"] = unbranched
        variants[f"{name} B²"] = run
    # The policy gradient has many small rounds, so an adaptive schedule can make a difference.
    variants["PG B² adaptive"] = replace(variants["PG B²"], schedule=Adaptive(window=4))
    return variants


def _with_evaluations(variants: Variants, *, every: int) -> Variants:
    return {
        name: replace(run, logging=replace(run.logging, evaluate_every_rounds=every)) for name, run in variants.items()
    }


STUDIES: dict[str, Callable[[], Variants]] = {
    "quickstart": _quickstart,
    "b2-against-ddpo": _b2_against_ddpo,
    "b2-against-ddpo-grid": _grid,
    "objectives": _objectives,
}


def run_study(
    name: str, *, output: Path, seeds: Sequence[int], num_jobs: int, on_message: Callable[[str], None] = lambda _: None
) -> str:
    """Train all unfinished runs of a study, write table.md and curves.png, and return the table.

    Args:
        name: one of `STUDIES`.
        output: directory of the study; the runs are in VARIANT/seedN.
        seeds: seeds of every variant.
        num_jobs: number of runs trained at the same time; they share the processor's threads.
        on_message: called with one line when a run starts or ends.

    Raises:
        UserError: there is no such study.
    """
    if name not in STUDIES:
        raise UserError(f"study is {name!r}; give one of: {', '.join(STUDIES)}.")
    variants = STUDIES[name]()
    with ThreadPoolExecutor(num_jobs) as pool:
        futures = [
            pool.submit(_train, replace(run, seed=seed), _directory(output, variant, seed), num_jobs, on_message)
            for seed in seeds
            for variant, run in variants.items()
        ]
        for future in futures:
            future.result()
    directories = {variant: [_directory(output, variant, seed) for seed in seeds] for variant in variants}
    table = f"{_table(directories)}\n{_table_by_seed(directories, seeds)}"
    (output / "table.md").write_text(table, encoding="utf-8")
    metrics = {variant: [run.read_metrics() for run in runs] for variant, runs in directories.items()}
    curves = {variant: [rounds for rounds in seeds if rounds] for variant, seeds in metrics.items()}
    save_reward_curves(curves, output / "curves.png")
    return table


def _directory(output: Path, variant: str, seed: int) -> RunDirectory:
    name = variant.replace("²", "2").replace(", ", "-").replace(" ", "-").lower()
    return RunDirectory(output / name / f"seed{seed}")


def _train(run: Run, directory: RunDirectory, num_jobs: int, on_message: Callable[[str], None]) -> None:
    if directory.is_ended():
        return
    folder = directory.path
    on_message(f"{folder}: started")
    settings = folder.with_name(f"{folder.name}.toml")
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(to_toml(run), encoding="utf-8")
    command = [sys.executable, "-m", "b2diffurl.cli", "train", str(settings), "--output", str(folder)]
    if directory.is_started():
        command.append("--resume")
    threads = max(1, (os.cpu_count() or 1) // num_jobs)
    with folder.with_name(f"{folder.name}.log").open("a", encoding="utf-8") as log:
        code = subprocess.run(
            command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=False
        ).returncode
    on_message(f"{folder}: {'done' if code == 0 else f'ended with code {code}, see {log.name}'}")


def evaluation_points(directory: RunDirectory) -> list[Point]:
    """Return every evaluation of a run, beginning with the one before training; empty if there is none."""
    evaluation = directory.read_evaluation()
    if evaluation is None:
        return []
    points = [Point(reward_queries=0, seconds=0.0, scores=evaluation.before)]
    seconds, queries = 0.0, 0
    for metrics in directory.read_metrics():
        seconds += sum(metrics[name] for name in _TIMES)
        queries = metrics["reward_queries"]
        scores = {name: metrics[f"evaluation/{name}"] for name in _SCORES if f"evaluation/{name}" in metrics}
        if scores:
            points.append(Point(reward_queries=queries, seconds=seconds, scores=scores))
    if evaluation.after and points[-1].reward_queries < queries:
        points.append(Point(reward_queries=queries, seconds=seconds, scores=evaluation.after))
    return points


def _table(directories: dict[str, list[RunDirectory]]) -> str:
    """Return one row per variant and evaluated round: mean over seeds, and half their range."""
    rows = [["variant", "queries", "seconds", *_SCORES, "seeds"]]
    for variant, seeds in directories.items():
        points = [point for directory in seeds for point in evaluation_points(directory)]
        for queries in sorted({point.reward_queries for point in points}):
            same = [point for point in points if point.reward_queries == queries]
            scores = [_mean_and_spread([point.scores[name] for point in same]) for name in _SCORES]
            seconds = f"{np.mean([point.seconds for point in same]):.0f}"
            rows.append([variant, f"{queries:,}", seconds, *scores, str(len(same))])
        stops = [stop for directory in seeds if (stop := directory.read_stop())]
        rows += [[variant, "stopped", "", stop.cause, "", "", "", ""] for stop in stops]
    return _markdown(rows)


def _table_by_seed(directories: dict[str, list[RunDirectory]], seeds: Sequence[int]) -> str:
    """Return one row per finished run: scores before -> after training."""
    rows = [["variant", "seed", *_SCORES]]
    for variant, runs in directories.items():
        for seed, directory in zip(seeds, runs, strict=True):
            evaluation = directory.read_evaluation()
            if evaluation and evaluation.after:
                before, after = evaluation.before, evaluation.after
                scores = [f"{before[name]:.3f} -> {after[name]:.3f}" for name in _SCORES]
                rows.append([variant, str(seed), *scores])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _mean_and_spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"
