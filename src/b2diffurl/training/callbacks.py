"""Callbacks for progress and metrics."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from b2diffurl.evaluation.generate import GeneratedImages

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
