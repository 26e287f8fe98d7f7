"""Shared by the commands: flags to settings, and the run that the first word names."""

import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import tyro

from b2diffurl.config import read_toml
from b2diffurl.distributed import choose_device, describe_device
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


def announce_device(device: str) -> str:
    """Return the device to use, and print it with its name and memory to stderr.

    Raises:
        UserError: the device is not available.
    """
    chosen = choose_device(device)
    print(f"device   {describe_device(chosen)}", file=sys.stderr)
    return chosen


def check_output(path: Path, *, setting: str = "output") -> None:
    """Refuse a folder that cannot be created; it is created and removed again.

    Args:
        path: the folder.
        setting: name of the setting for messages.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    created: list[Path] = []
    try:
        missing = [folder for folder in (path, *path.parents) if not _exists(folder)]
        if path not in missing and not path.is_dir():
            raise UserError(f"{setting} {path} exists and is not an empty folder; give another folder.")
        for folder in reversed(missing):
            folder.mkdir()
            created.append(folder)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"{setting} is {str(path)!r}, which cannot be written: {error.strerror}; give another."
        ) from error
    finally:
        for folder in reversed(created):
            with suppress(OSError):  # another process uses it already
                folder.rmdir()


def check_file(path: Path, *, setting: str) -> None:
    """Refuse a file that cannot be written; an existing file is unchanged, and a new one is removed again.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        is_new = not _exists(path)
        with path.open("a"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise UserError(
            f"{setting} is {str(path)!r}, which cannot be written: {error.strerror}; give another."
        ) from error


def _exists(path: Path) -> bool:
    """Whether a path exists; unlike `Path.exists`, a path that cannot be one raises OSError."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


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
