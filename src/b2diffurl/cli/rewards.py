"""`b2diffurl rewards [NAME]`: list the rewards and what each needs."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from b2diffurl.errors import UserError, did_you_mean
from b2diffurl.rewards.builtin import BUILTIN_MODULES, CUSTOM, reward_kind
from b2diffurl.rewards.facts import SERVERS, RewardFacts

_USAGE = "usage: b2diffurl rewards [NAME]; without a name one line per reward, with one its details"
_UNKNOWN = "unknown"
_CUSTOM_NAME = "FILE.py:NAME"


def rewards(words: list[str]) -> int:
    """List all rewards, or print the details of one.

    Raises:
        UserError: there is no reward of that name.
    """
    if words and words[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    if len(words) > 1:
        raise UserError(f"`b2diffurl rewards` takes one name at most but there are {len(words)}; give one.")
    if words:
        print_details(Console(), words[0])
    else:
        print_table(Console())
    return 0


def all_facts() -> dict[str, RewardFacts]:
    """Return the facts of all rewards by name; custom ones are last."""
    facts = {kind: reward_kind(kind).facts for kind in BUILTIN_MODULES}
    return facts | SERVERS | {_CUSTOM_NAME: reward_kind(CUSTOM).facts}


def print_table(console: Console) -> None:
    """Print one line per reward, readable at 80 columns."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for header in ("reward", "measures"):
        table.add_column(header, no_wrap=True)
    for header in ("GB", "GiB"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("needs", no_wrap=True)
    for name, facts in all_facts().items():
        table.add_row(name, facts.summary, _size(facts.download_gb), _size(facts.memory_gib), facts.needs)
    console.print(table)
    console.print(
        "\nGB: downloaded once. GiB: memory of the weights; activations add to it.\n"
        "License, source, settings: b2diffurl rewards NAME. How to: docs/rewards.md.",
        highlight=False,
    )


def print_details(console: Console, name: str) -> None:
    """Print everything that is known about one reward.

    Args:
        console: the console.
        name: name of a reward, such as "clip", or a whole one, such as "clip:emoji".

    Raises:
        UserError: there is no reward of that name.
    """
    facts = all_facts()
    key = name if name in facts else name.partition(":")[0].partition("@")[0]
    if key not in facts:
        raise UserError(f"unknown reward {name!r}{did_you_mean(key, facts)}; give one of: {', '.join(facts)}.")
    reward = facts[key]
    rows = {
        "reward": key,
        "measures": reward.summary,
        "name": reward.note,
        "source": reward.source,
        "weights": reward.weights or "none",
        "license": reward.license or _UNKNOWN,
        "download": _with_unit(reward.download_gb, "GB"),
        "memory": _with_unit(reward.memory_gib, "GiB for the weights; activations add to it"),
        "package": reward.package or "none",
        "settings": f"[{reward.table}], --{reward.table}.NAME" if reward.table else "none",
    }
    table = Table.grid(padding=(0, 2))
    for label, value in rows.items():
        table.add_row(label, Text(value))
    console.print(table)


def _size(size: float | None) -> str:
    return _UNKNOWN if size is None else f"{size:.1f}" if size else "-"


def _with_unit(size: float | None, unit: str) -> str:
    return _UNKNOWN if size is None else f"{size:.2f} {unit}" if size else "none"
