"""The command `b2diffurl`; every command is a module of this package.

Exit codes: 0 success; 1 the run was stopped or an unexpected error occurred; 2 a user error, printed as one sentence;
130 interrupted; 141 the reader of the output has ended.
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from b2diffurl import __version__
from b2diffurl.cli.environment import prepare_process
from b2diffurl.errors import RankLost, RunStopped, UserError, did_you_mean

# Module and function of each command; the module is imported when the command is called.
_COMMANDS = {
    "train": ("train", "train"),
    "sample": ("sample", "sample"),
    "evaluate": ("evaluate", "evaluate"),
    "plan": ("plan", "plan"),
    "probe": ("probe", "probe"),
    "report": ("report", "report"),
    "study": ("study", "study"),
    "merge": ("merge", "merge"),
    "rewards": ("rewards", "rewards"),
    "check": ("check", "check"),
    "serve-reward": ("serve_reward", "serve"),
    "show": ("show", "show"),
    "completion": ("completion", "completion"),
}
_CONTINUATIONS = {"train": "; continue with --resume", "study": "; the same command continues"}
_DEVICE_ERRORS = ("OutOfMemoryError", "AcceleratorError")
# The names of recipes and studies are written out: importing them imports torch. A test compares them.
_HELP = """\
usage: b2diffurl COMMAND ...

Fine-tune text-to-image diffusion models by reinforcement learning (B²-DiffuRL).

  train RECIPE|run.toml   fine-tune a model; --help lists the common flags
  plan RECIPE|run.toml    print the cost of a run, before anything is downloaded
  probe RECIPE|run.toml   measure which steps decide the reward, and suggest what to train
  sample MODEL            generate images, with or without an adapter
  evaluate MODEL          evaluate a model: alignment and diversity
  report RUN [RUN ...]    rebuild the report of a run, or compare several on one page
  study NAME|FILE.toml    compare methods over seeds; the paper's figures and tables are studies
  merge MODEL             write a model with an adapter merged into its weights
  rewards [NAME]          list the rewards and what each needs
  check reward X          check whether a reward fulfills its contract
  serve-reward X          serve a reward over HTTP, for runs on other machines
  show RECIPE|run.toml    print the complete run as TOML; --comments explains every key
  completion SHELL        print a script that completes commands, recipes and flags

recipes: emoji-quickstart, emoji-b2-paper, emoji-ddpo, emoji-policy-gradient, emoji-dpok, emoji-dpo,
         emoji-template2, emoji-template3,
         paper-template1-clip, paper-template1-bert, paper-template2-clip, paper-template2-bert,
         paper-template3-clip, paper-template3-bert, sd15, sdxl, sd15-ddpo
studies: ablation, alignment, baselines, compatibility, cost, diversity, evidence, generalization, hacking,
         one-rate, quickstart, samples, sweep, trust-region, variants

Begin with: b2diffurl train emoji-quickstart --output runs/first
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after the program's name; by default those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    prepare_process()
    code, message = outcome(partial(_dispatch, words), continuation=_CONTINUATIONS.get("".join(words[:1]), ""))
    if message:
        print(message, file=sys.stderr)
    return code


def outcome(command: Callable[[], int], *, continuation: str = "") -> tuple[int, str]:
    """Run a command; return its exit code, and the message of its error or nothing.

    Args:
        command: the command.
        continuation: how it continues after an interruption, for the message; "" if it does not.
    """
    try:
        return command(), ""
    except UserError as error:
        return 2, f"b2diffurl: {_one_line(str(error))}"
    except RunStopped as stop:
        return 1, " ".join(["b2diffurl:", _one_line(str(stop)), *getattr(stop, "__notes__", [])])
    except RankLost as lost:
        return 1, f"b2diffurl: {lost}"
    except RuntimeError as error:  # torch's errors of a device, which are not imported here
        if type(error).__name__ not in _DEVICE_ERRORS:
            raise
        return 1, f"b2diffurl: {_device_message(error)}"
    except KeyboardInterrupt:
        return 130, f"b2diffurl: interrupted{continuation}."
    except BrokenPipeError:  # the reader of a pipe has ended, such as `head`; Python would report it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141, ""


def _device_message(error: RuntimeError) -> str:
    """Return an error of a device as one sentence."""
    reason = _one_line(str(error).partition("\n")[0]).rstrip(".")
    if type(error).__name__ == "OutOfMemoryError":
        return f"the memory of the GPU is full ({reason}); `b2diffurl plan` recommends sizes for it."
    return f"the device failed ({reason}); a run that has a checkpoint continues with --resume."


def _one_line(message: str) -> str:
    """Escape line feeds and control characters, which a name in a file of the user may contain."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in message)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_HELP)
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] not in _COMMANDS:
        raise UserError(
            f"unknown command {words[0]!r}{did_you_mean(words[0], _COMMANDS)}; give one of: {', '.join(_COMMANDS)}."
        )
    module, function = _COMMANDS[words[0]]
    return int(getattr(import_module(f"b2diffurl.cli.{module}"), function)(words[1:]))
