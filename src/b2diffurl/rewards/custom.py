"""A reward of the user's own: a function, an async function or a class, in a module or in a file.

What it gives may be a tensor, an array or a list; it becomes a tensor here. It may take `metadata`, a mapping a
picture.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.errors import UserError
from b2diffurl.plugins import find_named
from b2diffurl.rewards.interface import Reward

Metadata = Sequence[Mapping[str, Any]]
_METADATA = "metadata"
_DEVICE = "device"


def name_of(reward: Reward) -> str:
    """The "MODULE:NAME" of a reward that is given from Python; of an object, its class's.

    >>> name_of(lambda images, prompts: images.mean(dim=(1, 2, 3))).rpartition(":")[2]
    'lambda'
    """
    name = getattr(reward, "__name__", type(reward).__name__)
    return f"{reward.__module__}:{name.strip('<>')}"


class OwnReward:
    """The user's own reward as the trainer calls one.

    Args:
        name: "MODULE:NAME", or "path/to/FILE.py:NAME" relative to the current directory. NAME is a function, or a class
            that is made once, without arguments but for `device` if it takes one, and then called.
        device: where a model runs.

    Raises:
        UserError: there is nothing of that name, or it cannot be called as a reward is.
    """

    def __init__(self, name: str, *, device: torch.device | str = "cpu") -> None:
        found = find_named(name, kind="reward", what="function")
        self.name = name
        self.function = _make(found, device) if inspect.isclass(found) else found

    @property
    def info(self) -> Any:
        """What the function or object says of the pictures scored last, if it has `info`."""
        return getattr(self.function, "info", None)

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], metadata: Metadata | None = None
    ) -> Tensor:
        """Score pictures: whatever numbers the function gives, of its type and shape, on the CPU."""
        return call(self.function, images, prompts, metadata=metadata, name=self.name)


def call(
    function: Callable[..., Any],
    images: Float[Tensor, "B 3 H W"],
    prompts: Sequence[str],
    *,
    metadata: Metadata | None = None,
    name: str = "of your own",
) -> Tensor:
    """Call anything that is a reward, wait for it if it is async, and make what it gives a tensor.

    Args:
        function: called with (images, prompts), and with `metadata=` if it takes that.
        images: in [0, 1].
        prompts: one a picture.
        metadata: one mapping a picture; by default empty ones.
        name: for messages.

    Raises:
        UserError: what it gives is no numbers.
    """
    if _METADATA in _parameters(function):
        given = metadata if metadata is not None else [{} for _ in prompts]
        scores = function(images, prompts, metadata=given)
    else:
        scores = function(images, prompts)
    return _to_tensor(_wait(scores) if inspect.isawaitable(scores) else scores, name)


def check_own(name: str) -> None:
    """Refuse an own reward that cannot be called. Its module is imported; a class is not made.

    Raises:
        UserError: as `OwnReward`.
    """
    found = find_named(name, kind="reward", what="function")
    if inspect.isclass(found):
        _check_class(found, name)
        _check_arguments(found.__call__, name, num=3)  # with self
    else:
        _check_arguments(found, name, num=2)


def _check_class(found: type, name: str) -> None:
    if not any("__call__" in vars(base) for base in found.__mro__):
        raise UserError(f"reward is {name!r}, a class without __call__; give it __call__(self, images, prompts).")
    parameters = _parameters(found)
    missing = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name != _DEVICE
    ]
    if missing:
        raise UserError(
            f"reward is {name!r}, a class that cannot be made without {missing[0]!r}; give every argument but "
            "`device` a default, or name a function."
        )


def _check_arguments(function: Callable[..., Any], name: str, *, num: int) -> None:
    parameters = _parameters(function)
    named = {_METADATA: None} if _METADATA in parameters else {}
    try:
        inspect.Signature(list(parameters.values())).bind(*[None] * num, **named)
    except TypeError as error:
        raise UserError(
            f"reward is {name!r}, which cannot be called with pictures and prompts ({error}); "
            "write it as f(images, prompts)."
        ) from error


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # some functions written in C do not say
        return inspect.signature(lambda *_: None).parameters


# Calling it


def _make(cls: Callable[..., Any], device: torch.device | str) -> Callable[..., Any]:
    return cls(device=device) if _DEVICE in _parameters(cls) else cls()


def _wait(scores: Awaitable[Any]) -> Any:
    async def waited() -> Any:
        return await scores

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(waited())
    with ThreadPoolExecutor(max_workers=1) as thread:  # a notebook has a loop of its own, which must not be entered
        return thread.submit(asyncio.run, waited()).result()


def _to_tensor(scores: Any, name: str) -> Tensor:
    if isinstance(scores, Tensor):
        return scores.detach().cpu()
    if isinstance(scores, (list, tuple)):
        scores = [score.tolist() if isinstance(score, Tensor) else score for score in scores]
    try:
        return torch.as_tensor(np.array(scores, order="C"))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"reward {name} gave a {type(scores).__name__} that is no row of numbers; "
            "return a tensor, an array or a list with one number a picture."
        ) from error
