"""The output of `train`: a progress bar with rate and remaining time, and one table line per round."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from b2diffurl.cli.time_left import RoundWork, TimeLeft
from b2diffurl.reporting.round_line import round_heading, round_line
from b2diffurl.reporting.text import format_duration
from b2diffurl.training.callbacks import Metrics

_HEADER_EVERY_ROUNDS = 20


class ConsoleObserver:
    """Show a run on a terminal; without a terminal, print one line per round.

    Args:
        console: output console.
        num_rounds: number of rounds of the run.
        rounds_done: number of rounds that were completed before, in a resumed run.
        time_left: estimates when the run is done; by default from rounds of equal cost.
    """

    def __init__(
        self, console: Console, *, num_rounds: int, rounds_done: int = 0, time_left: TimeLeft | None = None
    ) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}"), console=console, transient=True,
        )  # fmt: skip
        self._rounds = self._progress.add_task("rounds", total=num_rounds, completed=rounds_done, rate="")
        self._time_left = time_left or TimeLeft([RoundWork(sampling=1.0, update=1.0)] * num_rounds)
        self._time_left.begin_round(rounds_done)
        self._phase: TaskID | None = None
        self._phase_started = 0.0
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
        self._phase_started = time.monotonic()
        self._time_left.begin_phase(name)
        self._show_time_left()

    def on_progress(self, num: int) -> None:
        """Advance the bar, at most to its end."""
        if self._phase is None:
            return
        task = self._progress.tasks[-1]
        total = int(task.total or 0)
        done = min(int(task.completed) + num, total)
        seconds = time.monotonic() - self._phase_started
        left = format_duration(seconds * (total - done) / done) if done else ""
        rate = f"{done / seconds:.2g}/s, {left} left" if left and seconds else ""
        self._progress.update(self._phase, completed=done, rate=rate)
        self._time_left.advance(done / total if total else 1.0)
        self._show_time_left()

    def on_round(self, metrics: Metrics) -> None:
        """Print the line of the round."""
        if self._lines % _HEADER_EVERY_ROUNDS == 0:
            self._console.print(round_heading(), style="bold", highlight=False)
        self._lines += 1
        self._console.print(round_line(metrics), highlight=False)
        self._time_left.end_round()
        round_number = metrics.get("round") or self._lines
        self._time_left.begin_round(int(round_number))
        self._progress.update(self._rounds, completed=int(round_number))
        self._show_time_left()

    def _show_time_left(self) -> None:
        seconds = self._time_left.seconds()
        if seconds is not None:
            self._progress.update(self._rounds, rate=f"done in about {format_duration(seconds)}")
