"""Advantages: rewards normalized, per prompt over some rounds as in the paper (appendix D.1), or within a round.

Statistics are float64. Where there are fewer than two rewards to compare, or they hardly differ, the advantage is 0:
never a NaN, never noise blown up.

Shapes: B trajectories = G groups of K, the members of a group next to each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.interfaces import Normalizer
from b2diffurl.config import settings
from b2diffurl.errors import UserError

PastRewards = Sequence[dict[str, list[float]]]


@settings
class PromptHistory:
    """(r - mean) / std over the prompt's rewards in this round and the last H.

    Attributes:
        use: the normalizer's name.
        num_rounds: H, past rounds whose rewards count besides this round's; the reference run's is 8.
        std_floor: a prompt whose rewards have a smaller standard deviation gets advantage 0; in the reward's unit.
        max_advantage: advantages are clipped to plus and minus this.
    """

    use: Literal["prompt-history"] = "prompt-history"
    num_rounds: int = 8
    std_floor: float = 1e-4
    max_advantage: float = 5.0

    def __post_init__(self) -> None:
        if self.num_rounds < 0:
            raise UserError(f"advantage.num_rounds is {self.num_rounds}; give 0 or more past rounds.")
        _check_limits(self.std_floor, self.max_advantage)

    @property
    def num_past_rounds(self) -> int:
        """H."""
        return self.num_rounds

    def check(self, num_branches: int) -> None:
        """Accept groups of any size."""

    def normalize(
        self,
        rewards: Float[Tensor, " B"],
        prompts: Sequence[str],
        *,
        num_branches: int,  # noqa: ARG002
        past: PastRewards,
    ) -> Float[Tensor, " B"]:
        """Compare every reward with those of its prompt, which is told apart by its full text."""
        out = torch.zeros_like(rewards)
        for prompt in set(prompts):
            here = torch.tensor([prompt == other for other in prompts])
            before = [value for done in past for value in done.get(prompt, [])]
            known = torch.cat([torch.tensor(before, dtype=rewards.dtype), rewards[here]])
            out[here] = _scaled(rewards[here] - known.mean(), known.std(correction=0), self.std_floor)
        return out.clamp(-self.max_advantage, self.max_advantage)


@settings
class Batch:
    """(r - mean) / std over all rewards of the round, whatever their prompts (as in DDPO without tracking per prompt).

    Attributes:
        use: the normalizer's name.
        std_floor: a round whose rewards have a smaller standard deviation gets advantages 0; in the reward's unit.
        max_advantage: advantages are clipped to plus and minus this.
    """

    use: Literal["batch"] = "batch"
    std_floor: float = 1e-4
    max_advantage: float = 5.0

    def __post_init__(self) -> None:
        _check_limits(self.std_floor, self.max_advantage)

    @property
    def num_past_rounds(self) -> int:
        """None."""
        return 0

    def check(self, num_branches: int) -> None:
        """Accept groups of any size."""

    def normalize(
        self,
        rewards: Float[Tensor, " B"],
        prompts: Sequence[str],  # noqa: ARG002
        *,
        num_branches: int,  # noqa: ARG002
        past: PastRewards,  # noqa: ARG002
    ) -> Float[Tensor, " B"]:
        """Compare every reward with all others of the round."""
        scaled = _scaled(rewards - rewards.mean(), rewards.std(correction=0), self.std_floor)
        return scaled.clamp(-self.max_advantage, self.max_advantage)


@settings
class Branch:
    """(r - mean of its branch group) / std of these differences over the whole round (ours).

    What a group shares, its trunk, drops out. The scale is the round's and not each group's own, so that a group of
    near-ties stays one.

    Attributes:
        use: the normalizer's name.
        std_floor: a round whose differences have a smaller standard deviation gets advantages 0; in the reward's unit.
        max_advantage: advantages are clipped to plus and minus this.
    """

    use: Literal["branch"] = "branch"
    std_floor: float = 1e-4
    max_advantage: float = 5.0

    def __post_init__(self) -> None:
        _check_limits(self.std_floor, self.max_advantage)

    @property
    def num_past_rounds(self) -> int:
        """None."""
        return 0

    def check(self, num_branches: int) -> None:
        """Refuse groups of one, which have nothing to be compared with."""
        if num_branches < 2:
            raise UserError(
                f"rollout.num_branches is {num_branches} but advantage branch needs at least 2; "
                "give more branches, or use advantage:prompt-history."
            )

    def normalize(
        self,
        rewards: Float[Tensor, " B"],
        prompts: Sequence[str],  # noqa: ARG002
        *,
        num_branches: int,
        past: PastRewards,  # noqa: ARG002
    ) -> Float[Tensor, " B"]:
        """Compare every reward with those of its branch group."""
        grouped = rewards.view(-1, num_branches)
        centred = (grouped - grouped.mean(dim=1, keepdim=True)).flatten()
        scaled = _scaled(centred, centred.std(correction=0), self.std_floor)
        return scaled.clamp(-self.max_advantage, self.max_advantage)


@dataclass(kw_only=True)
class RewardHistory:
    """The rewards of the last rounds by prompt: (prompt, reward) lists, the newest round last."""

    config: Normalizer
    rounds: list[dict[str, list[float]]] = field(default_factory=list[dict[str, list[float]]])

    def advantages(self, rewards: Tensor, prompts: Sequence[str], *, num_branches: int = 1) -> Float[Tensor, " B"]:
        """Normalise this round's rewards and remember them.

        Args:
            rewards: one a trajectory; float, int or bool.
            prompts: one a trajectory.
            num_branches: members of a branch group.

        Returns:
            Advantages, float32.
        """
        values = rewards.to(torch.float64)
        out = self.config.normalize(values, prompts, num_branches=num_branches, past=self.rounds)
        now: dict[str, list[float]] = {}
        for prompt, value in zip(prompts, values, strict=True):
            now.setdefault(prompt, []).append(float(value))
        keep = self.config.num_past_rounds
        self.rounds = [*self.rounds, now][-keep:] if keep else []
        return out.float()


def _scaled(differences: Tensor, std: Tensor, std_floor: float) -> Tensor:
    """Differences in units of std; 0 where there is nothing to compare or hardly a difference."""
    return differences / std if float(std) >= std_floor else torch.zeros_like(differences)


def _check_limits(std_floor: float, max_advantage: float) -> None:
    if not std_floor > 0:
        raise UserError(f"advantage.std_floor is {std_floor}; give a number above 0, such as 1e-4.")
    if not max_advantage > 0:
        raise UserError(f"advantage.max_advantage is {max_advantage}; give a number above 0, such as 5.")
