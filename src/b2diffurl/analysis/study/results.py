"""The result of one run of a study: a small JSON file, meant to be committed."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from b2diffurl.analysis.study.spec import Cell, changed_settings, settings_hash
from b2diffurl.errors import UserError
from b2diffurl.run import files
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.records import Json, Stop

FORMAT = 1
_TIMES = ("time/rollout_s", "time/reward_s", "time/update_s")
_EVALUATIONS = ("network/rollout_evaluations", "network/update_evaluations")
_KEPT = (
    "interval/length", "reward/mean", "selection/num_trajectories", "policy/kl_to_old", "update/step_scale",
    "image/contrast",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One evaluation of a run.

    Attributes:
        reward_queries: images scored by the reward so far.
        network_evaluations: evaluations of the UNet so far, for sampling and updates; a forward and backward pass is
            one.
        seconds: time spent sampling, scoring and updating so far, without evaluation.
        num_images: images of this evaluation; None if it is not recorded.
        scores: evaluation metrics by name.
        images_per_trunk: K of the run, which its settings have; not stored with the point.
    """

    reward_queries: int
    network_evaluations: int
    seconds: float
    num_images: int | None
    scores: dict[str, float]
    images_per_trunk: int = 1

    def value(self, metric: str) -> float | None:
        """Return a metric, which may be a cost, or None if it was not evaluated."""
        costs = {
            "reward_queries": float(self.reward_queries),
            "trunks": self.reward_queries / self.images_per_trunk,
            "network_evaluations": float(self.network_evaluations),
            "seconds": self.seconds,
        }
        return costs.get(metric, self.scores.get(metric))


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult:
    """What is kept of a run.

    Attributes:
        settings_sha256: hash of the settings, without the seed.
        settings: the settings that differ from their defaults.
        seed: the run's seed.
        commit: the commit of the code that trained, with "+" if files differed from it; "" if it is unknown.
        environment: versions, machine and device.
        points: the evaluations, oldest first.
        rounds: some metrics of every round, by name.
        stopped: why the run was stopped, or "".
    """

    settings_sha256: str
    settings: Json
    seed: int
    commit: str
    environment: dict[str, str]
    points: tuple[Point, ...]
    rounds: dict[str, list[float | None]]
    stopped: str = ""


def evaluation_points(directory: RunDirectory) -> list[Point]:
    """Return every evaluation of a run, beginning with the one before training, if there is one."""
    evaluation = directory.read_evaluation()
    if evaluation is None:
        return []
    points: list[Point] = []
    if evaluation.before:
        points.append(
            Point(reward_queries=0, network_evaluations=0, seconds=0.0, num_images=evaluation.num_images,
                  scores=evaluation.before)
        )  # fmt: skip
    interim = _interim_images(directory)
    seconds, evaluations, queries = 0.0, 0, 0
    for metrics in directory.read_metrics():
        seconds += sum(metrics[name] for name in _TIMES)
        evaluations += sum(int(metrics.get(name, 0)) for name in _EVALUATIONS)
        queries = int(metrics["reward_queries"])
        prefix = "evaluation/"
        scores = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
        if scores:
            points.append(
                Point(reward_queries=queries, network_evaluations=evaluations, seconds=seconds, num_images=interim,
                      scores=scores)
            )  # fmt: skip
    if evaluation.after and (not points or points[-1].reward_queries < queries):
        points.append(
            Point(reward_queries=queries, network_evaluations=evaluations, seconds=seconds,
                  num_images=evaluation.num_images, scores=evaluation.after)
        )  # fmt: skip
    return points


def _interim_images(directory: RunDirectory) -> int | None:
    logging = directory.read().settings.get("logging", {})
    return logging.get("num_interim_images") or logging.get("num_evaluation_images")


def make_result(cell: Cell, directory: RunDirectory) -> CellResult:
    """Make the result of a run that has ended.

    Raises:
        UserError: a file of the run cannot be read.
    """
    rounds, environment = directory.read_metrics(), directory.read().environment
    stop: Stop | None = directory.read_stop()
    return CellResult(
        settings_sha256=settings_hash(cell.run),
        settings=_plain(changed_settings(cell.run)),
        seed=cell.seed,
        commit=environment.get("commit", ""),
        environment=environment | {"processor": _processor()},
        points=tuple(evaluation_points(directory)),
        rounds={name: [_float(metrics.get(name)) for metrics in rounds] for name in _kept_metrics(rounds)},
        stopped="" if stop is None else f"round {stop.round}: {stop.cause}",
    )


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _kept_metrics(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(rounds[-1]) if rounds else []
    return [name for name in names if name in _KEPT or (name.startswith("reward/") and name.count("/") > 1)]


def result_file(folder: Path, cell: Cell) -> Path:
    """Return the file of a cell's result."""
    return folder / "runs" / f"{cell.key}.json"


def write_result(file: Path, result: CellResult) -> None:
    """Write a result, whole or not at all."""
    files.make_directory(file.parent)
    content: Json = {"format": FORMAT} | asdict(result)
    for point in content["points"]:
        del point["images_per_trunk"]
    files.write_text(file, json.dumps(_rounded(content), indent=1, ensure_ascii=False) + "\n")


def read_result(file: Path, cell: Cell) -> CellResult | None:
    """Read the result of a cell; None if there is no file.

    Raises:
        UserError: the file is not a result, or is one of other settings.
    """
    if not file.is_file():
        return None
    try:
        content = cast("Json", json.loads(file.read_text(encoding="utf-8")))
        number = content.pop("format")
        points = tuple(Point(**point) for point in content.pop("points"))
        result = CellResult(**content, points=points)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not the result of a run: {error}; delete it to repeat the run.") from error
    if number != FORMAT or result.settings_sha256 != settings_hash(cell.run) or result.seed != cell.seed:
        raise UserError(f"{file} is the result of other settings or of another format; delete it to repeat the run.")
    return result


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _rounded(value: Any) -> Any:
    """Round floats to seven significant digits, which keeps the files small."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in cast("Json", value).items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in cast("Sequence[Any]", value)]
    return value


def _plain(tables: Json) -> Json:
    """Return the tables as JSON gives them back: tuples are lists."""
    return cast("Json", json.loads(json.dumps(_rounded(tables), default=str)))
