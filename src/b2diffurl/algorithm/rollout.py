"""Branch-based sampling: one trunk from x_T down to the interval, then K trajectories from there (paper, section 3.3).

Branches are a batch dimension. Noise is keyed by (seed, round, trunk, branch) and drawn on the CPU in float32, so
neither the chunk size nor the order of branches changes what is sampled. Knows nothing of rewards.

Shapes: G trunks, K branches, B = G K trajectories, T denoising steps, n of them trained.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from b2diffurl.algorithm.records import Trajectories
from b2diffurl.diffusion.ddim import DDIM
from b2diffurl.diffusion.gaussian import Gaussian, LogProbReduction


@runtime_checkable
class Denoiser(Protocol):
    """What sampling needs of a policy."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape C, H, W of a latent."""
        ...

    def predict(self, x: Tensor, timestep: Tensor, prompts: Sequence[str], *, guidance_scale: float) -> Tensor:
        """Give the network's output under guidance."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseKey:
    """What the noise of a batch of trunks depends on, besides trunk and branch.

    Attributes:
        seed: the run's.
        stream: the round, or another number that no round has.
        first_trunk: number of the first trunk within the stream.
    """

    seed: int
    stream: int
    first_trunk: int = 0

    def normal(self, *, trunk: int, branch: int, num: int, shape: Sequence[int]) -> Float[Tensor, "num C H W"]:
        """Standard normal noise of one branch; branch 0 is the trunk itself, the branches count from 1."""
        entropy = np.random.SeedSequence((self.seed, self.stream, self.first_trunk + trunk, branch))
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        return torch.randn((num, *shape), generator=generator)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """What sampling gives.

    Attributes:
        trajectories: through the interval.
        final_latents: x_0 of every trajectory.
    """

    trajectories: Trajectories
    final_latents: Float[Tensor, "B C H W"]


def policy_step(
    policy: Denoiser,
    ddim: DDIM,
    x: Float[Tensor, "B C H W"],
    step_index: Int[Tensor, " B"],
    prompts: Sequence[str],
    *,
    guidance_scale: float,
) -> Gaussian:
    """The policy's distribution of the next latent: the one function of sampling and of replay."""
    timestep = ddim.timesteps[step_index.cpu()].to(x.device)
    return ddim.transition(policy.predict(x, timestep, prompts, guidance_scale=guidance_scale), x, step_index)


