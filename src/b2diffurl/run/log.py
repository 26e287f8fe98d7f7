"""run.log: what the console showed, with times, and the warnings and tracebacks of a run."""

import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
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

    @contextmanager
    def recording(self) -> Generator[None]:
        """Return a context whose warnings and whose exception, with the tracebacks of its causes, are appended."""
        shown = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if str(message) != self._last:  # otherwise it is here already
                self.write(f"{category.__name__}: {message} ({filename}, line {lineno})")
            shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        try:
            yield
        except BaseException as error:
            with suppress(UserError):  # a full disk must not hide the error
                self.write("".join(traceback.format_exception(error)))
            raise
        finally:
            warnings.showwarning = shown
