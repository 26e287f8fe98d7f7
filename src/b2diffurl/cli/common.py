"""Shared by the commands: flags to settings, and the run that the first word names."""

import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import tyro

from b2diffurl.cli.documentation import components_of
from b2diffurl.cli.help import short_help, wrapped
from b2diffurl.config import flat_settings, read_toml
from b2diffurl.distributed import choose_device, describe_device
from b2diffurl.errors import UserError, did_you_mean
from b2diffurl.models.progress_bars import disable_progress_bars
from b2diffurl.run.recipes import RECIPES, recipe
from b2diffurl.run.settings import Run

T = TypeVar("T")
HELP_ALL = "--help-all"
_COMPONENTS = components_of(Run)
_SETTINGS = flat_settings(recipe("emoji-quickstart"))
Switch = tyro.conf.FlagCreatePairsOff[bool]  # a flag of a command without a --no- twin


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
    given = ["--help" if word == HELP_ALL else word for word in expand_components(words)]
    if any(word.partition("=")[0] == "--recipe" for word in given):
        raise UserError("recipe is not a flag; give its name as the first word after the command.")
    if default is None:
        return tyro.cli(cls, args=given, prog=prog, config=config)
    return tyro.cli(cls, args=given, prog=prog, default=default, config=config)


def show_help(words: list[str], command: str, cls: type) -> None:
    """Print the short help of a command that takes a run, if the words ask for help.

    Args:
        words: the words after the command.
        command: its name.
        cls: dataclass of its flags.

    Raises:
        SystemExit: help was requested.
    """
    if not set(words) & {"-h", "--help"}:
        return
    has_run = words[0] not in ("-h", "--help")
    print(short_help(command, cls, named_run(words, command), name=words[0]) if has_run else short_help(command, cls))
    raise SystemExit(0)


def named_run(words: list[str], command: str) -> Run:
    """Read the run of the recipe or TOML file that the first word names.

    Raises:
        UserError: the first word is missing, unknown, or a TOML file that is invalid.
        SystemExit: help was requested.
    """
    if words and words[0] in ("-h", "--help", HELP_ALL):
        usage = f"usage: b2diffurl {command} RECIPE|run.toml [flags]; {HELP_ALL} after the recipe lists every setting"
        print("\n".join([usage, *wrapped("recipes: ", list(RECIPES))]))
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


def expand_components(words: list[str]) -> list[str]:
    """Replace the forms that name a component by the one that tyro reads: `--objective dpo`, `--objective.use dpo`.

    A component of user code, `objective:module:Class`, becomes two flags.

    Raises:
        UserError: a component does not exist.

    >>> expand_components(["--objective", "dpo", "--seed", "1"])
    ['objective:dpo', '--seed', '1']
    >>> expand_components(["schedule:mine.py:Sawtooth", "--seed", "1"])
    ['schedule:custom-schedule', '--schedule.name', 'mine.py:Sawtooth', '--seed', '1']
    """
    expanded: list[str] = []
    remaining, before = iter(words), ""
    for word in remaining:
        option, equals, value = word.partition("=")
        kind = option.removeprefix("--").removesuffix(".use")
        if option.startswith("--") and kind in _COMPONENTS:
            expanded += _component(kind, value if equals else next(remaining, ""))
        elif word.partition(":")[0] in _COMPONENTS and not _takes_value(before):
            kind, _, name = word.partition(":")
            expanded += _component(kind, name)
        else:
            expanded.append(word)
        before = word
    return expanded


def _takes_value(word: str) -> bool:
    """Whether the word after this one is its value: it is a flag, and no switch."""
    name = word.removeprefix("--").replace("-", "_")
    is_switch = name in ("dry_run", "resume", "measure") or isinstance(_SETTINGS.get(name.removeprefix("no_")), bool)
    return word.startswith("--") and "=" not in word and not is_switch and ".no_" not in name


def _component(kind: str, name: str) -> list[str]:
    if ":" in name:
        return [f"{kind}:custom-{kind}", f"--{kind}.name", name]
    known = _COMPONENTS[kind]
    if name not in (*known, f"custom-{kind}"):
        raise UserError(
            f"{kind} is {name!r}{did_you_mean(name, known)}; give one of: {', '.join(known)}, or FILE.py:CLASS."
        )
    return [f"{kind}:{name}"]
