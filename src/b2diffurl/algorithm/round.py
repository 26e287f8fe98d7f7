"""One round of B²-DiffuRL (paper, section 3): sample, score, normalize, select, update.

For any policy and any reward: what scores the final latents is a `Scorer`, what moves the weights an `Update`. Several
ranks each sample and score a shard of the trunks; all of them see all rewards and the selected trajectories.

Shapes: G branch groups of K trajectories, of which a rank has its shard; S selected trajectories.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.advantage import RewardHistory
from b2diffurl.algorithm.collapse import CollapseMonitor
from b2diffurl.algorithm.interfaces import Schedule, Selector
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.algorithm.records import (
    Credit,
    PastRound,
    Scores,
    SelectedTrajectories,
    Selection,
    StepInterval,
    Trajectories,
)
from b2diffurl.algorithm.rollout import RolloutChunk, TrunkWeight, sample_branches
from b2diffurl.algorithm.schedule import interval_of
from b2diffurl.algorithm.update import Update, UpdateResult
from b2diffurl.distributed import Ranks
from b2diffurl.errors import RunStopped


@runtime_checkable
class Scorer(Protocol):
    """Scores the final latents of one round's chunks, possibly while the next chunk is sampled."""

    def submit(self, chunk: RolloutChunk) -> None:
        """Take a finished chunk."""
        ...

    def result(self) -> Scores:
        """Wait for the scores of all chunks, in the order in which they were submitted."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """How the trajectories of every round are sampled and selected.

    Attributes:
        schedule: which of the last denoising steps each round trains.
        selector: which trajectories are trained on.
        num_branches: K, branches per trunk.
        num_rounds: S, rounds of the run.
        chunk_size: most trajectories that are sampled at once.
        seed: the run's seed.
        train_trunk: whether trunks are trained too.
        trunk_weight: weight of a trunk (`Rollout.trunk_weight`).
        adapter_interval: whether the adapter is on in the interval only.
    """

    schedule: Schedule
    selector: Selector
    num_branches: int
    num_rounds: int
    chunk_size: int
    seed: int
    train_trunk: bool = False
    trunk_weight: TrunkWeight = "branches"
    adapter_interval: bool = False

    def interval(self, round_number: int, *, num_steps: int, past: Sequence[PastRound]) -> StepInterval:
        """Return the interval of a round of this run, on a chain of `num_steps` steps."""
        return interval_of(
            self.schedule, round_number, num_rounds=self.num_rounds, num_inference_steps=num_steps, past=past
        )

    def sampling_policy(self, policy: DenoisingPolicy, interval_length: int) -> DenoisingPolicy:
        """Return the policy that samples with this interval: with an adapter interval, its adapter is on only there."""
        return policy.with_adapter_in(interval_length) if self.adapter_interval else policy

    def trained_policy(self, policy: DenoisingPolicy, past: Sequence[PastRound]) -> DenoisingPolicy:
        """Return the policy after some completed rounds, as it is evaluated: with the interval of the last of them."""
        return self.sampling_policy(policy, past[-1].interval_length) if past else policy


@dataclass(kw_only=True, slots=True)
class RoundState:
    """What a run carries from round to round, besides the weights and the optimizer.

    Attributes:
        history: past rewards by prompt.
        monitor: stops a run that diverges.
        past: the completed rounds.
    """

    history: RewardHistory
    monitor: CollapseMonitor
    past: list[PastRound] = field(default_factory=list[PastRound])


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """What sampling and scoring a round gave, on one rank or joined over all.

    Attributes:
        scores: scores of the final images.
        num_evaluations: network evaluations.
        rollout_seconds: seconds of sampling, and of decoding where the scorer decodes.
        reward_seconds: seconds of waiting for rewards after sampling ended.
    """

    scores: Scores
    num_evaluations: int
    rollout_seconds: float
    reward_seconds: float

    @staticmethod
    def join(parts: "Sequence[Sampled]") -> "Sampled":
        """Join the shards of all ranks; of the seconds, those of the slowest."""
        return Sampled(
            scores=Scores.join([part.scores for part in parts]),
            num_evaluations=sum(part.num_evaluations for part in parts),
            rollout_seconds=max(part.rollout_seconds for part in parts),
            reward_seconds=max(part.reward_seconds for part in parts),
        )


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The outcome of one round.

    Attributes:
        round_number: the round, counted from 1.
        interval_length: number of denoising steps in the interval.
        num_trained_steps: number of its steps that are trained.
        prompts: one per branch group.
        sampled: scores, costs and seconds of sampling, over all ranks.
        advantages: the normalized rewards, not clipped.
        selection: the trajectories that were trained on.
        update: what the update did.
        metrics: further numbers to log, by name.
    """

    round_number: int
    interval_length: int
    num_trained_steps: int
    prompts: tuple[str, ...]
    sampled: Sampled
    advantages: Float[Tensor, "G K"]
    selection: Selection
    update: UpdateResult
    metrics: dict[str, float]


