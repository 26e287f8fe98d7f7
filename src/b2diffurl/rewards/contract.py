"""Does a reward keep the contract? One finding a promise, measured on a few pictures; and the command that prints them.

Shapes: B pictures of 3 x H x W in [0, 1].
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from b2diffurl.errors import UserError
from b2diffurl.images import from_pil
from b2diffurl.rewards.bert.reward import BertSettings
from b2diffurl.rewards.load import check_reward, load_reward
from b2diffurl.rewards.remote.client import RemoteSettings
from b2diffurl.rewards.weighted_sum import score_parts

PROMPTS = ("a cat washing dishes", "a dog riding a bike", "a bear playing chess")
_SIZE = 64
# Of the scores' spread over the pictures: far below what a round's advantages see, far above float32's rounding.
_TOLERANCE = 1e-4

Better = tuple[Float[Tensor, "3 _ _"], Float[Tensor, "3 _ _"], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One promise of the contract.

    Attributes:
        name: the promise.
        ok: it held.
        told: what was measured, or what went wrong and the way out.
    """

    name: str
    ok: bool
    told: str


class _RewardFailedError(Exception):
    """What the reward raised, in one line."""


class _Scores:
    """Scores of the pictures in several batches, each asked for once: rewards may be slow."""

    def __init__(self, reward: Callable[..., Any], images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> None:
        self.reward, self.images, self.prompts = reward, images, list(prompts)
        self.changed: list[str] = []
        self._whole: Tensor | _RewardFailedError | None = None
        self._alone: list[Tensor] | None = None

    def whole(self) -> Tensor:
        """All pictures at once."""
        if self._whole is None:
            try:
                self._whole = self.score(self.images, self.prompts)
            except _RewardFailedError as error:
                self._whole = error
        if isinstance(self._whole, _RewardFailedError):
            raise self._whole
        return self._whole

    def alone(self) -> list[Tensor]:
        """Each picture in a batch of its own."""
        if self._alone is None:
            self._alone = [self.score(self.images[i : i + 1], [text]) for i, text in enumerate(self.prompts)]
        return self._alone

    def score(self, images: Float[Tensor, "B 3 H W"], prompts: list[str]) -> Tensor:
        """Score copies, and note whether the reward wrote into them."""
        given, given_prompts = images.clone(), list(prompts)
        try:
            scores, _ = score_parts(self.reward, given, given_prompts)
        except Exception as error:  # whatever a reward raises is a finding
            raise _RewardFailedError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        for name, same in (("pictures", torch.equal(given, images)), ("prompts", given_prompts == prompts)):
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
    """Measure whether a reward keeps its contract. Goes through all of it, whatever it finds.

    Args:
        reward: to be checked: ours, or any function that is one, async or not.
        images: at least two different pictures.
        prompts: one a picture.
        better: two pictures and a prompt for which the first must score higher.

    Returns:
        The findings; an exception of the reward is one, with its type and message.

    Raises:
        UserError: there are fewer than two pictures, or not one prompt a picture.
    """
    if len(images) < 2 or len(images) != len(prompts):
        raise UserError(
            f"there are {len(images)} pictures and {len(prompts)} prompts; give at least 2 pictures, and a prompt each."
        )
    scores = _Scores(reward, images, prompts)
    checks: dict[str, Callable[[_Scores], tuple[bool, str]]] = {
        "one score a picture": _one_score_a_picture,
        "finite": _finite,
        "same scores twice": _same_twice,
        "a batch of one": _batch_of_one,
        "same scores in any batch": _same_in_any_batch,
        "leaves its input alone": _leaves_input_alone,
    }
    if better is not None:
        checks["higher is better"] = lambda scores: _higher_is_better(scores, better)
    checks["kind of numbers"] = _kind_of_numbers
    return [_finding(name, check, scores) for name, check in checks.items()]


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print a line a finding, and how many held."""
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        mark = Text("holds", style="green") if finding.ok else Text("BROKEN", style="bold red")
        table.add_row(mark, Text(finding.name), Text(finding.told))
    console.print(table)
    num_held = sum(finding.ok for finding in findings)
    console.print(f"{num_held} of {len(findings)} hold.", highlight=False)


# The promises


def _finding(name: str, check: Callable[[_Scores], tuple[bool, str]], scores: _Scores) -> Finding:
    try:
        ok, told = check(scores)
    except _RewardFailedError as error:
        ok, told = False, str(error)
    return Finding(name=name, ok=ok, told=told)


def _one_score_a_picture(scores: _Scores) -> tuple[bool, str]:
    whole, num = scores.whole(), len(scores.images)
    if tuple(whole.shape) == (num,):
        return True, f"shape ({num},) for {num} pictures"
    return False, f"shape {tuple(whole.shape)} for {num} pictures; return shape ({num},)."


def _finite(scores: _Scores) -> tuple[bool, str]:
    whole = _numbers(scores.whole())
    bad = (~torch.isfinite(whole)).nonzero().flatten().tolist()
    if not bad:
        return True, f"all {len(whole)}"
    return False, f"{len(bad)} of {len(whole)} are not: score {bad[0]} is {float(whole[bad[0]])}."


def _same_twice(scores: _Scores) -> tuple[bool, str]:
    whole, again = scores.whole(), scores.score(scores.images, scores.prompts)
    difference = _difference(whole, again)
    ok = difference <= _tolerance(whole)
    return ok, _told(difference, whole) + ("" if ok else "; fix the seed, or switch dropout off with .eval().")


def _batch_of_one(scores: _Scores) -> tuple[bool, str]:
    shapes = {tuple(score.shape) for score in scores.alone()}
    if shapes == {(1,)}:
        return True, "shape (1,)"
    return False, f"shape {', '.join(str(shape) for shape in sorted(shapes))} for 1 picture; return shape (1,)."


def _same_in_any_batch(scores: _Scores) -> tuple[bool, str]:
    whole = scores.whole()
    turned = scores.score(scores.images.flip(0), scores.prompts[::-1])
    alone = torch.cat([score.flatten() for score in scores.alone()])
    if not whole.shape == turned.shape == alone.shape == (len(scores.images),):
        return False, "cannot be compared without one score a picture."
    differences = {
        "one by one": _difference(whole, alone),
        "in reverse order": _difference(whole, turned.flip(0)),
    }
    worst = max(differences, key=lambda name: differences[name])
    told = f"{worst}: " + _told(differences[worst], whole)
    if differences[worst] <= _tolerance(whole):
        return True, told
    in_order = _difference(whole.double().sort().values, alone.double().sort().values) > _tolerance(whole)
    cause = "a score must depend on its own picture and prompt alone" if in_order else "scores must keep the order"
    return False, f"{told}; {cause}."


def _leaves_input_alone(scores: _Scores) -> tuple[bool, str]:
    scores.whole()
    if not scores.changed:
        return True, "pictures and prompts are as they were"
    return False, f"it writes into its {' and '.join(scores.changed)}; work on a copy, such as images.clone()."


def _higher_is_better(scores: _Scores, better: Better) -> tuple[bool, str]:
    good, bad, prompt = better
    high, low = (float(_numbers(scores.score(image[None], [prompt]))[0]) for image in (good, bad))
    told = f"{high:.6g} for the better picture, {low:.6g} for the worse"
    return (True, told) if high > low else (False, f"{told}; give it the other sign if low is good.")


def _kind_of_numbers(scores: _Scores) -> tuple[bool, str]:
    scores.whole()
    started = time.perf_counter()
    whole = scores.score(scores.images, scores.prompts)
    milliseconds = 1000 * (time.perf_counter() - started) / len(scores.images)
    numbers = _numbers(whole)
    told = f"{str(whole.dtype).removeprefix('torch.')}, {milliseconds:.3g} ms a picture"
    if whole.is_complex():
        return False, f"{told}; give real numbers."
    if not len(numbers):
        return False, f"{told}, no scores at all."
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return True, f"{told}, always {low:.6g}: these pictures cannot tell scores apart, so give --images of your own"
    return True, f"{told}, {low:.6g} to {high:.6g}"


# Measuring


def _numbers(scores: Tensor) -> Float[Tensor, " N"]:
    return (scores.real if scores.is_complex() else scores).flatten().double()


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference; infinite where shapes differ or only one is NaN."""
    if a.shape != b.shape:
        return float("inf")
    a, b = _numbers(a), _numbers(b)
    same = (a == b) | (a.isnan() & b.isnan())
    differences = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"), posinf=float("inf"))
    return float(differences.max()) if len(differences) else 0.0


def _spread(scores: Tensor) -> float:
    numbers = _numbers(scores)
    numbers = numbers[numbers.isfinite()]
    return float(numbers.max() - numbers.min()) if len(numbers) else 0.0


def _tolerance(scores: Tensor) -> float:
    """A share of the spread; of scores that are all alike, of their size."""
    numbers = _numbers(scores)
    size = numbers[numbers.isfinite()].abs()
    return _TOLERANCE * (_spread(scores) or (float(size.max()) if len(size) else 0.0))


def _told(difference: float, scores: Tensor) -> str:
    if not math.isfinite(difference):
        return "a score is a finite number once and not the other time"
    spread = _spread(scores)
    share = f", {difference / spread:.1g} of the scores' spread" if spread else ""
    return f"scores differ by at most {difference:.2g}{share}" if difference else "no difference"


# Pictures to check with


def made_pictures(*, size: int = _SIZE) -> Float[Tensor, "8 3 {size} {size}"]:
    """Pictures that are always the same: three of noise, three flat colours, two gradients.

    >>> made_pictures(size=4).shape
    torch.Size([8, 3, 4, 4])
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 3, size, size, generator=generator)
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.8]])
    flat = colours[:, :, None, None].expand(3, 3, size, size)
    ramp = torch.linspace(0, 1, size).expand(3, size, size)
    return torch.cat([noise, flat, torch.stack([ramp, ramp.mT])])


def read_pictures(files: Sequence[Path]) -> Float[Tensor, "B 3 H W"]:
    """Read pictures of one size.

    Raises:
        UserError: a file cannot be read, or is of another size than the first.
    """
    images = [_read(file) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            sizes = [f"{x.shape[2]} x {x.shape[1]}" for x in (images[0], image)]
            raise UserError(f"{files[0]} is {sizes[0]} but {file} is {sizes[1]}; give pictures of one size.")
    return torch.stack(images)


def _read(file: Path) -> Float[Tensor, "3 H W"]:
    try:
        with Image.open(file) as image:
            return from_pil(image)
    except OSError as error:  # not there, or no picture
        raise UserError(f"{file} is no picture that can be read; give a PNG or JPEG file.") from error


# The command


@dataclass(frozen=True, kw_only=True)
class CheckReward:
    """Check that a reward keeps its contract: one finite score a picture, whatever the batch; higher is better.

    Attributes:
        reward: as for `train --reward`.
        better: a picture that must score higher than `worse` for `prompt`.
        worse: the other picture.
        prompt: of the two.
        images: pictures to check with, all of one size; by default eight that are made here.
        prompts: of the pictures, in turn.
        size: of the pictures that are made, in pixels.
        device: where models run, such as cpu or cuda.
        bert: of the reward bert.
        remote: of the reward remote:URL.
    """

    reward: tyro.conf.Positional[str]
    better: Path | None = None
    worse: Path | None = None
    prompt: str | None = None
    images: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = ()
    prompts: tuple[str, ...] = PROMPTS
    size: int = _SIZE
    device: str = "cpu"
    bert: BertSettings = field(default_factory=BertSettings)
    remote: RemoteSettings = field(default_factory=RemoteSettings)


def run(asked: CheckReward) -> int:
    """Check a reward and print the findings.

    Returns:
        0 if all held, else 1.

    Raises:
        UserError: there is no such reward, or a file cannot be read.
    """
    check_reward(asked.reward, remote=asked.remote)
    better = _pair(asked)
    if asked.size < 1:
        raise UserError(f"size is {asked.size}; give 1 or more.")
    if not asked.prompts:
        raise UserError("prompts is empty; give at least one.")
    images = read_pictures(asked.images) if asked.images else made_pictures(size=asked.size)
    prompts = [asked.prompts[index % len(asked.prompts)] for index in range(len(images))]
    reward = load_reward(asked.reward, device=asked.device, bert=asked.bert, remote=asked.remote)
    findings = check_reward_contract(reward, images=images, prompts=prompts, better=better)
    print_findings(Console(), findings)
    return 0 if all(finding.ok for finding in findings) else 1


def _pair(asked: CheckReward) -> Better | None:
    if asked.better is None and asked.worse is None and asked.prompt is None:
        return None
    if asked.better is None or asked.worse is None or asked.prompt is None:
        missing = next(name for name in ("better", "worse", "prompt") if getattr(asked, name) is None)
        raise UserError(f"{missing} is missing; give --better, --worse and --prompt together, or none of them.")
    return _read(asked.better), _read(asked.worse), asked.prompt
