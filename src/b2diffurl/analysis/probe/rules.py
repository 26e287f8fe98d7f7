"""Credit rules, as the weight that each gives to the score of every step of a trajectory.

Shapes: U units (branch groups; without branching, trajectories) of K trajectories, T denoising steps from the noisiest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from b2diffurl.algorithm.advantage import Branch, PromptHistory
from b2diffurl.algorithm.gap import Gap
from b2diffurl.algorithm.interfaces import Normalizer, Selector
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.algorithm.shrunk import Shrunk


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredGroups:
    """Branch groups with their rewards and the derivative of the log-prob of each of their steps along a direction.

    Attributes:
        prompts: one per unit.
        rewards: float64.
        branches: derivatives of the branches' steps; 0 before the interval.
        trunks: derivatives of the trunks' steps; 0 within the interval.
        interval_length: tau.
    """

    prompts: tuple[str, ...]
    rewards: Float[Tensor, "U K"]
    branches: Float[Tensor, "U K T"]
    trunks: Float[Tensor, "U T"]
    interval_length: int

    @property
    def num_steps(self) -> int:
        """T."""
        return self.branches.shape[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class CreditedSteps:
    """What one rule adds to the gradient along the direction, before step weights.

    Attributes:
        name: display name.
        terms: sum over the unit's trajectories of credit x derivative, per step.
        trained: the steps that are trained.
        num_queries: K, reward queries per unit.
    """

    name: str
    terms: Float[Tensor, "U T"]
    trained: Bool[Tensor, " T"]
    num_queries: int

    def signal(self, step_weights: Float[Tensor, " T"]) -> Float[Tensor, " U"]:
        """Return the weighted sum over the trained steps of each unit."""
        return self.terms @ (step_weights * self.trained).to(self.terms)


def selected_credit(
    normalizer: Normalizer, selector: Selector, advantages: Float[Tensor, "U K"], prompts: Sequence[str]
) -> Float[Tensor, "U K"]:
    """Return the clipped and weighted advantages of the selected trajectories, and 0 for the others."""
    selection = selector.select(advantages.float(), prompts)
    group, branch = selection.index[:, 0], selection.index[:, 1]
    credit = torch.zeros_like(advantages)
    weights = torch.ones(len(selection)) if selection.weights is None else selection.weights
    credit[group, branch] = normalizer.clip(advantages)[group, branch] * weights.to(advantages)
    return credit


def unbranched_rules(scored: ScoredGroups, *, num_partial_steps: int) -> list[CreditedSteps]:
    """Return DDPO on all steps, on the first and on the last ones.

    Args:
        scored: units of one trajectory each, with scores for the whole chain.
        num_partial_steps: number of first steps, and of last ones.
    """
    advantages = PromptHistory().normalize(scored.rewards, scored.prompts, past=())
    credit = selected_credit(PromptHistory(), All(), advantages, scored.prompts)
    everything = CreditedSteps(
        name=f"DDPO, all {scored.num_steps} steps",
        terms=torch.einsum("uk,ukt->ut", credit, scored.branches.to(credit)),
        trained=torch.ones(scored.num_steps, dtype=torch.bool),
        num_queries=1,
    )
    step = torch.arange(scored.num_steps)
    return [
        everything,
        replace(everything, name=f"DDPO, first {num_partial_steps}", trained=step < num_partial_steps),
        replace(
            everything, name=f"DDPO, last {num_partial_steps}", trained=step >= scored.num_steps - num_partial_steps
        ),
    ]


def branched_rules(
    scored: ScoredGroups, *, paper: BestWorst, tau_last: int
) -> list[tuple[CreditedSteps, CreditedSteps]]:
    """Return each rule with the whole interval, and without its last steps.

    Args:
        scored: branch groups.
        paper: selection of the paper's rule, with its thresholds.
        tau_last: number of last steps to leave out.
    """
    step, first = torch.arange(scored.num_steps), scored.num_steps - scored.interval_length
    pairs: list[tuple[CreditedSteps, CreditedSteps]] = []
    for name, normalizer, selector, with_trunk in _RULES:
        advantages = normalizer.normalize(scored.rewards, scored.prompts, past=())
        credit = selected_credit(normalizer, selector or paper, advantages, scored.prompts)
        terms = torch.einsum("uk,ukt->ut", credit, scored.branches.to(credit))
        if with_trunk:
            edge = normalizer.normalize_trunks(scored.rewards, scored.prompts, past=())
            edge = normalizer.clip(edge[:, None]) * scored.rewards.shape[1]
            terms = terms + edge * scored.trunks.to(terms)
        whole = CreditedSteps(
            name=name,
            terms=terms,
            trained=torch.ones_like(step, dtype=torch.bool) if with_trunk else step >= first,
            num_queries=scored.rewards.shape[1],
        )
        trained = whole.trained & (step < scored.num_steps - tau_last)
        pairs.append((whole, replace(whole, name=f"{name}; last {tau_last} left out", trained=trained)))
    return pairs


PAPER = "best/worst, history, thresholds"
# Display name, advantage, selection (None: the paper's, with the run's thresholds), whether trunks are trained.
_RULES: tuple[tuple[str, Normalizer, Selector | None, bool], ...] = (
    (PAPER, PromptHistory(), None, False),
    ("best/worst, history", PromptHistory(), Gap(delta=0.0), False),
    ("all, history", PromptHistory(), All(), False),
    ("best/worst, centered in the group", Branch(), Gap(delta=0.0), False),
    ("all, centered in the group", Branch(), All(), False),
    ("all, shrunk", Shrunk(), All(), False),
    ("all, shrunk, trunks trained", Shrunk(), All(), True),
)
