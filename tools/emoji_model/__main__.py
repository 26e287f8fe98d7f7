"""Train an embedded model: `python -m tools.emoji_model [--world NAME] [--work DIR] [--measure]`. Resumes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from b2diffurl import emoji
from b2diffurl.cli.environment import prepare_process
from b2diffurl.errors import UserError
from tools.emoji_model.assemble import save_captioner, save_clip, save_oracle, save_pipeline
from tools.emoji_model.autoencoder import set_scaling_factor, train_autoencoder
from tools.emoji_model.caption_stage import train_captioner
from tools.emoji_model.card import write_card
from tools.emoji_model.denoiser import train_denoiser
from tools.emoji_model.judges import train_clip, train_oracle
from tools.emoji_model.render import check_font
from tools.emoji_model.scenes import SceneSource
from tools.emoji_model.sources import SOURCES
from tools.emoji_model.text import new_tokenizer

Stage = Literal["autoencoder", "oracle", "clip", "denoiser", "captioner"]


@dataclass(frozen=True, kw_only=True)
class EmojiModel:
    """Train an embedded model and its judges, stage by stage, and write the weights into the package.

    Attributes:
        world: the model, by name; the autoencoder of "emoji-objects" begins with that of "emoji".
        work: folder with the state of the stages, by default runs/WORLD-model; an existing stage is resumed.
        output: folder that receives the weights and their model card, by default that of the package.
        stages: stages to train; the captioner alone uses the autoencoder in the output folder.
        measure: only measure existing weights and write their model card.
        num_threads: number of CPU threads; 0 is torch's default.
        seed: random seed of weights and data.
        autoencoder_steps: optimizer steps of 64 images, 32 for emoji-objects; this and the sizes below are by default
            those of the world.
        oracle_steps: optimizer steps of 96 images.
        clip_steps: optimizer steps of 96 images.
        denoiser_steps: optimizer steps of 128 images, 64 for emoji-objects.
        denoiser_images: captioned images in the training data of the denoiser, rounded up to a multiple of 512.
        captioner_steps: optimizer steps of 64 images.
    """

    world: Literal["emoji", "emoji-objects"] = "emoji"
    work: Path | None = None
    output: Path | None = None
    stages: tuple[Stage, ...] = ("autoencoder", "oracle", "clip", "denoiser", "captioner")
    measure: bool = False
    num_threads: int = 0
    seed: int = 0
    autoencoder_steps: int | None = None
    oracle_steps: int | None = None
    clip_steps: int | None = None
    denoiser_steps: int | None = None
    denoiser_images: int | None = None
    captioner_steps: int | None = None

    @property
    def source(self) -> SceneSource:
        """The scenes to train on."""
        return SOURCES[self.world]

    @property
    def work_folder(self) -> Path:
        """The folder of the stages."""
        return self.work or Path("runs") / f"{self.world}-model"

    @property
    def output_folder(self) -> Path:
        """The folder of the weights."""
        return self.output or emoji.weights_dir(self.world)


def main() -> None:
    """Train the stages of the command line."""
    command = tyro.cli(EmojiModel)
    prepare_process()
    if command.num_threads:
        torch.set_num_threads(command.num_threads)
    try:
        run(command)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


def run(command: EmojiModel) -> None:
    """Train and save the stages, then write the model card if the weights are complete.

    Raises:
        UserError: the emoji font is not installed.
    """
    check_font()
    if not command.measure:
        _train(command)
    if command.measure or "denoiser" in command.stages:
        write_card(command.source, command.output_folder)


def _train(command: EmojiModel) -> None:
    source, work, output = command.source, command.work_folder, command.output_folder
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = new_tokenizer(source.world)
    if "oracle" in command.stages:
        num_steps = _default(command.oracle_steps, source.sizes.oracle_steps)
        oracle = train_oracle(source, work, num_steps=num_steps, seed=command.seed)
        save_oracle(output / emoji.oracle_dir().name, oracle=oracle)
    if "clip" in command.stages:
        num_steps = _default(command.clip_steps, source.sizes.clip_steps)
        clip = train_clip(source, work, tokenizer, num_steps=num_steps, seed=command.seed)
        save_clip(output / emoji.clip_dir().name, clip=clip, tokenizer=tokenizer)
    if {"autoencoder", "denoiser"} & set(command.stages):
        _train_pipeline(command, tokenizer)
    if "captioner" in command.stages:
        _train_captioner(command)


def _train_pipeline(command: EmojiModel, tokenizer: CLIPTokenizer) -> None:
    source, work = command.source, command.work_folder
    vae = train_autoencoder(
        source,
        work,
        num_steps=_default(command.autoencoder_steps, source.sizes.autoencoder_steps),
        seed=command.seed,
        start=emoji.model_dir() if command.world == emoji.EMOJI_OBJECTS else None,
    )
    set_scaling_factor(vae, source, seed=command.seed + 1)
    if "denoiser" not in command.stages:
        return
    denoiser = train_denoiser(
        source,
        work,
        vae,
        tokenizer,
        num_steps=_default(command.denoiser_steps, source.sizes.denoiser_steps),
        num_images=_default(command.denoiser_images, source.sizes.denoiser_images),
        seed=command.seed,
    )
    save_pipeline(command.output_folder / emoji.model_dir().name, vae=vae, denoiser=denoiser, tokenizer=tokenizer)


def _train_captioner(command: EmojiModel) -> None:
    source, output = command.source, command.output_folder
    vae = AutoencoderKL.from_pretrained(output / emoji.model_dir().name, subfolder="vae").requires_grad_(False)
    num_steps = _default(command.captioner_steps, source.sizes.captioner_steps)
    captioner = train_captioner(source, command.work_folder, vae, num_steps=num_steps, seed=command.seed)
    save_captioner(output / emoji.captioner_dir().name, captioner=captioner)


def _default(value: int | None, default: int) -> int:
    return default if value is None else value


if __name__ == "__main__":
    main()
