"""Prompt lists: the paper's, by name, or the user's own, from a text file.

The paper's lists (Appendix H) are data/prompts.toml; the spelling is kept as published ("a ant", "a airplane").
"""

import tomllib
from functools import cache
from pathlib import Path

import numpy as np

from b2diffurl.errors import UserError

_FILE = Path(__file__).parent / "data" / "prompts.toml"


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


def load_prompts(source: str) -> tuple[str, ...]:
    """Read a prompt list.

    Args:
        source: the name of one of the paper's lists, or the path of a .txt file with one prompt a line (blank lines and
            lines that begin with # are left out).

    Raises:
        UserError: no such list or file, or nothing in it, or the same prompt twice.

    >>> load_prompts("template1-train")[0]
    'a cat washing dishes'
    """
    if source in _paper_lists():
        return _paper_lists()[source]
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"prompts is {source!r}, which is no file and none of the named lists; "
            f"give the path of a .txt file or one of: {', '.join(named_lists())}."
        )
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"prompts file {source} is not UTF-8 text; save it as UTF-8, one prompt a line.") from error
    prompts = tuple(line for line in lines if line and not line.startswith("#"))
    if not prompts:
        raise UserError(f"prompts file {source} holds no prompt; write one prompt a line.")
    twice = sorted({prompt for prompt in prompts if prompts.count(prompt) > 1})
    if twice:
        raise UserError(f"prompts file {source} holds {twice[0]!r} more than once; keep each prompt once.")
    return prompts


def draw_prompts(prompts: tuple[str, ...], num: int, *, seed: int, round_index: int) -> tuple[str, ...]:
    """Draw the prompts of a round's trunks: uniform, in shuffled passes so that none is left out by chance.

    The draw depends on (seed, round) alone.
    """
    rng = np.random.default_rng((seed, round_index, 0))
    passes = -(-num // len(prompts))
    order = np.concatenate([rng.permutation(len(prompts)) for _ in range(passes)])[:num]
    return tuple(prompts[int(index)] for index in order)
