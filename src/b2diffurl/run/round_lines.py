"""JSON lines files with one or more lines per round: metrics.jsonl and scores.jsonl."""

import json
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
