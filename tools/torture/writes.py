"""SIGKILL before every write, fsync, rename and so on, and in the middle of every write; of a run and of its resume."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tools.torture.cases import Case
from tools.torture.faults import Operation, kill_at
from tools.torture.processes import Outcome
from tools.torture.runs import Runs

SHORT_STEP = 29  # the short form takes every 29th operation


def cases(runs: Runs, *, short: bool) -> Iterator[Case]:
    """Give the cases, one per operation, and one more per write."""
    yield from _cases(runs, "run", None, runs.operations, step=SHORT_STEP if short else 1)
    yield from _cases(runs, "resumed run", runs.killed, runs.resumed_operations, step=SHORT_STEP if short else 1)


def _cases(runs: Runs, name: str, source: Path | None, operations: Sequence[Operation], *, step: int) -> Iterator[Case]:
    for operation in operations[::step]:
        for in_the_middle in (False, True) if operation.kind == "write" else (False,):
            place = "in the middle of" if in_the_middle else "before"
            fault = kill_at(operation.number, in_the_middle=in_the_middle)
            yield Case(
                campaign=f"kill inside file operations, {name}",
                name=f"{place} {operation.number}, {operation.kind} {Path(operation.path).name}",
                run=partial(runs.break_and_continue, source, fault, _is_killed),
            )


def _is_killed(outcome: Outcome) -> bool:
    return outcome.code == -9
