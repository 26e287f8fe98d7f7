"""Train the runs of a study that have no result yet, each in its own process. An interrupted run continues."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TextIO

from b2diffurl.analysis.plan import model_shape, round_costs
from b2diffurl.analysis.study.results import CellResult, make_result, read_result, result_file, write_result
from b2diffurl.analysis.study.spec import Cell, settings_hash
from b2diffurl.config import read_toml, to_toml
from b2diffurl.errors import UserError
from b2diffurl.reporting.text import format_duration
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.settings import Run

OnMessage = Callable[[str], None]


class _Trainers:
    """The processes that train runs at this time; they can be ended together."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self.ended = False

    def run(self, command: Sequence[str], *, log: TextIO, environment: Mapping[str, str]) -> int:
        """Run a command and return its exit code, which is that of SIGTERM where all have been ended."""
        with self._lock:
            if self.ended:
                return -signal.SIGTERM
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, text=True)
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        return code

    def end(self) -> None:
        """Terminate every process; none starts from now on."""
        with self._lock:
            self.ended = True
            for process in self._running:
                process.terminate()


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """Trains the runs of a study.

    Attributes:
        output: folder of the run folders, which all studies share.
        results: folder of the results, which all studies share.
        device: device of the models.
        num_jobs: number of runs trained at the same time; they share the processor's threads.
        on_message: called with one line when a run starts or ends.
    """

    output: Path
    results: Path
    device: str = "cpu"
    num_jobs: int = 1
    on_message: OnMessage = lambda _: None
    _trainers: _Trainers = field(default_factory=_Trainers, init=False, repr=False)

    def run(self, cells: Sequence[Cell]) -> dict[str, CellResult]:
        """Train what has no result, and return the results by key; a run that failed has none.

        Raises:
            UserError: an existing result or run folder has other settings.
            KeyboardInterrupt: the study was interrupted; the processes that trained have ended.
        """
        results = self.existing(cells)
        missing = list({cell.key: cell for cell in cells if cell.key not in results}.values())
        clock = _Clock(missing, on_message=self.on_message)
        with ThreadPoolExecutor(self.num_jobs) as pool:
            try:
                for cell, result in zip(missing, pool.map(partial(self._run, clock=clock), missing), strict=True):
                    if result is not None:
                        results[cell.key] = result
            except KeyboardInterrupt:
                self._trainers.end()
                raise
        return results

    def existing(self, cells: Sequence[Cell]) -> dict[str, CellResult]:
        """Return the results that exist, by key.

        Raises:
            UserError: a result has other settings.
        """
        results = {cell.key: read_result(result_file(self.results, cell), cell) for cell in cells}
        return {key: result for key, result in results.items() if result is not None}

    def directory(self, cell: Cell) -> RunDirectory:
        """Return the run folder of a cell."""
        return RunDirectory(self.output / cell.key)

    def _run(self, cell: Cell, *, clock: "_Clock") -> CellResult | None:
        directory = self.directory(cell)
        if directory.is_started():
            _check_same(cell, directory)
        if not directory.is_ended():
            clock.start(cell)
            code = self._train(cell, directory)
            if not directory.is_ended():
                if not self._trainers.ended:
                    self.on_message(f"{cell.arm}, seed {cell.seed}: ended with code {code}, see {_log_file(directory)}")
                return None
        file = result_file(self.results, cell)
        write_result(file, make_result(cell, directory))
        clock.done(cell)
        return read_result(file, cell)  # with the digits of the file, so that a table is the same later

    def _train(self, cell: Cell, directory: RunDirectory) -> int:
        settings = directory.path.with_suffix(".toml")
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(to_toml(cell.run), encoding="utf-8")
        command = [sys.executable, "-m", "b2diffurl.cli", "train", str(settings), "--output", str(directory.path)]
        command += ["--device", self.device]
        if directory.is_started():
            command.append("--resume")
        threads = max(1, (os.cpu_count() or 1) // self.num_jobs)
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
        with _log_file(directory).open("a", encoding="utf-8") as log:
            return self._trainers.run(command, log=log, environment=environment)


def _log_file(directory: RunDirectory) -> Path:
    return directory.path.with_suffix(".log")


def _check_same(cell: Cell, directory: RunDirectory) -> None:
    present = read_toml(directory.run_file, Run)
    run = cell.run
    if run.memory.base_dtype == "auto":  # the run has chosen it
        run = replace(run, memory=replace(run.memory, base_dtype=present.memory.base_dtype))
    if settings_hash(present) != settings_hash(run) or present.seed != cell.seed:
        raise UserError(f"{directory.path} holds a run with other settings; delete it, or give another output.")


class _Clock:
    """Reports how many runs are done, and estimates the time left from their network evaluations."""

    def __init__(self, cells: Sequence[Cell], *, on_message: OnMessage) -> None:
        self._costs = {cell.key: network_evaluations(cell.run) for cell in cells}
        self._left = sum(self._costs.values())
        self._trained: set[str] = set()
        self._num_done = 0
        self._on_message = on_message
        self._started = time.monotonic()
        self._lock = Lock()

    def start(self, cell: Cell) -> None:
        self._trained.add(cell.key)
        self._on_message(f"{cell.condition} {cell.arm}, seed {cell.seed}: started".strip())

    def done(self, cell: Cell) -> None:
        with self._lock:
            self._num_done += 1
            self._left -= self._costs[cell.key]
            text = f"{cell.condition} {cell.arm}, seed {cell.seed}: done, {self._num_done} of {len(self._costs)}"
            if cell.key in self._trained and self._left:
                trained = sum(self._costs[key] for key in self._trained)
                seconds = (time.monotonic() - self._started) * self._left / trained
                text += f"; about {format_duration(seconds)} left"
            self._on_message(text.strip())


def network_evaluations(run: Run) -> int:
    """Return the network evaluations of a run, at most; without evaluations of images."""
    costs = round_costs(run, model_shape(run.model))
    return sum(cost.rollout_evaluations + cost.most_update_evaluations for cost in costs)
