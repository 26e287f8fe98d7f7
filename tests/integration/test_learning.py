"""Learning, in seconds: the reward rises, with and without the paper's two strategies.

The rooms are the real ones; the policy is a network small enough to learn in two dozen rounds: one bias a step.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from b2diffurl.advantage import PromptHistory, RewardHistory
from b2diffurl.diffusion.ddim import DDIM
from b2diffurl.objectives import DDPO
from b2diffurl.rollout import NoiseKey, sample_branches
from b2diffurl.schedule import Backward, Full
from b2diffurl.selection import All, BestWorst
from b2diffurl.update import Optimization, TrustRegion, Update

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

    def predict(self, x: Tensor, timestep: Tensor, prompts: Sequence[str], *, guidance_scale: float) -> Tensor:
        """Give the optimal prediction for data at N(0, 1), shifted."""
        assert len(prompts) == len(x)
        assert guidance_scale == 1.0
        a = ALPHA.flip(0)[timestep].float().view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x + self.bias[timestep].view(-1, 1, 1, 1)


def final_reward(schedule: Backward | Full, selection: BestWorst | All, num_branches: int) -> tuple[float, float]:
    """Mean reward of the first and of the last three rounds; the reward is how near x_0 is to 1."""
    policy, history = BiasPolicy(), RewardHistory(config=PromptHistory())
    parameters = dict(policy.named_parameters())
    update = Update(
        policy=policy, parameters=parameters, optimizer=torch.optim.AdamW(parameters.values(), lr=0.03), ddim=CHAIN,
        objective=DDPO(), config=Optimization(num_minibatches=4, num_inner_epochs=1, step_weights="even"),
        trust_region=TrustRegion(), guidance_scale=1.0,
    )  # fmt: skip
    means: list[float] = []
    for round_index in range(1, NUM_ROUNDS + 1):
        rollout = sample_branches(
            policy, CHAIN, prompts=("anything",) * (QUERIES // num_branches), num_branches=num_branches,
            num_interval_steps=schedule.num_steps(round_index - 1, num_rounds=NUM_ROUNDS, num_inference_steps=T),
            guidance_scale=1.0, noise=NoiseKey(seed=0, stream=round_index), chunk_size=64,
        )  # fmt: skip
        rewards = -(rollout.final_latents.mean(dim=(1, 2, 3)) - 1).square()
        advantages = history.advantages(rewards, rollout.trajectories.prompts)
        selected = selection.select(advantages, num_branches=num_branches)
        update(rollout.trajectories, advantages, selected, seed=0, round_index=round_index)
        means.append(float(rewards.mean()))
    return sum(means[:3]) / 3, sum(means[-3:]) / 3


@pytest.mark.parametrize(
    ("schedule", "selection", "num_branches"),
    [
        (Backward(tau_first=4), BestWorst(), 4),
        (Full(), BestWorst(), 4),
        (Backward(tau_first=4), All(), 1),
        (Full(), All(), 1),
    ],
    ids=["backward and branches", "branches alone", "backward alone", "plain DDPO"],
)
def test_the_reward_rises(schedule: Backward | Full, selection: BestWorst | All, num_branches: int) -> None:
    first, last = final_reward(schedule, selection, num_branches)
    assert last > first + 0.3
