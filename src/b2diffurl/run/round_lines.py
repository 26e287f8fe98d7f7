"""JSON lines files with one or more lines per round: metrics.jsonl and scores.jsonl."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class RoundLines:
    """Append lines to a JSON lines file whose objects contain "round"; a resumed run drops the rounds it repeats.

    Args:
        path: file to write; it is created if it does not exist.
        first_round: lines of this round and of later rounds are dropped.
    """

    def __init__(self, path: Path, *, first_round: int) -> None:
        self.path = path
        kept = [line for line in self._complete_lines() if json.loads(line)["round"] < first_round]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append one line per object."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def _complete_lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        # A last line without a newline was cut off when the process was killed.
        return [
            line[:-1] for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
        ]
