"""`b2diffurl show RECIPE|run.toml`: print the complete run as TOML."""

import re
import textwrap

from b2diffurl.cli.common import named_run
from b2diffurl.cli.documentation import descriptions, summary
from b2diffurl.config import to_toml
from b2diffurl.errors import UserError
from b2diffurl.run.settings import Run

_COMMENTS = "--comments"
_USAGE = """\
usage: b2diffurl show [--comments] RECIPE|run.toml

Print the complete run as TOML. With --comments each key has its meaning, and the
equation or section of the paper that it is from.
"""


def show(arguments: list[str]) -> int:
    """Print the run."""
    if set(arguments) & {"-h", "--help"}:
        print(_USAGE, end="")
        return 0
    others = [word for word in arguments if word != _COMMENTS]
    run = named_run(others, "show")
    if len(others) > 1:
        raise UserError(f"`b2diffurl show` takes one recipe; remove {' '.join(others[1:])!r}.")
    print(to_toml(run) if len(others) == len(arguments) else commented(run), end="")
    return 0


def commented(run: Run) -> str:
    """Return a run as TOML with the meaning of each table and key above it; it is read back as the same run."""
    lines: list[str] = []
    cls: type | None = Run
    for line in to_toml(run).split("\n"):
        table = re.fullmatch(r"\[([\w.]+)\]", line)
        key = re.match(r"(\w+) = ", line)
        if table:
            cls = _class_of(run, table[1])
            meaning = "" if cls is None else summary(cls)
        else:
            meaning = descriptions(cls).get(key[1], "") if key and cls is not None else ""
        lines += textwrap.wrap(meaning, 80, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
        lines.append(line)
    return "\n".join(lines)


def _class_of(run: Run, table: str) -> type | None:
    """Return the class of a table's settings; None for the options of user code."""
    value: object = getattr(run, table, None)
    return None if value is None else value.__class__
