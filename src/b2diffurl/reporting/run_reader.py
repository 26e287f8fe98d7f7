"""Read a run folder: whatever of it exists so far.

Only `run.toml` must be there. A file that is there but cannot be understood is an error, with one exception: a last
line of `metrics.jsonl` without its newline is still being written, and is left for the next report.
"""

import json
import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from b2diffurl.errors import UserError

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Why a run ended before its last round.

    Attributes:
        round: the round in which it happened, or None if the run did not say.
        cause: the reason, in words.
    """

    round: int | None
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Scores on fixed prompts and seeds, by metric name.

    Attributes:
        before: scores of the pretrained model.
        after: scores of the trained one; empty while the run goes on.
        num_images: images behind each score, or None if the run did not say.
        prompts: name of the prompt list, or "".
    """

    before: dict[str, float]
    after: dict[str, float]
    num_images: int | None
    prompts: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """What a run folder holds.

    Attributes:
        name: the folder's name.
        config_text: `run.toml` as it is.
        config: `run.toml`, parsed.
        environment: versions, machine and commit; empty if there is no `env.json`.
        rounds: the metrics of each finished round.
        evaluation: scores before and after, or None.
        prompts: the prompts of the sample pictures.
        pictures: sampled round (0 = before training) -> prompt index -> picture file, both in rising order.
        stop: why the run was stopped, or None.
    """

    name: str
    config_text: str
    config: Json
    environment: dict[str, str]
    rounds: tuple[Json, ...]
    evaluation: Evaluation | None
    prompts: tuple[str, ...]
    pictures: dict[int, dict[int, Path]]
    stop: Stop | None

    def series(self, metric: str) -> list[float]:
        """Give one metric by round; NaN where it is missing, null or not a number."""
        return [_number(values.get(metric)) for values in self.rounds]

    def round_numbers(self) -> list[int]:
        """Give the finished rounds' numbers, counted from 1."""
        return [int(values.get("round", index)) for index, values in enumerate(self.rounds, start=1)]

    def metric_names(self) -> list[str]:
        """Name every metric that some round logged, in order of first appearance."""
        return list(dict.fromkeys(name for values in self.rounds for name in values))

    def num_rounds(self) -> int | None:
        """Give the planned number of rounds, or None if the configuration does not say."""
        planned = self.config.get("num_rounds")
        return planned if isinstance(planned, int) else None

    def num_inference_steps(self) -> int | None:
        """Give the sampler's number of steps, or None if the configuration does not say."""
        num_steps = self.config.get("sampler", {}).get("num_inference_steps")
        return num_steps if isinstance(num_steps, int) else None


def read_run_folder(run_dir: Path) -> RunFolder:
    """Read what exists of a run folder.

    Raises:
        UserError: if there is no `run.toml`, or if a file cannot be understood.
    """
    config_path = run_dir / "run.toml"
    if not config_path.is_file():
        raise UserError(f"run_dir={str(run_dir)!r} is not a run folder: it has no run.toml; name the folder of a run.")
    config_text = config_path.read_text(encoding="utf-8")
    environment = _read_object(run_dir / "env.json") or {}
    return RunFolder(
        name=run_dir.resolve().name,
        config_text=config_text,
        config=tomllib.loads(config_text),
        environment={name: str(value) for name, value in environment.items()},
        rounds=_read_metrics(run_dir / "metrics.jsonl"),
        evaluation=_read_evaluation(run_dir / "evaluation.json"),
        prompts=_read_prompts(run_dir / "samples" / "prompts.json"),
        pictures=_find_pictures(run_dir / "samples"),
        stop=_read_stop(run_dir / "stopped.json"),
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _parse(text: str, *, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error}); repair or remove it.") from error


def _as_object(value: object, *, where: str) -> Json:
    if not isinstance(value, dict):
        raise UserError(f"{where} holds {type(value).__name__}, not a JSON object; repair or remove it.")
    return cast("Json", value)


def _read_object(path: Path) -> Json | None:
    if not path.is_file():
        return None
    return _as_object(_parse(path.read_text(encoding="utf-8"), where=str(path)), where=str(path))


def _read_metrics(path: Path) -> tuple[Json, ...]:
    if not path.is_file():
        return ()
    *lines, unfinished = path.read_text(encoding="utf-8").split("\n")
    try:
        json.loads(unfinished)
        lines.append(unfinished)
    except json.JSONDecodeError:
        pass  # empty after a final newline; otherwise the line is still being written
    named = [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    return tuple(_as_object(_parse(line, where=where), where=where) for where, line in named)


def _read_evaluation(path: Path) -> Evaluation | None:
    values = _read_object(path)
    if values is None:
        return None
    num_images = values.get("num_images")
    return Evaluation(
        before=_read_scores(values.get("before")),
        after=_read_scores(values.get("after")),
        num_images=num_images if isinstance(num_images, int) else None,
        prompts=str(values.get("prompts", "")),
    )


def _read_scores(scores: object) -> dict[str, float]:
    if scores is None:
        return {}
    return {name: _number(value) for name, value in _as_object(scores, where="evaluation.json").items()}


def _read_prompts(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    prompts = _parse(path.read_text(encoding="utf-8"), where=str(path))
    if not isinstance(prompts, list):
        raise UserError(f"{path} holds {type(prompts).__name__}, not a list of prompts; repair or remove it.")
    return tuple(str(prompt) for prompt in cast("list[object]", prompts))


def _find_pictures(samples_dir: Path) -> dict[int, dict[int, Path]]:
    pictures: dict[int, dict[int, Path]] = {}
    for folder in samples_dir.glob("round_*"):
        match = re.fullmatch(r"round_(\d+)", folder.name)
        files = {int(file.stem): file for file in sorted(folder.glob("*.png")) if file.stem.isdecimal()}
        if match and files:
            pictures[int(match[1])] = dict(sorted(files.items()))
    return dict(sorted(pictures.items()))


def _read_stop(path: Path) -> Stop | None:
    values = _read_object(path)
    if values is None:
        return None
    stop_round = values.get("round")
    return Stop(round=stop_round if isinstance(stop_round, int) else None, cause=str(values.get("cause", "unknown")))
