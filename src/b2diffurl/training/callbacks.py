"""Callbacks for progress and metrics."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

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
