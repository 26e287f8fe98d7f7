"""Compare arms over seeds: train every run in a process of its own, then set what they reached side by side.

A study is resumable: a run that is finished is not done again, one that was cut off goes on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from b2diffurl.algorithm.adaptive import Adaptive
from b2diffurl.algorithm.schedule import Full
from b2diffurl.algorithm.selection import All
from b2diffurl.config import to_toml
from b2diffurl.errors import UserError
from b2diffurl.reporting.plots import draw_curves
from b2diffurl.run.recipes import emoji_ddpo, emoji_dpo, emoji_dpok, emoji_policy_gradient, emoji_quickstart
from b2diffurl.run.settings import Branching, Run

Arms = dict[str, Run]  # by name; each is trained with every seed
_GRID_ROUNDS = 6
_OBJECTIVES_QUERIES = 1536
_METRICS = ("clip_score", "scene_accuracy", "style_entropy", "inception_score")
_PHASES = ("time/rollout_s", "time/reward_s", "time/update_s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Where a run stood at one evaluation.

    Attributes:
        reward_queries: pictures scored so far.
        seconds: of sampling, scoring and updating so far, evaluation left out.
        numbers: by name.
    """

    reward_queries: int
    seconds: float
    numbers: dict[str, float]


def _quickstart() -> Arms:
    return {"emoji-quickstart": emoji_quickstart()}


def _b2_against_ddpo() -> Arms:
    """Each with its own best settings."""
    return _with_curve({"B²": emoji_quickstart(), "DDPO": emoji_ddpo()}, every=3)


def _grid() -> Arms:
    """Learning rate and optimizer steps a round, the same grid for both arms, few rounds."""
    arms: Arms = {}
    for name, run in (("B²", emoji_quickstart()), ("DDPO", emoji_ddpo())):
        for learning_rate in (1e-3, 2e-3):
            for num_minibatches in (6, 12):
                changed = replace(run.optimization, learning_rate=learning_rate, num_minibatches=num_minibatches)
                arms[f"{name} lr {learning_rate:g}, {num_minibatches} steps"] = replace(
                    run, optimization=changed, num_rounds=_GRID_ROUNDS
                )
    return _with_curve(arms, every=6)


