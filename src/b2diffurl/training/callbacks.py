"""What a run tells the outside while it goes on: metrics to files, progress to whoever watches."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Metrics = dict[str, float | int | None]


@runtime_checkable
class Observer(Protocol):
    """Somebody who watches a run; the command line's progress bars, a tracker."""

    def on_phase(self, name: str, *, total: int) -> None:
        """A phase of a round begins, with so many things to do."""
        ...

    def on_progress(self, num: int) -> None:
        """So many things of the phase are done since the last call."""
        ...

    def on_round(self, metrics: Metrics) -> None:
        """A round is over."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressReporter:
    """Tells all who watch.

    Attributes:
        observers: who.
    """

    observers: tuple[Observer, ...] = ()

    def phase(self, name: str, total: int) -> None:
        """A phase of a round begins."""
        for observer in self.observers:
            observer.on_phase(name, total=total)

    def advance(self, num: int) -> None:
        """So many things of the phase are done."""
        for observer in self.observers:
            observer.on_progress(num)

    def round_done(self, metrics: Metrics) -> None:
        """A round is over."""
        for observer in self.observers:
            observer.on_round(metrics)


class TensorBoard:
    """TensorBoard events (extra: tensorboard), the step being the number of reward queries.

    Args:
        directory: of the event files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def on_phase(self, name: str, *, total: int) -> None:
        """Nothing to do."""

    def on_progress(self, num: int) -> None:
        """Nothing to do."""

    @cached_property
    def _writer(self) -> "SummaryWriter":
        """Made with the first round: the run folder must be empty when a run begins."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._directory))

    def on_round(self, metrics: Metrics) -> None:
        """Write every number."""
        for name, value in metrics.items():
            if value is not None:
                self._writer.add_scalar(name, value, int(metrics["reward_queries"] or 0))
        self._writer.flush()
