"""run.log: what the console showed, with times, and the warnings and tracebacks of a run."""

import traceback
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from threading import Lock
from typing import TextIO

from b2diffurl.errors import UserError
from b2diffurl.run import files
from b2diffurl.run.directory import RunDirectory


class RunLog:
    """Appends to run.log of a run folder; what comes before the folder contains a run is kept until it does.

    Args:
        directory: the run folder.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._waiting: list[str] = []
        self._last = ""

    def write(self, text: str) -> None:
        """Append a text with the local time; its further lines are indented.

        Raises:
            UserError: the system refuses the write.
        """
        first, *further = text.rstrip().split("\n")
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        self._waiting.append("\n    ".join([f"{time} {first}", *further]) + "\n")
        self._last = text
        if self._directory.is_started():
            files.append_text(self._directory.log_file, "".join(self._waiting))
            self._waiting = []

    def warn(self, message: Warning | str, category: type[Warning], filename: str, lineno: int) -> None:
        """Append a warning, unless its text was appended just before."""
        if str(message) != self._last:
            self.write(f"{category.__name__}: {message} ({filename}, line {lineno})")

    @contextmanager
    def recording(self) -> Generator[None]:
        """Return a context whose warnings and whose exception, with the tracebacks of its causes, are appended."""
        with _LOCK:
            if not _RECORDING:
                _SHOWN.append(warnings.showwarning)
                warnings.showwarning = _show
            _RECORDING.append(self)
        try:
            yield
        except BaseException as error:
            with suppress(UserError):  # a full disk must not hide the error
                self.write("".join(traceback.format_exception(error)))
            raise
        finally:
            with _LOCK:
                _RECORDING.remove(self)
                if not _RECORDING:
                    warnings.showwarning = _SHOWN.pop()


# Runs may be in several threads, and warnings have one hook: the logs that record, and the hook that was there before.
_LOCK = Lock()
_RECORDING: list[RunLog] = []
_SHOWN: list[Callable[..., None]] = []


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    for log in _RECORDING:
        log.warn(message, category, filename, lineno)
    for shown in _SHOWN:
        shown(message, category, filename, lineno, file, line)
