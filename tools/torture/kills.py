"""SIGKILL at random moments: in forked processes, and in processes that are started by the shell's command."""

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from tools.torture.cases import Case, Result, failed
from tools.torture.processes import start
from tools.torture.runs import Runs

NUM_CHAINS, NUM_COMMANDS, MAX_KILLS = 45, 4, 4
SHORT_CHAINS, SHORT_COMMANDS = 3, 0
_MAX_COMMAND_SECONDS = 10.0  # a command imports for some seconds


def cases(runs: Runs, *, short: bool) -> Iterator[Case]:
    """Give the cases: chains of kills, each of a run that is resumed after every kill."""
    chains, commands = (SHORT_CHAINS, SHORT_COMMANDS) if short else (NUM_CHAINS, NUM_COMMANDS)
    for index in range(chains):
        yield Case(campaign="kills", name=f"chain {index}", run=partial(_chain, runs, index))
    for index in range(commands):
        yield Case(campaign="kills", name=f"command {index}", run=partial(_command, runs, index))


def _chain(runs: Runs, index: int) -> Result:
    rng = Random(f"{runs.world.seed} chain {index}")
    longest = _seconds_of_a_run(runs)
    with runs.copy(None) as folder:
        num_kills = 0
        for _ in range(MAX_KILLS):
            child = start(_words(runs, folder))
            time.sleep(rng.uniform(0, longest))
            child.kill()
            ended = child.wait()
            if ended.code not in (-9, 0):
                return failed(ended.describe())
            num_kills += ended.code == -9
        return _with_kills(runs.judge_continued(folder), num_kills)


def _command(runs: Runs, index: int) -> Result:
    rng = Random(f"{runs.world.seed} command {index}")
    with runs.copy(None) as folder:
        num_kills = 0
        for _ in range(2):
            words = [sys.executable, "-m", "b2diffurl.cli", *_words(runs, folder)]
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0, _MAX_COMMAND_SECONDS))
            process.kill()
            num_kills += process.wait() == -9
        return _with_kills(runs.judge_continued(folder), num_kills)


def _words(runs: Runs, folder: Path) -> list[str]:
    return runs.world.train(folder, *(["--resume"] if (folder / "run.toml").is_file() else []))


def _with_kills(result: Result, num_kills: int) -> Result:
    return Result(outcomes=result.outcomes | {"+kills": num_kills}, faults=result.faults)


_durations: list[float] = []


def _seconds_of_a_run(runs: Runs) -> float:
    """Return the duration of an uninterrupted run in a forked process, measured once."""
    if not _durations:
        with runs.copy(None) as folder:
            begin = time.monotonic()
            start(runs.world.train(folder)).wait()
            _durations.append(time.monotonic() - begin)
    return _durations[0]
