"""Run the command line in a forked process: no import costs, and it can be killed, stopped or broken like any other.

The parent must have one thread only, since a fork copies no other.
"""

import io
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from b2diffurl.cli import main

TIMEOUT_SECONDS = 600.0  # a busy machine


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a process ended.

    Attributes:
        code: exit code; -9 for SIGKILL.
        stdout: its standard output.
        stderr: its standard error.
        cpu_seconds: CPU time of the process.
    """

    code: int
    stdout: str
    stderr: str
    cpu_seconds: float

    @property
    def is_refusal(self) -> bool:
        """Whether it ended with code 2 and one sentence, or with the usage message about an invalid flag."""
        return self.code == 2 and (is_sentence(self.stderr) or is_usage_message(self.stderr + self.stdout))

    @property
    def is_stop(self) -> bool:
        """Whether the run was stopped: code 1 and one sentence."""
        return self.code == 1 and self.stderr.startswith("b2diffurl: Stopped in round") and self.stderr.count("\n") == 1

    def describe(self) -> str:
        """Return the exit code and the last line of the standard error."""
        lines = self.stderr.strip().splitlines()
        return f"exit {self.code}: {lines[-1] if lines else ''}"


def without_device(stderr: str) -> str:
    """Return standard error without the line that announces the device, which is printed before a model is loaded."""
    return re.sub(r"\Adevice .*\n+", "", stderr)


def is_sentence(stderr: str) -> bool:
    """Whether the standard error is one sentence of the program and nothing else.

    >>> is_sentence("b2diffurl: seed is -1; give 0 or more."), is_sentence("Traceback (most recent call last):")
    (True, False)
    """
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", stderr).strip()
    return text.startswith("b2diffurl: ") and text.endswith(".") and "\n" not in text


def is_usage_message(output: str) -> bool:
    """Whether the output is the framed message about a flag that cannot be parsed."""
    return "For full helptext, " in output and "Traceback" not in output


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A forked process that is running.

    Attributes:
        pid: its process id.
        folder: folder of its output files.
    """

    pid: int
    folder: TemporaryDirectory[str]

    def wait(self, *, timeout: float = TIMEOUT_SECONDS) -> Outcome:
        """Wait for the end of the process; it is killed after `timeout` seconds.

        Raises:
            TimeoutError: it was killed because of the timeout.
        """
        end = time.monotonic() + timeout
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                self.kill()
                os.wait4(self.pid, 0)
                raise TimeoutError(f"a process ran for more than {timeout:g} seconds")
            time.sleep(0.02)
        stdout, stderr = (Path(self.folder.name, name).read_text("utf-8", "replace") for name in ("out", "err"))
        self.folder.cleanup()
        code = os.waitstatus_to_exitcode(status)
        return Outcome(
            code=code, stdout=stdout, stderr=without_device(stderr), cpu_seconds=usage.ru_utime + usage.ru_stime
        )

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def wait_until_stopped(self) -> bool:
        """Wait until the process has stopped itself (True) or ended (False); it must be waited for in both cases."""
        while True:
            info = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert info is not None
            return info.si_code == os.CLD_STOPPED


def start(words: Sequence[str], *, before: Callable[[], object] = lambda: None) -> Child:
    """Start the command line in a forked process.

    Args:
        words: arguments of the command line.
        before: called in the process first, for example to install faults.
    """
    return fork(lambda: main(list(words)), before=before)


def fork(work: Callable[[], int], *, before: Callable[[], object] = lambda: None) -> Child:
    """Start a function, which returns the exit code, in a forked process."""
    assert threading.active_count() == 1, f"several threads: {threading.enumerate()}"
    folder: TemporaryDirectory[str] = TemporaryDirectory(prefix="torture-")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid=pid, folder=folder)
    code = 1
    try:
        _redirect(Path(folder.name))
        before()
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - what an interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call(words: Sequence[str], *, before: Callable[[], object] = lambda: None) -> Outcome:
    """Start the command line in a forked process, and wait."""
    return start(words, before=before).wait()


def _redirect(folder: Path) -> None:
    """Send the standard streams of this process to files; no terminal, lines of 200 columns."""
    os.environ["COLUMNS"] = "200"
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", line_buffering=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", line_buffering=True)
