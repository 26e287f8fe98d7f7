"""`b2diffurl show RECIPE|run.toml`: print the complete run as TOML."""

from b2diffurl.cli.common import named_run
from b2diffurl.config import to_toml
from b2diffurl.errors import UserError


def show(words: list[str]) -> int:
    """Print the run."""
    run = named_run(words, "show")
    if len(words) > 1:
        raise UserError(f"`b2diffurl show` takes one recipe; remove {' '.join(words[1:])!r}.")
    print(to_toml(run), end="")
    return 0
