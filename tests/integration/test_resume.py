"""Killed, or stopped by a reward that fails, and resumed: equal to an uninterrupted run, to the bit."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from b2diffurl import RunStopped
from b2diffurl.algorithm.adaptive import Adaptive, GrowthReason
from b2diffurl.algorithm.advantage import Branch
from b2diffurl.algorithm.collapse import Collapse
from b2diffurl.algorithm.objectives import DPO
from b2diffurl.algorithm.schedule import Backward
from b2diffurl.algorithm.update import Optimization
from b2diffurl.errors import RewardFailed
from b2diffurl.reporting import note_of
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.settings import Logging, Run, Sampler
from b2diffurl.training.callbacks import Metrics
from b2diffurl.training.trainer import train


class KilledError(BaseException):
    """Nothing that a run handles."""


class FailsOnce:
    """A reward that needs no network, but for one round, in which it raises."""

    def __init__(self, *, in_round: int = 0, error: BaseException | None = None) -> None:
        self.rounds_left, self.error = in_round, error

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts) == 16  # all of a round at once
        self.rounds_left -= 1
        if self.rounds_left == 0 and self.error is not None:
            raise self.error
        return images.mean(dim=(1, 2, 3))


def metrics_of(folder: Path) -> list[Metrics]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def assert_equal_runs(whole: Path, parts: Path) -> None:
    """Metrics, scores, and all of the last checkpoint."""
    assert metrics_of(whole) == metrics_of(parts)
    ours, theirs = ((path / "scores.jsonl").read_text(encoding="utf-8") for path in (whole, parts))
    assert ours == theirs
    newest = [sorted((folder / "checkpoints").glob("round_*"))[-1] for folder in (whole, parts)]
    assert newest[0].name == newest[1].name
    for name in ("adapter.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(path / name) for path in newest)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = (json.loads((path / "state.json").read_text(encoding="utf-8")) for path in newest)
    for state in (ours, theirs):
        del state["settings"]  # the number of checkpoints may differ
    assert ours == theirs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of 4 groups not all have a pair, so that the interval grows before Backward's pace; the reference counts."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("a bear riding a bike\na cat playing chess\n", encoding="utf-8")
    return replace(
        emoji_b2_paper(),
        prompts=str(prompts),
        num_rounds=5,
        reward_queries_per_round=16,
        sampler=Sampler(num_inference_steps=3, guidance_scale=1.0),
        schedule=Adaptive(tau_first=1, least_pair_fraction=1.0, window=2),
        advantage=Branch(),
        objective=DPO(beta=25.0),
        optimization=Optimization(
            learning_rate=5e-4,
            num_minibatches=2,
            num_inner_epochs=1,
            step_weights="even",
            lr_schedule="cosine",
            warmup_rounds=1,
        ),
        collapse=Collapse(max_reward_drop=100.0),  # 4 trunks differ a lot
        logging=Logging(num_samples=2, grid_side=0),
    )


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    return train(run, output=tmp_path_factory.mktemp("runs") / "whole", reward=FailsOnce())


def test_the_run_is_one_that_could_go_wrong(whole: Path) -> None:
    """Its intervals go by its past, it learns, and everything it logs has a note."""
    lines = metrics_of(whole)
    lengths = [line["interval/length"] for line in lines]
    backward = [Backward(tau_first=1).interval_length(i, num_rounds=5, num_inference_steps=3) for i in range(1, 6)]
    assert all((ours or 0) >= theirs for ours, theirs in zip(lengths, backward, strict=True))
    assert lengths[2:] != backward[2:]
    assert {line["interval/growth_reason"] for line in lines[1:]} & {GrowthReason.NO_PAIRS, GrowthReason.SATURATED}
    assert all(line["selection/num_pairs"] == 4 * (line["interval/pair_fraction"] or 0) for line in lines)
    rates = [line["optimization/learning_rate"] or 0 for line in lines]
    assert rates[:2] == [2.5e-4, 5e-4]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert 0 < rates[-1] < 1e-4
    assert sum(bool(line["update/num_optimizer_steps"]) for line in lines) >= 3
    assert all("policy/kl_to_reference" in line for line in lines if line["selection/num_pairs"])
    assert all(note_of(name) for line in lines for name in line)


def test_a_killed_run_that_is_resumed_equals_an_uninterrupted_one(tmp_path: Path, run: Run, whole: Path) -> None:
    with pytest.raises(KilledError):
        train(run, output=tmp_path / "run", reward=FailsOnce(in_round=4, error=KilledError()))
    assert len(metrics_of(tmp_path / "run")) == 3
    assert_equal_runs(whole, train(run, output=tmp_path / "run", reward=FailsOnce(), resume=True))


@pytest.mark.parametrize("in_round", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_reward_that_fails_stops_the_run_with_its_state_saved(
    tmp_path: Path, run: Run, whole: Path, in_round: int
) -> None:
    """Never a 0: the rounds done are kept, however rare checkpoints are, and the run goes on when the reward does."""
    run, folder = replace(run, logging=replace(run.logging, checkpoint_every_rounds=50)), tmp_path / "run"
    reward = FailsOnce(in_round=in_round, error=RewardFailed("no answer after 3 tries."))
    with pytest.raises(RunStopped) as stopped:
        train(run, output=folder, reward=reward)
    assert stopped.value.round_number == in_round
    assert stopped.value.cause == "the reward failed: no answer after 3 tries."
    assert len(metrics_of(folder)) == in_round - 1
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"round_{in_round - 1:05d}"]
    assert json.loads((folder / "stopped.json").read_text(encoding="utf-8"))["round"] == in_round
    assert_equal_runs(whole, train(run, output=folder, reward=FailsOnce(), resume=True))
    assert not (folder / "stopped.json").exists()
