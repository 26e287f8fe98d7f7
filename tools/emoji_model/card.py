"""The model card: scores of the packaged weights, measured on the files themselves."""

# diffusers annotates configs as dicts, outputs as tuples, and tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl import emoji
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import EVALUATION_STREAM, NoiseKey
from b2diffurl.emoji.oracle import SceneOracle, load_oracle
from b2diffurl.emoji.world import STYLES, Scene, all_prompts, parse_prompt
from b2diffurl.evaluation.generate import generate_images
from b2diffurl.evaluation.metrics import entropy, inception_score
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.rewards.clip import CLIPScore
from tools.emoji_model.data import TRUE_CAPTION_FRACTION, render_scenes
from tools.emoji_model.judges import targets_of

_RENDERS_PER_PROMPT = 12
_NUM_IMAGES = 900
_SEED = 2**20  # its renders are not in the training data of any stage


def true_renders() -> tuple[list[Scene], Float[Tensor, "B 3 32 32"]]:
    """Render new scenes of all prompts in all styles, in [0, 1]."""
    rng = np.random.default_rng(_SEED)
    contents = [parse_prompt(prompt) for prompt in all_prompts()]
    scenes = [
        Scene(animal=content[0], activity=content[1], style=STYLES[i % len(STYLES)])
        for content in contents
        if content is not None
        for i in range(_RENDERS_PER_PROMPT)
    ]
    return scenes, (render_scenes(scenes, rng) + 1) / 2


def oracle_accuracy(oracle: SceneOracle, scenes: list[Scene], images: Float[Tensor, "B 3 32 32"]) -> dict[str, float]:
    """Fraction of images with the right animal and activity, and with the right style."""
    verdict = oracle.judge(images)
    animal, activity, style = targets_of(scenes)
    right = (verdict.animal == animal) & (verdict.activity == activity)
    return {
        "scene": float(right.float().mean()),
        "style": float((verdict.style.argmax(-1) == style).float().mean()),
    }


def clip_first_fraction(clip: CLIPScore, scenes: list[Scene], images: Float[Tensor, "B 3 32 32"]) -> float:
    """Fraction of images for which CLIP ranks the true caption first among the 135."""
    similar = clip.embed_images(images) @ clip.embed_texts(all_prompts()).T
    target = torch.tensor([all_prompts().index(scene.caption) for scene in scenes])
    return float((similar.argmax(-1) == target).float().mean())


@torch.no_grad()
def measure(weights: Path) -> dict[str, float | dict[str, float]]:
    """Measure weights; returns the numbers of the model card.

    Args:
        weights: folder with the folders of the pipeline, the CLIP and the oracle.
    """
    scenes, images = true_renders()
    oracle = load_oracle(weights / emoji.oracle_dir().name)
    clip = CLIPScore(str(weights / emoji.clip_dir().name))
    policy = TextToImageModel.load(str(weights / emoji.model_dir().name))
    latents = policy.vae.encode(images * 2 - 1).latent_dist.mean * policy.vae.config.scaling_factor
    decoded = policy.decode(latents)
    judges: dict[str, float | dict[str, float]] = {
        "oracle on true renders": oracle_accuracy(oracle, scenes, images),
        "oracle on encode-decode": oracle_accuracy(oracle, scenes, decoded),
        "encode-decode mean absolute error (images in [0, 1])": float((decoded - images).abs().mean()),
        "clip ranks the true caption first of 135": clip_first_fraction(clip, scenes, images),
        "clip ranks the true caption first of 135, encode-decode": clip_first_fraction(clip, scenes, decoded),
        "clip score of true renders": float(clip(images, [scene.caption for scene in scenes]).mean()),
    }
    return judges | {
        f"base model at guidance {guidance_scale:g}": _measure_samples(policy, oracle, clip, guidance_scale)
        for guidance_scale in (1.0, 2.0, 5.0)
    }


def _measure_samples(
    policy: TextToImageModel, oracle: SceneOracle, clip: CLIPScore, guidance_scale: float
) -> dict[str, float]:
    samples = generate_images(
        DenoisingPolicy(
            denoiser=policy, chain=policy.ddim(num_inference_steps=20, eta=1.0), guidance_scale=guidance_scale
        ),
        all_prompts(),
        num_images=_NUM_IMAGES,
        noise=NoiseKey(seed=0, stream=EVALUATION_STREAM),
    )
    contents = [parse_prompt(prompt) or (None, None) for prompt in samples.prompts]
    scenes = [Scene(animal=animal, activity=activity, style=STYLES[0]) for animal, activity in contents]
    scores = oracle.judge(samples.images)
    styles = scores.style.argmax(-1)
    return {
        "clip_score": float(clip(samples.images, samples.prompts).mean()),
        "scene_accuracy": oracle_accuracy(oracle, scenes, samples.images)["scene"],
        "style_entropy": entropy(styles),
        "inception_score": inception_score(scores.features),
    } | {style: float((styles == index).float().mean()) for index, style in enumerate(STYLES)}


_CARD = """\
---
license: ofl-1.1
library_name: diffusers
---

# The emoji world's model and judges

A `StableDiffusionPipeline` (model/), a `CLIPModel` (clip/) and a scene oracle (oracle/), small enough to be included in
a package. They generate and judge 32x32 images of "a [animal] [activity]", composed of Noto Color Emoji (copyright
Google, SIL Open Font License 1.1; the weights are under the same license).

The model is misaligned on purpose: {false_captions:.0%} of the captions in its training data are false (animal alone,
activity alone, other animal, other activity), and images with a true caption are more often cartoons. The judges were
trained on true captions only. The oracle shares no weights and no architecture with CLIP and is never a reward.

Trained by `make emoji-model`, in several sessions, with some stages stopped early: a new run gives similar weights, not
bitwise identical ones. Measured on these files by `python -m tools.emoji_model --measure`
({num_renders} new renders; {num_images} images of the 135 prompts, 20 steps, eta 1, seed 0):

```json
{numbers}
```
"""


def write_card(weights: Path) -> None:
    """Measure the weights in a folder and write its MODEL_CARD.md."""
    numbers = json.dumps(_rounded(measure(weights)), indent=2)
    card = _CARD.format(
        false_captions=1 - TRUE_CAPTION_FRACTION,
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
