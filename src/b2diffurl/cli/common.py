"""Shared by the commands: flags to settings, and the run that the first word names."""

from pathlib import Path
from typing import TypeVar

import tyro

from b2diffurl.config import read_toml
from b2diffurl.errors import UserError
from b2diffurl.models.progress_bars import disable_progress_bars
from b2diffurl.run.recipes import RECIPES, recipe
from b2diffurl.run.settings import Run

T = TypeVar("T")
_COMPONENTS = ("schedule", "advantage", "selection", "objective")


def parse(cls: type[T], words: list[str], *, prog: str, default: T | None = None) -> T:
    """Read flags into settings.

    Args:
        cls: a dataclass.
        words: the flags.
        prog: name of the command for its help.
        default: settings that the flags override.

    Raises:
        UserError: a value is out of range.
        SystemExit: help was requested, or a flag is unknown or has the wrong type.
    """
    config = (tyro.conf.CascadeSubcommandArgs,)
    words = expand_custom(words)
    if default is None:
        return tyro.cli(cls, args=words, prog=prog, config=config)
    return tyro.cli(cls, args=words, prog=prog, default=default, config=config)


def named_run(words: list[str], command: str) -> Run:
    """Read the run of the recipe or TOML file that the first word names.

    Raises:
        UserError: the first word is missing, unknown, or a TOML file that is invalid.
        SystemExit: help was requested.
    """
    if words and words[0] in ("-h", "--help"):
        print(f"usage: b2diffurl {command} RECIPE|run.toml [flags]\nrecipes: {', '.join(RECIPES)}")
        raise SystemExit(0)
    if not words or words[0].startswith("-"):
        raise UserError(f"`b2diffurl {command}` needs a recipe or a run.toml first; recipes: {', '.join(RECIPES)}.")
    name = words[0]
    return read_toml(Path(name), Run) if name.endswith(".toml") else recipe(name)


def prepare() -> None:
    """Turn off the progress bars of the model libraries, which imports them."""
    disable_progress_bars()


def expand_custom(words: list[str]) -> list[str]:
    """Replace `objective:module:Class` and `--objective.use module:Class` by the flags of a custom component.

    >>> expand_custom(["schedule:mine.py:Sawtooth", "--seed", "1"])
    ['schedule:custom-schedule', '--schedule.name', 'mine.py:Sawtooth', '--seed', '1']
    """
    expanded: list[str] = []
    remaining = iter(words)
    for word in remaining:
        kind, _, name = word.partition(":")
        option = word.removeprefix("--").removesuffix(".use")
        if word == f"--{option}.use" and option in _COMPONENTS:
            kind, name = option, next(remaining, "")
            word = f"{kind}:{name}"
        is_custom = kind in _COMPONENTS and ":" in name
        expanded += [f"{kind}:custom-{kind}", f"--{kind}.name", name] if is_custom else [word]
    return expanded
