"""Learning, in seconds: the reward rises under every objective, with and without the paper's two strategies.

The rooms are the real ones; the policy is a network small enough to learn in two dozen rounds: one bias a step.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from b2diffurl.algorithm.advantage import PromptHistory, RewardHistory
from b2diffurl.algorithm.interfaces import Objective
from b2diffurl.algorithm.objectives import DDPO, DPO, DPOK, PolicyGradient
from b2diffurl.algorithm.records import PastRound
from b2diffurl.algorithm.rollout import NoiseKey, sample_branches
from b2diffurl.algorithm.adaptive import Adaptive
from b2diffurl.algorithm.schedule import Backward, Full
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.algorithm.update import Optimization, TrustRegion, Update
from b2diffurl.diffusion.ddim import DDIM

T, NUM_ROUNDS, QUERIES = 8, 24, 64
ALPHA = torch.linspace(0.05, 0.98, T, dtype=torch.float64)
CHAIN = DDIM(
    timesteps=torch.arange(T - 1, -1, -1),
    alpha=ALPHA,
    alpha_prev=torch.cat([ALPHA[1:], torch.tensor([0.995])]),
    eta=1.0,
)


class BiasPolicy(nn.Module):
    """Predicts the noise of latents around 0, plus a trained bias of its own at every step."""

    device = torch.device("cpu")
    latent_shape = (1, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(T))

    @contextmanager
    def reference(self) -> Generator[None]:
        """Within this context its biases are 0, as they were."""
        bias, self.bias.data = self.bias.data, torch.zeros(T)
        try:
            yield
        finally:
            self.bias.data = bias

    def predict(self, x: Tensor, timestep: Tensor, prompts: Sequence[str], *, guidance_scale: float) -> Tensor:
        """Give the optimal prediction for data at N(0, 1), shifted."""
        assert len(prompts) == len(x)
        assert guidance_scale == 1.0
        a = ALPHA.flip(0)[timestep].float().view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x + self.bias[timestep].view(-1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How trajectories are made and chosen."""

    schedule: Backward | Full | Adaptive
    selection: BestWorst | All
    num_branches: int


STRATEGIES = {
    "vanilla": Strategy(schedule=Full(), selection=All(), num_branches=1),
    "backward alone": Strategy(schedule=Backward(tau_first=4), selection=All(), num_branches=1),
    "branches alone": Strategy(schedule=Full(), selection=BestWorst(), num_branches=4),
    "backward and branches": Strategy(schedule=Backward(tau_first=4), selection=BestWorst(), num_branches=4),
    "adaptive and branches": Strategy(schedule=Adaptive(tau_first=4), selection=BestWorst(), num_branches=4),
}
# Each with the rate that lets it learn in this many rounds; the first two take one optimizer step a round and not four.
OBJECTIVES: dict[str, tuple[Objective, float]] = {
    "policy-gradient": (PolicyGradient(), 0.06),
    "dpok": (DPOK(), 0.06),
    "ddpo": (DDPO(), 0.03),
    "dpo": (DPO(beta=1.0), 0.03),
}


def first_and_last_reward(objective: Objective, learning_rate: float, strategy: Strategy) -> tuple[float, float]:
    """Mean reward of the first and of the last three rounds; the reward is how near x_0 is to 1."""
    policy, history = BiasPolicy(), RewardHistory(config=PromptHistory())
    parameters, num_branches, past = dict(policy.named_parameters()), strategy.num_branches, list[PastRound]()
    num_minibatches = 1 if objective.needs.on_policy else 4
    update = Update(
        policy=policy, parameters=parameters, optimizer=torch.optim.AdamW(parameters.values(), lr=learning_rate),
        ddim=CHAIN, objective=objective,
        config=Optimization(num_minibatches=num_minibatches, num_inner_epochs=1, step_weights="even"),
        trust_region=TrustRegion(), guidance_scale=1.0,
    )  # fmt: skip
    means: list[float] = []
    for i in range(NUM_ROUNDS):
        num_steps = strategy.schedule.num_steps(i, num_rounds=NUM_ROUNDS, num_inference_steps=T, past=past)
        rollout = sample_branches(
            policy, CHAIN, prompts=("anything",) * (QUERIES // num_branches), num_branches=num_branches,
            num_interval_steps=num_steps, guidance_scale=1.0, noise=NoiseKey(seed=0, stream=i + 1), chunk_size=64,
        )  # fmt: skip
        rewards = -(rollout.final_latents.mean(dim=(1, 2, 3)) - 1).square()
        prompts = rollout.trajectories.prompts
        advantages = history.advantages(rewards, prompts, num_branches=num_branches)
        selected = strategy.selection.select(advantages, prompts, num_branches=num_branches)
        past.append(PastRound(num_steps=num_steps, pair_fraction=len(selected.pairs) * num_branches / QUERIES))
        update(rollout.trajectories, advantages, selected, seed=0, round_index=i + 1)
        means.append(float(rewards.mean()))
    return sum(means[:3]) / 3, sum(means[-3:]) / 3


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize(("objective", "learning_rate"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_reward_rises(objective: Objective, learning_rate: float, strategy: Strategy) -> None:
    first, last = first_and_last_reward(objective, learning_rate, strategy)
    assert last > first + 0.5
