"""Advantages: rewards normalized per prompt over some rounds as in the paper (appendix D.1), or within a round.

Statistics are float64. Where there are fewer than two rewards to compare, or they hardly differ relative to their size,
the advantage is 0, never NaN. So the scale of a reward does not matter.

Shapes: G branch groups of K trajectories.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Lt
from jaxtyping import Float, Shaped
from torch import Tensor

from b2diffurl.algorithm.anova import PastRewards, analyze, by_prompt
from b2diffurl.algorithm.interfaces import Normalizer, check_groups
from b2diffurl.algorithm.records import Credit
from b2diffurl.config import NonNegativeInt, settings


@settings(table="advantage")
class ScaledDifferences(Normalizer):
    """What all normalizers here share: differences in units of a standard deviation, clipped after the selection.

    Attributes:
        std_floor: a standard deviation that is smaller, relative to the largest absolute reward, gives advantage 0
            (ours).
        max_advantage: the advantages that are trained on are clipped to plus and minus this.
    """

    std_floor: Annotated[float, Gt(0), Lt(1)] = 1e-4
    max_advantage: Annotated[float, Gt(0)] = 5.0

    def scaled(self, differences: Tensor, std: Tensor, rewards: Tensor) -> Tensor:
        """Divide by the standard deviation; 0 where that is below the floor.

        Args:
            differences: rewards minus their baselines.
            std: the standard deviation to divide by.
            rewards: the rewards that are compared, of any shape.
        """
        if not float(std) > 0 or float(std) < self.std_floor * float(rewards.abs().max()):
            return torch.zeros_like(differences)
        return differences / std

    def clip(self, advantages: Float[Tensor, "G K"]) -> Float[Tensor, "G K"]:
        """Clip to plus and minus `max_advantage`."""
        return advantages.clamp(-self.max_advantage, self.max_advantage)


@settings(table="advantage")
class PromptHistory(ScaledDifferences):
    """(r - mean) / std over the prompt's rewards in this round and the last H.

    Attributes:
        std_floor: a prompt whose rewards have a smaller standard deviation, relative to the largest absolute one, gets
            advantage 0.
        max_advantage: the advantages that are trained on are clipped to plus and minus this.
        use: name of the normalizer.
        num_rounds: H, past rounds whose rewards count besides this round's; 8 in the reference run.
    """

    use: Literal["prompt-history"] = "prompt-history"
    num_rounds: NonNegativeInt = 8

    @property
    def num_past_rounds(self) -> int:
        """H."""
        return self.num_rounds

    def normalize(
        self, rewards: Float[Tensor, "G K"], prompts: Sequence[str], *, past: PastRewards
    ) -> Float[Tensor, "G K"]:
        """Compare every reward with those of its prompt (exact text match)."""
        advantages = torch.zeros_like(rewards)
        for prompt in set(prompts):
            rows = torch.tensor([prompt == other for other in prompts])
            earlier = [value for rewards_by_prompt in past for value in rewards_by_prompt.get(prompt, [])]
            known = torch.cat([torch.tensor(earlier, dtype=rewards.dtype), rewards[rows].flatten()])
            advantages[rows] = self.scaled(rewards[rows] - known.mean(), known.std(correction=0), known)
        return advantages


@settings(table="advantage")
class Batch(ScaledDifferences):
    """(r - mean) / std over all rewards of the round, whatever their prompts (DDPO without per-prompt statistics).

    Attributes:
        std_floor: a round whose rewards have a smaller standard deviation, relative to the largest absolute one, gets
            advantages 0.
        max_advantage: the advantages that are trained on are clipped to plus and minus this.
        use: name of the normalizer.
    """

    use: Literal["batch"] = "batch"

    def normalize(
        self,
        rewards: Float[Tensor, "G K"],
        prompts: Sequence[str],  # noqa: ARG002
        *,
        past: PastRewards,  # noqa: ARG002
    ) -> Float[Tensor, "G K"]:
        """Compare every reward with all others of the round."""
        return self.scaled(rewards - rewards.mean(), rewards.std(correction=0), rewards)


@settings(table="advantage")
class Branch(ScaledDifferences):
    """(r - mean of its branch group) / std of these differences over the whole round (ours).

    What a group shares, its trunk, cancels. The scale is the round's and not each group's own, so that a group of near
    ties stays one.

    Attributes:
        std_floor: a round whose differences have a smaller standard deviation, relative to the largest absolute reward,
            gets advantages 0.
        max_advantage: the advantages that are trained on are clipped to plus and minus this.
        use: name of the normalizer.
    """

    use: Literal["branch"] = "branch"

    def check(self, *, num_branches: int) -> None:
        """Raise UserError for groups of one, whose differences are all 0."""
        check_groups("advantage branch", num_branches=num_branches, instead="advantage:prompt-history")

    def normalize(
        self,
        rewards: Float[Tensor, "G K"],
        prompts: Sequence[str],  # noqa: ARG002
        *,
        past: PastRewards,  # noqa: ARG002
    ) -> Float[Tensor, "G K"]:
        """Compare every reward with those of its branch group."""
        differences = rewards - rewards.mean(dim=1, keepdim=True)
        return self.scaled(differences, differences.std(correction=0), rewards)


@dataclass(kw_only=True)
class RewardHistory:
    """The rewards of the last rounds by prompt, the newest round last; part of a run's state.

    Attributes:
        normalizer: turns rewards into advantages.
        rounds: the rewards of each prompt, one mapping per past round; those of a branch group follow each other.
    """

    normalizer: Normalizer
    rounds: list[dict[str, list[float]]] = field(default_factory=list[dict[str, list[float]]])

    def normalize(self, rewards: Shaped[Tensor, "G K"], prompts: Sequence[str]) -> Float[Tensor, "G K"]:
        """Normalize this round's rewards and remember them; return the advantages of the trajectories, float32."""
        return self.credit(rewards, prompts).branches

    def credit(self, rewards: Shaped[Tensor, "G K"], prompts: Sequence[str], *, with_trunks: bool = False) -> Credit:
        """Normalize this round's rewards and remember them.

        Args:
            rewards: float, int or bool, K trajectories of each of G branch groups.
            prompts: one per branch group.
            with_trunks: whether trunks get advantages of their own.

        Returns:
            Advantages, float32, not clipped (`Credit.clipped` gives those that are trained on), and metrics.
        """
        rewards, past, normalizer = rewards.to(torch.float64), self.rounds, self.normalizer
        branches = normalizer.normalize(rewards, prompts, past=past)
        trunks = normalizer.normalize_trunks(rewards, prompts, past=past) if with_trunks else None
        metrics = normalizer.metrics(rewards, prompts, past=past)
        newest: dict[str, list[float]] = {}
        for prompt, values in zip(prompts, rewards, strict=True):
            newest.setdefault(prompt, []).extend(float(value) for value in values)
        num_kept = normalizer.num_past_rounds
        self.rounds = [*self.rounds, newest][-num_kept:] if num_kept else []
        return Credit(
            branches=branches.float(),
            trunks=None if trunks is None else trunks.float(),
            effective_branches=_effective_branches(rewards, prompts, past) if with_trunks else 1.0,
            metrics={f"advantage/{name}": value for name, value in metrics.items()},
        )


def _effective_branches(rewards: Float[Tensor, "G K"], prompts: Sequence[str], past: PastRewards) -> float:
    """Return how many independent rewards the K of a branch group are worth, over the known rewards."""
    return analyze(by_prompt(rewards, prompts, past).values()).effective_number(rewards.shape[1])
