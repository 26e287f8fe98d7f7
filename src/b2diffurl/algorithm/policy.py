"""The policy: a denoiser, its chain, the guidance scale and the unit of log-probs, bound together.

Sampling and replay call the same `step`, so they cannot disagree about guidance or about the unit.

Shapes: B latents of C x H x W elements, G prompts.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, device

from b2diffurl.diffusion.chain import Chain
from b2diffurl.diffusion.gaussian import Gaussian, LogProbReduction


@runtime_checkable
class Conditioning(Protocol):
    """Encoded prompts, one row per prompt; a tensor is one."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return the rows of an index tensor, in its order, repeated where it repeats."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """A text-conditioned network with a trainable adapter."""

    @property
    def device(self) -> device:
        """Device of the network."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of a latent."""
        ...

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts, once per chunk of trajectories."""
        ...

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Any, *, guidance_scale: float) -> Tensor:
        """Return the network's output under guidance for B latents and B rows of conditioning."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode final latents (B, C, H, W) to images in [0, 1]; a policy without images returns the latents."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """Return a context within which the network is the pretrained model."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoisingPolicy:
    """p_theta(x_{t-1} | x_t, c) for every step of the chain.

    Attributes:
        denoiser: the network; adapter on it is the policy, adapter off the reference.
        chain: the denoising chain of T steps.
        guidance_scale: scale of classifier-free guidance, which is part of the policy; 1 turns guidance off.
        log_prob_reduction: "mean" over a latent's elements, or "sum".
        adapter_start: first denoising step, 0 to T - 1, in which the adapter is on; before it the policy is the
            reference (ours).
    """

    denoiser: Denoiser
    chain: Chain
    guidance_scale: float
    log_prob_reduction: LogProbReduction = "mean"
    adapter_start: int = 0

    @property
    def evaluations_per_step(self) -> int:
        """Network evaluations per latent and step: 2 with guidance, 1 without."""
        return 1 if self.guidance_scale == 1 else 2

    def with_adapter_in(self, interval_length: int) -> "DenoisingPolicy":
        """Return the policy whose adapter is on in the last `interval_length` steps only, 1 to T."""
        assert 1 <= interval_length <= self.chain.num_steps
        return replace(self, adapter_start=self.chain.num_steps - interval_length)

    def step(self, x: Float[Tensor, "B C H W"], step_index: Int[Tensor, " B"], conditioning: Conditioning) -> Gaussian:
        """Return the distribution of the next latents.

        Args:
            x: the latents x_t.
            step_index: the denoising step of each latent, 0 to T - 1; they may differ within a batch, but all or none
                are before `adapter_start`.
            conditioning: one row per latent.
        """
        is_before = step_index < self.adapter_start
        if bool(is_before.any()):
            assert bool(is_before.all()), "a batch is on one side of the adapter's start"
            with self.denoiser.reference():
                return replace(self, adapter_start=0).step(x, step_index, conditioning)
        timestep = self.chain.timesteps[step_index.cpu()].to(x.device)
        output = self.denoiser.predict(x, timestep, conditioning, guidance_scale=self.guidance_scale)
        return self.chain.transition(output, x, step_index)

    def log_prob(self, gaussian: Gaussian, action: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """Return the log-probability of actions, in the policy's unit."""
        return gaussian.log_prob(action, reduction=self.log_prob_reduction)
