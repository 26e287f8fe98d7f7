"""Callbacks for progress and metrics."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from b2diffurl.reporting import write_report

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Metrics = dict[str, float | int | None]


@runtime_checkable
class Observer(Protocol):
    """Callback interface: the progress bars of the command line, a tracker."""

    def on_phase(self, name: str, *, total: int) -> None:
        """Start a phase of `total` items."""
        ...

    def on_progress(self, num: int) -> None:
        """Count `num` further items of the phase as done."""
        ...

    def on_round(self, metrics: Metrics) -> None:
        """Receive the metrics of a finished round."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressReporter:
    """Passes progress and metrics to all observers.

    Attributes:
        observers: the callbacks.
    """

    observers: tuple[Observer, ...] = ()

    def phase(self, name: str, total: int) -> None:
        """Start a phase."""
        for observer in self.observers:
            observer.on_phase(name, total=total)

    def advance(self, num: int) -> None:
        """Count items as done."""
        for observer in self.observers:
            observer.on_progress(num)

    def round_done(self, metrics: Metrics) -> None:
        """Report a finished round."""
        for observer in self.observers:
            observer.on_round(metrics)


class ReportWriter:
    """Rebuilds report.html while a run trains; the page reloads itself.

    Args:
        directory: the run folder.
        every_rounds: number of rounds between two reports.
        refresh_seconds: how often a browser loads the page anew.
    """

    def __init__(self, directory: Path, *, every_rounds: int = 1, refresh_seconds: int = 20) -> None:
        self._directory = directory
        self._every_rounds = every_rounds
        self._refresh_seconds = refresh_seconds

    def on_phase(self, name: str, *, total: int) -> None:
        """Ignored."""

    def on_progress(self, num: int) -> None:
        """Ignored."""

    def on_round(self, metrics: Metrics) -> None:
        """Write the report."""
        if int(metrics["round"] or 0) % self._every_rounds == 0:
            write_report(self._directory, refresh_seconds=self._refresh_seconds)


class TensorBoard:
    """TensorBoard events (extra: tensorboard), the step being the number of reward queries.

    Args:
        directory: directory of the event files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def on_phase(self, name: str, *, total: int) -> None:
        """Ignored."""

    def on_progress(self, num: int) -> None:
        """Ignored."""

    @cached_property
    def _writer(self) -> "SummaryWriter":
        """Created with the first round, since the run folder must be empty when a run begins."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._directory))

    def on_round(self, metrics: Metrics) -> None:
        """Write every number."""
        for name, value in metrics.items():
            if value is not None:
                self._writer.add_scalar(name, value, int(metrics["reward_queries"] or 0))
        self._writer.flush()
