"""`b2diffurl completion SHELL`: print a script that completes commands, recipes and flags."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from importlib import import_module

from b2diffurl.analysis.study.spec import study_names
from b2diffurl.cli.documentation import components_of, flags_of
from b2diffurl.errors import UserError, did_you_mean
from b2diffurl.run.recipes import RECIPES
from b2diffurl.run.settings import Run

SHELLS = ("bash", "zsh", "fish")
_HELP = """\
usage: b2diffurl completion bash|zsh|fish

Print a script that completes commands, recipes and flags. To use it, add to the
shell's startup file:

  bash  eval "$(b2diffurl completion bash)"
  zsh   eval "$(b2diffurl completion zsh)"
  fish  b2diffurl completion fish | source
"""
_BASH = """\
_b2diffurl() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "$previous" in
{components}
    esac
    if [ -z "$words" ]; then
      case "${{COMP_WORDS[1]}}" in
{flags}
      esac
    fi
    if [ "$COMP_CWORD" -eq 2 ]; then
      case "${{COMP_WORDS[1]}}" in {with_run}) words="{recipes} $words";; esac
    fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _b2diffurl b2diffurl
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
_WORDS = {
    "check": ("reward",), "completion": SHELLS, "show": ("--comments",), "study": study_names(),
    "train": ("--help-all",), "plan": ("--help-all",),
}  # fmt: skip
_WITH_RUN = ("train", "plan", "probe", "show")


def completion(words: list[str]) -> int:
    """Print the script of a shell."""
    commands: dict[str, tuple[str, str]] = vars(import_module("b2diffurl.cli"))["_COMMANDS"]
    if not words or words[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if words[0] not in SHELLS or len(words) > 1:
        raise UserError(
            f"shell is {' '.join(words)!r}{did_you_mean(words[0], SHELLS)}; give one of: {', '.join(SHELLS)}."
        )
    flags = {command: command_words(command, module) for command, (module, _) in commands.items()}
    print(_fish(flags) if words[0] == "fish" else _bash(flags, is_zsh=words[0] == "zsh"), end="")
    return 0


def command_words(command: str, module: str) -> list[str]:
    """Return the words that may follow a command: its own, and the flags of its module's dataclasses."""
    imported = import_module(f"b2diffurl.cli.{module}")
    classes = [
        value
        for _, value in inspect.getmembers(imported, inspect.isclass)
        if is_dataclass(value) and value.__module__ == imported.__name__
    ]
    flags = {flag.name for cls in classes for flag in flags_of(cls)} | {"--help"}
    return [*_WORDS.get(command, ()), *sorted(flags)]


def _components() -> dict[str, tuple[str, ...]]:
    return {f"--{name}": names for name, names in components_of(Run).items()}


def _bash(flags: Mapping[str, Sequence[str]], *, is_zsh: bool) -> str:
    script = _BASH.format(
        commands=" ".join(flags),
        components="\n".join(f'      {flag}) words="{" ".join(names)}";;' for flag, names in _components().items()),
        flags="\n".join(f'        {command}) words="{" ".join(names)}";;' for command, names in flags.items()),
        with_run="|".join(_WITH_RUN),
        recipes=" ".join(RECIPES),
    )
    return (_ZSH if is_zsh else "") + script


def _fish(flags: Mapping[str, Sequence[str]]) -> str:
    lines = [f"complete -c b2diffurl -n __fish_use_subcommand -a '{' '.join(flags)}'"]
    for command, names in flags.items():
        condition = f"-n '__fish_seen_subcommand_from {command}'"
        if command in _WITH_RUN:
            lines.append(f"complete -c b2diffurl {condition} -a '{' '.join(RECIPES)}'")
        lines += [
            f"complete -c b2diffurl {condition} " + (f"-l {name[2:]}" if name.startswith("--") else f"-a {name}")
            for name in names
        ]
    for flag, names in _components().items():
        lines.append(f"complete -c b2diffurl -l {flag.removeprefix('--')} -x -a '{' '.join(names)}'")
    return "\n".join(lines) + "\n"
