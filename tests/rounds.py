"""A round of the tiny policy, sampled and ready for its update.

Shapes: B = 12 trajectories of 3 trunks with 4 branches, n = 3 trained steps of T = 5.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from b2diffurl.algorithm.interfaces import Objective, Selector
from b2diffurl.algorithm.objectives import DDPO
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.algorithm.records import SelectedTrajectories, Trajectories
from b2diffurl.algorithm.rollout import RolloutChunk, sample_branches
from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.algorithm.update import Optimization, Update, UpdateResult, UpdateSettings
from b2diffurl.diffusion.ddim import DDIM
from b2diffurl.diffusion.gaussian import LogProbReduction
from tests.reference import ddim as ddim_twin
from tests.reference import ddpo as ddpo_twin
from tests.reference import gaussian as gaussian_twin
from tests.tiny import PROMPTS, TinyPolicy, chain, stable_diffusion_scheduler

GUIDANCE = 3.0
NUM_ELEMENTS = 32
NO_REGION = TrustRegion(max_kl=float("inf"))
ONE_STEP = Optimization(num_inner_epochs=1, num_minibatches=1)
Metrics = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round has before its update; all its trajectories in a flat batch."""

    policy: TinyPolicy
    ddim: DDIM
    trajectories: SelectedTrajectories
    advantages: Tensor
    reduction: LogProbReduction = "mean"

    def start(self) -> TinyPolicy:
        """A policy as it was when it sampled."""
        return copy.deepcopy(self.policy)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Positions of trajectories, and of (better, worse) pairs of them."""

    index: Tensor
    pairs: Tensor

    def __len__(self) -> int:
        return len(self.index)


def bind(policy: TinyPolicy, ddim: DDIM, reduction: LogProbReduction = "mean") -> DenoisingPolicy:
    return DenoisingPolicy(denoiser=policy, chain=ddim, guidance_scale=GUIDANCE, log_prob_reduction=reduction)


def flat(trajectories: Trajectories) -> SelectedTrajectories:
    """All trajectories, as if every one had been selected."""
    num_branches = trajectories.num_branches
    return SelectedTrajectories(
        latents=trajectories.latents.flatten(0, 1),
        log_probs=trajectories.log_probs.flatten(0, 1),
        step_index=trajectories.step_index,
        prompts=tuple(prompt for prompt in trajectories.prompts for _ in range(num_branches)),
        advantages=torch.zeros(len(trajectories.prompts) * num_branches),
        pairs=torch.zeros(0, 2, dtype=torch.int64),
    )


def sample_round(
    *,
    reduction: LogProbReduction = "mean",
    set_alpha_to_one: bool = False,
    prompts: Sequence[str] = PROMPTS,
    num_branches: int = 4,
    trained_by: float = 0.0,
) -> Round:
    """Sample; with `trained_by` the policy that samples is that far from its own reference."""
    policy = TinyPolicy()
    move(policy, by=trained_by, seed=5)
    scheduler = stable_diffusion_scheduler(set_alpha_to_one=set_alpha_to_one)
    ddim = chain(scheduler, num_inference_steps=5, eta=1.0)
    chunks = sample_branches(
        bind(policy, ddim, reduction),
        prompts,
        interval_length=3,
        num_branches=num_branches,
        noise=NoiseKey(seed=0, stream=1),
        chunk_size=5,
    )
    trajectories = flat(Trajectories.join([chunk.trajectories for chunk in chunks]))
    advantages = torch.randn(len(prompts) * num_branches, generator=torch.Generator().manual_seed(2))
    return Round(policy=policy, ddim=ddim, trajectories=trajectories, advantages=advantages, reduction=reduction)


def sample_all(policy: DenoisingPolicy, prompts: Sequence[str], **arguments: Any) -> RolloutChunk:
    """Sample all chunks of seed 3, stream 1, and join them."""
    chunks = list(sample_branches(policy, prompts, noise=NoiseKey(seed=3, stream=1), **arguments))
    return RolloutChunk(
        trajectories=Trajectories.join([chunk.trajectories for chunk in chunks]),
        final_latents=torch.cat([chunk.final_latents for chunk in chunks]),
        num_evaluations=sum(chunk.num_evaluations for chunk in chunks),
    )


@torch.no_grad()
def ratio_error(policy: DenoisingPolicy, trajectories: Trajectories, *, batch_size: int) -> float:
    """Largest |ratio - 1| of a replay in batches of that size."""
    every, errors = flat(trajectories), list[float]()
    for step in range(every.num_trained_steps):
        for start in range(0, len(every), batch_size):
            part = slice(start, start + batch_size)
            state = int(every.state_index[step])
            x, action = every.latents[part, state], every.latents[part, state + 1]
            conditioning = policy.denoiser.encode(every.prompts[part])
            log_prob = policy.log_prob(policy.step(x, every.step_index[step].expand(len(x)), conditioning), action)
            errors.append(float((log_prob - every.log_probs[part, step]).exp().sub(1).abs().max()))
    return max(errors)


def choose(*index: int, pairs: Sequence[tuple[int, int]] = ()) -> Chosen:
    return Chosen(
        index=torch.tensor(index, dtype=torch.int64), pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    )


def choose_by(selector: Selector, advantages: Tensor, prompts: Sequence[str], *, num_branches: int) -> Chosen:
    """Select among trajectories in flat order, one prompt per trajectory."""
    selection = selector.select(advantages.view(-1, num_branches), prompts[::num_branches])
    return Chosen(
        index=selection.index[:, 0] * num_branches + selection.index[:, 1],
        pairs=selection.pairs[..., 0] * num_branches + selection.pairs[..., 1],
    )


def take(sampled: Round, chosen: Chosen, *, as_pairs: bool = False) -> SelectedTrajectories:
    """The chosen trajectories, or those of the chosen pairs, as the update gets them."""
    index = chosen.pairs.flatten().unique() if as_pairs else chosen.index
    return SelectedTrajectories(
        latents=sampled.trajectories.latents[index],
        log_probs=sampled.trajectories.log_probs[index],
        step_index=sampled.trajectories.step_index,
        prompts=tuple(sampled.trajectories.prompts[i] for i in index.tolist()),
        advantages=sampled.advantages[index],
        pairs=torch.searchsorted(index, chosen.pairs if as_pairs else chosen.pairs[:0]),
    )


EVERY = choose(*range(12))


def adamw(policy: TinyPolicy, *, learning_rate: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW(policy.parameters(), lr=learning_rate)


def sgd(policy: TinyPolicy) -> torch.optim.Optimizer:
    """At rate 1, which shows the gradient."""
    return torch.optim.SGD(policy.parameters(), lr=1.0)


def update(
    policy: TinyPolicy,
    sampled: Round,
    selection: Chosen = EVERY,
    *,
    config: Optimization = ONE_STEP,
    trust_region: TrustRegion = NO_REGION,
    optimizer: torch.optim.Optimizer | None = None,
    objective: Objective | None = None,
    log_kl_to_reference: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
    seed: int = 0,
    round_number: int = 7,
    learning_rate_factor: float = 1.0,
) -> Metrics:
    class Progress:
        def phase(self, name: str, total: int) -> None:
            """Ignore phases."""

        def advance(self, num: int) -> None:
            on_progress(num)

    settings = UpdateSettings(optimization=config, trust_region=trust_region, log_kl_to_reference=log_kl_to_reference)
    objective = objective or DDPO()
    whole = Update(
        bind(policy, sampled.ddim, sampled.reduction),
        optimizer or adamw(policy),
        objective,
        settings,
        progress=Progress(),
    )
    selected = take(sampled, selection, as_pairs=objective.needs.pairs)
    result = whole.optimize(selected, seed=seed, round_number=round_number, learning_rate_factor=learning_rate_factor)
    return metrics_of(result)


def metrics_of(result: UpdateResult) -> Metrics:
    """The result by the names of the metrics."""
    return {
        "objective/loss": None,
        **result.means,
        "policy/ratio_max_error": result.ratio_max_error,
        "policy/grad_norm": result.grad_norm,
        "policy/kl_to_old": result.kl_to_old,
        "update/num_optimizer_steps": result.num_optimizer_steps,
        "update/step_reverted": int(result.step_reverted),
        "update/step_scale": result.step_scale,
    }


def weights(policy: TinyPolicy) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in policy.parameters()])


def move(policy: TinyPolicy, *, by: float, seed: int = 3) -> None:
    """Take the policy away from where it is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def twin_transition(policy: TinyPolicy, sampled: Round, trajectory: int, step: int) -> tuple[list[Tensor], float]:
    """Mean, with gradient, and variance of one action's distribution in float64; `policy` in float64."""
    trajectories, ddim = sampled.trajectories, sampled.ddim
    number = int(trajectories.step_index[step])
    x = trajectories.latents[trajectory, step].double()
    conditioning = policy.encode([trajectories.prompts[trajectory]])
    out = policy.predict(x[None], ddim.timesteps[[number]], conditioning, guidance_scale=GUIDANCE)
    return ddim_twin.transition(
        list(out.flatten()),
        x.flatten().tolist(),
        alpha=ddim.alpha[number].item(),
        alpha_prev=ddim.alpha_prev[number].item(),
        eta=1.0,
    )


