"""The three ways in which b2diffurl ends a piece of work on purpose."""


class UserError(Exception):
    """A mistake of the user, told in one sentence: which field, which value, which way out. Exit code 2.

    No ValueError, on purpose: pydantic and tyro wrap those into messages of their own.
    """


class RunStopped(RuntimeError):  # noqa: N818 - it says what happened, which need not be an error
    """A run that must not go on: a collapse, a number that is not finite, a reward that keeps failing. Exit code 1.

    Attributes:
        round_index: the round in which it happened, counted from 1.
        cause: one sentence.
        first_bad_round: the round whose update did the harm; its checkpoint and later ones are no good.
    """

    def __init__(self, *, round_index: int, cause: str, first_bad_round: int | None = None) -> None:
        super().__init__(f"Stopped in round {round_index}: {cause}")
        self.round_index = round_index
        self.cause = cause
        self.first_bad_round = round_index if first_bad_round is None else first_bad_round

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to another process whole."""
        return _stopped, (self.round_index, self.cause, self.first_bad_round)


def _stopped(round_index: int, cause: str, first_bad_round: int) -> RunStopped:
    return RunStopped(round_index=round_index, cause=cause, first_bad_round=first_bad_round)


class RewardFailed(Exception):  # noqa: N818 - it says what happened
    """A reward that failed after its retries, told in one sentence. The run is stopped with its state saved.

    A failure is never a score of 0.
    """
