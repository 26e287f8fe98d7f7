"""Train the embedded model: `python -m tools.emoji_model [--work DIR] [--measure]`. Resumes where it stopped."""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from transformers import CLIPTokenizer

from b2diffurl import emoji
from b2diffurl.cli.environment import prepare_process
from tools.emoji_model.assemble import save_clip, save_oracle, save_pipeline
from tools.emoji_model.autoencoder import set_scaling_factor, train_autoencoder
from tools.emoji_model.card import write_card
from tools.emoji_model.denoiser import train_denoiser
from tools.emoji_model.judges import train_clip, train_oracle
from tools.emoji_model.text import new_tokenizer


@dataclass(frozen=True, kw_only=True)
class EmojiModel:
    """Train the embedded model and its judges, one stage after the other, and write them into the package.

    Attributes:
        work: folder of the stages' state; a stage that is there goes on where it stopped.
        stages: which stages to train.
        measure: only measure the packaged weights and write their model card.
        num_threads: CPU threads; by default torch's choice.
        seed: of weights and data.
        autoencoder_steps: optimizer steps of 64 pictures.
        oracle_steps: optimizer steps of 96 pictures.
        clip_steps: optimizer steps of 96 pictures.
        denoiser_steps: optimizer steps of 128 pictures.
        denoiser_pictures: captioned pictures that the denoiser is trained on.
    """

    work: Path = Path("runs/emoji-model")
    stages: tuple[str, ...] = ("autoencoder", "oracle", "clip", "denoiser")
    measure: bool = False
    num_threads: int = 0
    seed: int = 0
    autoencoder_steps: int = 2700
    oracle_steps: int = 1800
    clip_steps: int = 2000
    denoiser_steps: int = 4000
    denoiser_pictures: int = 122_880


def main() -> None:
    """Train what is asked for."""
    asked = tyro.cli(EmojiModel)
    prepare_process()
    if asked.num_threads:
        torch.set_num_threads(asked.num_threads)
    if not asked.measure:
        _train(asked)
    if asked.measure or "denoiser" in asked.stages:
        write_card(emoji.model_dir().parent)


def _train(asked: EmojiModel) -> None:
    asked.work.mkdir(parents=True, exist_ok=True)
    tokenizer = new_tokenizer()
    if "oracle" in asked.stages:
        save_oracle(emoji.oracle_dir(), oracle=train_oracle(asked.work, num_steps=asked.oracle_steps, seed=asked.seed))
    if "clip" in asked.stages:
        clip = train_clip(asked.work, tokenizer, num_steps=asked.clip_steps, seed=asked.seed)
        save_clip(emoji.clip_dir(), clip=clip, tokenizer=tokenizer)
    if {"autoencoder", "denoiser"} & set(asked.stages):
        _train_pipeline(asked, tokenizer)


def _train_pipeline(asked: EmojiModel, tokenizer: CLIPTokenizer) -> None:
    vae = train_autoencoder(asked.work, num_steps=asked.autoencoder_steps, seed=asked.seed)
    set_scaling_factor(vae, seed=asked.seed + 1)
    if "denoiser" not in asked.stages:
        return
    denoiser = train_denoiser(
        asked.work,
        vae,
        tokenizer,
        num_steps=asked.denoiser_steps,
        num_pictures=asked.denoiser_pictures,
        seed=asked.seed,
    )
    save_pipeline(emoji.model_dir(), vae=vae, denoiser=denoiser, tokenizer=tokenizer)


if __name__ == "__main__":
    main()
