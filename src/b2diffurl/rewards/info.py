"""What a reward says of pictures besides their scores, such as a caption: for people to read, never trained on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from b2diffurl.rewards.weighted_sum import WeightedSum

Info = dict[str, list[Any]]
"""One entry a picture, by what it is: text, a number, a truth value or None, so that JSON can hold it."""


def picture_info(reward: object, num: int) -> Info:
    """What a reward says of the pictures that it has scored last.

    Args:
        reward: any; it has `info`, a mapping to one entry a picture, or nothing to say. Of a sum every part is asked,
            and its name stands before what it says.
        num: of pictures; what has any other number of entries is left out.
    """
    if isinstance(reward, WeightedSum):
        parts = {name: picture_info(part, num) for name, part in reward.rewards.items()}
        return {f"{name}/{key}": entries for name, info in parts.items() for key, entries in info.items()}
    return as_info(getattr(reward, "info", None), num)


def as_info(found: object, num: int) -> Info:
    """Make a mapping from anywhere an `Info` of so many pictures; what is none is left out."""
    if not isinstance(found, Mapping):
        return {}
    lists = {str(key): _as_list(entries) for key, entries in cast("Mapping[Any, Any]", found).items()}
    return {key: [_plain(entry) for entry in entries] for key, entries in lists.items() if len(entries) == num}


def _as_list(entries: Any) -> list[Any]:
    if hasattr(entries, "tolist"):  # a tensor or an array
        entries = entries.tolist()
    if isinstance(entries, Sequence) and not isinstance(entries, str | bytes):
        return list(cast("Sequence[Any]", entries))
    return []


def _plain(entry: Any) -> Any:
    if isinstance(entry, float):
        return float(entry) if math.isfinite(entry) else None
    return entry if entry is None or isinstance(entry, str | bool | int) else str(entry)
