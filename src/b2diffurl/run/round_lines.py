"""JSON lines files with one or more lines per round: metrics.jsonl and scores.jsonl."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from b2diffurl.errors import UserError
from b2diffurl.run import files


class RoundLines:
    """Append lines to a JSON lines file whose objects contain "round"; a resumed run drops the rounds it repeats.

    Args:
        path: file to write; it is created if it does not exist.
        first_round: lines of this round and of later rounds are dropped.

    Raises:
        UserError: a complete line is not the record of a round; the file is as it was.
    """

    def __init__(self, path: Path, *, first_round: int) -> None:
        self.path = path
        kept = [line for round_number, line in read_round_lines(path) if round_number < first_round]
        files.write_text(path, "".join(f"{line}\n" for line in kept))

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append one line per object."""
        files.append_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))


def check_rounds(path: Path, *, num_rounds: int, lines_per_round: int) -> None:
    """Check that a file has all lines of the rounds that a checkpoint continues.

    Args:
        path: the file.
        num_rounds: number of rounds of the checkpoint; lines of later rounds are not checked.
        lines_per_round: number of lines that each round has.

    Raises:
        UserError: a round has another number of lines, or the file is missing.
    """
    counts = Counter(round_number for round_number, _ in read_round_lines(path))
    for round_number in range(1, num_rounds + 1):
        if counts[round_number] != lines_per_round:
            raise UserError(
                f"{path} has {counts[round_number]} instead of {lines_per_round} lines of round {round_number}, which "
                "the checkpoint continues; restore the file from a copy, or start a new run in another folder."
            )


def read_round_lines(path: Path) -> list[tuple[int, str]]:
    """Return the round and the text of each complete line; empty if there is no such file.

    Raises:
        UserError: a complete line is not a JSON object with a round.
    """
    if not path.is_file():
        return []
    # A last line without a newline was cut off when the process was killed.
    *lines, _ = path.read_bytes().split(b"\n")
    return [_parse(line, where=f"{path}, line {number},") for number, line in enumerate(lines, start=1)]


def read_rewards(path: Path) -> list[tuple[int, str, float]]:
    """Return round, prompt and reward of each image of scores.jsonl.

    Raises:
        UserError: as `read_round_lines`, or lines lack prompt or reward.
    """
    lines = [(number, cast("dict[str, Any]", json.loads(text))) for number, text in read_round_lines(path)]
    try:
        return [(number, str(line["prompt"]), float(line["reward"])) for number, line in lines]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has lines without prompt or reward ({error}); repair or remove it.") from error


def _parse(line: bytes, *, where: str) -> tuple[int, str]:
    try:
        text = line.decode("utf-8")
        record: object = json.loads(text)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError
        raise UserError(f"{where} is not JSON ({error}); repair or remove the line.") from error
    round_number = cast("dict[str, object]", record).get("round") if isinstance(record, dict) else None
    if not isinstance(round_number, int):
        raise UserError(f"{where} is not the record of a round; repair or remove the line.")
    return round_number, text
