"""Check and load rewards by name; spec.py has the grammar of names and builtin.py the built-in rewards."""

from collections.abc import Sequence

import torch

from b2diffurl.distributed import AUTO, choose_device
from b2diffurl.errors import UserError
from b2diffurl.rewards.bert.settings import BertSettings
from b2diffurl.rewards.builtin import RewardOptions, reward_kind
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.remote.settings import RemoteSettings
from b2diffurl.rewards.spec import Term, parse_reward, parse_watched
from b2diffurl.rewards.weighted_sum import WeightedSum


def check_reward(name: str, *, remote: RemoteSettings | None = None) -> None:
    """Check the name of a reward before any model is loaded.

    Modules of custom rewards are imported; no request is sent.

    Args:
        name: as for `load_reward`.
        remote: as for `load_reward`.

    Raises:
        UserError: a term is invalid, or its module, function or model directory does not exist.
    """
    options = RewardOptions(remote=remote or RemoteSettings())
    for term in parse_reward(name):
        _check(term, options)


def check_watched(names: Sequence[str], *, remote: RemoteSettings | None = None) -> None:
    """Check the names of watched rewards as `check_reward` does.

    Raises:
        UserError: a name is invalid, is a weighted sum, or is listed more than once.
    """
    options = RewardOptions(remote=remote or RemoteSettings())
    for term in parse_watched(names):
        try:
            _check(term, options)
        except UserError as error:
            if str(error).startswith("reward is "):
                raise UserError(f"watched {error}") from error
            raise


def load_reward(
    name: str,
    *,
    device: torch.device | str = AUTO,
    bert: BertSettings | None = None,
    remote: RemoteSettings | None = None,
) -> Reward:
    """Load a reward.

    Args:
        name: a term such as "clip:emoji", "pickscore", "jpeg-size:compressible", "remote:http://HOST:PORT" or
            "my_reward.py:redness", or a weighted sum: "clip + 0.5*jpeg-size:compressible".
        device: device of the models; "auto" is the first of cuda, mps and cpu that there is.
        bert: settings of the reward "bert"; BertSettings() by default.
        remote: settings of the rewards "remote:URL"; RemoteSettings() by default.

    Returns:
        The reward itself, or a `WeightedSum`.

    Raises:
        UserError: the name is invalid, a model cannot be loaded, or a server does not answer.
    """
    check_reward(name, remote=remote)
    options = RewardOptions(
        device=choose_device(device), bert=bert or BertSettings(), remote=remote or RemoteSettings()
    )
    terms = parse_reward(name)
    rewards = [_load(term, options) for term in terms]
    if len(terms) == 1 and terms[0].weight == 1:
        return rewards[0]
    return WeightedSum(terms, rewards)


def load_watched(
    names: Sequence[str],
    *,
    device: torch.device | str = AUTO,
    bert: BertSettings | None = None,
    remote: RemoteSettings | None = None,
) -> dict[str, Reward]:
    """Load rewards that are logged and not trained on.

    Args:
        names: as for `load_reward`, but single terms without weights.
        device: as for `load_reward`.
        bert: as for `load_reward`.
        remote: as for `load_reward`.

    Returns:
        The rewards by name.

    Raises:
        UserError: a name is invalid, is a weighted sum, or is listed more than once, or as in `load_reward`.
    """
    check_watched(names, remote=remote)
    options = RewardOptions(
        device=choose_device(device), bert=bert or BertSettings(), remote=remote or RemoteSettings()
    )
    return {term.name: _load(term, options) for term in parse_watched(names)}


def _check(term: Term, options: RewardOptions) -> None:
    reward_kind(term.kind).check(term, options)


def _load(term: Term, options: RewardOptions) -> Reward:
    return reward_kind(term.kind).load(term, options)
