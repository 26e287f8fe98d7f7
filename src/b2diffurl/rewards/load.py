"""Check and load rewards by name; spec.py has the grammar of names and builtin.py the built-in rewards."""

from collections.abc import Sequence

import torch

from b2diffurl.distributed import AUTO, choose_device
from b2diffurl.errors import UserError
from b2diffurl.rewards.builtin import RewardSettings, reward_kind
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.spec import Term, parse_reward, parse_watched
from b2diffurl.rewards.weighted_sum import WeightedSum


def check_reward(name: str, settings: RewardSettings | None = None) -> None:
    """Check the name of a reward before any model is loaded.

    Modules of custom rewards are imported; no request is sent.

    Args:
        name: as for `load_reward`.
        settings: as for `load_reward`.

    Raises:
        UserError: a term is invalid, its module, function or model directory does not exist, or a package that it needs
            is not installed.
    """
    settings = settings or RewardSettings()
    for term in parse_reward(name):
        _check(term, settings)


def check_watched(names: Sequence[str], settings: RewardSettings | None = None) -> None:
    """Check the names of watched rewards as `check_reward` does.

    Raises:
        UserError: a name is invalid, is a weighted sum, or is listed more than once.
    """
    settings = settings or RewardSettings()
    for term in parse_watched(names):
        try:
            _check(term, settings)
        except UserError as error:
            if str(error).startswith("reward is "):
                raise UserError(f"watched {error}") from error
            raise


def check_reward_prompts(terms: Sequence[Term], prompts: Sequence[str]) -> None:
    """Check whether rewards can score images of the prompts of a run.

    Raises:
        UserError: a prompt lacks what a reward needs, such as quoted text for "ocr".
    """
    for term in terms:
        reward_kind(term.kind).check_prompts(prompts)


def load_reward(name: str, settings: RewardSettings | None = None, *, device: torch.device | str = AUTO) -> Reward:
    """Load a reward.

    Args:
        name: a term such as "clip:emoji", "pickscore", "jpeg-size:compressible", "remote:http://HOST:PORT" or
            "my_reward.py:redness", or a weighted sum: "clip + 0.5*jpeg-size:compressible".
        settings: settings of the rewards that have some; by default the defaults.
        device: device of the models; "auto" is the first of cuda, mps and cpu that there is.

    Returns:
        The reward itself, or a `WeightedSum`.

    Raises:
        UserError: the name is invalid, a model cannot be loaded, or a server does not answer.
    """
    settings = settings or RewardSettings()
    check_reward(name, settings)
    device = choose_device(device)
    terms = parse_reward(name)
    rewards = [_load(term, settings, device) for term in terms]
    if len(terms) == 1 and terms[0].weight == 1:
        return rewards[0]
    return WeightedSum(terms, rewards)


def load_watched(
    names: Sequence[str], settings: RewardSettings | None = None, *, device: torch.device | str = AUTO
) -> dict[str, Reward]:
    """Load rewards that are logged and not trained on.

    Args:
        names: as for `load_reward`, but single terms without weights.
        settings: as for `load_reward`.
        device: as for `load_reward`.

    Returns:
        The rewards by name.

    Raises:
        UserError: a name is invalid, is a weighted sum, or is listed more than once, or as in `load_reward`.
    """
    settings = settings or RewardSettings()
    check_watched(names, settings)
    device = choose_device(device)
    return {term.name: _load(term, settings, device) for term in parse_watched(names)}


def _check(term: Term, settings: RewardSettings) -> None:
    reward_kind(term.kind).check(term, settings)


def _load(term: Term, settings: RewardSettings, device: torch.device | str) -> Reward:
    return reward_kind(term.kind).load(term, settings, device)
