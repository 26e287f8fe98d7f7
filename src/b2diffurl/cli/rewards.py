"""`b2diffurl check reward X` and `b2diffurl serve-reward X`."""

from b2diffurl.cli.common import parse, prepare
from b2diffurl.errors import UserError


def check(words: list[str]) -> int:
    """Does a part of the user's keep its contract? So far rewards alone can be checked."""
    if not words or words[0] != "reward":
        raise UserError("`b2diffurl check` wants to know what: b2diffurl check reward MODULE:FUNCTION.")
    prepare()
    from b2diffurl.rewards.contract import CheckReward, run

    return run(parse(CheckReward, words[1:], prog="b2diffurl check reward"))


def serve(words: list[str]) -> int:
    """Serve a reward over HTTP."""
    prepare()
    from b2diffurl.rewards.remote.server import ServeReward, run

    return run(parse(ServeReward, words, prog="b2diffurl serve-reward"))
