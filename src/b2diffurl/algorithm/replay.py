"""Replay: the steps of an update's trajectories under the current weights, and how far these are from the old ones.

Shapes: u examples of m trajectories in a minibatch, M single steps in one forward pass.
"""

# Tensor.tolist has no type.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from b2diffurl.algorithm.minibatches import micro_batches
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.training_data import TrainingData
from b2diffurl.diffusion.gaussian import Gaussian, kl_of_log_ratios
from b2diffurl.distributed import Ranks


class Replay:
    """Replays trajectories.

    Args:
        policy: the policy under its current weights.
        data: the trajectories, the same on all ranks.
        micro_batch_size: most single steps in one forward pass.
        ranks: the ranks that share the work.

    Attributes:
        data: the trajectories; `take_log_probs` replaces their log-probs.
        num_evaluations: network evaluations on this rank so far.
    """

    def __init__(self, policy: DenoisingPolicy, data: TrainingData, *, micro_batch_size: int, ranks: Ranks) -> None:
        prompts = list(dict.fromkeys(data.prompts))
        self.data = data
        self.num_evaluations = 0
        self._policy = policy
        self._micro_batch_size = micro_batch_size
        self._ranks = ranks
        self._conditioning = policy.denoiser.encode(prompts) if prompts else None
        self._prompt_index = torch.tensor([prompts.index(prompt) for prompt in data.prompts], dtype=torch.int64)

    def micro_batches(
        self, minibatch: Int[Tensor, "u m"], *, new_only: bool = False
    ) -> Iterator[tuple[Int[Tensor, " M"], Int[Tensor, " M"]]]:
        """Yield the single steps (trajectory, step) of this rank's shard of a minibatch.

        Args:
            minibatch: training examples.
            new_only: whether to leave out trajectories of earlier rounds, which otherwise have passes of their own.
        """
        is_new = self.is_new(minibatch[:, 0])
        for part in [minibatch[is_new]] if new_only else [minibatch[is_new], minibatch[~is_new]]:
            shard = self._ranks.shard(len(part))
            own = part[shard.start : shard.stop]
            yield from micro_batches(own, spans=self.data.spans, size=self._micro_batch_size)

    def is_new(self, index: Int[Tensor, " M"]) -> Bool[Tensor, " M"]:
        """Return which trajectories were sampled in this round; only these measure what the update has changed."""
        return index < self.data.num_new

    def distributions(self, index: Int[Tensor, " M"], step: Int[Tensor, " M"]) -> tuple[Gaussian, Tensor]:
        """Return the distributions of single steps under the current weights, and the actions taken, (M, C, H, W)."""
        assert self._conditioning is not None
        device = self._policy.denoiser.device
        x, action = (latents.to(device) for latents in self.data.transitions(index, step))
        self.num_evaluations += self._policy.evaluations_per_step * len(index)
        conditioning = self._conditioning[self._prompt_index[index]]
        return self._policy.step(x, self.data.step_index[step], conditioning), action

    @torch.no_grad()
    def take_log_probs(self, minibatches: Sequence[Int[Tensor, "u m"]]) -> float:
        """Replace the log-probs that this round has sampled by those of a replay in the shapes of training.

        Args:
            minibatches: the minibatches of one epoch.

        Returns:
            The largest |ratio - 1| between the two.
        """
        own: list[tuple[Tensor, Tensor, Tensor]] = []
        for minibatch in minibatches:
            for index, step in self.micro_batches(minibatch, new_only=True):
                gaussian, action = self.distributions(index, step)
                own.append((index, step, self._policy.log_prob(gaussian, action).cpu()))
        log_probs = self.data.log_probs.clone()
        error = 0.0
        for replayed in self._ranks.gather(own):
            for index, step, log_prob in replayed:
                error = max(error, float((log_prob - log_probs[index, step]).exp().sub(1).abs().max()))
                log_probs[index, step] = log_prob
        self.data = replace(self.data, log_probs=log_probs)
        return error

    @torch.no_grad()
    def measure_kl(self, minibatch: Int[Tensor, "u m"]) -> float:
        """Return the distance to the policy that sampled this round on a minibatch, in nats per element.

        It is measured over all ranks, and on trajectories of this round only: those of earlier rounds were sampled by
        other policies, and the estimate holds for actions of the policy that it measures from (`kl_of_log_ratios`).
        """
        squares = 0.0
        for index, step in self.micro_batches(minibatch, new_only=True):
            gaussian, action = self.distributions(index, step)
            log_prob = self._policy.log_prob(gaussian, action).cpu()
            squares += self.squares(log_prob - self.data.log_probs[index, step])
        return self.kl(sum(self._ranks.gather(squares)), minibatch)

    def squares(self, log_ratio: Float[Tensor, " M"]) -> float:
        """Return the sum of squared log-ratios, each in nats for the whole latent."""
        is_mean = self._policy.log_prob_reduction == "mean"
        return float(((log_ratio * (self.data.num_elements if is_mean else 1)) ** 2).sum())

    def kl(self, squares: float, minibatch: Int[Tensor, "u m"]) -> float:
        """Return the KL, in nats per element, of squared log-ratios summed over the new trajectories of a minibatch."""
        num_steps = self.data.num_single_steps(minibatch[self.is_new(minibatch[:, 0])])
        return kl_of_log_ratios(squares / num_steps, num_elements=self.data.num_elements)
