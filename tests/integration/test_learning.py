"""Learning, in seconds: the reward rises under every objective, with and without the paper's two strategies.

The rooms are the real ones; the policy is a network small enough to learn in two dozen rounds: one bias a step.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from b2diffurl.algorithm.adaptive import Adaptive
from b2diffurl.algorithm.advantage import PromptHistory, RewardHistory
from b2diffurl.algorithm.collapse import Collapse, CollapseMonitor
from b2diffurl.algorithm.interfaces import Objective
from b2diffurl.algorithm.objectives import DDPO, DPO, DPOK, DDPOKl, PolicyGradient
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.round import LatentScorer, RoundState, Strategy, run_round
from b2diffurl.algorithm.schedule import Backward, Full
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.algorithm.update import Optimization, Update, UpdateSettings
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

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts))

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Tensor, *, guidance_scale: float) -> Tensor:
        """Return the optimal prediction for data at N(0, 1), shifted."""
        assert len(conditioning) == len(x)
        assert guidance_scale == 1.0
        a = ALPHA.flip(0)[timestep].float().view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x + self.bias[timestep].view(-1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """How trajectories are made and chosen."""

    schedule: Backward | Full | Adaptive
    selection: BestWorst | All
    num_branches: int


STRATEGIES = {
    "vanilla": Case(schedule=Full(), selection=All(), num_branches=1),
    "backward alone": Case(schedule=Backward(tau_first=4), selection=All(), num_branches=1),
    "branches alone": Case(schedule=Full(), selection=BestWorst(), num_branches=4),
    "backward and branches": Case(schedule=Backward(tau_first=4), selection=BestWorst(), num_branches=4),
    "adaptive and branches": Case(schedule=Adaptive(tau_first=4), selection=BestWorst(), num_branches=4),
}
# Each with the rate that lets it learn in this many rounds; the first two take one optimizer step a round and not four.
OBJECTIVES: dict[str, tuple[Objective, float]] = {
    "policy-gradient": (PolicyGradient(), 0.06),
    "dpok": (DPOK(), 0.06),
    "ddpo": (DDPO(), 0.03),
    "ddpo-kl": (DDPOKl(), 0.03),
    "dpo": (DPO(beta=1.0), 0.03),
}


def closeness(x0: Tensor, prompts: Sequence[str]) -> Tensor:
    """How near x_0 is to 1."""
    assert len(prompts) == len(x0)
    return -(x0.mean(dim=(1, 2, 3)) - 1).square()


def first_and_last_reward(objective: Objective, learning_rate: float, case: Case) -> tuple[float, float]:
    """Mean reward of the first and of the last three rounds."""
    network = BiasPolicy()
    policy = DenoisingPolicy(denoiser=network, chain=CHAIN, guidance_scale=1.0)
    num_minibatches = 1 if objective.needs.on_policy else 4
    update = Update(
        policy,
        torch.optim.AdamW(network.parameters(), lr=learning_rate),
        objective,
        UpdateSettings(
            optimization=Optimization(num_minibatches=num_minibatches, num_inner_epochs=1, step_weights="even")
        ),
    )
    never = Collapse(max_kl=math.inf, max_reward_drop=math.inf, max_contrast_factor=math.inf, max_refused_rounds=99)
    state = RoundState(history=RewardHistory(normalizer=PromptHistory()), monitor=CollapseMonitor(config=never))
    strategy = Strategy(
        schedule=case.schedule, selector=case.selection, num_branches=case.num_branches, num_rounds=NUM_ROUNDS,
        chunk_size=64, seed=0,
    )  # fmt: skip
    means: list[float] = []
    for round_number in range(1, NUM_ROUNDS + 1):
        result = run_round(
            policy, update, state, strategy, round_number=round_number,
            prompts=("anything",) * (QUERIES // case.num_branches), scorer=LatentScorer(closeness),
        )  # fmt: skip
        means.append(float(result.sampled.scores.rewards.mean()))
    return sum(means[:3]) / 3, sum(means[-3:]) / 3


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize(("objective", "learning_rate"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_reward_rises(objective: Objective, learning_rate: float, strategy: Case) -> None:
    first, last = first_and_last_reward(objective, learning_rate, strategy)
    assert last > first + 0.5
