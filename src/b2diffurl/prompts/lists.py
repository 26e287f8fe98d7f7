"""Prompt lists: the paper's, by name, or the user's own, from a file.

The paper's lists (Appendix H) are prompts.toml; the spelling is kept as published ("a ant", "a airplane").
"""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from b2diffurl.errors import UserError

_FILE = Path(__file__).with_name("prompts.toml")


@cache
def _paper_lists() -> dict[str, tuple[str, ...]]:
    tables = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    lists = {
        f"{template}-{part}": tuple(parts[part]["prompts"]) for template, parts in tables.items() for part in parts
    }
    for template in tables:
        lists[f"{template}-all"] = lists[f"{template}-train"] + lists[f"{template}-test"]
    return lists


def named_lists() -> list[str]:
    """Names of the paper's lists, such as "template1-train"; "-all" is train and test together."""
    return sorted(_paper_lists())


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptList:
    """Prompts, and what the user's file says of them besides.

    Attributes:
        prompts: each once.
        metadata: by prompt, for rewards that take it; a prompt without any is left out.
    """

    prompts: tuple[str, ...]
    metadata: Mapping[str, Mapping[str, Any]]

    def metadata_of(self, prompts: Sequence[str]) -> list[Mapping[str, Any]]:
        """One mapping a prompt, empty where the file says nothing."""
        return [self.metadata.get(prompt, {}) for prompt in prompts]


def load_prompts(source: str) -> tuple[str, ...]:
    """Read the prompts of a list, without metadata; see `load_prompt_list`.

    >>> load_prompts("template1-train")[0]
    'a cat washing dishes'
    """
    return load_prompt_list(source).prompts


def load_prompt_list(source: str) -> PromptList:
    """Read a prompt list.

    Args:
        source: the name of one of the paper's lists, or the path of a file: .json, .toml, or text with a prompt a line
            (blank lines and lines that begin with # are left out). JSON is a list, TOML has it as `prompts = [...]`;
            an item is a prompt, or a table with `prompt` and whatever a reward may want to know of it.

    Raises:
        UserError: no such list or file, or nothing in it, or the same prompt twice, or it is no such file.
    """
    if source in _paper_lists():
        return PromptList(prompts=_paper_lists()[source], metadata={})
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"prompts is {source!r}, which is no file and none of the named lists; "
            f"give the path of a .txt, .json or .toml file or one of: {', '.join(named_lists())}."
        )
    try:
        items = _items(path)
    except UnicodeDecodeError as error:
        raise UserError(f"prompts file {source} is not UTF-8 text; save it as UTF-8, one prompt a line.") from error
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"prompts file {source} is not valid {path.suffix[1:].upper()}: {error}.") from error
    if not isinstance(items, list) or not items:
        raise UserError(f"prompts file {source} holds no prompt; write one prompt a line.")
    pairs = [_prompt_and_metadata(item, source) for item in cast("list[Any]", items)]
    prompts = tuple(prompt for prompt, _ in pairs)
    twice = sorted({prompt for prompt in prompts if prompts.count(prompt) > 1})
    if twice:
        raise UserError(f"prompts file {source} holds {twice[0]!r} more than once; keep each prompt once.")
    return PromptList(prompts=prompts, metadata={prompt: told for prompt, told in pairs if told})


def _items(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".toml":
        return tomllib.loads(text).get("prompts")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _prompt_and_metadata(item: Any, source: str) -> tuple[str, dict[str, Any]]:
    told: dict[str, Any] = dict(cast("dict[str, Any]", item)) if isinstance(item, dict) else {"prompt": item}
    prompt = told.pop("prompt", None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(
            f"prompts file {source} holds {item!r}, which is no prompt; give a text, or a table with `prompt`."
        )
    return prompt.strip(), told


def split_prompts(prompts: tuple[str, ...], held_out: str, *, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split off the prompts that are judged and never trained on.

    Args:
        prompts: all that the run was given.
        held_out: "" for none; a share between 0 and 1, drawn by the seed; or what `load_prompts` takes.
        seed: of the draw.

    Returns:
        The prompts to train on, and those held out.

    Raises:
        UserError: a share that leaves nothing on one side, or a list that shares a prompt with the training prompts.
    """
    if not held_out:
        return prompts, ()
    try:
        fraction = float(held_out)
    except ValueError:
        others = load_prompts(held_out)
        shared = sorted(set(prompts) & set(others))
        if shared:
            raise UserError(f"held_out {held_out!r} and prompts share {shared[0]!r}; keep each on one side.") from None
        return prompts, others
    num = round(fraction * len(prompts)) if math.isfinite(fraction) else 0
    if not 0 < num < len(prompts):
        raise UserError(
            f"held_out is {held_out}, which leaves {num} of {len(prompts)} prompts; "
            "give a share between 0 and 1 that leaves some on both sides, or a prompts file."
        )
    chosen = set(np.random.default_rng((seed, 2)).permutation(len(prompts))[:num].tolist())
    train = tuple(prompt for i, prompt in enumerate(prompts) if i not in chosen)
    return train, tuple(prompt for i, prompt in enumerate(prompts) if i in chosen)


def draw_prompts(prompts: tuple[str, ...], num: int, *, seed: int, round_index: int) -> tuple[str, ...]:
    """Draw the prompts of a round's trunks: uniform, in shuffled passes so that none is left out by chance.

    The draw depends on (seed, round) alone.
    """
    rng = np.random.default_rng((seed, round_index, 0))
    passes = -(-num // len(prompts))
    order = np.concatenate([rng.permutation(len(prompts)) for _ in range(passes)])[:num]
    return tuple(prompts[int(index)] for index in order)
