"""Learning, in seconds: the reward of a short run rises, with and without the paper's two strategies."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import b2diffurl
from b2diffurl.run import Branching, Run, Sampler
from b2diffurl.schedule import Backward, Full
from b2diffurl.selection import All, BestWorst
from b2diffurl.update import Optimization


def redness(images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG001
    """How red a picture is; something that the model can always do more of."""
    return (images[:, 0] - images[:, 2]).mean(dim=(1, 2))


@pytest.mark.parametrize(
    ("schedule", "selection", "num_branches"),
    [(Backward(tau_first=4), BestWorst(), 4), (Full(), All(), 1)],
    ids=["backward and branches", "plain DDPO"],
)
def test_the_reward_rises(
    tmp_path: Path,
    small_run: Callable[..., Run],
    prompts_file: Path,
    schedule: Backward | Full,
    selection: BestWorst | All,
    num_branches: int,
) -> None:
    run = small_run(
        prompts=str(prompts_file), num_rounds=8, reward_queries_per_round=48, schedule=schedule, selection=selection,
        rollout=Branching(num_branches=num_branches), sampler=Sampler(num_inference_steps=6, guidance_scale=1.0),
        optimization=Optimization(learning_rate=3e-3, num_inner_epochs=1, num_minibatches=4),
    )  # fmt: skip
    run = replace(run, records=replace(run.records, samples_every_rounds=100))
    folder = b2diffurl.train(run, output=tmp_path / "run", reward=redness)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    means, stds = [line["reward/mean"] for line in lines], [line["reward/std"] for line in lines]
    # Two standard errors of a difference of two rounds' means, at the least.
    assert np.mean(means[-2:]) - np.mean(means[:2]) > 2 * stds[0] / np.sqrt(48)
