"""The two ways in which b2diffurl ends a piece of work on purpose."""


class UserError(Exception):
    """A mistake of the user, told in one sentence: which field, which value, which way out. Exit code 2.

    No ValueError, on purpose: pydantic and tyro wrap those into messages of their own.
    """


class RunStopped(RuntimeError):  # noqa: N818 - it says what happened, which need not be an error
    """A run that must not go on: a collapse, a number that is not finite, a reward that keeps failing. Exit code 1.

    Attributes:
        round_index: the round in which it happened, counted from 1.
        cause: one sentence.
    """

    def __init__(self, *, round_index: int, cause: str) -> None:
        super().__init__(f"Stopped in round {round_index}: {cause}")
        self.round_index = round_index
        self.cause = cause
