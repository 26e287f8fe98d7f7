"""Fixtures: the real embedded model, and small runs of it."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # numbers of the tests are those of a CPU

from b2diffurl.algorithm.schedule import Backward
from b2diffurl.algorithm.update import Optimization
from b2diffurl.models import LoRA
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.settings import Logging, Run, Sampler


def perturb(policy: TextToImageModel, *, scale: float = 0.02, seed: int = 0) -> None:
    """Move an adapter away from zero, so that it is no identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave flushing to the system: it takes up to seconds per file on a busy disk, and no test cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def policy() -> TextToImageModel:
    """The embedded model with an adapter that does something."""
    loaded = TextToImageModel.load("emoji")
    loaded.add_lora(LoRA(rank=4, alpha=8.0), seed=0)
    perturb(loaded)
    return loaded


@pytest.fixture
def small_run() -> Callable[..., Run]:
    """Make runs of a few seconds: 2 rounds of 4 trunks with 4 branches, 6 denoising steps."""

    def make(**changes: object) -> Run:
        base = replace(
            emoji_b2_paper(),
            num_rounds=2,
            reward_queries_per_round=16,
            sampler=Sampler(num_inference_steps=6, guidance_scale=1.0),
            schedule=Backward(tau_first=3),
            optimization=Optimization(learning_rate=5e-4, num_minibatches=2, num_inner_epochs=1, step_weights="even"),
            logging=Logging(num_samples=2, grid_side=0),
        )
        return replace(base, **changes)  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    """Two prompts: so few that every prompt has rewards to compare."""
    file = tmp_path / "prompts.txt"
    file.write_text("a bear riding a bike\na cat playing chess\n", encoding="utf-8")
    return file
