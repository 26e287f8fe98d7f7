"""Run folders that the campaigns share, and how a broken run is continued and judged."""

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.torture.cases import Result, failed, passed
from tools.torture.compare import differences, kept, numbers
from tools.torture.faults import Fault, Operation, Operations, kill_at, read_log
from tools.torture.processes import Outcome, call
from tools.torture.world import World

NOT_STARTED = "holds no run to resume"


@dataclass(frozen=True)
class Runs:
    """The uninterrupted run, a run killed in its last round, and the operations of both; made at their first use.

    Attributes:
        world: the model and the settings.
    """

    world: World
    _continued: dict[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def whole(self) -> Path:
        """Folder of the uninterrupted run."""
        folder = self.world.root / "whole"
        if not (folder / "report.html").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            log = self.world.root / "operations.txt"
            _expect(call(self.world.train(folder), before=Operations(folder, log=log).install), 0)
        return folder

    @cached_property
    def expected(self) -> dict[str, Any]:
        """The numbers of the uninterrupted run."""
        return numbers(self.whole)

    @cached_property
    def operations(self) -> list[Operation]:
        """Operations of the uninterrupted run, in order."""
        assert self.whole.is_dir()
        return read_log(self.world.root / "operations.txt")

    @cached_property
    def killed(self) -> Path:
        """Folder of a run that was killed after the metrics of its last round and before that round's checkpoint."""
        folder = self.world.root / "killed"
        last = next(op for op in self.operations if op.path.endswith("round_00003.partial") and op.kind == "mkdir")
        if not (folder / ".lock").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            fault = kill_at(last.number)
            _expect(call(self.world.train(folder), before=Operations(folder, fault=fault).install), -9)
        return folder

    @cached_property
    def resumed_operations(self) -> list[Operation]:
        """Operations of a run that continues `killed`, in order."""
        log = self.world.root / "resumed.txt"
        with self.copy(self.killed) as folder:
            words = self.world.train(folder, "--resume")
            _expect(call(words, before=Operations(folder, log=log).install), 0)
        return read_log(log)

    @contextmanager
    def copy(self, folder: Path | None) -> Generator[Path]:
        """Return a context that gives a copy of a run folder, or the path of a new one; it is removed at the end."""
        path = self.world.root / "case"
        shutil.rmtree(path, ignore_errors=True)
        if folder is not None:
            shutil.copytree(folder, path)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def finish(self, folder: Path) -> Outcome:
        """Continue a run to its end, from its start if nothing was written."""
        outcome = call(self.world.train(folder, "--resume"))
        if outcome.code == 2 and NOT_STARTED in outcome.stderr:
            outcome = call(self.world.train(folder))
        return outcome

    def judge_continued(self, folder: Path, *, outcome: str = "resumed, equal") -> Result:
        """Continue a run that must be possible to continue, and compare it with the uninterrupted one.

        Folders with equal files continue equally, so each content is continued once. The lock names the process.
        """
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        state = str((names, [item for item in kept(folder).items() if item[0] != "env.json"]))
        if state in self._continued:
            return Result(outcomes={outcome: 1}) if not self._continued[state] else failed(self._continued[state])
        ended = self.finish(folder)
        fault = f"resume: {ended.describe()}" if ended.code else differences(folder, self.expected)
        self._continued[state] = fault
        return failed(fault) if fault else Result(outcomes={outcome: 1, "+resumes of distinct folders": 1})

    def judge_damaged(self, folder: Path, *, damaged: str, may_differ: tuple[str, ...] = ()) -> Result:
        """Continue a run with a damaged file: it is refused and nothing is lost, or its end is right."""
        before = kept(folder)
        ended = self.finish(folder)
        if ended.is_refusal:
            after = kept(folder)
            lost = [name for name in before if before[name] != after.get(name)]
            return failed(f"refused, but changed {lost}") if lost else passed("refused")
        if ended.code != 0:
            return failed(ended.describe())
        different = differences(folder, self.expected, may_differ=may_differ)
        return failed(f"{damaged} damaged: {different}") if different else passed("resumed, equal")

    def break_and_continue(self, source: Path | None, fault: Fault, check: Callable[[Outcome], bool]) -> Result:
        """Run with a fault, from the start or from a copy of `source`, check how it ended, and continue it."""
        with self.copy(source) as folder:
            words = self.world.train(folder, *([] if source is None else ["--resume"]))
            ended = call(words, before=Operations(folder, fault=fault).install)
            if not check(ended):
                return failed(ended.describe())
            return self.judge_continued(folder)


def _expect(outcome: Outcome, code: int) -> None:
    if outcome.code != code:
        raise RuntimeError(f"the run ended with {outcome.code} instead of {code}:\n{outcome.stderr}")
