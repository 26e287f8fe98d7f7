"""Analysis of variance of rewards: how much of their variance trunks decide, and how much branches.

Shapes: G branch groups of K trajectories, of which a prompt has N over this round and the past ones.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

PastRewards = Sequence[dict[str, list[float]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Anova:
    """One-way analysis of variance of rewards: branch groups of equal size, nested in prompts.

    Attributes:
        sum_between: sum over all rewards of (mean of the group - mean of the prompt)^2.
        sum_within: sum over all rewards of (reward - mean of the group)^2.
        num_rewards: number of rewards.
        free_between: degrees of freedom between groups, groups minus prompts.
        free_within: degrees of freedom within groups, rewards minus groups.
    """

    sum_between: float
    sum_within: float
    num_rewards: int
    free_between: int
    free_within: int

    @property
    def weight(self) -> float:
        """The shrinkage weight w of a group's mean, 0 to 1.

        >>> Anova(sum_between=12.0, sum_within=6.0, num_rewards=6, free_between=2, free_within=3).weight
        0.6666666666666667
        """
        if not (self.free_between and self.free_within) or self.sum_between <= 0:
            return 0.0
        between, within = self.sum_between / self.free_between, self.sum_within / self.free_within
        return max(0.0, 1.0 - within / between)

    def effective_number(self, num_branches: int) -> float:
        """Return how many independent rewards a group's K correlated ones are worth, 1 to K (Kish 1965).

        The number is K / (1 + (K - 1) rho), with the intraclass correlation rho = s_b / (s_b + s_w) of `Shrunk`, which
        equals 1 + (K - 1) (1 - w).

        >>> anova = Anova(sum_between=12.0, sum_within=6.0, num_rewards=6, free_between=2, free_within=3)
        >>> round(anova.effective_number(4), 3)
        2.0
        """
        return 1 + (num_branches - 1) * (1 - self.weight)

    def residual_std(self, weight: float) -> float:
        """Standard deviation of all rewards around their baselines with this weight."""
        return math.sqrt((self.sum_within + (1 - weight) ** 2 * self.sum_between) / self.num_rewards)


def analyze(prompts: Iterable[Float[Tensor, "N K"]]) -> Anova:
    """Return the analysis of variance of the rewards of several prompts, N groups of K each."""
    between, within, num_rewards, num_groups, num_prompts = 0.0, 0.0, 0, 0, 0
    for rewards in prompts:
        means = rewards.mean(dim=1, keepdim=True)
        between += rewards.shape[1] * float(((means - rewards.mean()) ** 2).sum())
        within += float(((rewards - means) ** 2).sum())
        num_rewards += rewards.numel()
        num_groups += len(rewards)
        num_prompts += 1
    return Anova(
        sum_between=between,
        sum_within=within,
        num_rewards=num_rewards,
        free_between=num_groups - num_prompts,
        free_within=num_rewards - num_groups,
    )


def by_prompt(
    rewards: Float[Tensor, "G K"], prompts: Sequence[str], past: PastRewards
) -> dict[str, Float[Tensor, "N K"]]:
    """Return all known rewards of this round's prompts, one row per branch group."""
    groups: dict[str, list[Tensor]] = {}
    num_branches = rewards.shape[1]
    for prompt in dict.fromkeys(prompts):
        earlier = [value for rewards_by_prompt in past for value in rewards_by_prompt.get(prompt, [])]
        groups[prompt] = list(torch.tensor(earlier, dtype=rewards.dtype).view(-1, num_branches))
    for prompt, members in zip(prompts, rewards, strict=True):
        groups[prompt].append(members)
    return {prompt: torch.stack(rows) for prompt, rows in groups.items()}
