"""Prompt lists: by name, or from a file.

The paper's lists (Appendix H) are prompts.toml; the spelling is kept as published ("a ant", "a airplane"). Those of
them that the model emoji-objects can generate are emoji_prompts.toml.
"""

import json
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from b2diffurl.errors import UserError

_FILES = tuple(Path(__file__).with_name(name) for name in ("prompts.toml", "emoji_prompts.toml"))


@cache
def _read_lists() -> dict[str, tuple[str, ...]]:
    tables = {
        template: splits
        for file in _FILES
        for template, splits in tomllib.loads(file.read_text(encoding="utf-8")).items()
    }
    lists = {
        f"{template}-{split}": tuple(splits[split]["prompts"])
        for template, splits in tables.items()
        for split in splits
    }
    for template in tables:
        lists[f"{template}-all"] = lists[f"{template}-train"] + lists[f"{template}-test"]
    return lists


def named_lists() -> list[str]:
    """Names of the lists, such as "template1-train"; "-all" is train and test together."""
    return sorted(_read_lists())


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptList:
    """Prompts and their metadata.

    Attributes:
        prompts: the prompts, without duplicates.
        metadata: metadata by prompt, for rewards that take it; only prompts that have some.
    """

    prompts: tuple[str, ...]
    metadata: Mapping[str, Mapping[str, Any]]

    def metadata_of(self, prompts: Sequence[str]) -> list[Mapping[str, Any]]:
        """Give one mapping per prompt, empty for a prompt without metadata."""
        return [self.metadata.get(prompt, {}) for prompt in prompts]


def load_prompts(source: str) -> tuple[str, ...]:
    """Read the prompts of a list, without metadata; see `load_prompt_list`.

    >>> load_prompts("template1-train")[0]
    'a cat washing dishes'
    """
    return load_prompt_list(source).prompts


def load_prompt_list(source: str, *, setting: str = "prompts") -> PromptList:
    """Read a prompt list.

    Args:
        source: the name of one of the package's lists, or the path of a file: .json, .toml, or text with one prompt per
            line (blank lines and lines that begin with # are ignored). JSON is a list, TOML has `prompts = [...]`; an
            item is a prompt, or a table with `prompt` and any metadata that a reward may use.
        setting: name of the setting for error messages.

    Raises:
        UserError: there is no such list or file, or the file is empty, invalid or contains a prompt twice.
    """
    if source in _read_lists():
        return PromptList(prompts=_read_lists()[source], metadata={})
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"{setting} is {source!r}, which is neither a file nor a named list; "
            f"give the path of a .txt, .json or .toml file or one of: {', '.join(named_lists())}."
        )
    try:
        items = _items(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{setting} file {source} is not UTF-8 text; save it as UTF-8, one prompt per line.") from error
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(
            f"{setting} file {source} is not valid {path.suffix[1:].upper()}: {error}; fix the file."
        ) from error
    if not isinstance(items, list) or not items:
        raise UserError(f"{setting} file {source} holds no prompt; write one prompt per line.")
    return _make_list(cast("list[Any]", items), where=f"{setting} file {source}")


def own_prompt_list(prompts: Sequence[str], *, setting: str = "prompts") -> PromptList:
    """Make a prompt list of prompts from Python.

    Raises:
        UserError: there is no prompt, one is empty or no string, or one is repeated.
    """
    if not prompts:
        raise UserError(f"{setting} is empty; give one prompt or more.")
    return _make_list(prompts, where=setting)


def _make_list(items: Sequence[Any], *, where: str) -> PromptList:
    pairs = [_prompt_and_metadata(item, where) for item in items]
    prompts = tuple(prompt for prompt, _ in pairs)
    duplicates = [prompt for prompt, count in Counter(prompts).items() if count > 1]
    if duplicates:
        raise UserError(f"{where} holds {min(duplicates)!r} more than once; keep each prompt once.")
    return PromptList(prompts=prompts, metadata={prompt: metadata for prompt, metadata in pairs if metadata})


def read_prompts(words: Sequence[str]) -> tuple[str, ...]:
    """Read prompts given as a named list, a file, or the prompts themselves, without metadata; see `read_prompt_list`.

    >>> read_prompts(["a cat", "a dog"])
    ('a cat', 'a dog')
    """
    return read_prompt_list(words).prompts


def read_prompt_list(words: Sequence[str]) -> PromptList:
    """Read prompts given as a named list, a file, or the prompts themselves.

    Args:
        words: one name of a list or path of a file, or any number of prompts.

    Raises:
        UserError: a prompt is empty, or the file is invalid.
    """
    if not words or not all(word.strip() for word in words):
        raise UserError("prompts is empty; give a named list, a .txt file, or prompts in quotes.")
    first = words[0]
    is_source = first in named_lists() or first.endswith((".txt", ".json", ".toml")) or Path(first).exists()
    if len(words) == 1 and is_source:
        return load_prompt_list(first)
    return PromptList(prompts=tuple(words), metadata={})


def _items(path: Path) -> Any:
    text = path.read_text(encoding="utf-8-sig")  # Windows editors begin a file with a byte order mark
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".toml":
        return tomllib.loads(text).get("prompts")
    lines = [line.strip() for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith("#")]


def _prompt_and_metadata(item: Any, where: str) -> tuple[str, dict[str, Any]]:
    table: dict[str, Any] = dict(cast("dict[str, Any]", item)) if isinstance(item, dict) else {"prompt": item}
    prompt = table.pop("prompt", None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{where} holds {item!r}, which is not a prompt; give a string, or a table with `prompt`.")
    return prompt.strip(), table


def split_prompts(
    prompts: tuple[str, ...], *, held_out_fraction: float = 0.0, held_out_prompts: str = "", rng: np.random.Generator
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split off the prompts that are evaluated and never trained on.

    Args:
        prompts: all prompts of the run.
        held_out_fraction: fraction of the prompts to hold out, chosen at random; 0 for none.
        held_out_prompts: a list as for `load_prompts` that is held out instead; "" for none.
        rng: generator of the random choice.

    Returns:
        The prompts to train on, and the held-out ones.

    Raises:
        UserError: the fraction leaves no prompt on one side, or the list shares a prompt with the training prompts.
    """
    if held_out_prompts:
        held_out = load_prompt_list(held_out_prompts, setting="held_out_prompts").prompts
        shared = sorted(set(prompts) & set(held_out))
        if shared:
            raise UserError(
                f"held_out_prompts is {held_out_prompts!r}, which shares {shared[0]!r} with prompts; "
                "keep each prompt in one of the two."
            )
        return prompts, held_out
    if not held_out_fraction:
        return prompts, ()
    num = round(held_out_fraction * len(prompts))
    if not 0 < num < len(prompts):
        raise UserError(
            f"held_out_fraction is {held_out_fraction}, which holds out {num} of {len(prompts)} prompts; "
            "give a fraction that leaves some on both sides, or a list as held_out_prompts."
        )
    chosen = set(rng.permutation(len(prompts))[:num].tolist())
    train = tuple(prompt for i, prompt in enumerate(prompts) if i not in chosen)
    return train, tuple(prompt for i, prompt in enumerate(prompts) if i in chosen)


def sample_prompts(prompts: Sequence[str], num: int, *, rng: np.random.Generator) -> tuple[str, ...]:
    """Sample the prompts of a round's trunks: uniformly, in shuffled passes, so that none is left out by chance."""
    num_passes = -(-num // len(prompts))
    order = np.concatenate([rng.permutation(len(prompts)) for _ in range(num_passes)])[:num]
    return tuple(prompts[int(index)] for index in order)
