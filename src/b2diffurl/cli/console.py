"""The output of `train`: a progress bar with rate and remaining time, and one table line per round."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from b2diffurl.reporting.round_line import round_heading, round_line
from b2diffurl.training.callbacks import Metrics

_HEADER_EVERY_ROUNDS = 20


class ConsoleObserver:
    """Show a run on a terminal; without a terminal, print one line per round.

    Args:
        console: output console.
        num_rounds: number of rounds of the run.
        rounds_done: number of rounds that were completed before, in a resumed run.
    """

    def __init__(self, console: Console, *, num_rounds: int, rounds_done: int = 0) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
        )  # fmt: skip
        self._rounds = self._progress.add_task("rounds", total=num_rounds, completed=rounds_done, rate="")
        self._phase: TaskID | None = None
        self._lines = 0

    def __enter__(self) -> "ConsoleObserver":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_phase(self, name: str, *, total: int) -> None:
        """Start a new bar."""
        if self._phase is not None:
            self._progress.remove_task(self._phase)
        self._phase = self._progress.add_task(name, total=total, rate="")

    def on_progress(self, num: int) -> None:
        """Advance the bar."""
        if self._phase is not None:
            self._progress.advance(self._phase, num)
            speed = self._progress.tasks[-1].speed
            self._progress.update(self._phase, rate=f"{speed:.1f}/s" if speed else "")

    def on_round(self, metrics: Metrics) -> None:
        """Print the line of the round."""
        if self._lines % _HEADER_EVERY_ROUNDS == 0:
            self._console.print(round_heading(), style="bold", highlight=False)
        self._lines += 1
        self._console.print(round_line(metrics), highlight=False)
        self._progress.advance(self._rounds)
