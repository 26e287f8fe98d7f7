"""Scores of images: what a reward returned, converted and checked in one place.

Shapes: B images of 3 x H x W in [0, 1].
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from b2diffurl.errors import UserError

_LARGEST = 1e100  # squares of larger rewards, and sums of them, may overflow

Info = dict[str, list[Any]]
"""One entry per image, by name: a text, a number, a bool or None, so that it can be written as JSON."""


class InvalidScoresError(UserError):
    """A reward did not return one finite number per image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredImages:
    """Scores of B images, on the CPU.

    Attributes:
        scores: one per image, higher is better.
        terms: scores of the terms of a weighted sum, without their weights, by name; empty for any other reward.
        info: additional outputs of the reward, such as captions; one entry per image.
    """

    scores: Float64[Tensor, " B"]
    terms: dict[str, Float64[Tensor, " B"]] = field(default_factory=dict[str, Tensor])
    info: Info = field(default_factory=dict[str, list[Any]])


def split_output(output: Any) -> tuple[Any, Any]:
    """Split the output of a reward into scores and info; info is None if only scores were returned.

    >>> split_output([0.5, 1.0]), split_output(([0.5, 1.0], {"caption": ["a cat", "a dog"]}))
    (([0.5, 1.0], None), ([0.5, 1.0], {'caption': ['a cat', 'a dog']}))
    """
    if isinstance(output, tuple) and len(cast("tuple[Any, ...]", output)) == 2 and isinstance(output[1], Mapping):
        return cast("tuple[Any, Any]", output)
    return output, None


def to_tensor(scores: Any, *, name: str) -> Tensor:
    """Copy scores to a tensor on the CPU, with the dtype and shape that the reward gave them.

    A copy, since a reward may return its own buffer and write into it in the next call.

    Args:
        scores: a tensor, an array, or a list of numbers or tensors.
        name: the reward's name, for the message.

    Raises:
        InvalidScoresError: the scores are not numbers.
    """
    if isinstance(scores, Tensor):
        return scores.detach().cpu().clone()
    if isinstance(scores, (list, tuple)):
        scores = [score.tolist() if isinstance(score, Tensor) else score for score in scores]
    try:
        return torch.as_tensor(np.array(scores, order="C"))
    except (TypeError, ValueError) as error:
        raise InvalidScoresError(
            f"reward {name} returned a {type(scores).__name__} that is not one number per image; "
            "return a tensor, an array or a list."
        ) from error


def check_scores(
    scores: Tensor, num_images: int, *, name: str, first_image: int = 0, require_finite: bool = True
) -> Float64[Tensor, " B"]:
    """Check that there is one finite score per image.

    Args:
        scores: as the reward returned them.
        num_images: number of images.
        name: the reward's name, for the message.
        first_image: index of the first image, for the message.
        require_finite: also check that scores are finite.

    Returns:
        The scores in float64.

    Raises:
        InvalidScoresError: the shape is not (num_images,), or a score is complex, infinite, NaN or above 1e100 in size.
    """
    if tuple(scores.shape) != (num_images,):
        raise InvalidScoresError(
            f"reward {name} returned shape {tuple(scores.shape)} for {num_images} images; "
            f"return one number per image, shape ({num_images},)."
        )
    if scores.is_complex():
        raise InvalidScoresError(f"reward {name} returned complex numbers; return real numbers.")
    scores = scores.double()
    bad = (~(scores.abs() <= _LARGEST)).nonzero().flatten()
    if require_finite and len(bad):
        first = int(bad[0])
        reason = ", whose square overflows; divide the reward" if math.isfinite(scores[first]) else ""
        raise InvalidScoresError(f"the reward of image {first_image + first} is {float(scores[first])}{reason}.")
    return scores


def to_info(info: object, num_images: int) -> Info:
    """Convert the info of a reward to lists that can be written as JSON.

    Args:
        info: a mapping from a name to one entry per image. Anything else, and any entry of another length, is left out.
        num_images: number of images.
    """
    if not isinstance(info, Mapping):
        return {}
    lists = {str(name): _to_list(entries) for name, entries in cast("Mapping[Any, Any]", info).items()}
    return {
        name: [_to_json(entry) for entry in entries] for name, entries in lists.items() if len(entries) == num_images
    }


def prefix_info(info: Info, name: str) -> Info:
    """Put a reward's name before the names of its info.

    >>> prefix_info({"caption": ["a cat"]}, "bert")
    {'bert/caption': ['a cat']}
    """
    return {f"{name}/{key}": entries for key, entries in info.items()}


def _to_list(entries: Any) -> list[Any]:
    if hasattr(entries, "tolist"):  # a tensor or an array
        entries = entries.tolist()
    if isinstance(entries, Sequence) and not isinstance(entries, str | bytes):
        return list(cast("Sequence[Any]", entries))
    return []


def _to_json(entry: Any) -> Any:
    if isinstance(entry, float):
        return float(entry) if math.isfinite(entry) else None
    return entry if entry is None or isinstance(entry, str | bool | int) else str(entry)
