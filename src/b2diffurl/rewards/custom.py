"""Custom rewards: a function, an async function or a class, in a module or in a file.

A reward from Python is recorded by its file where it can be imported from there, otherwise as "session:NAME": then
only that session, or another one that gives it again, can continue the run.

A custom reward returns a tensor, an array or a list, or a pair of one of these and info. It may have a parameter
`metadata`, one mapping per image.
"""

import asyncio
import hashlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.errors import RewardFailed, UserError, did_you_mean
from b2diffurl.plugins import find_named, user_code
from b2diffurl.rewards.builtin import BUILTIN_MODULES, RewardKind, RewardSettings, reward_forms
from b2diffurl.rewards.facts import RewardFacts
from b2diffurl.rewards.interface import Metadata, Reward, RewardOutput
from b2diffurl.rewards.scores import split_output, to_tensor
from b2diffurl.rewards.spec import Term, parse_reward

SESSION = "session:"
_METADATA = "metadata"
_DEVICE = "device"
_GIVEN: dict[str, Callable[..., Any]] = {}  # rewards from Python within a weighted sum, by the name that is recorded


class CustomReward:
    """A custom reward.

    Args:
        name: "MODULE:NAME", or "path/to/FILE.py:NAME" relative to the current directory. NAME is a function, or a class
            that is instantiated once, without arguments other than `device` if it has that parameter, and then called.
        device: device of the model, if it has one.

    Attributes:
        name: the name as given.
        function: the function, or the instance of the class.

    Raises:
        UserError: the name does not exist or is not callable.
    """

    def __init__(self, name: str, *, device: torch.device | str = "cpu") -> None:
        target = _find(name)
        self.name = name
        with user_code(f"reward {name}", raises=UserError):
            self.function = _instantiate(target, device) if inspect.isclass(target) else target

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], metadata: Metadata | None = None
    ) -> RewardOutput:
        """Call the function.

        Returns:
            Its scores as a tensor on the CPU, of the dtype and shape that it returned; with info if it returned a pair.

        Raises:
            InvalidScoresError: the scores are not numbers.
        """
        scores, info = split_output(call_reward(self.function, images, prompts, metadata=metadata))
        tensor = to_tensor(scores, name=self.name)
        return tensor if info is None else (tensor, info)


def call_reward(
    function: Callable[..., Any],
    images: Float[Tensor, "B 3 H W"],
    prompts: Sequence[str],
    *,
    metadata: Metadata | None = None,
) -> Any:
    """Call a reward, and wait for the result if it is async. What it changes in the process is restored afterwards.

    Args:
        function: called with (images, prompts), and with `metadata=` if it has that parameter.
        images: in [0, 1].
        prompts: one per image.
        metadata: one mapping per image; empty mappings by default.

    Returns:
        The unchanged output of the function.

    Raises:
        RewardFailed: the function called sys.exit.
        Exception: whatever the function raises.
    """
    arguments = {}
    if takes_metadata(function):
        arguments[_METADATA] = metadata if metadata is not None else [{} for _ in prompts]
    with user_code("the reward", raises=RewardFailed):
        output = function(images, prompts, **arguments)
        return _wait(output) if inspect.isawaitable(output) else output


def takes_metadata(reward: Callable[..., Any]) -> bool:
    """Whether a reward, or the function behind an `CustomReward`, has a parameter `metadata`."""
    return _METADATA in _parameters(reward.function if isinstance(reward, CustomReward) else reward)


def name_of(reward: Reward | Callable[..., Any]) -> str:
    """Return the "MODULE:NAME" of a reward that is passed from Python; of an object, that of its class.

    >>> name_of(lambda images, prompts: images.mean(dim=(1, 2, 3))).rpartition(":")[2]
    'lambda'

    Raises:
        UserError: it is not a function, for example the name of a reward.
    """
    if not callable(reward):
        raise UserError(
            f"reward is {reward!r}, which is not a function of images and prompts; give a function, or name the reward "
            "in the run's settings: replace(run, reward=...)."
        )
    name = getattr(reward, "__name__", type(reward).__name__)
    return f"{reward.__module__}:{name.strip('<>')}"


def recorded_name(reward: Reward | Callable[..., Any]) -> str:
    """Return the name by which run.toml records a reward from Python.

    "FILE.py:NAME" or "PACKAGE.MODULE:NAME" for a function that can be imported by it, otherwise "session:NAME".

    >>> recorded_name(lambda images, prompts: images.mean(dim=(1, 2, 3)))
    'session:lambda'

    Raises:
        UserError: as `name_of`.
    """
    module_name, _, name = name_of(reward).rpartition(":")
    module = inspect.getmodule(reward) if inspect.isfunction(reward) else None
    if module is None or getattr(module, name, None) is not reward:
        return f"{SESSION}{name}"
    if "." in module_name and all(part.isidentifier() for part in module_name.split(".")):
        return f"{module_name}:{name}"
    file = getattr(module, "__file__", None)
    if file is None or not str(file).endswith(".py"):
        return f"{SESSION}{name}"
    path = Path(file).resolve()
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{name}"


