"""The command `b2diffurl`, a file a command.

Exit codes: 0 done; 1 the run stopped or something broke; 2 the user's mistake, in one sentence; 130 interrupted.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from b2diffurl.errors import RunStopped, UserError

# Where each command is; what a command needs is imported when it is called.
_COMMANDS = {
    "train": ("train", "train"),
    "sample": ("pictures", "sample"),
    "evaluate": ("pictures", "evaluate"),
    "plan": ("plan", "plan"),
    "probe": ("probe", "probe"),
    "study": ("study", "study"),
    "check": ("check", "check"),
    "serve-reward": ("serve_reward", "serve"),
    "show": ("show", "show"),
}
_HELP = """\
usage: b2diffurl COMMAND ...

Fine-tune text-to-image diffusion models by reinforcement learning (B²-DiffuRL).

  train RECIPE|run.toml   fine-tune a model; --help after the recipe lists every setting
  plan RECIPE|run.toml    what a run will cost, before anything is downloaded
  probe RECIPE|run.toml   where along the chain is the reward decided, and so where to begin
  sample MODEL            draw pictures, with or without an adapter
  evaluate MODEL          judge a model: alignment and diversity
  study NAME              several runs, one table
  check reward X          does a reward keep its contract?
  serve-reward X          a reward over HTTP, for runs elsewhere
  show RECIPE|run.toml    print the complete run as TOML

recipes: {recipes}
studies: {studies}

Begin with: b2diffurl train emoji-quickstart --output runs/first
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except UserError as error:
        print(f"b2diffurl: {error}", file=sys.stderr)
        return 2
    except RunStopped as stop:
        print(f"b2diffurl: {stop} The last good checkpoint stands.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("b2diffurl: interrupted; continue with --resume.", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        from b2diffurl.analysis.study import STUDIES
        from b2diffurl.run.recipes import RECIPES

        print(_HELP.format(recipes=", ".join(RECIPES), studies=", ".join(STUDIES)))
        return 0 if words else 2
    if words[0] == "--version":
        from b2diffurl import __version__

        print(__version__)
        return 0
    if words[0] not in _COMMANDS:
        raise UserError(f"there is no command {words[0]!r}; give one of: {', '.join(_COMMANDS)}.")
    module, function = _COMMANDS[words[0]]
    return int(getattr(import_module(f"b2diffurl.cli.{module}"), function)(words[1:]))
