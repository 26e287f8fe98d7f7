"""The shrunk baseline: between the mean of a branch group and the mean of its prompt (ours).

Shapes: G branch groups of K trajectories; M branch groups of this round and the past ones.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.advantage import ScaledDifferences
from b2diffurl.algorithm.anova import PastRewards, analyze, by_prompt
from b2diffurl.config import NonNegativeInt, settings


def edge_credit(
    rewards: Float[Tensor, "G K"], history: Float[Tensor, " G"], *, weight: float
) -> tuple[Float[Tensor, "G K"], Float[Tensor, " G"]]:
    """Return the credit of every branch and of every trunk, before scaling.

    Args:
        rewards: rewards of the branches.
        history: mean reward of each group's prompt.
        weight: w.

    Returns:
        r - w * mean of the group - (1 - w) * history, and mean of the group - history.
    """
    means = rewards.mean(dim=1)
    return rewards - (weight * means + (1 - weight) * history)[:, None], means - history


@settings(table="advantage")
class Shrunk(ScaledDifferences):
    """(r - b) / std with the baseline b = w * mean of the branch group + (1 - w) * mean of the prompt (ours).

    The mean of the group is the better baseline of an interval where trunks decide much of the reward, but it rests on
    K rewards; the mean of the prompt (over this round and the last H) rests on many. The weight is that of empirical
    Bayes shrinkage (James and Stein 1961; Efron and Morris 1973) under the one-way random-effects model reward = prompt
    + group + member, whose variances come from the classical analysis of variance (Searle, Casella and McCulloch 1992,
    chapter 3) over the same rounds, with groups nested in prompts:

        w = s_b / (s_b + s_w / K),   s_w = MS_within,   s_b = max(0, (MS_between - MS_within) / K)

    which equals max(0, 1 - MS_within / MS_between). A drift of the rewards over the rounds counts as variance between
    groups, so that a history which no longer holds loses weight. The weight is 0 (the mean of the prompt alone) for
    groups of one, and if no prompt has two groups; it is 1 if the members of a group never differ.

    The standard deviation is that of r - b over all rewards of these rounds.

    No member is left out of its group's mean. Its own share makes the expected gradient of the interval 1 - w / K of
    the unbiased one: (K - 1) / K at w = 1, which is the leave-one-out factor. The member's share in the mean of the
    prompt, one over the number of that prompt's rewards, adds a little to this, as for `PromptHistory`.

    A trunk is credited with (mean of the group - mean of the prompt) / std, without shrinkage: its own noise decided
    that difference, so that the mean of the group cannot be part of its baseline.

    Attributes:
        std_floor: rounds whose r - b have a smaller standard deviation, relative to the largest absolute reward, give
            advantages 0.
        max_advantage: advantages are clipped to plus and minus this.
        use: name of the normalizer.
        num_rounds: H, past rounds whose rewards count besides this round's; 8 as for `PromptHistory`.
    """

    use: Literal["shrunk"] = "shrunk"
    num_rounds: NonNegativeInt = 8

    @property
    def num_past_rounds(self) -> int:
        """H."""
        return self.num_rounds

    def normalize(
        self, rewards: Float[Tensor, "G K"], prompts: Sequence[str], *, past: PastRewards
    ) -> Float[Tensor, "G K"]:
        """Compare every reward with its baseline."""
        branches, _, std, known = self._credit(rewards, prompts, past)
        return self.scaled(branches, std, known)

    def normalize_trunks(
        self, rewards: Float[Tensor, "G K"], prompts: Sequence[str], *, past: PastRewards
    ) -> Float[Tensor, " G"]:
        """Compare every group's mean with that of its prompt."""
        _, trunks, std, known = self._credit(rewards, prompts, past)
        return self.scaled(trunks, std, known)

    def metrics(self, rewards: Float[Tensor, "G K"], prompts: Sequence[str], *, past: PastRewards) -> dict[str, float]:
        """shrinkage: the weight w."""
        return {"shrinkage": analyze(by_prompt(rewards, prompts, past).values()).weight}

    def _credit(
        self, rewards: Float[Tensor, "G K"], prompts: Sequence[str], past: PastRewards
    ) -> tuple[Float[Tensor, "G K"], Float[Tensor, " G"], Float[Tensor, ""], Float[Tensor, "M K"]]:
        """Return the credit of branches and trunks, the standard deviation, and the rewards behind it."""
        known = by_prompt(rewards, prompts, past)
        anova = analyze(known.values())
        history = torch.stack([known[prompt].mean() for prompt in prompts])
        std = torch.tensor(anova.residual_std(anova.weight), dtype=rewards.dtype)
        return *edge_credit(rewards, history, weight=anova.weight), std, torch.cat(list(known.values()))
