"""The short help of `train` and `plan`: the common flags in groups with examples; `--help-all` has the rest."""

import re
import textwrap
from dataclasses import fields
from typing import Any

from b2diffurl.cli.documentation import Flag, components_of, flags_of
from b2diffurl.run.recipes import RECIPES
from b2diffurl.run.settings import Run

_WIDTH, _COLUMN = 80, 31
_COMPONENTS = components_of(Run)
_GROUPS = {
    "what is trained": ("model", "prompts", "reward", "watch", "held_out_fraction", "judge"),
    "how long": ("num_rounds", "reward_queries_per_round", "seed"),
    "method": (
        "objective", "schedule", "selection", "advantage", "rollout.num_branches", "sampler.num_inference_steps",
        "sampler.guidance_scale",
    ),
    "optimizer and adapter": (
        "optimization.learning_rate", "optimization.num_minibatches", "trust_region.max_kl", "lora.rank", "lora.alpha",
    ),
    "memory": (
        "memory.base_dtype", "memory.gradient_checkpointing", "rollout.chunk_size", "optimization.micro_batch_size",
    ),
    "evaluation": ("logging.num_evaluation_images",),
}  # fmt: skip
_EXAMPLES = {
    "train": (
        "b2diffurl train emoji-quickstart --output runs/first",
        "b2diffurl train sd15 --prompts prompts.txt --reward my_reward.py:score",
        "b2diffurl train runs/first/run.toml --resume",
    ),
    "plan": (
        "b2diffurl plan sd15 --prompts prompts.txt --reward clip --memory-gib 12",
        "b2diffurl plan emoji-quickstart --measure",
        "b2diffurl plan runs/first/run.toml",
    ),
}


def short_help(command: str, cls: type, run: Run | None = None, *, name: str = "RECIPE|run.toml") -> str:
    """Return the help of a command that takes a run.

    Args:
        command: `train` or `plan`.
        cls: dataclass of the command's flags; its field `run` has the settings.
        run: the run whose values are shown; none without a recipe.
        name: the recipe or file.
    """
    by_path = {flag.path: flag for flag in flags_of(Run)}
    own = {field.name for field in fields(cls)} - {"run"}  # pyright: ignore[reportArgumentType]
    lines = [f"usage: b2diffurl {command} {name} [flags]", ""]
    for group, paths in _GROUPS.items():
        lines += [f"{group}:", *(line for path in paths for line in _lines(by_path[path], run)), ""]
    lines += ["this command:", *(line for flag in flags_of(cls) if flag.path in own for line in _lines(flag, None)), ""]
    lines += ["examples:", *(f"  {example}" for example in _EXAMPLES[command]), ""]
    lines.append("--help-all lists every setting; `b2diffurl show --comments RECIPE` explains all.")
    if run is None:
        lines += ["", *wrapped("recipes: ", list(RECIPES))]
    return "\n".join(lines)


def wrapped(heading: str, names: list[str]) -> list[str]:
    """Return a heading and a list of names in lines of at most 80 characters.

    >>> wrapped("studies: ", ["one", "two"])
    ['studies: one, two']
    """
    text = heading + ", ".join(names)
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=" " * len(heading), break_on_hyphens=False, break_long_words=False
    )


def _lines(flag: Flag, run: Run | None) -> list[str]:
    meaning = _first_clause(flag.description)
    if flag.is_component:
        meaning += f": {', '.join(_COMPONENTS[flag.path])}, or FILE.py:CLASS"
    if run is not None:
        meaning += f" [{_text(_value(run, flag.path))}]"
    heading = f"  {flag.name}" if flag.is_switch else f"  {flag.name} {_metavar(flag)}"
    described = textwrap.wrap(meaning, _WIDTH - _COLUMN - 1, break_on_hyphens=False, break_long_words=False)
    if len(heading) > _COLUMN - 1:
        return [heading, *(" " * _COLUMN + line for line in described)]
    return [heading.ljust(_COLUMN) + described[0], *(" " * _COLUMN + line for line in described[1:])]


def _metavar(flag: Flag) -> str:
    return "NAME" if flag.is_component else flag.path.rpartition(".")[2].split("_")[-1].upper()


def _first_clause(text: str) -> str:
    """Return the beginning of a description, up to the end of its first sentence or clause outside parentheses.

    >>> _first_clause('steps per pass (ours: the reference has another); see "a.txt". More.')
    'steps per pass (ours: the reference has another)'
    """
    ends = (match.start() for match in re.finditer(r"[.;:] ", text))
    return text[: next((end for end in ends if text.count("(", 0, end) == text.count(")", 0, end)), None)].rstrip(".")


def _value(run: Run, path: str) -> Any:
    value: Any = run
    for name in path.split("."):
        value = getattr(value, name)
    return getattr(value, "use", value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value in ("", ()):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
