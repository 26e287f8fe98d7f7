"""Two processes on one run folder, and locks of killed processes."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tools.torture.cases import Case, Result, failed, passed
from tools.torture.compare import differences, kept
from tools.torture.faults import Operations, kill_at, stop_at
from tools.torture.processes import call, start
from tools.torture.runs import Runs

CAMPAIGN = "two processes"
NUM_STOPS, NUM_RACES, NUM_STALE = 16, 8, 8


def cases(runs: Runs, *, short: bool) -> Iterator[Case]:
    """Give the cases."""
    started = next(op.number for op in runs.operations if op.kind == "rename")  # run.toml is in its place
    operations = runs.operations[started:]
    stops = operations[:: max(1, len(operations) // (2 if short else NUM_STOPS))]
    for operation in stops:
        name = f"second process at {operation.number}, {operation.kind} {Path(operation.path).name}"
        yield Case(campaign=CAMPAIGN, name=name, run=partial(_second, runs, operation.number))
    for operation in operations[:: max(1, len(operations) // (1 if short else NUM_STALE))]:
        name = f"lock of a process killed at {operation.number}"
        yield Case(campaign=CAMPAIGN, name=name, run=partial(_stale, runs, operation.number))
    for index in range(1 if short else NUM_RACES):
        yield Case(campaign=CAMPAIGN, name=f"started together {index}", run=partial(_race, runs, None))
        yield Case(campaign=CAMPAIGN, name=f"resumed together {index}", run=partial(_race, runs, runs.killed))


def _second(runs: Runs, number: int) -> Result:
    """Stop a run before an operation; a second process is refused and changes nothing; the first one continues."""
    with runs.copy(None) as folder:
        first = start(runs.world.train(folder), before=Operations(folder, fault=stop_at(number)).install)
        if not first.wait_until_stopped():
            return failed(f"not stopped: {first.wait().describe()}")
        before = kept(folder)
        seconds = [call(runs.world.train(folder, *flags)) for flags in ([], ["--resume"])]
        is_unchanged = kept(folder) == before
        os.kill(first.pid, signal.SIGCONT)
        ended = first.wait()
        named = f"in use by process {first.pid} on "
        wrong = [second.describe() for second in seconds if not (second.is_refusal and named in second.stderr)]
        if wrong or not is_unchanged or ended.code != 0:
            return failed(f"second: {wrong}; unchanged: {is_unchanged}; first: {ended.describe()}")
        different = differences(folder, runs.expected)
        return failed(different) if different else passed("second refused, first equal")


def _stale(runs: Runs, number: int) -> Result:
    """Kill a run; the next process takes the lock over with a message."""
    with runs.copy(None) as folder:
        first = start(runs.world.train(folder), before=Operations(folder, fault=kill_at(number)).install)
        if first.wait().code != -9:
            return failed("not killed")
        ended = runs.finish(folder)
        message = f"process {first.pid} on "
        if ended.code != 0 or message not in ended.stdout or "taken over" not in ended.stdout:
            return failed(f"{ended.describe()}; {ended.stdout[:200]}")
        different = differences(folder, runs.expected)
        return failed(different) if different else passed("lock taken over, equal")


def _race(runs: Runs, source: Path | None) -> Result:
    """Start two processes at once: one is refused, and the other is right."""
    with runs.copy(source) as folder:
        words = runs.world.train(folder, *([] if source is None else ["--resume"]))
        ended = [child.wait() for child in (start(words), start(words))]
        codes = sorted(outcome.code for outcome in ended)
        refused = [outcome for outcome in ended if outcome.code == 2]
        finished_twice = source is not None and codes == [0, 0]  # the second began after the end of the first
        if not finished_twice and (codes != [0, 2] or not refused[0].is_refusal):
            return failed("; ".join(outcome.describe() for outcome in ended))
        different = differences(folder, runs.expected)
        return failed(different) if different else passed("one refused, the other equal")
