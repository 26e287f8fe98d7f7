"""`b2diffurl show RECIPE|run.toml`: the complete run as TOML."""

from b2diffurl.cli.common import named_run
from b2diffurl.errors import UserError


def show(words: list[str]) -> int:
    """Print the run."""
    from b2diffurl.config import to_toml

    run = named_run(words, "show")
    if len(words) > 1:
        raise UserError(f"`b2diffurl show` takes one recipe; {' '.join(words[1:])!r} is too much.")
    print(to_toml(run), end="")
    return 0
