"""Records of a run and how they are parsed from its files.

`RunDirectory` is the only caller. A missing file gives an empty record. A file that cannot be parsed raises UserError,
with one exception: the last line of `metrics.jsonl` without its newline is still being written and is skipped.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image

from b2diffurl.errors import UserError

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Why a run ended before its last round.

    Attributes:
        round: the round that was stopped, counted from 1, or None if it is not recorded.
        cause: the reason, one sentence.
    """

    round: int | None
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Scores on fixed prompts and seeds, by metric name.

    Attributes:
        before: scores of the pretrained model.
        after: scores of the trained model; empty until training ends.
        num_images: number of images per score, or None if it is not recorded.
        prompts: name of the prompt list, or "".
    """

    before: dict[str, float]
    after: dict[str, float]
    num_images: int | None = None
    prompts: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """Everything a run directory contains that a report shows.

    Attributes:
        name: name of the directory.
        settings_text: content of `run.toml`.
        settings: `run.toml`, parsed.
        environment: versions and machine; empty without `env.json`.
        rounds: metrics of each finished round.
        evaluation: scores before and after training, or None.
        prompts: prompts of the sample images.
        images: round (0 = before training) -> prompt index -> image file, both in ascending order.
        stop: why the run was stopped, or None.
        notes: what a reader of the results must know, such as a reward that changed between two rounds.
    """

    name: str
    settings_text: str
    settings: Json
    environment: dict[str, str]
    rounds: tuple[Json, ...]
    evaluation: Evaluation | None
    prompts: tuple[str, ...]
    images: dict[int, dict[int, Path]]
    stop: Stop | None
    notes: tuple[str, ...] = ()

    @property
    def before(self) -> dict[int, Path]:
        """The sample images before training, by prompt index; empty if they are missing."""
        return self.images.get(0, {})

    @property
    def after(self) -> dict[int, Path]:
        """The newest sample images, by prompt index."""
        return self.images[max(self.images)] if self.images else {}

    def series(self, metric: str) -> list[float]:
        """Return one metric by round; NaN where it is missing, null or not a number."""
        return [_number(metrics.get(metric)) for metrics in self.rounds]

    def round_numbers(self) -> list[int]:
        """Return the numbers of the finished rounds, counted from 1."""
        return [int(metrics.get("round", index)) for index, metrics in enumerate(self.rounds, start=1)]

    def metric_names(self) -> list[str]:
        """Return every metric that was logged in any round, in order of first appearance."""
        return list(dict.fromkeys(name for metrics in self.rounds for name in metrics))

    def num_rounds(self) -> int | None:
        """Return the planned number of rounds, or None if the settings do not contain it."""
        planned = self.settings.get("num_rounds")
        return planned if isinstance(planned, int) else None

    def num_inference_steps(self) -> int | None:
        """Return the sampler's number of steps, or None if the settings do not contain it."""
        num_steps = self.settings.get("sampler", {}).get("num_inference_steps")
        return num_steps if isinstance(num_steps, int) else None


def read_metrics(path: Path) -> tuple[Json, ...]:
    """Read `metrics.jsonl`; empty if there is no such file.

    Raises:
        UserError: a complete line is not a JSON object.
    """
    if not path.is_file():
        return ()
    *lines, unfinished = _read_text(path).split("\n")
    try:
        json.loads(unfinished)
        lines.append(unfinished)
    except json.JSONDecodeError:
        pass  # empty after a final newline; otherwise the line is still being written
    numbered = [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    return tuple(_as_object(_parse(line, where=where), where=where) for where, line in numbered)


def read_evaluation(path: Path) -> Evaluation | None:
    """Read `evaluation.json`, or return None if there is no such file.

    Raises:
        UserError: the file is not a JSON object of scores.
    """
    content = read_object(path)
    if content is None:
        return None
    num_images = content.get("num_images")
    return Evaluation(
        before=_scores(content.get("before"), where=str(path)),
        after=_scores(content.get("after"), where=str(path)),
        num_images=num_images if isinstance(num_images, int) else None,
        prompts=str(content.get("prompts", "")),
    )


def read_stop(path: Path) -> Stop | None:
    """Read `stopped.json`, or return None if the run was not stopped.

    Raises:
        UserError: the file is not a JSON object.
    """
    content = read_object(path)
    if content is None:
        return None
    stop_round = content.get("round")
    return Stop(round=stop_round if isinstance(stop_round, int) else None, cause=str(content.get("cause", "unknown")))


def read_list(path: Path) -> tuple[str, ...]:
    """Read a JSON list of texts: the prompts of the sample images, or notes; empty if there is no such file.

    Raises:
        UserError: the file is not a JSON list.
    """
    return tuple(str(text) for text in read_json_list(path))


def read_json_list(path: Path) -> list[object]:
    """Read a JSON list; empty if there is no such file.

    Raises:
        UserError: the file is not a JSON list.
    """
    if not path.is_file():
        return []
    items = _parse(_read_text(path), where=str(path))
    if not isinstance(items, list):
        raise UserError(f"{path} contains {type(items).__name__}, not a JSON list; repair or remove it.")
    return cast("list[object]", items)


def list_images(samples: Path) -> dict[int, dict[int, Path]]:
    """List the sample images by round and prompt index, both in ascending order."""
    images: dict[int, dict[int, Path]] = {}
    for directory in samples.glob("round_*"):
        match = re.fullmatch(r"round_(\d+)", directory.name)
        files = {int(file.stem): file for file in directory.glob("*.png") if file.stem.isdecimal()}
        if match and files:
            images[int(match[1])] = dict(sorted(files.items()))
    return dict(sorted(images.items()))


def read_image(path: Path) -> Image.Image:
    """Read an image file in RGB.

    Raises:
        UserError: the file is missing, damaged or not an image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a damaged PNG file
        raise UserError(f"{path} cannot be read as an image; remove it, or restore it from a copy.") from error


def read_object(path: Path) -> Json | None:
    """Read a JSON object, or return None if there is no such file.

    Raises:
        UserError: the file is not a JSON object.
    """
    if not path.is_file():
        return None
    return _as_object(_parse(_read_text(path), where=str(path)), where=str(path))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _scores(scores: object, *, where: str) -> dict[str, float]:
    if scores is None:
        return {}
    return {name: _number(value) for name, value in _as_object(scores, where=where).items()}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); repair or remove it.") from error


def _parse(text: str, *, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error}); repair or remove it.") from error


def _as_object(value: object, *, where: str) -> Json:
    if not isinstance(value, dict):
        raise UserError(f"{where} contains {type(value).__name__}, not a JSON object; repair or remove it.")
    return cast("Json", value)
