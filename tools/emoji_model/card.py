"""The model card: what the shipped weights reach, measured on the files themselves."""

# diffusers types its configs as dicts, its outputs as tuples, and its tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import EVALUATION_STREAM, NoiseKey
from b2diffurl.emoji.oracle import SceneOracle, load_oracle
from b2diffurl.emoji.world import STYLES, Scene, all_prompts, parse_prompt
from b2diffurl.evaluation.generate import generate_images
from b2diffurl.evaluation.judges import EmojiJudge
from b2diffurl.models.policy import Policy
from b2diffurl.rewards.clip import CLIPScore
from tools.emoji_model.data import TRUE_CAPTION_FRACTION, pictures
from tools.emoji_model.judges import targets_of

_RENDERS_PER_PROMPT = 12
_NUM_IMAGES = 900
_SEED = 2**20  # of renders that no stage has trained on


def true_renders() -> tuple[list[Scene], Float[Tensor, "B 3 32 32"]]:
    """Fresh renders of all prompts in all styles, in [0, 1]."""
    rng = np.random.default_rng(_SEED)
    contents = [parse_prompt(prompt) for prompt in all_prompts()]
    scenes = [
        Scene(animal=content[0], activity=content[1], style=STYLES[i % len(STYLES)])
        for content in contents
        if content is not None
        for i in range(_RENDERS_PER_PROMPT)
    ]
    return scenes, (pictures(scenes, rng) + 1) / 2


def oracle_accuracy(oracle: SceneOracle, scenes: list[Scene], images: Float[Tensor, "B 3 32 32"]) -> dict[str, float]:
    """Share of pictures whose animal and activity are both right, and whose style is."""
    verdict = oracle.judge(images)
    animal, activity, style = targets_of(scenes)
    right = (verdict.animal == animal) & (verdict.activity == activity)
    return {
        "scene": float(right.float().mean()),
        "style": float((verdict.style.argmax(-1) == style).float().mean()),
    }


def clip_first_fraction(clip: CLIPScore, scenes: list[Scene], images: Float[Tensor, "B 3 32 32"]) -> float:
    """Share of pictures for which CLIP ranks the true caption first among the 135."""
    similar = clip.embed_images(images) @ clip.embed_texts(all_prompts()).T
    target = torch.tensor([all_prompts().index(scene.caption) for scene in scenes])
    return float((similar.argmax(-1) == target).float().mean())


@torch.no_grad()
def measure() -> dict[str, float | dict[str, float]]:
    """Measure the packaged weights; everything the model card says."""
    scenes, images = true_renders()
    oracle, clip = load_oracle(), CLIPScore("emoji")
    policy = Policy.load("emoji")
    latents = policy.vae.encode(images * 2 - 1).latent_dist.mean * policy.vae.config.scaling_factor
    decoded = policy.decode(latents)
    found: dict[str, float | dict[str, float]] = {
        "oracle on true renders": oracle_accuracy(oracle, scenes, images),
        "oracle on encode-decode": oracle_accuracy(oracle, scenes, decoded),
        "encode-decode mean absolute error (pictures in [0, 1])": float((decoded - images).abs().mean()),
        "clip ranks the true caption first of 135": clip_first_fraction(clip, scenes, images),
        "clip ranks the true caption first of 135, encode-decode": clip_first_fraction(clip, scenes, decoded),
        "clip score of true renders": float(clip(images, [scene.caption for scene in scenes]).mean()),
    }
    ddim = policy.ddim(num_inference_steps=20, eta=1.0)
    for guidance_scale in (1.0, 2.0, 5.0):
        drawn = generate_images(
            DenoisingPolicy(denoiser=policy, chain=ddim, guidance_scale=guidance_scale),
            all_prompts(),
            num_images=_NUM_IMAGES,
            noise=NoiseKey(seed=0, stream=EVALUATION_STREAM),
        )
        styles = oracle.judge(drawn.images).style.argmax(-1)
        shares = {style: float((styles == i).float().mean()) for i, style in enumerate(STYLES)}
        found[f"base model at guidance {guidance_scale:g}"] = EmojiJudge(clip)(drawn.images, drawn.prompts) | shares
    return found


_CARD = """\
---
license: ofl-1.1
library_name: diffusers
---

# The emoji world's model and judges

A `StableDiffusionPipeline` (model/), a `CLIPModel` (clip/) and a scene oracle (oracle/), small enough to be carried in
a package. They draw and judge 32x32 pictures of "a [animal] [activity]", composed of Noto Color Emoji (copyright
Google, SIL Open Font Licence 1.1; the weights are under the same licence).

The model is misaligned on purpose: {lies:.0%} of the captions it was trained on lie (animal alone, activity alone,
other animal, other activity), and pictures with a true caption are more often cartoons. The judges were trained on true
captions alone. The oracle shares no weights and no architecture with CLIP and is never a reward.

Made by `make emoji-model`, in several sittings and with stages cut short on the way: a new run gives weights of
the same kind, not the same bits. Measured on these files by `python -m tools.emoji_model --measure`
({num_renders} fresh renders; {num_images} pictures of the 135 prompts, 20 steps, eta 1, seed 0):

```json
{numbers}
```
"""


def write_card(weights: Path) -> None:
    """Measure the packaged weights and write MODEL_CARD.md beside them."""
    numbers = json.dumps(_rounded(measure()), indent=2)
    card = _CARD.format(
        lies=1 - TRUE_CAPTION_FRACTION,
        num_renders=_RENDERS_PER_PROMPT * len(all_prompts()),
        num_images=_NUM_IMAGES,
        numbers=numbers,
    )
    (weights / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(card)


def _rounded(numbers: dict[str, float | dict[str, float]]) -> dict[str, float | dict[str, float]]:
    return {
        key: round(value, 4) if isinstance(value, float) else {name: round(v, 4) for name, v in value.items()}
        for key, value in numbers.items()
    }
