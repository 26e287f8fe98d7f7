"""Branch-based sampling: one trunk from x_T down to the interval, then K branches from there (paper, section 3.3).

Noise is keyed by (seed, stream, trunk, branch) and sampled on the CPU in float32, so neither the chunk size nor the
order of branches changes what is sampled. Nothing here depends on rewards.

Shapes: G trunks, K branches, B trajectories in flight, T denoising steps, tau of them in the interval, n trained: those
that the schedule trains, but steps without noise; s states from before the first of them to after the last.
"""

# Tensor.split and Tensor.unflatten have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.policy import Conditioning, DenoisingPolicy
from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.algorithm.records import Trajectories
from b2diffurl.config import PositiveInt, settings
from b2diffurl.diffusion.gaussian import Gaussian, LogProbReduction

TrunkWeight = Literal["branches", "effective"]


@settings(table="rollout")
class Rollout:
    """How trajectories are sampled.

    Attributes:
        num_branches: K, the number of trajectories per trunk; 1 turns branching off.
        chunk_size: maximum number of trajectories that are sampled at once; changes memory and speed, results by
            rounding only.
        log_prob_reduction: "mean" over a latent's elements (the reference's unit) or "sum" (nats, in which float32's
            rounding is as many times larger).
        train_trunk: train the trunk's own steps too, once per branch group, with the mean advantage of the group's
            branches (`Normalizer.normalize_trunks`). It needs the latents of the trunks in memory (ours).
        trunk_weight: "branches", K times the weight of a branch, since a trunk is part of K trajectories: the gradient
            is that of K whole trajectories; or "effective", times the number of independent rewards that the K are
            worth (`Anova.effective_number`): they share the trunk's luck, so that with the weight K the gradient of its
            steps is noisier than that of K independent trajectories (ours).
    """

    num_branches: PositiveInt = 4
    chunk_size: PositiveInt = 64
    log_prob_reduction: LogProbReduction = "mean"
    train_trunk: bool = False
    trunk_weight: TrunkWeight = "branches"


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutChunk:
    """G finished branch groups.

    Attributes:
        trajectories: the branches' way through the trained steps.
        final_latents: x_0 of every branch.
        num_evaluations: network evaluations that the chunk took.
        trunks: the trunks' way from x_T to the interval, each as a group of one; None unless they are kept.
    """

    trajectories: Trajectories
    final_latents: Float[Tensor, "G K C H W"]
    num_evaluations: int
    trunks: Trajectories | None = None


