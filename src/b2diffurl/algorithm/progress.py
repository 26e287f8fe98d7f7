"""The interface of progress reporting."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Receives how far a round is."""

    def phase(self, name: str, total: int) -> None:
        """Start a phase of `total` items."""

    def advance(self, num: int) -> None:
        """Count `num` further items of the phase as done."""


class _NoProgress(Progress):
    """Ignores everything."""


NO_PROGRESS = _NoProgress()
