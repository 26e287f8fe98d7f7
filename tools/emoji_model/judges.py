"""Stage 2: the judges, trained on true captions: the CLIP of the reward, and the independent oracle.

Both are trained on renders with random blur, noise and brightness, since they will judge outputs of an autoencoder.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from b2diffurl.emoji.oracle import SceneOracle
from b2diffurl.emoji.world import ACTIVITIES, ANIMALS, STYLES, Scene, all_prompts
from tools.emoji_model.data import any_scene, render_scenes
from tools.emoji_model.loop import fit
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


def _augment(x: Float[Tensor, "B 3 32 32"], rng: np.random.Generator) -> Float[Tensor, "B 3 32 32"]:
    """Apply blur, noise and brightness of random strength to images in [-1, 1]."""
    num = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (num, 1, 1, 1))).float()

    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = x.lerp(blurred, uniform(-0.3, 1.0).clamp(min=0))
    x = x * uniform(0.85, 1.1) + uniform(-0.08, 0.08)
    noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    return (x + noise * uniform(-0.05, 0.1).clamp(min=0)).clamp(-1, 1)


def _contrasting_scenes(rng: np.random.Generator) -> list[Scene]:
    """Sample one scene and its hard negatives: other animal, other activity, animal alone, activity alone."""
    one, other = any_scene(rng, partial_fraction=0), any_scene(rng, partial_fraction=0)
    contents = (
        (one.animal, one.activity), (other.animal, one.activity), (one.animal, other.activity),
        (one.animal, None) if rng.random() < 0.7 else (None, one.activity),
    )  # fmt: skip
    return [Scene(animal=a, activity=b, style=str(rng.choice(STYLES))) for a, b in contents]


def _all_captions() -> list[str]:
    return all_prompts() + [f"a {animal}" for animal in ANIMALS] + list(ACTIVITIES)


def train_clip(work: Path, tokenizer: CLIPTokenizer, *, num_steps: int, seed: int) -> CLIPModel:
    """Train CLIP: every image against all 183 captions of the world, every caption against the batch."""
    torch.manual_seed(seed)
    clip = new_clip(tokenizer)
    captions = _all_captions()
    index_of = {caption: index for index, caption in enumerate(captions)}
    tokens = tokenizer(captions, padding="max_length", return_tensors="pt")
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)

    def loss(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes = [scene for _ in range(_CLIP_GROUPS) for scene in _contrasting_scenes(rng)]
        target = torch.tensor([index_of[scene.caption] for scene in scenes])
        x = (_augment(render_scenes(scenes, rng), rng) + 1) / 2
        logits = clip(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=(x - mean) / std
        ).logits_per_image
        image_loss = F.cross_entropy(logits, target)
        same = (target[:, None] == target[None]).float()
        text_loss = F.cross_entropy(logits[:, target].T, same / same.sum(-1, keepdim=True))
        accuracy = (logits.argmax(-1) == target).float().mean()
        return image_loss + 0.5 * text_loss, {"accuracy": accuracy.item(), "scale": clip.logit_scale.exp().item()}

    fit("clip", module=clip, loss=loss, num_steps=num_steps, learning_rate=2e-3, work=work, seed=seed + 1)
    return clip


def train_oracle(work: Path, *, num_steps: int, seed: int) -> SceneOracle:
    """Train the oracle to classify animal, activity and style of any scene, complete or not."""
    torch.manual_seed(seed)
    oracle = SceneOracle().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def loss(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes = [any_scene(rng) for _ in range(_ORACLE_BATCH_SIZE)]
        x = (_augment(render_scenes(scenes, rng), rng) + 1) / 2
        animal, activity, style, _features = oracle(x.contiguous(memory_format=torch.channels_last))
        targets = targets_of(scenes)
        value = sum(F.cross_entropy(a, b) for a, b in zip((animal, activity, style), targets, strict=True))
        assert isinstance(value, Tensor)
        return value, {"animal": (animal.argmax(-1) == targets[0]).float().mean().item()}

    fit("oracle", module=oracle, loss=loss, num_steps=num_steps, learning_rate=3e-3, work=work, seed=seed + 2)
    return oracle


def targets_of(scenes: list[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Class indices of animal, activity and style; "none" is the last class of the first two."""
    animals = [ANIMALS.index(s.animal) if s.animal else len(ANIMALS) for s in scenes]
    activities = [ACTIVITIES.index(s.activity) if s.activity else len(ACTIVITIES) for s in scenes]
    return torch.tensor(animals), torch.tensor(activities), torch.tensor([STYLES.index(s.style) for s in scenes])
