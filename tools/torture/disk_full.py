"""A full disk at every write, a folder that is read-only or removed, and a small file system where mounting works."""

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tools.torture.cases import Case, Result, failed, passed
from tools.torture.compare import differences, kept
from tools.torture.faults import ALLOCATING, Operation, Operations, no_space_from, remove_at
from tools.torture.processes import Outcome, call
from tools.torture.runs import Runs

SIZES_KIB = (16, 48, 112, 240, 496)
SHORT_STEP, REMOVE_STEP = 29, 4


def cases(runs: Runs, *, short: bool) -> Iterator[Case]:
    """Give the cases."""
    step = SHORT_STEP if short else 1
    yield from _no_space(runs, "run", None, runs.operations[::step])
    yield from _no_space(runs, "resumed run", runs.killed, runs.resumed_operations[::step])
    for operation in runs.operations[3 :: REMOVE_STEP * step]:
        name = f"before {operation.number}, {operation.kind} {Path(operation.path).name}"
        yield Case(campaign="folder removed", name=name, run=partial(_remove, runs, operation))
    yield Case(campaign="read-only folder", name="resume", run=partial(_read_only, runs))
    for size in SIZES_KIB[:: len(SIZES_KIB) if short else 1]:
        yield Case(campaign="small file system", name=f"{size} KiB", run=partial(_small, runs, size))


def _no_space(runs: Runs, name: str, source: Path | None, operations: Sequence[Operation]) -> Iterator[Case]:
    for operation in operations:
        if operation.kind in ALLOCATING:
            yield Case(
                campaign=f"disk full, {name}",
                name=f"from {operation.number}, {operation.kind} {Path(operation.path).name}",
                run=partial(runs.break_and_continue, source, no_space_from(operation.number), _is_refused),
            )


def _is_refused(outcome: Outcome) -> bool:
    return outcome.is_refusal


def _remove(runs: Runs, operation: Operation) -> Result:
    with runs.copy(None) as folder:
        fault = remove_at(operation.number, folder)
        ended = call(runs.world.train(folder), before=Operations(folder, fault=fault).install)
        if ended.code == 0:  # nothing was written yet
            different = differences(folder, runs.expected)
            return failed(different) if different else passed("made again, equal")
        return passed("refused") if ended.is_refusal else failed(ended.describe())


def _read_only(runs: Runs) -> Result:
    with runs.copy(None) as folder, _mounted(folder, "size=64m") as reason:
        if reason:
            return passed(f"skipped: {reason}")
        target = folder / "run"
        shutil.copytree(runs.killed, target)
        before = kept(target)
        _mount("-o", "remount,ro", str(folder))
        ended = call(runs.world.train(target, "--resume"))
        _mount("-o", "remount,rw", str(folder))
        if not ended.is_refusal or kept(target) != before:
            return failed(f"{ended.describe()}; files are the same: {kept(target) == before}")
        return runs.judge_continued(target, outcome="refused, then resumed, equal")


def _small(runs: Runs, size: int) -> Result:
    with runs.copy(None) as folder, _mounted(folder, f"size={size}k") as reason:
        if reason:
            return passed(f"skipped: {reason}")
        target = folder / "run"
        ended = call(runs.world.train(target))
        if not ended.is_refusal:
            return failed(ended.describe())
        _mount("-o", "remount,size=64m", str(folder))
        return runs.judge_continued(target, outcome="refused, then resumed, equal")


@contextmanager
def _mounted(folder: Path, options: str) -> Generator[str]:
    """Return a context in which `folder` is a file system in memory; gives the reason if that is not possible."""
    folder.mkdir()
    if os.geteuid() != 0:
        yield "mounting needs root"
        return
    reason = _mount("-t", "tmpfs", "-o", options, "torture", str(folder))
    try:
        yield reason
    finally:
        if not reason:
            subprocess.run(["umount", str(folder)], check=True)


def _mount(*words: str) -> str:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""
