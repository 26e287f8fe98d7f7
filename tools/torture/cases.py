"""Cases, the file that remembers the finished ones, and the table of their outcomes."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Result of a case.

    Attributes:
        outcomes: number of times that each outcome happened; one, unless the case tries several inputs.
        faults: descriptions of what must not happen.
    """

    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    faults: tuple[str, ...] = ()


def passed(outcome: str) -> Result:
    """Return the result of a case with one good outcome."""
    return Result(outcomes={outcome: 1})


def failed(fault: str) -> Result:
    """Return the result of a case with one fault."""
    return Result(outcomes={"fault": 1}, faults=(fault,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One case of a campaign.

    Attributes:
        campaign: name of the campaign, the first column of the table.
        name: name of the case, unique in its campaign.
        run: runs the case.
    """

    campaign: str
    name: str
    run: Callable[[], Result]


class Journal:
    """A JSON lines file with one line per finished case; a later line of a case replaces an earlier one.

    Args:
        path: the file; created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.records: dict[tuple[str, str], dict[str, Any]] = {}
        for line in lines:
            record = json.loads(line)
            self.records[record["campaign"], record["case"]] = record

    def is_done(self, case: Case) -> bool:
        """Whether a case has been run without a fault; one with a fault is repeated."""
        record = self.records.get((case.campaign, case.name))
        return record is not None and not record["faults"]

    def add(self, case: Case, result: Result, *, cpu_seconds: float) -> None:
        """Write the line of a case."""
        record = {"campaign": case.campaign, "case": case.name, **asdict(result), "cpu_seconds": round(cpu_seconds, 3)}
        self.records[case.campaign, case.name] = record
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def run_cases(cases: Iterable[Case], journal: Journal, *, on_progress: Callable[[str], None]) -> None:
    """Run the cases that are not done.

    Args:
        cases: the cases.
        journal: receives their results.
        on_progress: receives a line with the number of cases, the faults and the time left, at most once in 10 seconds,
            and a line per fault.
    """
    todo = [case for case in cases if not journal.is_done(case)]
    start = shown = time.monotonic()
    num_faults = 0
    for number, case in enumerate(todo, start=1):
        before = _cpu_seconds()
        try:
            result = case.run()
        except Exception as error:  # noqa: BLE001 - a case that raises is a fault, and the campaign continues
            result = failed(f"{type(error).__name__}: {error}")
        journal.add(case, result, cpu_seconds=_cpu_seconds() - before)
        num_faults += len(result.faults)
        for fault in result.faults:
            on_progress(f"FAULT {case.campaign}, {case.name}: {fault}")
        now = time.monotonic()
        if now - shown > 10 or number == len(todo):
            shown, left = now, (now - start) / number * (len(todo) - number)
            on_progress(f"{number} of {len(todo)} cases, {num_faults} faults, {left / 60:.1f} minutes left")


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def summarize(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per campaign: number of cases, outcomes, faults and CPU seconds."""
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        empty: dict[str, Any] = {
            "campaign": record["campaign"],
            "outcomes": Counter(),
            "faults": [],
            "cpu_seconds": 0.0,
        }
        row = rows.setdefault(record["campaign"], empty)
        row["outcomes"].update(record["outcomes"])
        row["faults"] += [f"{record['case']}: {fault}" for fault in record["faults"]]
        row["cpu_seconds"] += record["cpu_seconds"]
    return [row | {"cases": sum(row["outcomes"].values()) - _num_notes(row["outcomes"])} for row in rows.values()]


def _num_notes(outcomes: Counter[str]) -> int:
    """Number of entries that count something within a case, such as kills."""
    return sum(number for name, number in outcomes.items() if name.startswith("+"))


def to_markdown(rows: Iterable[dict[str, Any]]) -> str:
    """Return the table in Markdown."""
    lines = ["| campaign | cases | outcomes | faults | CPU seconds |", "|---|---|---|---|---|"]
    for row in rows:
        outcomes = ", ".join(f"{name.removeprefix('+')} {number:,}" for name, number in _ordered(row["outcomes"]))
        lines.append(
            f"| {row['campaign']} | {row['cases']:,} | {outcomes} | {len(row['faults'])} | {row['cpu_seconds']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def _ordered(outcomes: Counter[str]) -> Iterator[tuple[str, int]]:
    yield from sorted(outcomes.items(), key=lambda item: (item[0].startswith("+"), -item[1], item[0]))
