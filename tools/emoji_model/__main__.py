"""Train the embedded model: `python -m tools.emoji_model [--work DIR] [--measure]`. Resumes where it stopped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from transformers import CLIPTokenizer

from b2diffurl import emoji
from b2diffurl.cli.environment import prepare_process
from b2diffurl.errors import UserError
from tools.emoji_model.assemble import save_clip, save_oracle, save_pipeline
from tools.emoji_model.autoencoder import set_scaling_factor, train_autoencoder
from tools.emoji_model.card import write_card
from tools.emoji_model.denoiser import train_denoiser
from tools.emoji_model.judges import train_clip, train_oracle
from tools.emoji_model.render import check_font
from tools.emoji_model.text import new_tokenizer

Stage = Literal["autoencoder", "oracle", "clip", "denoiser"]


@dataclass(frozen=True, kw_only=True)
class EmojiModel:
    """Train the embedded model and its judges, stage by stage, and write the weights into the package.

    Attributes:
        work: folder with the state of the stages; an existing stage is resumed.
        output: folder that receives the weights and their model card.
        stages: stages to train.
        measure: only measure existing weights and write their model card.
        num_threads: number of CPU threads; 0 is torch's default.
        seed: random seed of weights and data.
        autoencoder_steps: optimizer steps of 64 images.
        oracle_steps: optimizer steps of 96 images.
        clip_steps: optimizer steps of 96 images.
        denoiser_steps: optimizer steps of 128 images.
        denoiser_images: captioned images in the training data of the denoiser, rounded up to a multiple of 512.
    """

    work: Path = Path("runs/emoji-model")
    output: Path = emoji.model_dir().parent
    stages: tuple[Stage, ...] = ("autoencoder", "oracle", "clip", "denoiser")
    measure: bool = False
    num_threads: int = 0
    seed: int = 0
    autoencoder_steps: int = 2700
    oracle_steps: int = 1800
    clip_steps: int = 2000
    denoiser_steps: int = 4000
    denoiser_images: int = 122_880


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
        write_card(command.output)


def _train(command: EmojiModel) -> None:
    command.work.mkdir(parents=True, exist_ok=True)
    tokenizer = new_tokenizer()
    if "oracle" in command.stages:
        oracle = train_oracle(command.work, num_steps=command.oracle_steps, seed=command.seed)
        save_oracle(command.output / emoji.oracle_dir().name, oracle=oracle)
    if "clip" in command.stages:
        clip = train_clip(command.work, tokenizer, num_steps=command.clip_steps, seed=command.seed)
        save_clip(command.output / emoji.clip_dir().name, clip=clip, tokenizer=tokenizer)
    if {"autoencoder", "denoiser"} & set(command.stages):
        _train_pipeline(command, tokenizer)


def _train_pipeline(command: EmojiModel, tokenizer: CLIPTokenizer) -> None:
    vae = train_autoencoder(command.work, num_steps=command.autoencoder_steps, seed=command.seed)
    set_scaling_factor(vae, seed=command.seed + 1)
    if "denoiser" not in command.stages:
        return
    denoiser = train_denoiser(
        command.work,
        vae,
        tokenizer,
        num_steps=command.denoiser_steps,
        num_images=command.denoiser_images,
        seed=command.seed,
    )
    save_pipeline(command.output / emoji.model_dir().name, vae=vae, denoiser=denoiser, tokenizer=tokenizer)


if __name__ == "__main__":
    main()