def _objectives() -> Arms:
    """Four objectives, each plain, with backward progressive training, and with branches too; equal reward queries."""
    arms: Arms = {}
    for name, make in (
        ("DDPO", emoji_quickstart), ("PG", emoji_policy_gradient), ("DPOK", emoji_dpok), ("DPO", emoji_dpo),
    ):  # fmt: skip
        run = make()
        run = replace(run, num_rounds=_OBJECTIVES_QUERIES // run.reward_queries_per_round)
        alone = replace(run, rollout=Branching(num_branches=1), selection=All())
        arms[f"{name} vanilla"] = replace(alone, schedule=Full())
        arms[f"{name} backward"] = alone
        arms[f"{name} B²"] = run
    small = arms["PG B²"]  # many small rounds: there an adaptive schedule can decide something
    arms["PG B² adaptive"] = replace(small, schedule=Adaptive(window=4))
    return arms


def _with_curve(arms: Arms, *, every: int) -> Arms:
    return {name: replace(run, logging=replace(run.logging, evaluate_every_rounds=every)) for name, run in arms.items()}


STUDIES: dict[str, Callable[[], Arms]] = {
    "quickstart": _quickstart,
    "b2-against-ddpo": _b2_against_ddpo,
    "b2-against-ddpo-grid": _grid,
    "objectives": _objectives,
}


def run_study(
    name: str, *, output: Path, seeds: Sequence[int], num_jobs: int, tell: Callable[[str], None] = lambda _: None
) -> str:
    """Train all runs of a study that are not finished, then write its curves and its table, and return the table.

    Args:
        name: one of `STUDIES`.
        output: folder of the study; runs are in ARM/seedN.
        seeds: of every arm.
        num_jobs: runs at a time; the processor's threads are shared among them.
        tell: called with a line when a run begins or ends.

    Raises:
        UserError: there is no such study.
    """
    if name not in STUDIES:
        raise UserError(f"study is {name!r}; give one of: {', '.join(STUDIES)}.")
    arms = STUDIES[name]()
    jobs = [(arm, run, seed) for seed in seeds for arm, run in arms.items()]
    with ThreadPoolExecutor(num_jobs) as pool:
        futures = [
            pool.submit(_train, replace(run, seed=seed), _folder(output, arm, seed), num_jobs, tell)
            for arm, run, seed in jobs
        ]
        for future in futures:
            future.result()
    table = f"{_table(arms, output, seeds)}\n{_table_of_seeds(arms, output, seeds)}"

    (output / "table.md").write_text(table, encoding="utf-8")
    files = {arm: [_folder(output, arm, seed) / "metrics.jsonl" for seed in seeds] for arm in arms}
    draw_curves(
        {arm: [file for file in found if file.is_file()] for arm, found in files.items()}, output / "curves.png"
    )
    return table


def _folder(output: Path, arm: str, seed: int) -> Path:
    return output / arm.replace("²", "2").replace(", ", "-").replace(" ", "-").lower() / f"seed{seed}"


def _train(run: Run, folder: Path, num_jobs: int, tell: Callable[[str], None]) -> None:
    if (folder / "lora").is_dir() or (folder / "stopped.json").is_file():
        return
    tell(f"{folder}: begins")
    settings = folder.parent / f"{folder.name}.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(to_toml(run), encoding="utf-8")
    command = [sys.executable, "-m", "b2diffurl.cli", "train", str(settings), "--output", str(folder)]
    if (folder / "run.toml").is_file():
        command.append("--resume")
    threads = max(1, (os.cpu_count() or 1) // num_jobs)
    with (folder.parent / f"{folder.name}.log").open("a", encoding="utf-8") as log:
        code = subprocess.run(
            command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=False
        ).returncode
    tell(f"{folder}: {'done' if code == 0 else f'ended with code {code}, see {log.name}'}")


def curve(folder: Path) -> list[Point]:
    """Every evaluation of a run, the one before training first."""
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    points, seconds, queries = [Point(reward_queries=0, seconds=0.0, numbers=found["before"])], 0.0, 0
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        metrics = json.loads(line)
        seconds, queries = seconds + sum(metrics[phase] for phase in _PHASES), metrics["reward_queries"]
        numbers = {name: metrics[f"evaluation/{name}"] for name in _METRICS if f"evaluation/{name}" in metrics}
        if numbers:
            points.append(Point(reward_queries=queries, seconds=seconds, numbers=numbers))
    if "after" in found and points[-1].reward_queries < queries:
        points.append(Point(reward_queries=queries, seconds=seconds, numbers=found["after"]))
    return points


def _table(arms: Arms, output: Path, seeds: Sequence[int]) -> str:
    """One row per arm and evaluated round: mean over seeds, and half the range between them."""
    rows = [["arm", "queries", "seconds", *_METRICS, "seeds"]]
    for arm in arms:
        folders = [_folder(output, arm, seed) for seed in seeds]
        curves = [curve(folder) for folder in folders if (folder / "evaluation.json").is_file()]
        for queries in sorted({point.reward_queries for points in curves for point in points}):
            at = [point for points in curves for point in points if point.reward_queries == queries]
            cells = [_mean_and_spread([point.numbers[name] for point in at]) for name in _METRICS]
            seconds = f"{np.mean([point.seconds for point in at]):.0f}"
            rows.append([arm, f"{queries:,}", seconds, *cells, str(len(at))])
        rows += [[arm, "stopped", "", _cause(folder), "", "", "", ""] for folder in folders if _cause(folder)]
    return _markdown(rows)


def _table_of_seeds(arms: Arms, output: Path, seeds: Sequence[int]) -> str:
    """One row per finished run: before training -> after it."""
    rows = [["arm", "seed", *_METRICS]]
    for arm in arms:
        for seed in seeds:
            file = _folder(output, arm, seed) / "evaluation.json"
            found: dict[str, dict[str, float]] = {}
            if file.is_file():
                found = json.loads(file.read_text(encoding="utf-8"))
            if "after" in found:
                cells = [f"{found['before'][name]:.3f} -> {found['after'][name]:.3f}" for name in _METRICS]
                rows.append([arm, str(seed), *cells])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _mean_and_spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"


def _cause(folder: Path) -> str:
    file = folder / "stopped.json"
    return json.loads(file.read_text(encoding="utf-8"))["cause"] if file.is_file() else ""
