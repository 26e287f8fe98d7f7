"""From a reward's name to a reward; the grammar is in terms.py. What is heavy is imported when it is loaded."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from b2diffurl.errors import UserError
from b2diffurl.rewards.custom import OwnReward, check_own
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.spec import Term, parse_reward, parse_watched
from b2diffurl.rewards.weighted_sum import WeightedSum

if TYPE_CHECKING:
    from b2diffurl.rewards.bert.reward import BertSettings
    from b2diffurl.rewards.jpeg_size import Aim
    from b2diffurl.rewards.remote.client import RemoteSettings

_EMOJI = "emoji"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_reward(name: str, *, remote: "RemoteSettings | None" = None) -> None:
    """Refuse a name that cannot be a reward, before any model is loaded.

    The user's own modules are imported; a server is not asked.

    Args:
        name: as for `load_reward`.
        remote: as for `load_reward`.

    Raises:
        UserError: a part of it is no reward, or cannot be found.
    """
    for term in parse_reward(name):
        _check(term, remote)


def check_watched(names: Sequence[str], *, remote: "RemoteSettings | None" = None) -> None:
    """Refuse names of watched rewards as `check_reward` does.

    Raises:
        UserError: one is no reward, cannot be found, is a sum, or is there twice.
    """
    for term in parse_watched(names):
        _check(term, remote)


def load_reward(
    name: str,
    *,
    device: torch.device | str = "cpu",
    bert: "BertSettings | None" = None,
    remote: "RemoteSettings | None" = None,
) -> Reward:
    """Load a reward.

    Args:
        name: a part such as "clip:emoji", "pickscore", "jpeg-size:compressible", "remote:http://HOST:PORT" or
            "my_reward.py:redness", or several with weights: "clip + 0.5*jpeg-size:compressible".
        device: where models run.
        bert: settings of the part "bert"; by default its own.
        remote: settings of the parts "remote:URL"; by default their own.

    Returns:
        The reward itself, or a `WeightedSum`.

    Raises:
        UserError: there is no such reward, or no server at its address.
    """
    check_reward(name, remote=remote)
    terms = parse_reward(name)
    rewards = [_load(term, device=device, bert=bert, remote=remote) for term in terms]
    if len(terms) == 1 and terms[0].weight == 1:
        return rewards[0]
    return WeightedSum(terms, rewards)


def load_watched(
    names: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    bert: "BertSettings | None" = None,
    remote: "RemoteSettings | None" = None,
) -> dict[str, Reward]:
    """Load rewards that are logged and not trained on, by name: each a part without a weight.

    Args:
        names: as for `load_reward`, but no sums.
        device: as for `load_reward`.
        bert: as for `load_reward`.
        remote: as for `load_reward`.

    Raises:
        UserError: one is no reward, is a sum or has a weight, or is there twice.
    """
    check_watched(names, remote=remote)
    return {term.name: _load(term, device=device, bert=bert, remote=remote) for term in parse_watched(names)}


def _load(
    term: Term, *, device: torch.device | str, bert: "BertSettings | None", remote: "RemoteSettings | None"
) -> Reward:
    match term.kind:
        case "clip":
            from b2diffurl.rewards.clip import VIT_H_14, CLIPScore

            return CLIPScore(term.rest or VIT_H_14, device=device)
        case "pickscore":
            from b2diffurl.rewards.pickscore import PICKSCORE_V1, PickScore

            return PickScore(term.rest or PICKSCORE_V1, device=device)
        case "jpeg-size":
            from b2diffurl.rewards.jpeg_size import JPEGSize

            return JPEGSize(aim=cast("Aim", term.rest))
        case "bert":
            from b2diffurl.rewards.bert.reward import BertReward, BertSettings

            return BertReward(bert or BertSettings(), device=device)
        case "remote":
            from b2diffurl.rewards.remote.client import RemoteReward, RemoteSettings

            reward = RemoteReward(term.rest, remote or RemoteSettings())
            reward.check()
            return reward
        case _:
            return OwnReward(term.rest, device=device)


def _check(term: Term, remote: "RemoteSettings | None") -> None:
    if term.kind in ("clip", "pickscore") and term.rest:
        _check_model(term)
    elif term.kind == "remote":
        from b2diffurl.rewards.remote.client import RemoteReward, RemoteSettings

        RemoteReward(term.rest, remote or RemoteSettings())
    elif term.kind == "own":
        check_own(term.name)


def _check_model(term: Term) -> None:
    model, path = term.rest, Path(term.rest)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"reward is {term.name!r}, but {path} has no config.json; give what transformers saved.")
    elif model != _EMOJI and (path.exists() or model.startswith(".") or not _HUB_ID.fullmatch(model)):
        raise UserError(
            f"reward is {term.name!r}, whose model is no directory; give 'emoji', a directory in transformers format, "
            "or a hub id, and parts of a sum with ' + ' between them."
        )