def run_round(
    policy: DenoisingPolicy,
    update: Update,
    state: RoundState,
    strategy: Strategy,
    *,
    round_number: int,
    prompts: Sequence[str],
    scorer: Scorer,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> RoundResult:
    """Sample, score, normalize, select, update.

    Args:
        policy: the policy under its current weights.
        update: optimizes the same policy.
        state: what the run carries from round to round; changed in place.
        strategy: how trajectories are sampled and selected.
        round_number: the round, counted from 1.
        prompts: one per trunk, the same on all ranks.
        scorer: a fresh one.
        ranks: the ranks that do the round together.

    Raises:
        RunStopped: the run must not continue: a number is not finite, or the policy, the rewards or the images diverge.
        RewardFailed: the reward failed, on any rank.
    """
    # Backward progressive training (section 3.2): the last tau steps, more of them in later rounds.
    interval = strategy.interval(round_number, num_steps=policy.chain.num_steps, past=state.past)
    # Branch-based sampling (section 3.3): trunks down to the interval, K branches from each; scored as they finish.
    shard = ranks.shard(len(prompts))
    chunks = sample_branches(
        strategy.sampling_policy(policy, interval.length),
        prompts[shard.start : shard.stop],
        interval_length=interval.length,
        num_branches=strategy.num_branches,
        noise=NoiseKey(seed=strategy.seed, stream=round_number, first_trunk=shard.start),
        chunk_size=strategy.chunk_size,
        trained_steps=interval.trained,
        keep_trunks=strategy.train_trunk,
    )
    with ranks.fail_together():
        trajectories, trunks, own = _collect(chunks, scorer, round_number)
    sampled = Sampled.join(ranks.gather(own))
    state.monitor.check_scores(sampled.scores, round_number=round_number)
    # Normalized rewards (appendix D.1), then the best and the worst of each branch group (Eq. 5); only then clipped.
    credit = state.history.credit(sampled.scores.rewards, prompts, with_trunks=strategy.train_trunk)
    selection = strategy.selector.select(credit.branches, prompts)
    clipped = credit.clipped(state.history.normalizer.clip)
    selected = _gather_selected(trajectories, clipped.branches, selection, shard=shard, ranks=ranks)
    whole = _gather_trunks(trunks, clipped, strategy, shard=shard, ranks=ranks)
    # The objective on the interval of the selected trajectories (Eq. 6 for DDPO).
    rate = update.learning_rate_factor(round_number, num_rounds=strategy.num_rounds)
    updated = update.optimize(selected, whole, seed=strategy.seed, round_number=round_number, learning_rate_factor=rate)
    state.monitor.check_update(updated, round_number=round_number)
    state.past.append(PastRound(interval_length=interval.length, pair_fraction=len(selection.pairs) / len(prompts)))
    return RoundResult(
        round_number, interval.length, selected.num_trained_steps, tuple(prompts), sampled, credit.branches, selection,
        updated, _metrics(credit, whole, strategy),
    )  # fmt: skip


def _collect(
    chunks: Iterable[RolloutChunk], scorer: Scorer, round_number: int
) -> tuple[Trajectories, Trajectories | None, Sampled]:
    """Submit every chunk to the scorer as soon as it is finished, so that scoring overlaps sampling."""
    started = time.perf_counter()
    parts: list[Trajectories] = []
    trunks: list[Trajectories] = []
    num_evaluations = 0
    for chunk in chunks:
        if chunk.trunks is not None:
            _check_finite_log_probs(chunk.trunks, round_number)
            trunks.append(chunk.trunks)
        _check_finite_log_probs(chunk.trajectories, round_number)
        scorer.submit(chunk)
        parts.append(chunk.trajectories)
        num_evaluations += chunk.num_evaluations
    sampled = time.perf_counter()
    scores = scorer.result()
    outcome = Sampled(
        scores=scores,
        num_evaluations=num_evaluations,
        rollout_seconds=sampled - started,
        reward_seconds=time.perf_counter() - sampled,
    )
    return Trajectories.join(parts), Trajectories.join(trunks) if trunks else None, outcome


def _gather_selected(
    trajectories: Trajectories,
    advantages: Float[Tensor, "G K"],
    selection: Selection,
    *,
    shard: range,
    ranks: Ranks,
) -> SelectedTrajectories:
    """Give every rank all selected trajectories, and no others."""
    group, branch = selection.index[:, 0], selection.index[:, 1]
    mine = (group >= shard.start) & (group < shard.stop)
    own_group, own_branch = group[mine] - shard.start, branch[mine]
    own = (
        trajectories.latents[own_group, own_branch],
        trajectories.log_probs[own_group, own_branch],
        [trajectories.prompts[i] for i in own_group],
    )
    parts = ranks.gather(own if ranks.world_size == 1 else (own[0].cpu(), own[1].cpu(), own[2]))
    num_branches = advantages.shape[1]
    flat = selection.index[:, 0] * num_branches + selection.index[:, 1]
    pairs = selection.pairs[..., 0] * num_branches + selection.pairs[..., 1]
    return SelectedTrajectories(
        latents=torch.cat([part[0] for part in parts]),
        log_probs=torch.cat([part[1] for part in parts]).cpu(),
        step_index=trajectories.step_index,
        prompts=tuple(prompt for part in parts for prompt in part[2]),
        advantages=advantages[group, branch],
        pairs=torch.searchsorted(flat, pairs),
        weights=selection.weights,
    )


def _gather_trunks(
    trunks: Trajectories | None, credit: Credit, strategy: Strategy, *, shard: range, ranks: Ranks
) -> SelectedTrajectories | None:
    """Give every rank all trunks with the weight of this round; None where no trunk has steps."""
    if trunks is None or credit.trunks is None or not len(trunks.step_index):
        return None
    num_groups, num_branches = credit.branches.shape
    weight = credit.effective_branches if strategy.trunk_weight == "effective" else float(num_branches)
    every = Selection(
        index=torch.stack([torch.arange(num_groups), torch.zeros(num_groups, dtype=torch.int64)], dim=1),
        pairs=torch.zeros((0, 2, 2), dtype=torch.int64),
        weights=torch.full((num_groups,), weight),
    )
    return _gather_selected(trunks, credit.trunks[:, None], every, shard=shard, ranks=ranks)


def _metrics(credit: Credit, trunks: SelectedTrajectories | None, strategy: Strategy) -> dict[str, float]:
    """Return the metrics of the credit rule and, where trunks are trained, their number and effective weight."""
    if credit.trunks is None:
        return credit.metrics
    metrics = credit.metrics | {"selection/num_trunks": float(0 if trunks is None else len(trunks))}
    if trunks is not None and strategy.trunk_weight == "effective":
        metrics["selection/trunk_weight"] = credit.effective_branches
    return metrics


def _check_finite_log_probs(trajectories: Trajectories, round_number: int) -> None:
    bad = ~torch.isfinite(trajectories.log_probs)
    if bool(bad.any()):
        step = int(trajectories.step_index[int(bad.nonzero()[0, 2])])
        raise RunStopped(
            round_number=round_number,
            first_bad_round=round_number - 1,  # that round's update made the policy that samples now
            cause=f"a log-prob of denoising step {step} is not finite.",
        )


class LatentScorer:
    """Scores final latents by a function, at once: the simplest scorer, for policies without images.

    Args:
        reward: (x_0 of shape (B, C, H, W), prompts) -> rewards of shape (B,).
    """

    def __init__(self, reward: Callable[[Tensor, Sequence[str]], Tensor]) -> None:
        self._reward = reward
        self._parts: list[Scores] = []

    def submit(self, chunk: RolloutChunk) -> None:
        """Score a chunk."""
        num_branches = chunk.final_latents.shape[1]
        prompts = [prompt for prompt in chunk.trajectories.prompts for _ in range(num_branches)]
        rewards = self._reward(chunk.final_latents.flatten(0, 1), prompts).double().view(-1, num_branches)
        self._parts.append(Scores(rewards=rewards, contrast=torch.ones_like(rewards)))

    def result(self) -> Scores:
        """Return the scores of all chunks."""
        return Scores.join(self._parts)
