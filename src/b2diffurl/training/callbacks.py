"""What a run tells the outside while it goes on: metrics to files, progress to whoever watches."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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


class RoundLines:
    """A file of JSON lines that say which round they are of. A resumed run drops those of rounds that it does again.

    Args:
        path: of the file.
        first_round: lines of this round and later ones are dropped.
    """

    def __init__(self, path: Path, *, first_round: int) -> None:
        self.path = path
        kept = [line for line in self._lines() if json.loads(line)["round"] < first_round]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write lines at the end."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def _lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        # A line without its newline was cut off when the run was killed.
        return [
            line[:-1] for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
        ]


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
