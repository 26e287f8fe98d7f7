"""Stage 2: the judges, trained on true captions: the CLIP of the reward, and the independent oracle.

Both are trained on renders with random blur, noise and brightness, since they will judge outputs of an autoencoder.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from b2diffurl.emoji.oracle import SceneOracle
from b2diffurl.emoji.world import STYLES, World
from tools.emoji_model.loop import fit
from tools.emoji_model.scenes import Scene, SceneSource, any_scene, render_scenes
from tools.emoji_model.text import MAX_TOKENS

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_CLIP_GROUPS = 24
_ORACLE_BATCH_SIZE = 96


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Build the untrained CLIP: a 4-layer vision transformer on 8x8 patches and a 2-layer text transformer."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "image_size": 32,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def augment(x: Float[Tensor, "B 3 32 32"], rng: np.random.Generator) -> Float[Tensor, "B 3 32 32"]:
    """Apply blur, noise and brightness of random strength to images in [-1, 1]."""
    num = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (num, 1, 1, 1))).float()

    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = x.lerp(blurred, uniform(-0.3, 1.0).clamp(min=0))
    x = x * uniform(0.85, 1.1) + uniform(-0.08, 0.08)
    noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    return (x + noise * uniform(-0.05, 0.1).clamp(min=0)).clamp(-1, 1)


def train_clip(source: SceneSource, work: Path, tokenizer: CLIPTokenizer, *, num_steps: int, seed: int) -> CLIPModel:
    """Train CLIP: every image against captions of the world, every caption of an image against the batch."""
    torch.manual_seed(seed)
    clip = new_clip(tokenizer)
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)

    def loss(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        contents = [content for _ in range(_CLIP_GROUPS) for content in source.contrasting_contents(rng)]
        scenes = [Scene(content=content, style=str(rng.choice(STYLES))) for content in contents]
        captions = source.captions(contents, rng)
        numbers = {content: index for index, content in enumerate(dict.fromkeys([*captions.values(), *contents]))}
        of_images = torch.tensor([numbers[content] for content in contents])
        of_captions = torch.tensor([numbers[content] for content in captions.values()])
        true = (of_images[:, None] == of_captions[None]).float()
        tokens = tokenizer(list(captions), padding="max_length", return_tensors="pt")
        x = (augment(render_scenes(source, scenes, rng), rng) + 1) / 2
        logits = clip(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=(x - mean) / std
        ).logits_per_image
        image_loss = F.cross_entropy(logits, true / true.sum(-1, keepdim=True))
        same = (of_images[:, None] == of_images[None]).float()
        text_loss = F.cross_entropy(logits[:, true.argmax(-1)].T, same / same.sum(-1, keepdim=True))
        accuracy = true.gather(1, logits.argmax(-1, keepdim=True)).mean()
        return image_loss + 0.5 * text_loss, {"accuracy": accuracy.item(), "scale": clip.logit_scale.exp().item()}

    fit("clip", module=clip, loss=loss, num_steps=num_steps, learning_rate=2e-3, work=work, seed=seed + 1)
    return clip


def train_oracle(source: SceneSource, work: Path, *, num_steps: int, seed: int) -> SceneOracle:
    """Train the oracle to classify all parts and the style of any scene, complete or not."""
    torch.manual_seed(seed)
    world = source.world
    oracle = SceneOracle(world).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def loss(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes = [any_scene(source, rng) for _ in range(_ORACLE_BATCH_SIZE)]
        x = (augment(render_scenes(source, scenes, rng), rng) + 1) / 2
        parts, style, _features = oracle(x.contiguous(memory_format=torch.channels_last))
        contents, styles = targets_of(world, scenes)
        value = F.cross_entropy(style, styles) + sum(
            F.cross_entropy(logits, contents[:, index]) for index, logits in enumerate(parts)
        )
        right = {
            part.name: (logits.argmax(-1) == contents[:, index]).float().mean().item()
            for index, (part, logits) in enumerate(zip(world.parts, parts, strict=True))
        }
        return value, right

    fit("oracle", module=oracle, loss=loss, num_steps=num_steps, learning_rate=3e-3, work=work, seed=seed + 2)
    return oracle


def targets_of(world: World, scenes: Sequence[Scene]) -> tuple[Int[Tensor, "B P"], Int[Tensor, " B"]]:
    """Class indices of every part and of the style; "absent" is the last class of a part."""
    contents = [world.classes(scene.content) for scene in scenes]
    return torch.tensor(contents), torch.tensor([STYLES.index(scene.style) for scene in scenes])
