"""Sample pictures from a policy and judge them.

Shapes: B pictures of 3 x H x W in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from b2diffurl.diffusion.ddim import DDIM
from b2diffurl.emoji.oracle import Verdict, load_oracle
from b2diffurl.emoji.world import ACTIVITIES, ANIMALS, parse_prompt
from b2diffurl.errors import UserError
from b2diffurl.evaluation.metrics import entropy, inception_score
from b2diffurl.rollout import Denoiser, NoiseKey, sample_branches

if TYPE_CHECKING:
    from b2diffurl.rewards.clip import CLIPScore

# Streams of noise that no round has, so that evaluation never sees the noise of training.
EVALUATION_STREAM = 2**32
SAMPLES_STREAM = 2**32 + 1
PROBE_STREAM = 2**32 + 2
EMOJI_METRICS = ("clip_score", "scene_accuracy", "style_entropy", "inception_score")
GENERAL_METRICS = ("clip_score", "inception_score")


@runtime_checkable
class Decoder(Denoiser, Protocol):
    """What evaluation needs of a policy: sampling, and pictures."""

    def decode(self, latents: Tensor) -> Tensor:
        """Give pictures in [0, 1]."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """What a policy draws.

    Attributes:
        images: in [0, 1], on the CPU.
        prompts: one a picture.
    """

    images: Float[Tensor, "B 3 H W"]
    prompts: tuple[str, ...]


def draw_pictures(
    policy: Decoder,
    ddim: DDIM,
    prompts: Sequence[str],
    *,
    num_images: int,
    guidance_scale: float,
    seed: int,
    stream: int = EVALUATION_STREAM,
    only: range | None = None,
    chunk_size: int = 64,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Pictures:
    """Sample `num_images` pictures, the prompts in turn; picture i depends on (seed, stream, i) alone.

    Where `only` is given, just these of them.
    """
    only = range(num_images) if only is None else only
    wanted = tuple(prompts[i % len(prompts)] for i in only)
    images: list[Tensor] = []
    for start in range(only.start, only.stop, chunk_size):
        chunk = wanted[start - only.start : start - only.start + chunk_size]
        rollout = sample_branches(
            policy,
            ddim,
            prompts=chunk,
            num_interval_steps=1,
            num_branches=1,
            guidance_scale=guidance_scale,
            noise=NoiseKey(seed=seed, stream=stream, first_trunk=start),
            chunk_size=chunk_size,
        )
        images.append(policy.decode(rollout.final_latents))
        on_progress(len(chunk))
    return Pictures(images=torch.cat(images), prompts=wanted)


def judge(pictures: Pictures, metrics: Sequence[str], *, clip: "CLIPScore") -> dict[str, float]:
    """Judge pictures.

    Args:
        pictures: and their prompts.
        metrics: names, of `EMOJI_METRICS` for pictures of the emoji world, else of `GENERAL_METRICS`.
        clip: of clip_score, and of inception_score where the pictures are not of the emoji world.

    Raises:
        UserError: no such metric, or one that only the emoji world has.
    """
    check_metrics(metrics, emoji_world=is_emoji_world(pictures.prompts))
    out: dict[str, float] = {}
    if "clip_score" in metrics:
        out["clip_score"] = float(clip(pictures.images, pictures.prompts).mean())
    if is_emoji_world(pictures.prompts) and pictures.images.shape[-1] == 32:
        out |= _judge_emoji(pictures)
    elif "inception_score" in metrics:
        out["inception_score"] = inception_score(clip.embed_images(pictures.images, unit=False))
    return {name: out[name] for name in metrics}


def check_metrics(metrics: Sequence[str], *, emoji_world: bool) -> None:
    """Refuse unknown metrics.

    Raises:
        UserError: no such metric, or one that only the emoji world has.
    """
    known = EMOJI_METRICS if emoji_world else GENERAL_METRICS
    for name in metrics:
        if name not in known:
            raise UserError(
                f"metrics holds {name!r}; for this model and these prompts give some of: {', '.join(known)}."
            )


def is_emoji_world(prompts: Sequence[str]) -> bool:
    """Whether every prompt is one that the scene oracle can judge."""
    return all(parse_prompt(prompt) is not None for prompt in prompts)


def scene_is_right(verdict: Verdict, prompts: Sequence[str]) -> Bool[Tensor, " B"]:
    """Whether each picture shows the animal and the activity of its prompt."""
    wanted = [parsed for parsed in map(parse_prompt, prompts) if parsed is not None]
    animal = torch.tensor([ANIMALS.index(name) for name, _ in wanted])
    activity = torch.tensor([ACTIVITIES.index(name) for _, name in wanted])
    return (verdict.animal == animal) & (verdict.activity == activity)


def _judge_emoji(pictures: Pictures) -> dict[str, float]:
    verdict = load_oracle().judge(pictures.images)
    return {
        "scene_accuracy": float(scene_is_right(verdict, pictures.prompts).float().mean()),
        "style_entropy": entropy(verdict.style.argmax(-1)),
        "inception_score": inception_score(verdict.features),
    }
