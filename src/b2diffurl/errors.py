"""The exceptions that b2diffurl raises on purpose, and the name that a user may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Invalid input. The message is one sentence: which setting, which value, how to fix it. Exit code 2.

    Not a ValueError, on purpose: pydantic and tyro would wrap it into a message of their own.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint to the known name that is most like an unknown one; "" if none is.

    >>> did_you_mean("trian", ["train", "sample"])
    " (did you mean 'train'?)"
    >>> did_you_mean("fly", ["train", "sample"])
    ''
    """
    closest = get_close_matches(name, list(known), n=1, cutoff=0.65)
    return f" (did you mean {closest[0]!r}?)" if closest else ""


class RunStopped(RuntimeError):  # noqa: N818 - the name says what happened
    """A run that must not continue: a collapse, a number that is not finite, a reward that keeps failing. Exit code 1.

    Attributes:
        round_number: the round in which it happened, counted from 1.
        cause: one sentence.
        first_bad_round: the round whose update caused it; its checkpoint and later ones must not be used.
    """

    def __init__(self, *, round_number: int, cause: str, first_bad_round: int | None = None) -> None:
        super().__init__(f"Stopped in round {round_number}: {cause}")
        self.round_number = round_number
        self.cause = cause
        self.first_bad_round = round_number if first_bad_round is None else first_bad_round

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with all attributes."""
        return _stopped, (self.round_number, self.cause, self.first_bad_round)


def _stopped(round_number: int, cause: str, first_bad_round: int) -> RunStopped:
    return RunStopped(round_number=round_number, cause=cause, first_bad_round=first_bad_round)


class RankLost(Exception):  # noqa: N818 - the name says what happened
    """Another process of a run ended or does not answer. The checkpoints are as they were. Exit code 1."""


class RewardFailed(Exception):  # noqa: N818 - the name says what happened
    """A reward failed after its retries; the message is one sentence. The run is stopped with its state saved.

    A failure is never a score of 0.
    """
