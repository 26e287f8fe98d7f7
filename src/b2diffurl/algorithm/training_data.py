"""What one update trains on: the selected trajectories and, where trunks are trained, their trunks.

All are batches of trajectories with steps of their own; those of earlier rounds follow those of this round. Joined,
trajectories and steps are numbered through, first those of the first batch; a trajectory has the steps of its batch
only.

Shapes: S trajectories and n steps of all batches, u examples of m trajectories, M single steps.
"""

# Tensor.tolist has no type.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from b2diffurl.algorithm.records import SelectedTrajectories


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Several batches of trajectories with one numbering.

    Attributes:
        batches: the batches; only the first may have pairs.
        num_new: number of trajectories of this round, which come first.
        log_probs: log-probabilities under the policy that sampled; 0 where a trajectory does not have the step.
        step_index: which of the T denoising steps each step is.
        spans: first step of each trajectory, and the step after its last one.
        prompts: one per trajectory.
        advantages: one per trajectory.
        weights: factor of each trajectory's loss.
    """

    batches: tuple[SelectedTrajectories, ...]
    num_new: int
    log_probs: Float[Tensor, "S n"]
    step_index: Int[Tensor, " n"]
    spans: Int[Tensor, "S 2"]
    prompts: tuple[str, ...]
    advantages: Float[Tensor, " S"]
    weights: Float[Tensor, " S"]

    @staticmethod
    def join(batches: Sequence[SelectedTrajectories], earlier: Sequence[SelectedTrajectories] = ()) -> "TrainingData":
        """Number the trajectories and the steps of all batches through, those of this round first."""
        num_new, batches = sum(len(batch) for batch in batches), [*batches, *earlier]
        spans: list[Tensor] = []
        first = 0
        for batch in batches:
            spans.append(torch.tensor([[first, first + batch.num_trained_steps]]).repeat(len(batch), 1))
            first += batch.num_trained_steps
        weights = [torch.ones(len(batch)) if batch.weights is None else batch.weights for batch in batches]
        return TrainingData(
            batches=tuple(batches),
            num_new=num_new,
            log_probs=torch.block_diag(*(batch.log_probs for batch in batches)).view(-1, first),
            step_index=torch.cat([batch.step_index for batch in batches]),
            spans=torch.cat(spans),
            prompts=tuple(prompt for batch in batches for prompt in batch.prompts),
            advantages=torch.cat([batch.advantages for batch in batches]),
            weights=torch.cat(weights),
        )

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def num_elements(self) -> int:
        """Number of elements of one latent."""
        return self.batches[0].num_elements

    def examples(self, *, as_pairs: bool) -> Int[Tensor, "U m"]:
        """Return the training examples of this round: the pairs, or every trajectory."""
        if as_pairs:
            assert len(self.batches) == 1, "trunks and earlier rounds have no pairs"
            return self.batches[0].pairs
        return torch.arange(self.num_new)[:, None]

    def earlier_examples(self) -> Int[Tensor, "V 1"]:
        """Return the training examples of earlier rounds: every trajectory."""
        return torch.arange(self.num_new, len(self))[:, None]

    def num_single_steps(self, examples: Int[Tensor, "u m"]) -> int:
        """Return the number of single steps of all members of some examples."""
        spans = self.spans[examples.flatten()]
        return int((spans[:, 1] - spans[:, 0]).sum())

    def transitions(
        self, index: Int[Tensor, " M"], step: Int[Tensor, " M"]
    ) -> tuple[Float[Tensor, "M C H W"], Float[Tensor, "M C H W"]]:
        """Return the latents before and after single steps, all of this round or all of earlier ones."""
        before: list[Tensor] = []
        after: list[Tensor] = []
        places: list[Tensor] = []
        first_index, first_step = 0, 0
        for batch in self.batches:
            place = ((index >= first_index) & (index < first_index + len(batch))).nonzero()[:, 0]
            if len(place):  # batches of this round and of earlier ones may be on different devices
                own_index, state = index[place] - first_index, batch.state_index[step[place] - first_step]
                before.append(batch.latents[own_index, state])
                after.append(batch.latents[own_index, state + 1])
                places.append(place)
            first_index, first_step = first_index + len(batch), first_step + batch.num_trained_steps
        order = torch.cat(places).argsort()
        return torch.cat(before)[order], torch.cat(after)[order]
