"""What the commands share: flags into settings, the run that is meant, a process made ready."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro

from b2diffurl.errors import UserError

if TYPE_CHECKING:
    from b2diffurl.run.settings import Run

T = TypeVar("T")


def parse(cls: type[T], words: list[str], *, prog: str, default: T | None = None) -> T:
    """Read flags into settings; a mistake in a value is told in one sentence."""
    config = (tyro.conf.CascadeSubcommandArgs,)
    words = _own_objective(words)
    if default is None:
        return tyro.cli(cls, args=words, prog=prog, config=config)
    return tyro.cli(cls, args=words, prog=prog, default=default, config=config)


def named_run(words: list[str], command: str) -> "Run":
    """The run of a recipe or of a TOML file, whichever the first word names."""
    from b2diffurl.config import read_toml
    from b2diffurl.run.recipes import RECIPES, recipe
    from b2diffurl.run.settings import Run

    if not words or words[0].startswith("-"):
        if words and words[0] in ("-h", "--help"):
            print(f"usage: b2diffurl {command} RECIPE|run.toml [flags]\nrecipes: {', '.join(RECIPES)}")
            raise SystemExit(0)
        raise UserError(f"`b2diffurl {command}` wants a recipe or a run.toml first; recipes: {', '.join(RECIPES)}.")
    name = words[0]
    return read_toml(Path(name), Run) if name.endswith(".toml") else recipe(name)


def prepare() -> None:
    """Make the process ready before anything heavy is imported."""
    from b2diffurl.cli.environment import prepare_process
    from b2diffurl.models.progress_bars import disable_progress_bars

    prepare_process()
    disable_progress_bars()


def _own_objective(words: list[str]) -> list[str]:
    """`objective:module:Class`, as the flags that name it."""
    out: list[str] = []
    for word in words:
        kind, _, name = word.partition(":")
        out += ["objective:own", "--objective.name", name] if kind == "objective" and ":" in name else [word]
    return out
