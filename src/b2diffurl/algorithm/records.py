"""The data that passes between the components of one round.

Shapes: G branch groups, K branches each, n trained steps of the interval, s states from before the first of them to
after the last, S selected trajectories, P pairs, C H W of a latent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class StepInterval:
    """The last denoising steps of a round, in which branches differ, and which of them are trained.

    Attributes:
        length: number of steps, 1 to T.
        trained: the trained steps, ascending, counted from 0 at x_T; one or more.
    """

    length: int
    trained: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectories:
    """G branch groups of K trajectories through the interval.

    Attributes:
        log_probs: log-probabilities of the actions under the policy that took them.
        latents: x_t from before the first trained step to after the last one, also at steps between them that are not
            trained, float32; the state before trained step i is `latents[:, :, state_index[i]]`, its action the next.
        step_index: which of the T denoising steps each trained step is, counted from 0 at x_T, ascending.
        prompts: one per branch group.
    """

    log_probs: Float[Tensor, "G K n"]
    latents: Float[Tensor, "G K s C H W"]
    step_index: Int[Tensor, " n"]
    prompts: tuple[str, ...]

    @property
    def num_branches(self) -> int:
        """Number of branches K."""
        return self.latents.shape[1]

    @property
    def state_index(self) -> Int[Tensor, " n"]:
        """Position in `latents` of the state before each trained step."""
        return state_index(self.step_index)

    @staticmethod
    def join(parts: "Sequence[Trajectories]") -> "Trajectories":
        """Concatenate the branch groups of several chunks."""
        return Trajectories(
            log_probs=torch.cat([part.log_probs for part in parts]),
            latents=torch.cat([part.latents for part in parts]),
            step_index=parts[0].step_index,
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The scores of the final images of G x K trajectories.

    Attributes:
        rewards: what is trained on, float64.
        contrast: standard deviation of each image's pixel values, which the collapse monitor compares.
        terms: scores of a weighted sum's terms and of watched rewards, by name.
        info: further outputs of the rewards, such as captions, by name: G x K entries, group by group.
    """

    rewards: Float[Tensor, "G K"]
    contrast: Float[Tensor, "G K"]
    terms: dict[str, Float[Tensor, "G K"]] = field(default_factory=dict[str, Tensor])
    info: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    @staticmethod
    def join(parts: "Sequence[Scores]") -> "Scores":
        """Concatenate the branch groups of several ranks."""
        names = dict.fromkeys(name for part in parts for name in part.info)
        return Scores(
            rewards=torch.cat([part.rewards for part in parts]),
            contrast=torch.cat([part.contrast for part in parts]),
            terms={name: torch.cat([part.terms[name] for part in parts]) for name in parts[0].terms},
            info={
                name: [entry for part in parts for entry in part.info.get(name, [None] * part.rewards.numel())]
                for name in names
            },
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """The advantages of a round, not clipped unless `clipped`.

    Attributes:
        branches: advantage of each trajectory.
        trunks: advantage of each trunk; None unless trunks are trained.
        effective_branches: how many independent rewards the K of a branch group are worth, 1 to K; 1 unless trunks are
            trained.
        metrics: numbers to log, by name.
    """

    branches: Float[Tensor, "G K"]
    trunks: Float[Tensor, " G"] | None = None
    effective_branches: float = 1.0
    metrics: dict[str, float] = field(default_factory=dict[str, float])

    def clipped(self, clip: Callable[[Tensor], Tensor]) -> "Credit":
        """Return the advantages to train on, given a normalizer's `clip`."""
        trunks = None if self.trunks is None else clip(self.trunks[:, None])[:, 0]
        return replace(self, branches=clip(self.branches), trunks=trunks)


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRound:
    """What a schedule knows about a completed round.

    Attributes:
        interval_length: number of denoising steps in its interval.
        pair_fraction: pairs per branch group in its selection.
    """

    interval_length: int
    pair_fraction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The trajectories to train on, each given by (group, branch).

    Attributes:
        index: the selected trajectories in ascending order, each once.
        pairs: (better, worse) trajectories of one branch group, without branching of one prompt; both are in `index`.
        weights: factor of each selected trajectory's loss; None for equal weights of 1.
    """

    index: Int[Tensor, "S 2"]
    pairs: Int[Tensor, "P 2 2"]
    weights: Float[Tensor, " S"] | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedTrajectories:
    """The selected trajectories, in a flat batch: all that the update needs of a round.

    Attributes:
        log_probs: log-probabilities of the actions under the policy that took them.
        latents: x_t from before the first trained step to after the last one, as in `Trajectories`.
        step_index: which of the T denoising steps each trained step is, ascending.
        prompts: one per trajectory.
        advantages: one per trajectory.
        pairs: rows (better, worse), as positions in this batch.
        weights: factor of each trajectory's loss; None for equal weights of 1.
    """

    log_probs: Float[Tensor, "S n"]
    latents: Float[Tensor, "S s C H W"]
    step_index: Int[Tensor, " n"]
    prompts: tuple[str, ...]
    advantages: Float[Tensor, " S"]
    pairs: Int[Tensor, "P 2"]
    weights: Float[Tensor, " S"] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def state_index(self) -> Int[Tensor, " n"]:
        """Position in `latents` of the state before each trained step."""
        return state_index(self.step_index)

    @property
    def num_trained_steps(self) -> int:
        """Number of trained steps n."""
        return len(self.step_index)

    @property
    def num_elements(self) -> int:
        """Number of elements of one latent."""
        return self.latents.shape[2:].numel()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBatch:
    """M single steps of selected trajectories, as an objective sees them.

    For an objective that needs pairs, M = 2 P: rows i and i + P are the same denoising step of the better and of the
    worse trajectory of a pair.

    Attributes:
        log_prob: log-probability under the current policy, with gradient.
        old_log_prob: log-probability under the policy that sampled.
        advantage: advantage of the trajectory that the step belongs to.
        reference_log_prob: log-probability under the reference; None unless the objective needs it.
        kl_to_reference: exact KL(policy || reference) of the step, >= 0, with gradient, in the unit of the log-probs
            (nats, or nats per element where they are averaged); None unless the objective needs it.
    """

    log_prob: Float[Tensor, " M"]
    old_log_prob: Float[Tensor, " M"]
    advantage: Float[Tensor, " M"]
    reference_log_prob: Float[Tensor, " M"] | None = None
    kl_to_reference: Float[Tensor, " M"] | None = None


def state_index(step_index: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return the positions of the states before some steps in a chain of states that begins before the first of them.

    >>> state_index(torch.tensor([7, 9, 11])).tolist()
    [0, 2, 4]
    """
    return step_index - step_index[:1]
