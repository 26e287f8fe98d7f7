"""From a reward's name to a function: "clip:MODEL", or the user's own "module:function"."""

import importlib
from collections.abc import Callable
from typing import Any

import torch

from b2diffurl.contracts import Reward
from b2diffurl.errors import UserError

_CLIP = "clip"


def check_reward(name: str) -> None:
    """Refuse a name that cannot be a reward, before anything heavy is loaded.

    Raises:
        UserError: it is neither "clip", "clip:MODEL" nor "module:function" of something importable.
    """
    module, _, rest = name.partition(":")
    if module == _CLIP:
        return
    if not rest:
        raise UserError(
            f"reward is {name!r}; give 'clip:emoji', 'clip:MODEL', 'clip' (the paper's ViT-H-14), or 'module:function'."
        )
    _import(module, rest)


def load_reward(name: str, *, device: torch.device | str = "cpu") -> Reward:
    """Load a reward.

    Args:
        name: "clip:emoji", "clip:MODEL" with a hub id or directory, "clip" for the paper's ViT-H-14, or
            "module:function".
        device: where a model runs.

    Raises:
        UserError: there is no such reward.
    """
    check_reward(name)
    module, _, rest = name.partition(":")
    if module == _CLIP:
        from b2diffurl.rewards.clip import VIT_H_14, CLIPScore

        return CLIPScore(rest or VIT_H_14, device=device)
    return _import(module, rest)


def _import(module: str, name: str) -> Callable[..., Any]:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"reward is '{module}:{name}' but there is no module {error.name!r}; is it on the Python path?"
        ) from error
    function = getattr(found, name, None)
    if not callable(function):
        raise UserError(f"reward is '{module}:{name}' but module {module} has no function {name!r}.")
    return function
