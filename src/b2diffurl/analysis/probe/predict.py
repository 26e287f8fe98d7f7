"""Information per reward query that a credit rule is predicted to have, from the rewards of branch groups (ours).

Model: the reward is linear in the noise of each step, and the gradient of every step is that noise times its weight.
A step that decides the variance v_t then has the signal sqrt(v_t) S / w and the noise variance N, where

    S = E[sum of c_i (r_i - trunk mean)],   N = E[sum of c_i^2],   w = reward variance that the interval decides

over the branch groups of K and their credits c (advantage of a selected trajectory, otherwise 0). Summed over the
steps, each with its best weight, the squared signal-to-noise ratio per reward query is S^2 / (K N w). DDPO over the
whole chain with a perfect baseline has 1, all members centered in their group (K - 1) / K.

The mean of a trunk is not known. Its unbiased estimate is the mean of members that the rule does not see: the rule gets
k of the K branches, in every possible choice.

Shapes: G trunks, K branches, k of them seen by the rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.advantage import Branch, PromptHistory
from b2diffurl.algorithm.selection import BestWorst
from b2diffurl.algorithm.shrunk import Shrunk, edge_credit
from b2diffurl.analysis.probe.rules import selected_credit
from b2diffurl.analysis.probe.variance import DecidedVariance

_INDEPENDENT_SHARE = 0.8
RULES = (("prompt-history", "best-worst"), ("branch", "best-worst"), ("branch", "all"), ("shrunk", "all"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a rule is predicted to have at one interval length with k branches.

    Attributes:
        advantage: name of the advantage.
        selection: name of the selection.
        num_branches: k.
        information: per reward query; 1 for DDPO over the whole chain with a perfect baseline. Noise can make it
            larger than is possible.
        selected_fraction: fraction of the trajectories that is trained on.
    """

    advantage: str
    selection: str
    num_branches: int
    information: float
    selected_fraction: float


def predict(
    rewards: Sequence[Float[Tensor, "G K"]],
    prompts: Sequence[str],
    *,
    place: int,
    lengths: Sequence[int],
    decided: DecidedVariance,
) -> tuple[Prediction, ...]:
    """Predict the information of each rule for every number of branches from 2 to K - 1.

    Args:
        rewards: rewards of all interval lengths; those of other lengths are the history of the prompts.
        prompts: one per trunk.
        place: which of the interval lengths.
        lengths: the interval lengths.
        decided: reward variance that each step decides, which gives the weight of the rule "shrunk".
    """
    values = rewards[place]
    mean, std = _history(rewards, prompts, place=place, lengths=lengths, decided=decided)
    trunk = max(0.0, sum(decided.per_step) - float(values.var(dim=1).mean()))
    given = _Given(values=values, prompts=prompts, mean=mean, std=std, trunk_variance=trunk)
    return tuple(given.predict(*rule, num_branches=num) for num in range(2, values.shape[1]) for rule in RULES)


def history_places(lengths: Sequence[int], decided: DecidedVariance, *, place: int) -> list[int]:
    """Return the other interval lengths whose rewards can be the history of a prompt.

    All lengths have the same trunks. The history must not know a trunk's luck, so it is taken from the intervals that
    decide 80 % of the variance or more, and from all others only if there is none.
    """
    others = [i for i in range(len(lengths)) if i != place]
    return [i for i in others if decided.share_of_last[lengths[i]] >= _INDEPENDENT_SHARE] or others


def _history(
    rewards: Sequence[Float[Tensor, "G K"]],
    prompts: Sequence[str],
    *,
    place: int,
    lengths: Sequence[int],
    decided: DecidedVariance,
) -> tuple[Float[Tensor, " G"], Float[Tensor, " G"]]:
    """Return the mean and the standard deviation of the history of each group's prompt."""
    places = history_places(lengths, decided, place=place)
    table = by_prompt(torch.cat([rewards[i] for i in places], dim=1), prompts)
    values = [torch.tensor(table[prompt], dtype=torch.float64) for prompt in prompts]
    mean = torch.stack([one.mean() for one in values])
    return mean, torch.stack([one.std(correction=0) for one in values])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Given:
    """What a prediction is made from.

    Attributes:
        values: rewards at the interval length.
        prompts: one per trunk.
        mean: mean reward of each group's prompt.
        std: standard deviation of the rewards of each group's prompt.
        trunk_variance: reward variance that the steps before the interval decide.
    """

    values: Float[Tensor, "G K"]
    prompts: Sequence[str]
    mean: Float[Tensor, " G"]
    std: Float[Tensor, " G"]
    trunk_variance: float

    def predict(self, advantage: str, selection: str, *, num_branches: int) -> Prediction:
        """Average over all choices of `num_branches` members."""
        everyone = set(range(self.values.shape[1]))
        choices = [sorted(members) for members in combinations(sorted(everyone), num_branches)]
        signal, noise, selected = 0.0, 0.0, 0.0
        for members in choices:
            credit = _credit(selection, self.advantages(advantage, self.values[:, members]), self.prompts)
            trunk_means = self.values[:, sorted(everyone - set(members))].mean(dim=1, keepdim=True)
            signal += float((credit * (self.values[:, members] - trunk_means)).sum())
            noise += float((credit**2).sum())
            selected += float((credit != 0).double().mean())
        scale = noise * float(self.values.var(dim=1).mean()) * num_branches * len(choices) * len(self.prompts)
        return Prediction(
            advantage=advantage,
            selection=selection,
            num_branches=num_branches,
            information=max(0.0, signal) ** 2 / scale if scale > 0 else 0.0,
            selected_fraction=selected / len(choices),
        )

    def advantages(self, name: str, rewards: Float[Tensor, "G k"]) -> Float[Tensor, "G k"]:
        """Return advantages before clipping.

        The weight of "shrunk" is given by the decided variance, instead of estimated from few trunks.
        """
        if name == "shrunk":
            interval = float(self.values.var(dim=1).mean())
            weight = self.trunk_variance / max(self.trunk_variance + interval / rewards.shape[1], 1e-30)
            credit, _ = edge_credit(rewards, self.mean, weight=weight)
            return Shrunk().scaled(credit, credit.std(correction=0), rewards)
        if name == "prompt-history":
            differences = rewards - self.mean[:, None]
            groups = zip(differences, self.std, rewards, strict=True)
            return torch.stack([PromptHistory().scaled(*group) for group in groups])
        return Branch().normalize(rewards, self.prompts, past=())


def _credit(name: str, advantages: Float[Tensor, "G k"], prompts: Sequence[str]) -> Float[Tensor, "G k"]:
    """Return the advantages of the selected trajectories, clipped, and 0 for the others."""
    if name == "all":
        return Branch().clip(advantages)
    return selected_credit(Branch(), BestWorst(), advantages, prompts)


def by_prompt(rewards: Float[Tensor, "G K"], prompts: Sequence[str]) -> dict[str, list[float]]:
    """Return the rewards of each prompt."""
    table: dict[str, list[float]] = {}
    for prompt, values in zip(prompts, rewards, strict=True):
        table.setdefault(prompt, []).extend(float(value) for value in values)
    return table
