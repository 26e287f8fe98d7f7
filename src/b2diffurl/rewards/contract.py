"""Check whether a reward keeps its contract: one finding per promise, measured on a few images.

Shapes: B images of 3 x H x W in [0, 1].
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from b2diffurl.errors import UserError
from b2diffurl.images import from_pil
from b2diffurl.rewards.custom import call_reward
from b2diffurl.rewards.scores import split_output, to_tensor
from b2diffurl.rewards.weighted_sum import reward_name

PROMPTS = ("a cat washing dishes", "a dog riding a bike", "a bear playing chess")
SIZE = 64
# Relative to the range of the scores: far below the differences that advantages use, far above float32 rounding.
_TOLERANCE = 1e-4

_PIL_HINT = "images is a float tensor (N, 3, H, W) in [0, 1]; for PIL use b2diffurl.images.to_pil."

Better = tuple[Float[Tensor, "3 _ _"], Float[Tensor, "3 _ _"], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result for one promise of the contract.

    Attributes:
        name: the promise.
        ok: whether it holds.
        detail: the measurement, or the failure and how to fix it.
    """

    name: str
    ok: bool
    detail: str


class _RewardRaisedError(Exception):
    """The reward raised an exception; the message is one line."""


class _Scores:
    """Scores of the images in several batches, each computed once: rewards may be slow."""

    def __init__(self, reward: Callable[..., Any], images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> None:
        self.reward = reward
        self.images = images
        self.prompts = list(prompts)
        self.changed: list[str] = []
        self._whole: Tensor | _RewardRaisedError | None = None
        self._single: list[Tensor] | None = None

    def whole(self) -> Tensor:
        """Score all images in one batch."""
        if self._whole is None:
            try:
                self._whole = self.score(self.images, self.prompts)
            except _RewardRaisedError as error:
                self._whole = error
        if isinstance(self._whole, _RewardRaisedError):
            raise self._whole
        return self._whole

    def single(self) -> list[Tensor]:
        """Score each image in a batch of its own."""
        if self._single is None:
            self._single = [self.score(self.images[i : i + 1], [text]) for i, text in enumerate(self.prompts)]
        return self._single

    def score(self, images: Float[Tensor, "B 3 H W"], prompts: list[str]) -> Tensor:
        """Score copies, and record whether the reward wrote into them; shape and dtype are those of the reward."""
        image_copy = images.clone()
        prompt_copy = list(prompts)
        try:
            output, _ = split_output(call_reward(self.reward, image_copy, prompt_copy))
            scores = to_tensor(output, name=reward_name(self.reward))
        except UserError as error:
            raise _RewardRaisedError(str(error)) from error
        except Exception as error:  # any exception of a reward is a finding
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise _RewardRaisedError(f"{message}; {_PIL_HINT}" if expects_pil(error) else message) from error
        for name, same in (("images", torch.equal(image_copy, images)), ("prompts", prompt_copy == prompts)):
            if not same and name not in self.changed:
                self.changed.append(name)
        return scores


def check_reward_contract(
    reward: Callable[..., Any],
    *,
    images: Float[Tensor, "B 3 H W"],
    prompts: Sequence[str],
    better: Better | None = None,
) -> list[Finding]:
    """Measure whether a reward keeps its contract. All checks run, even if one fails.

    Args:
        reward: a built-in reward, or any function that is one, async or not.
        images: at least two different images.
        prompts: one per image.
        better: two images and a prompt for which the first must score higher.

    Returns:
        The findings. An exception of the reward becomes a finding with its type and message.

    Raises:
        UserError: there are fewer than two images, or the number of prompts differs.
    """
    if len(images) < 2 or len(images) != len(prompts):
        raise UserError(
            f"there are {len(images)} images and {len(prompts)} prompts; "
            "give at least 2 images and one prompt per image."
        )
    scores = _Scores(reward, images, prompts)
    checks: dict[str, Callable[[_Scores], tuple[bool, str]]] = {
        "one score per image": _one_score_per_image,
        "finite": _finite,
        "same scores twice": _same_twice,
        "a batch of one": _batch_of_one,
        "same scores in any batch": _same_in_any_batch,
        "leaves its input unchanged": _leaves_input_unchanged,
    }
    if better is not None:
        checks["higher is better"] = lambda scores: _higher_is_better(scores, better)
    checks["dtype and range"] = _dtype_and_range
    return [_finding(name, check, scores) for name, check in checks.items()]


def expects_pil(error: Exception) -> bool:
    """Whether an exception is one of code for PIL images that got a tensor: `im.size[0]`, `im.convert("RGB")`.

    >>> expects_pil(TypeError("'builtin_function_or_method' object is not subscriptable"))
    True
    """
    if isinstance(error, AttributeError) and isinstance(error.obj, Tensor):
        return hasattr(Image.Image, error.name or "")
    text = str(error)
    if isinstance(error, TypeError) and "builtin_function_or_method" in text:
        return True  # Tensor.size is a method, Image.size a pair
    return isinstance(error, TypeError | ValueError | AttributeError) and "PIL" in text


# The promises


def _finding(name: str, check: Callable[[_Scores], tuple[bool, str]], scores: _Scores) -> Finding:
    try:
        ok, detail = check(scores)
    except _RewardRaisedError as error:
        ok, detail = False, str(error)
    return Finding(name=name, ok=ok, detail=detail)


def _one_score_per_image(scores: _Scores) -> tuple[bool, str]:
    shape = tuple(scores.whole().shape)
    num = len(scores.images)
    if shape == (num,):
        return True, f"shape ({num},) for {num} images"
    return False, f"shape {shape} for {num} images; return shape ({num},)."


def _finite(scores: _Scores) -> tuple[bool, str]:
    whole = _numbers(scores.whole())
    bad = (~torch.isfinite(whole)).nonzero().flatten().tolist()
    if not bad:
        return True, f"all {len(whole)}"
    return False, f"{len(bad)} of {len(whole)} are not: score {bad[0]} is {float(whole[bad[0]])}."


def _same_twice(scores: _Scores) -> tuple[bool, str]:
    whole = scores.whole()
    difference = _difference(whole, scores.score(scores.images, scores.prompts))
    ok = difference <= _tolerance(whole)
    hint = "" if ok else "; fix the seed, or turn off dropout with .eval()."
    return ok, _describe(difference, whole) + hint


def _batch_of_one(scores: _Scores) -> tuple[bool, str]:
    shapes = {tuple(score.shape) for score in scores.single()}
    if shapes == {(1,)}:
        return True, "shape (1,)"
    return False, f"shape {', '.join(str(shape) for shape in sorted(shapes))} for 1 image; return shape (1,)."


def _same_in_any_batch(scores: _Scores) -> tuple[bool, str]:
    whole = scores.whole()
    reverse = scores.score(scores.images.flip(0), scores.prompts[::-1])
    single = torch.cat([score.flatten() for score in scores.single()])
    if not whole.shape == reverse.shape == single.shape == (len(scores.images),):
        return False, "cannot be compared without one score per image."
    differences = {
        "one by one": _difference(whole, single),
        "in reverse order": _difference(whole, reverse.flip(0)),
    }
    worst = max(differences, key=lambda name: differences[name])
    detail = f"{worst}: " + _describe(differences[worst], whole)
    if differences[worst] <= _tolerance(whole):
        return True, detail
    in_order = _difference(whole.double().sort().values, single.double().sort().values) > _tolerance(whole)
    cause = "a score must depend only on its own image and prompt" if in_order else "scores must keep the order"
    return False, f"{detail}; {cause}."


def _leaves_input_unchanged(scores: _Scores) -> tuple[bool, str]:
    scores.whole()
    if not scores.changed:
        return True, "images and prompts are unchanged"
    return False, f"it writes into its {' and '.join(scores.changed)}; work on a copy, such as images.clone()."


def _higher_is_better(scores: _Scores, better: Better) -> tuple[bool, str]:
    good, bad, prompt = better
    high, low = (float(_numbers(scores.score(image[None], [prompt]))[0]) for image in (good, bad))
    detail = f"{high:.6g} for the better image, {low:.6g} for the worse"
    return (True, detail) if high > low else (False, f"{detail}; negate it if low is good.")


def _dtype_and_range(scores: _Scores) -> tuple[bool, str]:
    scores.whole()
    started = time.perf_counter()
    whole = scores.score(scores.images, scores.prompts)
    milliseconds = 1000 * (time.perf_counter() - started) / len(scores.images)
    numbers = _numbers(whole)
    detail = f"{str(whole.dtype).removeprefix('torch.')}, {milliseconds:.3g} ms per image"
    if whole.is_complex():
        return False, f"{detail}; return real numbers."
    if not len(numbers):
        return False, f"{detail}, no scores at all."
    low = float(numbers.min())
    high = float(numbers.max())
    if low == high:
        return True, f"{detail}, always {low:.6g}: these images do not separate scores; give your own with --images"
    return True, f"{detail}, {low:.6g} to {high:.6g}"


# Measurements


def _numbers(scores: Tensor) -> Float[Tensor, " N"]:
    return (scores.real if scores.is_complex() else scores).flatten().double()


def _difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference; infinite if shapes differ or only one is NaN."""
    if a.shape != b.shape:
        return float("inf")
    a = _numbers(a)
    b = _numbers(b)
    same = (a == b) | (a.isnan() & b.isnan())
    differences = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"), posinf=float("inf"))
    return float(differences.max()) if len(differences) else 0.0


def _range(scores: Tensor) -> float:
    numbers = _numbers(scores)
    numbers = numbers[numbers.isfinite()]
    return float(numbers.max() - numbers.min()) if len(numbers) else 0.0


def _tolerance(scores: Tensor) -> float:
    """Return a fraction of the scores' range; of their magnitude if all are equal."""
    numbers = _numbers(scores)
    magnitude = numbers[numbers.isfinite()].abs()
    return _TOLERANCE * (_range(scores) or (float(magnitude.max()) if len(magnitude) else 0.0))


def _describe(difference: float, scores: Tensor) -> str:
    if not math.isfinite(difference):
        return "a score is finite in one call and not in the other"
    score_range = _range(scores)
    fraction = f", {difference / score_range:.1g} of the scores' range" if score_range else ""
    return f"scores differ by at most {difference:.2g}{fraction}" if difference else "no difference"


# Images to check with


def synthetic_images(*, size: int = SIZE) -> Float[Tensor, "8 3 {size} {size}"]:
    """Create eight images, always the same: three of noise, three of one color, two gradients.

    >>> synthetic_images(size=4).shape
    torch.Size([8, 3, 4, 4])
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 3, size, size, generator=generator)
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.8]])
    flat = colors[:, :, None, None].expand(3, 3, size, size)
    ramp = torch.linspace(0, 1, size).expand(3, size, size)
    return torch.cat([noise, flat, torch.stack([ramp, ramp.mT])])


def read_images(files: Sequence[Path]) -> Float[Tensor, "B 3 H W"]:
    """Read images of one size.

    Raises:
        UserError: a file cannot be read, or its size differs from the first.
    """
    images = [read_image(file) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            sizes = [f"{x.shape[2]} x {x.shape[1]}" for x in (images[0], image)]
            raise UserError(f"{files[0]} is {sizes[0]} but {file} is {sizes[1]}; give images of one size.")
    return torch.stack(images)


def read_image(file: Path) -> Float[Tensor, "3 H W"]:
    """Read an image.

    Raises:
        UserError: the file does not exist or is not an image.
    """
    try:
        with Image.open(file) as image:
            return from_pil(image)
    except OSError as error:
        raise UserError(f"{file} cannot be read as an image; give a PNG or JPEG file.") from error