def sample_branches(
    policy: DenoisingPolicy,
    prompts: Sequence[str],
    *,
    interval_length: int,
    num_branches: int,
    noise: NoiseKey,
    chunk_size: int,
    trained_steps: Sequence[int] | None = None,
    keep_trunks: bool = False,
) -> Iterator[RolloutChunk]:
    """Sample K branches from each trunk, chunk by chunk.

    The network is evaluated once per trunk for the interval's first step: its branches differ by their noise only.

    Args:
        policy: the current policy.
        prompts: one per trunk.
        interval_length: tau, the number of steps after the trunk, 1 to T.
        num_branches: K >= 1; 1 means no branching.
        noise: key of the noise.
        chunk_size: most trajectories in flight at once; changes results by rounding only.
        trained_steps: the steps of the interval whose log-probs and states are recorded, ascending, counted from 0 at
            x_T; all are sampled with noise as ever. None for the whole interval.
        keep_trunks: whether the chunks have the trunks' states and log-probs.

    Yields:
        Finished branch groups, in the order of the prompts, as many as fit into a chunk and at least one.
    """
    num_trunk_steps = policy.chain.num_steps - interval_length
    interval = range(num_trunk_steps, policy.chain.num_steps)
    recorded = [i for i in (interval if trained_steps is None else trained_steps) if policy.chain.is_action(i)]
    assert set(recorded) <= set(interval)
    trunks_per_chunk = max(1, chunk_size // num_branches)
    for first in range(0, len(prompts), trunks_per_chunk):
        chunk = tuple(prompts[first : first + trunks_per_chunk])
        key = noise.shifted(first)
        conditioning = policy.denoiser.encode(chunk)
        trunks = _sample_trunks(
            policy, conditioning, key, prompts=chunk, num_steps=num_trunk_steps, keep_steps=keep_trunks
        )
        members = [(trunk, branch) for trunk in range(len(chunk)) for branch in range(1, num_branches + 1)]
        first_step = _first_step(policy, trunks.latents[:, 0, -1], conditioning, step=num_trunk_steps)
        parts = [
            _continue_trunks(
                policy,
                trunks.latents[:, 0, -1],
                first_step,
                conditioning,
                key,
                members=members[i : i + chunk_size],
                interval_length=interval_length,
                recorded=recorded,
            )
            for i in range(0, len(members), chunk_size)
        ]
        latents, log_probs, final_latents = (
            torch.cat(tensors).unflatten(0, (-1, num_branches)) for tensors in zip(*parts, strict=True)
        )
        yield RolloutChunk(
            trajectories=Trajectories(
                latents=latents,
                log_probs=log_probs,
                step_index=torch.tensor(recorded, dtype=torch.int64),
                prompts=chunk,
            ),
            final_latents=final_latents,
            num_evaluations=policy.evaluations_per_step
            * (len(chunk) * (num_trunk_steps + 1) + len(members) * (interval_length - 1)),
            trunks=trunks if keep_trunks else None,
        )


@torch.no_grad()
def _sample_trunks(
    policy: DenoisingPolicy,
    conditioning: Conditioning,
    key: NoiseKey,
    *,
    prompts: tuple[str, ...],
    num_steps: int,
    keep_steps: bool,
) -> Trajectories:
    """Denoise from x_T over the first `num_steps` steps; without `keep_steps`, only the last latents are kept."""
    num_trunks, shape = len(prompts), policy.denoiser.latent_shape
    noise = [key.normal(trunk=trunk, branch=0, num=num_steps + 1, shape=shape) for trunk in range(num_trunks)]
    noise = torch.stack(noise).to(policy.denoiser.device)
    x = noise[:, 0]
    states = [x]
    log_probs = [x.new_empty((num_trunks, 0))]
    for step in range(num_steps):
        gaussian = policy.step(x, torch.full((num_trunks,), step), conditioning)
        x = gaussian.sample(noise[:, step + 1])
        if keep_steps:
            assert policy.chain.is_action(step), "only the last step of a chain may lack noise"
            states.append(x)
            log_probs.append(policy.log_prob(gaussian, x)[:, None])
        else:
            states = [x]
    return Trajectories(
        latents=torch.stack(states, dim=1)[:, None],
        log_probs=torch.cat(log_probs, dim=1)[:, None],
        step_index=torch.arange(num_steps if keep_steps else 0),
        prompts=prompts,
    )


@torch.no_grad()
def _first_step(
    policy: DenoisingPolicy, trunks: Float[Tensor, "G C H W"], conditioning: Conditioning, *, step: int
) -> Gaussian:
    """Return the distribution of the interval's first step, which all branches of a trunk share."""
    return policy.step(trunks, torch.full((len(trunks),), step), conditioning)


@torch.no_grad()
def _continue_trunks(
    policy: DenoisingPolicy,
    trunks: Float[Tensor, "G C H W"],
    first_step: Gaussian,
    conditioning: Conditioning,
    key: NoiseKey,
    *,
    members: Sequence[tuple[int, int]],
    interval_length: int,
    recorded: Sequence[int],
) -> tuple[Float[Tensor, "B s C H W"], Float[Tensor, "B n"], Float[Tensor, "B C H W"]]:
    """Denoise the branches (trunk, branch) of `members` to the end.

    Returns:
        The states from before the first recorded step to after the last one, the log-probs of the recorded steps, and
        x_0.
    """
    chain, shape = policy.chain, trunks.shape[1:]
    noise = [key.normal(trunk=trunk, branch=branch, num=interval_length, shape=shape) for trunk, branch in members]
    noise = torch.stack(noise).to(trunks.device)
    trunk_index = torch.tensor([trunk for trunk, _ in members])
    x, own_conditioning = trunks[trunk_index], conditioning[trunk_index]
    states: list[Tensor] = []
    log_probs: list[Tensor] = []
    last = recorded[-1] if recorded else -1
    kept = range(recorded[0], last + 1) if recorded else range(0)
    for i, step in enumerate(range(chain.num_steps - interval_length, chain.num_steps)):
        gaussian = (
            first_step[trunk_index] if i == 0 else policy.step(x, torch.full((len(members),), step), own_conditioning)
        )
        if step in kept:
            states.append(x)
        x = gaussian.sample(noise[:, i])
        if step in recorded:
            log_probs.append(policy.log_prob(gaussian, x))
        if step == last:
            states.append(x)
    if not recorded:
        return x[:, None], x.new_empty((len(members), 0)), x
    return torch.stack(states, dim=1), torch.stack(log_probs, dim=1), x
