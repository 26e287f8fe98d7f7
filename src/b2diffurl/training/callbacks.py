"""Callbacks for progress and metrics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from b2diffurl.evaluation.generate import GeneratedImages
from b2diffurl.reporting import write_report

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


@runtime_checkable
class SampleObserver(Protocol):
    """What an observer may also have: it receives the sample images."""

    def on_samples(self, samples: GeneratedImages, *, reward_queries: int) -> None:
        """Receive the sample images, after `reward_queries` images have been scored in training."""
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

    def samples(self, samples: GeneratedImages, *, reward_queries: int) -> None:
        """Report the sample images to the observers that take them."""
        for observer in self.observers:
            if isinstance(observer, SampleObserver):
                observer.on_samples(samples, reward_queries=reward_queries)


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
