"""The model card: scores of the packaged weights, measured on the files themselves."""

# diffusers annotates configs as dicts, outputs as tuples, and tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl import emoji
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import EVALUATION_STREAM, NoiseKey
from b2diffurl.emoji.captioner import load_captioner
from b2diffurl.emoji.oracle import SceneOracle, load_oracle
from b2diffurl.emoji.world import STYLES
from b2diffurl.evaluation.generate import generate_images
from b2diffurl.evaluation.metrics import entropy, inception_score
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.rewards.bert.emoji import EmojiBertReward
from b2diffurl.rewards.clip import CLIPScore
from tools.emoji_model.caption_scores import bert_scores, caption_accuracy
from tools.emoji_model.judges import targets_of
from tools.emoji_model.scenes import TRUE_CAPTION_FRACTION, Scene, SceneSource, render_scenes

_RENDERS_PER_PROMPT = 12
_NUM_IMAGES = 900  # of all lists together, per guidance scale
_SEED = 2**20  # its renders are not in the training data of any stage

Numbers = dict[str, float | dict[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judges:
    """What scores images: the oracle, and the two rewards of the world."""

    oracle: SceneOracle
    clip: CLIPScore
    bert: EmojiBertReward

    @classmethod
    def load(cls, source: SceneSource, weights: Path) -> "_Judges":
        clip = CLIPScore(str(weights / emoji.clip_dir().name))
        captioner = load_captioner(source.world, weights / emoji.captioner_dir().name)
        oracle = load_oracle(source.world, weights / emoji.oracle_dir().name)
        return cls(oracle=oracle, clip=clip, bert=EmojiBertReward(captioner, clip))


def true_renders(source: SceneSource) -> tuple[list[str], list[Scene], Float[Tensor, "B 3 32 32"]]:
    """Render new scenes of all prompts in all styles, in [0, 1]; with the prompts."""
    rng = np.random.default_rng(_SEED)
    prompts = [prompt for prompt in source.prompts for _ in range(_RENDERS_PER_PROMPT)]
    scenes = [
        Scene(content=source.world.contents[prompt], style=STYLES[index % len(STYLES)])
        for index, prompt in enumerate(prompts)
    ]
    return prompts, scenes, (render_scenes(source, scenes, rng) + 1) / 2


def oracle_accuracy(oracle: SceneOracle, scenes: list[Scene], images: Float[Tensor, "B 3 32 32"]) -> dict[str, float]:
    """Fraction of images with every part right, with each part right, and with the right style."""
    verdict = oracle.judge(images)
    contents, styles = targets_of(oracle.world, scenes)
    right = verdict.content == contents
    parts = {part.name: float(right[:, index].float().mean()) for index, part in enumerate(oracle.world.parts)}
    style = float((verdict.style.argmax(-1) == styles).float().mean())
    return {"scene": float(right.all(dim=1).float().mean()), **parts, "style": style}


def clip_first_fraction(
    clip: CLIPScore, source: SceneSource, scenes: list[Scene], images: Float[Tensor, "B 3 32 32"]
) -> float:
    """Fraction of images for which CLIP ranks a true prompt first among those of the model's training data."""
    similar = clip.embed_images(images) @ clip.embed_texts(source.prompts).T
    first = [source.world.contents[source.prompts[index]] for index in similar.argmax(-1).tolist()]
    return sum(content == scene.content for content, scene in zip(first, scenes, strict=True)) / len(scenes)


@torch.no_grad()
def measure(source: SceneSource, weights: Path) -> Numbers:
    """Measure weights; returns the numbers of the model card.

    Args:
        source: the scenes of the world.
        weights: folder with the folders of the pipeline, the CLIP, the oracle and the captioner.
    """
    prompts, scenes, images = true_renders(source)
    judges = _Judges.load(source, weights)
    contents, _styles = targets_of(source.world, scenes)
    policy = TextToImageModel.load(str(weights / emoji.model_dir().name))
    latents = policy.vae.encode(images * 2 - 1).latent_dist.mean * policy.vae.config.scaling_factor
    decoded = policy.decode(latents)
    ranks = f"clip ranks a true prompt first of {len(source.prompts)}"
    return {
        "oracle on true renders": oracle_accuracy(judges.oracle, scenes, images),
        "oracle on encode-decode": oracle_accuracy(judges.oracle, scenes, decoded),
        "encode-decode mean absolute error (images in [0, 1])": float((decoded - images).abs().mean()),
        "encode-decode PSNR in dB": float(-10 * (decoded - images).square().mean().log10()),
        ranks: clip_first_fraction(judges.clip, source, scenes, images),
        f"{ranks}, encode-decode": clip_first_fraction(judges.clip, source, scenes, decoded),
        "clip score of true renders": float(judges.clip(images, prompts).mean()),
        "caption on true renders": caption_accuracy(judges.bert.captioner, images, contents),
        "caption on encode-decode": caption_accuracy(judges.bert.captioner, decoded, contents),
        "bert score of true renders": float(judges.bert(images, prompts)[0].mean()),
    } | {
        f"base model at guidance {guidance_scale:g}" + (f", {name}" if name else ""): _measure_samples(
            policy, judges, prompts, guidance_scale=guidance_scale, num_images=_NUM_IMAGES // len(source.measured)
        )
        for guidance_scale in (1.0, 2.0, 5.0)
        for name, prompts in source.measured.items()
    }


def _measure_samples(
    policy: TextToImageModel, judges: _Judges, prompts: tuple[str, ...], *, guidance_scale: float, num_images: int
) -> dict[str, float]:
    samples = generate_images(
        DenoisingPolicy(
            denoiser=policy, chain=policy.ddim(num_inference_steps=20, eta=1.0), guidance_scale=guidance_scale
        ),
        prompts,
        num_images=num_images,
        noise=NoiseKey(seed=0, stream=EVALUATION_STREAM),
    )
    images, texts = samples.images, samples.prompts
    verdict = judges.oracle.judge(images)
    is_right = judges.oracle.scene_is_right(verdict, texts).float()
    clip_scores = judges.clip(images, texts)
    styles = verdict.style.argmax(-1)
    captions = caption_accuracy(judges.bert.captioner, images, verdict.content)
    return {
        "clip_score": float(clip_scores.mean()),
        "scene_accuracy": float(is_right.mean()),
        "style_entropy": entropy(styles),
        "inception_score": inception_score(verdict.features),
        **{style: float((styles == index).float().mean()) for index, style in enumerate(STYLES)},
        **{f"caption agrees with oracle, {name}": value for name, value in captions.items()},
        **bert_scores(judges.bert, images, texts, is_right=is_right, clip_scores=clip_scores),
    }


_CARD = """\
---
license: ofl-1.1
library_name: diffusers
---

# The embedded model {name} and its judges

A `StableDiffusionPipeline` (model/), a `CLIPModel` (clip/), a scene oracle (oracle/) and a captioner (captioner/),
small enough to be included in a package. They generate, judge and describe 32x32 images of
{template}, composed of
Noto Color Emoji (copyright Google, SIL Open Font License 1.1; the weights are under the same license).

The model is misaligned on purpose: {false_captions_fraction:.0%} of the captions in its training data are false
({false_captions}),
and images with a true caption are more often cartoons. The judges were trained on true captions only. The oracle shares
no weights and no architecture with CLIP or the captioner and is never a reward. The captioner and CLIP's text encoder
are the reward bert:{name}, whose score is the BERTScore recall of the caption against the prompt.

Trained by `make emoji-model WORLD={name}`,
{history}:
a new run gives similar weights, not bitwise identical ones. Measured on these files by
`python -m tools.emoji_model --world {name} --measure`: {num_renders} new renders of the {num_prompts} prompts;
{num_images} images per entry of the base model, 20 steps, eta 1, seed 0.

```json
{numbers}
```
"""


def write_card(source: SceneSource, weights: Path) -> None:
    """Measure the weights in a folder and write its MODEL_CARD.md."""
    card = card_text(source, measure(source, weights))
    (weights / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(card)


def card_text(source: SceneSource, numbers: Numbers) -> str:
    """Return the model card with the numbers of `measure`."""
    return _CARD.format(
        name=source.world.name,
        template=source.template,
        false_captions_fraction=1 - TRUE_CAPTION_FRACTION,
        false_captions=source.false_captions,
        history=source.history,
        num_prompts=len(source.prompts),
        num_renders=_RENDERS_PER_PROMPT * len(source.prompts),
        num_images=_NUM_IMAGES // len(source.measured),
        numbers=json.dumps(_rounded(numbers), indent=2),
    )


def _rounded(numbers: Numbers) -> Numbers:
    return {
        key: round(value, 4) if isinstance(value, float) else {name: round(v, 4) for name, v in value.items()}
        for key, value in numbers.items()
    }