def twin_log_prob(policy: TinyPolicy, sampled: Round, trajectory: int, step: int) -> Tensor:
    """Log-prob of one action in float64, with gradient; `policy` in float64."""
    mean, var = twin_transition(policy, sampled, trajectory, step)
    action = sampled.trajectories.latents[trajectory, step + 1].double().flatten().tolist()
    return gaussian_twin.log_prob(action, mean, var, reduction=sampled.reduction)


def twin_gradient(policy: TinyPolicy, sampled: Round, batches: Sequence[SelectedTrajectories]) -> tuple[Tensor, float]:
    """Gradient and KL: one step of one trajectory of one batch after the other, weighted, over their real number."""
    policy = copy.deepcopy(policy).double()
    gradients, squares = [], []
    for batch in batches:
        place = replace(sampled, trajectories=batch)
        for trajectory in range(len(batch)):
            weight = 1.0 if batch.weights is None else batch.weights[trajectory].item()
            for step in range(batch.num_trained_steps):
                log_prob = twin_log_prob(policy, place, trajectory, step)
                numbers = (
                    log_prob.item(), batch.log_probs[trajectory, step].item(), batch.advantages[trajectory].item()
                )  # fmt: skip
                slope = torch.cat([part.flatten() for part in torch.autograd.grad(log_prob, list(policy.parameters()))])
                gradients.append(weight * ddpo_twin.gradient(*numbers, clip_range=0.01) * slope)
                squares.append(((numbers[0] - numbers[1]) * NUM_ELEMENTS) ** 2)
    num = len(gradients)
    return torch.stack(gradients).sum(0) / num, (math.sqrt(1 + sum(squares) / num) - 1) / NUM_ELEMENTS


def twin_weights(sampled: Round) -> list[float]:
    """Of the trained steps' losses: one over the sensitivity, and 1 on average."""
    ddim = sampled.ddim
    found = [
        1 / ddim_twin.sensitivity(alpha=ddim.alpha[i].item(), alpha_prev=ddim.alpha_prev[i].item(), eta=1.0)
        for i in sampled.trajectories.step_index.tolist()
    ]
    return [weight * len(found) / sum(found) for weight in found]
