"""The tiny run that the campaigns break: a model of random weights, two prompts, and three rounds of eight images.

Shapes: latents of 4 x 4 x 4, images of 8 x 8 pixels.
"""

# diffusers types its configs as dicts, and its tuples of any length as tuples of one.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from b2diffurl import emoji

PROMPTS = ("a bear riding a bike", "a cat playing chess")
NUM_ROUNDS = 3
_WIDTH = 16
_SETTINGS = """
--reward jpeg-size:compressible --judge reward --num-rounds 3 --reward-queries-per-round 8
--sampler.num-inference-steps 2 --schedule.tau-first 1 --optimization.num-minibatches 1 --collapse.max-reward-drop 100
--logging.num-samples 1 --logging.samples-every-rounds 2 --logging.num-evaluation-images 2
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What all cases share.

    Attributes:
        root: folder of the model and of the cases' own folders.
        seed: seed of the campaign.
    """

    root: Path
    seed: int

    @property
    def model(self) -> Path:
        """The model directory."""
        return self.root / "model"

    @property
    def prompts(self) -> Path:
        """The prompts file."""
        return self.root / "prompts.txt"

    def train(self, output: Path, *flags: str) -> list[str]:
        """Return the words of the training command; `flags` are added at the end."""
        names = ["--model", str(self.model), "--prompts", str(self.prompts), "--output", str(output)]
        return ["train", "emoji-b2-paper", *names, *_SETTINGS.split(), *flags]

    def sample(self, output: Path, *flags: str) -> list[str]:
        """Return the words of a command that generates one image."""
        names = ["--prompts", PROMPTS[0], "--output", str(output), "--num-inference-steps", "2"]
        return ["sample", str(self.model), *names, "--guidance-scale", "1", *flags]


def make_world(root: Path, *, seed: int) -> World:
    """Write the model and the prompts, unless they exist.

    Args:
        root: their folder; created if it does not exist.
        seed: seed of the campaign.
    """
    world = World(root=root, seed=seed)
    root.mkdir(parents=True, exist_ok=True)
    if not world.prompts.is_file():
        _write_model(world.model)
        world.prompts.write_text("".join(f"{prompt}\n" for prompt in PROMPTS), encoding="utf-8")
    return world


def _write_model(directory: Path) -> None:
    tqdm.monitor_interval = 0  # no thread, since this process is forked
    torch.manual_seed(1)
    tokenizer = CLIPTokenizer.from_pretrained(emoji.model_dir(), subfolder="tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=_WIDTH, intermediate_size=2 * _WIDTH, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=tokenizer.model_max_length, projection_dim=_WIDTH,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_WIDTH,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, sample_size=8,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1,
        clip_sample=False,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(directory)
