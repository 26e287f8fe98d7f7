"""A run that trains on earlier rounds again, with an adapter interval: what it counts, and killed and resumed."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from b2diffurl.algorithm.collapse import Collapse
from b2diffurl.algorithm.schedule import Table
from b2diffurl.algorithm.selection import All
from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.algorithm.update import Optimization
from b2diffurl.analysis.plan import model_shape, round_costs
from b2diffurl.cli import main
from b2diffurl.models import LoRA
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.settings import Logging, Run, Sampler
from b2diffurl.training.trainer import train

NAME = "earlier_rounds.safetensors"


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four rounds of 2, 3, 2 and 2 of 4 steps; each replays the two before it."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("a bear riding a bike\na cat playing chess\n", encoding="utf-8")
    return replace(
        emoji_b2_paper(),
        prompts=str(prompts),
        num_rounds=4,
        reward_queries_per_round=8,
        sampler=Sampler(num_inference_steps=4, guidance_scale=1.0),
        schedule=Table(rows=((1, 2), (2, 3), (3, 2))),
        selection=All(),
        lora=LoRA(interval=True),
        optimization=Optimization(learning_rate=5e-4, num_minibatches=2, num_inner_epochs=2, replay_rounds=2),
        trust_region=TrustRegion(max_kl=1e6),
        collapse=Collapse(max_kl=1e9, max_reward_drop=1e9, max_contrast_factor=1e9),
        logging=Logging(num_samples=1, grid_side=0, num_checkpoints=4),
        judge="none",
    )


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(run, output=tmp_path_factory.mktemp("runs") / "whole", reward=brightness)


def metrics_of(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def test_a_run_counts_what_the_plan_predicts(run: Run, whole: Path) -> None:
    lines, costs = metrics_of(whole), round_costs(run, model_shape("emoji"))
    assert [line["network/update_evaluations"] for line in lines] == [cost.most_update_evaluations for cost in costs]
    assert [line.get("selection/num_replayed") for line in lines] == [None, 8, 16, 16]
    # By hand: two passes over 8 trajectories of 2, 3, 2, 2 steps and of the two rounds before; one minibatch measured.
    assert [cost.most_update_evaluations for cost in costs] == [
        2 * 16 + 8, 2 * (24 + 16) + 12, 2 * (16 + 24 + 16) + 8, 2 * (16 + 24 + 16) + 8,
    ]  # fmt: skip
    stored = load_file(whole / "checkpoints" / "round_00003" / NAME)
    assert costs[3].replayed_latent_bytes == sum(
        value.numel() * 4 for name, value in stored.items() if name.endswith("/latents")
    )
    assert all(line["policy/ratio_max_error"] <= 1e-5 for line in lines)


def test_a_killed_run_that_is_resumed_equals_an_uninterrupted_one(run: Run, whole: Path, tmp_path: Path) -> None:
    """The folder as it was after round 2, whose next round replays both and switches the adapter."""
    parts = tmp_path / "parts"
    shutil.copytree(whole, parts)
    for name in ("round_00003", "round_00004"):
        shutil.rmtree(parts / "checkpoints" / name)
    shutil.rmtree(parts / "lora")
    assert train(run, output=parts, reward=brightness, resume=True) == parts
    assert metrics_of(whole) == metrics_of(parts)
    for name in ("adapter.safetensors", "optimizer.safetensors", NAME):
        ours, theirs = (load_file(folder / "checkpoints" / "round_00004" / name) for folder in (whole, parts))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
def test_without_replay_the_run_is_another_one(run: Run, whole: Path, tmp_path: Path) -> None:
    """In the first round there is nothing to replay; from the second on there is."""
    plain = replace(run, num_rounds=2, optimization=replace(run.optimization, replay_rounds=0))
    folder = train(plain, output=tmp_path / "plain", reward=brightness)
    adapters = [
        [load_file(path / "checkpoints" / f"round_0000{i}" / "adapter.safetensors") for path in (whole, folder)]
        for i in (1, 2)
    ]
    assert all(torch.equal(adapters[0][0][key], adapters[0][1][key]) for key in adapters[0][0])
    assert not all(torch.equal(adapters[1][0][key], adapters[1][1][key]) for key in adapters[1][0])
    assert not (folder / "checkpoints" / "round_00002" / NAME).exists()


def test_plan_prints_the_memory_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "paper-template1-clip", "--optimization.replay-rounds", "2"]) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if "replayed latents" in line)
    assert [word.strip() for word in line.split("│")][2] == "0"
    assert main(["plan", "paper-template1-clip"]) == 0
    assert "replayed" not in capsys.readouterr().out
