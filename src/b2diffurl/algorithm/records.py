"""What passes between the rooms of one round.

Shapes: B trajectories, n trained steps of the interval, G branch groups, S selected trajectories, C H W of a latent.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectories:
    """B trajectories through the interval, B = G * K, the K members of a branch group next to each other.

    Attributes:
        log_probs: of the actions, under the policy that took them.
        latents: x_t before every trained step and after the last one, float32; action i is `latents[:, i + 1]`.
        step_index: which of the T denoising steps each trained step is, counted from 0 at x_T.
        prompts: one a trajectory.
        group_index: the branch group of each trajectory.
    """

    log_probs: Float[Tensor, "B n"]
    latents: Float[Tensor, "B n+1 C H W"]
    step_index: Int[Tensor, " n"]
    prompts: tuple[str, ...]
    group_index: Int[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def num_steps(self) -> int:
        """Number of trained steps n."""
        return len(self.step_index)


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRound:
    """What a schedule may know of a round that is done.

    Attributes:
        num_steps: length of its interval.
        pair_fraction: pairs per branch group, of the round's selection.
    """

    num_steps: int
    pair_fraction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The trajectories that are trained on.

    Attributes:
        index: which trajectories of the round, in ascending order.
        pairs: rows (better, worse) of one branch group, without branching of one prompt, as indices of trajectories.
    """

    index: Int[Tensor, " S"]
    pairs: Int[Tensor, "P 2"]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBatch:
    """M single steps of selected trajectories, as an objective sees them.

    For an objective that needs pairs, M = 2 P: row i and row i + P are the same denoising step of the better and of the
    worse trajectory of a pair.

    Attributes:
        log_prob: under the present policy, with gradient.
        old_log_prob: under the policy that sampled.
        advantage: of the trajectory each step belongs to.
        reference_log_prob: under the reference; None unless the objective needs it.
        kl_to_reference: KL(policy || reference) of the step, exact, >= 0, with gradient, in the unit of the log-probs
            (nats, or nats an element where they are averaged); None unless the objective needs it.
    """

    log_prob: Float[Tensor, " M"]
    old_log_prob: Float[Tensor, " M"]
    advantage: Float[Tensor, " M"]
    reference_log_prob: Float[Tensor, " M"] | None = None
    kl_to_reference: Float[Tensor, " M"] | None = None