def weighted_name(weights: Mapping[str | Callable[..., Any], float | int]) -> str:
    """Return the name of a weighted sum; its functions can be loaded by that name in this process.

    Args:
        weights: the weight of each reward: a name such as "clip:emoji", or a function.

    Raises:
        UserError: a weight is invalid, a name is itself a weighted sum, or a key is neither a name nor a function.

    >>> weighted_name({"clip:emoji": 1, "jpeg-size:compressible": -0.5})
    '1*clip:emoji + -0.5*jpeg-size:compressible'
    """
    names: list[str] = []
    for reward in weights:
        name = reward if isinstance(reward, str) else recorded_name(reward)
        if not isinstance(reward, str):
            name = next(each for each in (name, *(f"{name}_{n}" for n in range(2, 99))) if each not in names)
            _GIVEN[name] = reward
        names.append(name)
    text = " + ".join(f"{weight!r}*{name}" for name, weight in zip(names, weights.values(), strict=True))
    if not names or tuple(term.name for term in parse_reward(text)) != tuple(names):
        raise UserError(f"reward is {text!r}; give a dict from single rewards, by name or as functions, to weights.")
    return text


def _find(name: str) -> Callable[..., Any]:
    """Return the function or class behind the name of a custom reward.

    Raises:
        UserError: there is none of that name.
    """
    if name in _GIVEN:
        return _GIVEN[name]
    if name.startswith(SESSION):
        raise UserError(
            f"reward is {name!r}, an object of a Python session, which has no file; continue the run from Python with "
            "b2diffurl.train(..., reward=..., resume=True)."
        )
    return find_named(name, kind="reward", what="function")


def hash_source(reward: Reward | Callable[..., Any] | str) -> str | None:
    """Return the sha256 of the source file of a custom reward; None if it has none, as in a notebook.

    Args:
        reward: a function or an object from Python, or the name of a custom reward, which is imported.

    Raises:
        UserError: there is no reward of that name.
    """
    if isinstance(reward, str):
        given = _find(reward)
        if reward in _GIVEN:
            return hash_source(given)
        source = reward.rpartition(":")[0]
        file = source if source.endswith(".py") else getattr(sys.modules.get(source), "__file__", None)
    else:
        target = reward if inspect.isfunction(reward) else type(reward)
        file = getattr(inspect.getmodule(target), "__file__", None)
    path = Path(file).expanduser() if file else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else None


# Checks


def check_custom(term: Term, _: RewardSettings) -> None:
    """Check that a custom reward can be called. Its module is imported; a class is not instantiated.

    Raises:
        UserError: the name does not exist, or cannot be called with images and prompts.
    """
    _check_form(term.name)
    target = _find(term.name)
    if inspect.isclass(target):
        _check_class(target, term.name)
        _check_arguments(target.__call__, term.name, num=3)  # with self
    else:
        _check_arguments(target, term.name, num=2)


def _check_form(name: str) -> None:
    where, colon, attribute = name.rpartition(":")
    if name.endswith(".py"):
        raise UserError(f"reward is {name!r}; add the function in that file: '{name}:FUNCTION'.")
    if not (colon and where and attribute.isidentifier()):
        hint = did_you_mean(name.partition(":")[0], BUILTIN_MODULES)
        raise UserError(
            f"reward is {name!r}{hint}; give {reward_forms()}, or a sum such as 'clip + 0.5*FILE.py:FUNCTION'."
        )


def _check_class(target: type, name: str) -> None:
    if not any("__call__" in vars(base) for base in target.__mro__):
        raise UserError(f"reward is {name!r}, a class without __call__; give it __call__(self, images, prompts).")
    missing = [
        parameter.name
        for parameter in _parameters(target).values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name != _DEVICE
    ]
    if missing:
        raise UserError(
            f"reward is {name!r}, a class that cannot be instantiated without {missing[0]!r}; give every argument but "
            "`device` a default, or name a function."
        )


def _check_arguments(function: Callable[..., Any], name: str, *, num: int) -> None:
    parameters = _parameters(function)
    named = {_METADATA: None} if _METADATA in parameters else {}
    try:
        inspect.Signature(list(parameters.values())).bind(*[None] * num, **named)
    except TypeError as error:
        raise UserError(
            f"reward is {name!r}, which cannot be called with images and prompts ({error}); "
            "write it as f(images, prompts)."
        ) from error


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # some functions written in C have no signature
        return inspect.signature(lambda *_: None).parameters


def _instantiate(cls: Callable[..., Any], device: torch.device | str) -> Callable[..., Any]:
    return cls(device=device) if _DEVICE in _parameters(cls) else cls()


def _wait(output: Awaitable[Any]) -> Any:
    async def wait() -> Any:
        return await output

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with ThreadPoolExecutor(max_workers=1) as thread:  # a notebook runs an event loop, which cannot be entered again
        return thread.submit(asyncio.run, wait()).result()


def _load(term: Term, _: RewardSettings, device: torch.device | str) -> CustomReward:
    return CustomReward(term.name, device=device)


REWARD = RewardKind(
    forms="'FILE.py:FUNCTION' or 'MODULE:FUNCTION'",
    check=check_custom,
    load=_load,
    facts=RewardFacts(
        summary="any function of images and prompts",
        source="docs/how-to-own-reward.md",
        license="yours",
        note="FILE.py:FUNCTION or MODULE:FUNCTION",
    ),
)