@torch.no_grad()
def sample_branches(
    policy: Denoiser,
    ddim: DDIM,
    *,
    prompts: Sequence[str],
    num_interval_steps: int,
    num_branches: int,
    guidance_scale: float,
    noise: NoiseKey,
    chunk_size: int,
    log_prob_reduction: LogProbReduction = "mean",
    on_progress: Callable[[int], None] = lambda _: None,
    on_finished: Callable[[Tensor, Sequence[str]], None] = lambda _x0, _prompts: None,
) -> Rollout:
    """Sample `num_branches` trajectories from each of G trunks.

    Args:
        policy: the present policy.
        ddim: the denoising chain of T steps.
        prompts: one a trunk.
        num_interval_steps: tau, the last steps, 1 to T, before which the trunk ends.
        num_branches: K >= 1; 1 means no branching.
        guidance_scale: of classifier-free guidance, the same as in training.
        noise: key of the noise.
        chunk_size: most trajectories that are in flight at once; changes results by rounding only.
        log_prob_reduction: unit of the log-probs.
        on_progress: called with the number of trajectories that each chunk has finished.
        on_finished: called with the x_0 of these trajectories and their prompts, in order.
    """
    trunks_at_once = max(1, chunk_size // num_branches)
    latents: list[Tensor] = []
    log_probs: list[Tensor] = []
    finals: list[Tensor] = []
    repeated = tuple(prompt for prompt in prompts for _ in range(num_branches))
    num_finished = 0
    for start in range(0, len(prompts), trunks_at_once):
        chunk = prompts[start : start + trunks_at_once]
        key = NoiseKey(seed=noise.seed, stream=noise.stream, first_trunk=noise.first_trunk + start)
        sampler = _Sampler(policy, ddim, guidance_scale=guidance_scale, reduction=log_prob_reduction)
        x = sampler.trunks(chunk, key, num_steps=ddim.num_steps - num_interval_steps)
        for states, probs, x0 in sampler.branches(x, chunk, key, num_branches, num_interval_steps, chunk_size):
            latents.append(states)
            log_probs.append(probs)
            finals.append(x0)
            on_progress(len(x0))
            on_finished(x0, repeated[num_finished : num_finished + len(x0)])
            num_finished += len(x0)
    first = ddim.num_steps - num_interval_steps
    trained = [step for step in range(first, ddim.num_steps) if ddim.is_action(step)]
    return Rollout(
        trajectories=Trajectories(
            latents=torch.cat(latents),
            log_probs=torch.cat(log_probs),
            step_index=torch.tensor(trained, dtype=torch.int64),
            prompts=repeated,
            group_index=torch.arange(len(prompts)).repeat_interleave(num_branches),
        ),
        final_latents=torch.cat(finals),
    )


class _Sampler:
    """Trunks and branches of one chunk."""

    def __init__(self, policy: Denoiser, ddim: DDIM, *, guidance_scale: float, reduction: LogProbReduction) -> None:
        self.policy, self.ddim, self.guidance_scale = policy, ddim, guidance_scale
        self.reduction: LogProbReduction = reduction

    def trunks(self, prompts: Sequence[str], key: NoiseKey, *, num_steps: int) -> Float[Tensor, "G C H W"]:
        """Denoise from x_T over the first `num_steps` steps."""
        shape = self.policy.latent_shape
        drawn = [key.normal(trunk=i, branch=0, num=num_steps + 1, shape=shape) for i in range(len(prompts))]
        noise = torch.stack(drawn).to(self.policy.device)
        x = noise[:, 0]
        for step in range(num_steps):
            x = self._gaussian(x, step, prompts).sample(noise[:, step + 1])
        return x

    def branches(
        self,
        x: Float[Tensor, "G C H W"],
        prompts: Sequence[str],
        key: NoiseKey,
        num_branches: int,
        num_steps: int,
        chunk_size: int,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Denoise every branch of every trunk to the end, at most `chunk_size` at once."""
        members = [(trunk, branch) for trunk in range(len(prompts)) for branch in range(1, num_branches + 1)]
        for start in range(0, len(members), chunk_size):
            part = members[start : start + chunk_size]
            drawn = [key.normal(trunk=g, branch=k, num=num_steps, shape=x.shape[1:]) for g, k in part]
            noise = torch.stack(drawn).to(self.policy.device)
            yield self._branch(x[[g for g, _ in part]], [prompts[g] for g, _ in part], noise)

    def _branch(
        self, x: Float[Tensor, "B C H W"], prompts: Sequence[str], noise: Float[Tensor, "B tau C H W"]
    ) -> tuple[Float[Tensor, "B states C H W"], Float[Tensor, "B n"], Float[Tensor, "B C H W"]]:
        states, log_probs = [x], list[Tensor]()
        num_steps = noise.shape[1]
        for i, step in enumerate(range(self.ddim.num_steps - num_steps, self.ddim.num_steps)):
            gaussian = self._gaussian(x, step, prompts)
            x = gaussian.sample(noise[:, i])
            if self.ddim.is_action(step):
                states.append(x)
                log_probs.append(gaussian.log_prob(x, reduction=self.reduction))
        return torch.stack(states, dim=1), torch.stack(log_probs, dim=1), x

    def _gaussian(self, x: Float[Tensor, "B C H W"], step: int, prompts: Sequence[str]) -> Gaussian:
        index = torch.full((len(x),), step)
        return policy_step(self.policy, self.ddim, x, index, prompts, guidance_scale=self.guidance_scale)
