"""One round's optimizer steps on the selected trajectories, inside a trust region.

A training example is one selected trajectory, or a (better, worse) pair for an objective that needs pairs, or one trunk
where trunks are trained, of this round or of an earlier one that is replayed. Examples are shuffled and split into
minibatches, one optimizer step each. Gradients are means over the real number of steps: nothing is dropped, padded or
carried over.

Shapes: S selected trajectories, n steps of all trajectories, u examples of m trajectories in a minibatch, M single
steps in one forward pass.
"""

# Tensor.backward and Tensor.tolist have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float, Int
from torch import Tensor

from b2diffurl.algorithm.earlier_rounds import EarlierRounds
from b2diffurl.algorithm.interfaces import Objective
from b2diffurl.algorithm.minibatches import minibatches
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.progress import NO_PROGRESS, Progress
from b2diffurl.algorithm.randomness import minibatch_rng
from b2diffurl.algorithm.records import SelectedTrajectories, StepBatch, StepInterval
from b2diffurl.algorithm.replay import Replay
from b2diffurl.algorithm.step_weights import StepWeights, step_weights
from b2diffurl.algorithm.training_data import TrainingData
from b2diffurl.algorithm.trust_region import Snapshot, TrustRegion
from b2diffurl.config import NonNegativeFloat, NonNegativeInt, PositiveInt, settings
from b2diffurl.distributed import Ranks
from b2diffurl.errors import RunStopped, UserError


@settings(table="optimization")
class Optimization:
    """AdamW and how a round's data is cut; defaults of the reference run unless a line says "ours".

    Attributes:
        learning_rate: AdamW learning rate, before the schedule.
        lr_schedule: "constant", as in the paper, or a decrease after the warm-up by torch's "linear" or "cosine" rule,
            to 0 at the end of the last round, which itself still trains.
        warmup_rounds: W rounds in which the rate rises linearly; 1/(W + 1) of it in round 1, all of it in round W + 1.
        betas: AdamW betas.
        weight_decay: AdamW weight decay.
        max_grad_norm: gradients are scaled down to this norm.
        num_inner_epochs: passes over the selected trajectories of a round.
        num_minibatches: optimizer steps per pass (ours: the reference fixes the minibatch size instead).
        micro_batch_size: single steps in one forward pass; changes memory and speed, and results by rounding only.
        replay_rounds: N, earlier rounds whose selected trajectories are trained on again in every round, weighted by
            the importance ratio to the policy that sampled them; 0, as in the paper, for none (ours).
        step_weights: "equal", as in the paper, or "even" (ours): the loss of a step is divided by its log-prob's
            sensitivity to the network (`DDIM.sensitivity`), with mean weight 1 over the trained steps, so that no step
            dominates the others; or "probe" (ours): that times the square root of `decided_variance`, mean weight 1.
        decided_variance: reward variance that each of the T steps decides, from the noisiest step, 0 or more in any
            unit; for step_weights "probe" only. `b2diffurl probe` measures and prints it.
    """

    learning_rate: Annotated[float, Gt(0), Le(1e6)] = 1e-4  # the step overflows float32 at 1e38
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_rounds: NonNegativeInt = 0
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 1e-4
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    num_inner_epochs: PositiveInt = 2
    num_minibatches: PositiveInt = 4
    micro_batch_size: PositiveInt = 64
    replay_rounds: NonNegativeInt = 0
    step_weights: StepWeights = "equal"
    decided_variance: tuple[NonNegativeFloat, ...] = ()

    def __post_init__(self) -> None:
        if self.step_weights == "probe" and not self.decided_variance:
            raise UserError(
                'optimization.step_weights is "probe" but decided_variance is empty; give the variance of every '
                "denoising step, which `b2diffurl probe` prints."
            )
        if self.decided_variance and self.step_weights != "probe":
            raise UserError(
                f"optimization.decided_variance is given but step_weights is {self.step_weights!r}, which does not use "
                'it; set step_weights to "probe", or remove it.'
            )

    def check_decided_variance(self, intervals: Sequence[StepInterval], *, num_inference_steps: int) -> None:
        """Raise UserError if the decided variance does not fit the chain, or is 0 at every step that a round trains.

        Args:
            intervals: the interval of every round.
            num_inference_steps: T.
        """
        variance = self.decided_variance
        if not variance:
            return
        if len(variance) != num_inference_steps:
            raise UserError(
                f"optimization.decided_variance has {len(variance)} numbers but sampler.num_inference_steps is "
                f"{num_inference_steps}; give one number per denoising step."
            )
        for interval in intervals:
            if not sum(variance[step] for step in interval.trained) > 0:
                raise UserError(
                    "optimization.decided_variance is 0 at every trained step of an interval of "
                    f"{interval.length} steps; give a longer interval, or other step_weights."
                )

    def learning_rate_factor(self, round_number: int, *, num_rounds: int) -> float:
        """Return the factor of the learning rate in a round; a function of its arguments alone, for exact resumes.

        >>> schedule = Optimization(lr_schedule="linear", warmup_rounds=1)
        >>> [schedule.learning_rate_factor(i, num_rounds=5) for i in range(1, 6)]
        [0.5, 1.0, 0.75, 0.5, 0.25]
        """
        num_done = round_number - 1
        if num_done < self.warmup_rounds:
            return round_number / (self.warmup_rounds + 1)
        progress = (num_done - self.warmup_rounds) / (num_rounds - self.warmup_rounds)
        match self.lr_schedule:
            case "constant":
                return 1.0
            case "linear":
                return 1 - progress
            case "cosine":
                return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateSettings:
    """How an update is done.

    Attributes:
        optimization: how the data is cut.
        trust_region: how far the round may move the policy.
        log_kl_to_reference: measure the KL to the reference whether the objective needs it or not.
        replay_first: take the old log-probs from a replay before the first optimizer step, in exactly the shapes of
            training, instead of from sampling: half precision rounds differently in other batch shapes. One more
            forward pass over the selected trajectories.
    """

    optimization: Optimization
    trust_region: TrustRegion = TrustRegion()  # noqa: RUF009 - frozen
    log_kl_to_reference: bool = False
    replay_first: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateResult:
    """What the update of one round did.

    Attributes:
        num_optimizer_steps: optimizer steps that were kept, in full or in part.
        step_scale: fraction of the last optimizer step that was kept: 1 in full, below 1 if the trust region shrank it
            and 0 if it reverted it, which ends the update; None without an update.
        kl_to_old: distance to the policy that sampled, in nats per element; None without an update.
        grad_norm: mean gradient norm before clipping; None without an update.
        ratio_max_error: largest |ratio - 1| between replay and sampling before the first step; None without an update.
        learning_rate: learning rate of the round's optimizer steps.
        means: mean over the passes of objective/loss, the objective's metrics and policy/kl_to_reference.
        num_replayed: trajectories of earlier rounds that were trained on again.
        num_evaluations: network evaluations, over all ranks; a forward and backward pass counts as one.
        seconds: duration.
    """

    num_optimizer_steps: int
    step_scale: float | None
    kl_to_old: float | None
    grad_norm: float | None
    ratio_max_error: float | None
    learning_rate: float
    means: dict[str, float]
    num_replayed: int
    num_evaluations: int
    seconds: float

    @property
    def step_reverted(self) -> bool:
        """Whether the trust region reverted the last optimizer step."""
        return self.step_scale == 0


@dataclass(kw_only=True, slots=True)
class _Pass:
    """Sums over one forward and backward pass over a minibatch, or over one rank's shard of it.

    Attributes:
        squares: squared log-ratios in nats, summed over single steps.
        ratio_max_error: largest |ratio - 1|.
        means: metrics; each rank has its part of the mean.
    """

    squares: float = 0.0
    ratio_max_error: float = 0.0
    means: dict[str, float] = field(default_factory=dict[str, float])

    def add_mean(self, name: str, values: Tensor, count: int) -> None:
        """Add the part that some of `count` values have in their mean."""
        self.means[name] = self.means.get(name, 0.0) + float(values.sum()) / count

    @staticmethod
    def join(parts: "Sequence[_Pass]") -> "_Pass":
        """Sum the shards of all ranks."""
        names = sorted({name for part in parts for name in part.means})
        return _Pass(
            squares=sum(part.squares for part in parts),
            ratio_max_error=max(part.ratio_max_error for part in parts),
            means={name: sum(part.means.get(name, 0.0) for part in parts) for name in names},
        )


@dataclass(kw_only=True, slots=True)
class _Steps:
    """The optimizer steps of a round so far.

    Attributes:
        passes: forward and backward passes whose gradient was used, one per step.
        grad_norms: gradient norm of each step before clipping.
        kl: distance of the current weights to the policy that sampled, in nats per element.
        last_scale: fraction of the last step that was kept.
    """

    passes: list[_Pass] = field(default_factory=list[_Pass])
    grad_norms: list[float] = field(default_factory=list[float])
    kl: float = 0.0
    last_scale: float = 1.0


class Update:
    """Optimizes a policy on selected trajectories.

    Args:
        policy: gives the distribution of each step under the current weights.
        optimizer: over the trained parameters.
        objective: gives the loss of each step.
        config: how the update is done.
        ranks: the ranks that share the work; the selected trajectories are the same on all of them.
        progress: advanced by the number of single steps of each forward pass.
    """

    def __init__(
        self,
        policy: DenoisingPolicy,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        config: UpdateSettings,
        *,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self.policy = policy
        self.optimizer = optimizer
        self.objective = objective
        self.config = config
        self.ranks = ranks
        self.progress = progress
        self.earlier = EarlierRounds(num_rounds=config.optimization.replay_rounds)
        self.parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]

    def learning_rate_factor(self, round_number: int, *, num_rounds: int) -> float:
        """Return the factor of the learning rate in a round (`Optimization.learning_rate_factor`)."""
        return self.config.optimization.learning_rate_factor(round_number, num_rounds=num_rounds)

    def optimize(
        self,
        selected: SelectedTrajectories,
        trunks: SelectedTrajectories | None = None,
        *,
        seed: int,
        round_number: int,
        learning_rate_factor: float = 1.0,
    ) -> UpdateResult:
        """Take the optimizer steps of a round; none if nothing was selected.

        Args:
            selected: the trajectories to train on.
            trunks: trunks to train on besides, with steps of their own.
            seed: seed of the shuffling.
            round_number: the round, counted from 1.
            learning_rate_factor: factor of the learning rate in this round (`Optimization.learning_rate_factor`).

        Raises:
            RunStopped: a log-prob, loss or gradient is not finite; the weights are then those before that step.
        """
        started, region = time.perf_counter(), self.config.trust_region
        learning_rate = self._set_learning_rate(learning_rate_factor)
        batches = [selected] if trunks is None else [selected, trunks]
        data = TrainingData.join(batches, self.earlier.batches)
        queue = self._minibatches(data, seed, round_number)
        replay = Replay(self.policy, data, micro_batch_size=self.config.optimization.micro_batch_size, ranks=self.ranks)
        replay_error = self._replay_first(replay, queue)
        steps, snapshot = _Steps(), None
        for minibatch in queue:
            with self.ranks.fail_together():
                own = self._accumulate_gradient(replay, minibatch, round_number)
            done = _Pass.join(self.ranks.gather(own))
            moved = replay.kl(done.squares, minibatch)  # the result of the steps before this one
            if not moved <= region.max_kl:
                # The pass ended as soon as it was outside, so its KL is only a lower bound.
                _contain(steps, snapshot, region, replay, minibatch, kl_after=None, round_number=round_number)
                break
            steps.kl = moved
            steps.passes.append(done)
            self.ranks.sum_gradients(self.parameters)
            snapshot = Snapshot(self.optimizer)
            steps.grad_norms.append(self._step(round_number))
        else:
            if snapshot is not None:
                moved = replay.measure_kl(queue[-1])  # the result of the last step
                if not moved <= region.max_kl:
                    _contain(steps, snapshot, region, replay, queue[-1], kl_after=moved, round_number=round_number)
                else:
                    steps.kl = moved
        self.optimizer.zero_grad(set_to_none=True)
        self.earlier.add(batches)
        return UpdateResult(
            num_optimizer_steps=len(steps.grad_norms) - (steps.last_scale == 0),
            step_scale=steps.last_scale if steps.passes else None,
            kl_to_old=steps.kl if steps.passes else None,
            grad_norm=float(np.mean(steps.grad_norms)) if steps.grad_norms else None,
            ratio_max_error=steps.passes[0].ratio_max_error if replay_error is None and steps.passes else replay_error,
            learning_rate=learning_rate,
            means=_mean_over_passes(steps.passes),
            num_replayed=len(data) - data.num_new if steps.passes else 0,
            num_evaluations=sum(self.ranks.gather(replay.num_evaluations)),
            seconds=time.perf_counter() - started,
        )

    def _minibatches(self, data: TrainingData, seed: int, round_number: int) -> list[Int[Tensor, "u m"]]:
        config, rng = self.config.optimization, minibatch_rng(seed, round_number)
        cut = minibatches(
            data.examples(as_pairs=self.objective.needs.pairs),
            num_epochs=config.num_inner_epochs,
            num_minibatches=config.num_minibatches,
            rng=rng,
            earlier=data.earlier_examples(),
        )
        queue = list(cut)
        self.progress.phase("update", sum(data.num_single_steps(minibatch) for minibatch in queue))
        return queue

    def _replay_first(self, replay: Replay, queue: Sequence[Tensor]) -> float | None:
        """Begin without gradients, and with the log-probs of a replay if the settings demand it; return its error."""
        self.optimizer.zero_grad(set_to_none=True)
        if not (self.config.replay_first and queue):
            return None
        return replay.take_log_probs(queue[: len(queue) // self.config.optimization.num_inner_epochs])

    def _accumulate_gradient(self, replay: Replay, minibatch: Int[Tensor, "u m"], round_number: int) -> _Pass:
        """Accumulate the gradient over this rank's shard of a minibatch."""
        done = _Pass()
        data, step_index = replay.data, replay.data.step_index
        num_steps = data.num_single_steps(minibatch)
        num_losses = num_steps // minibatch.shape[1]
        weights = self._step_weights(step_index)
        for index, step in replay.micro_batches(minibatch):
            batch, kl_to_reference = self._step_batch(replay, index, step)
            _check_finite(batch.log_prob, "log-prob", step_index[step], round_number)
            log_ratio = (batch.log_prob - batch.old_log_prob).detach()
            if bool(replay.is_new(index).all()):
                done.squares += replay.squares(log_ratio)
                done.ratio_max_error = max(done.ratio_max_error, float(log_ratio.exp().sub(1).abs().max()))
                if replay.kl(done.squares, minibatch) > self.config.trust_region.max_kl:  # the rest cannot reduce it
                    break
            loss = self.objective.loss(batch)
            _check_finite(loss, "loss", step_index[step], round_number)
            weight = weights[step[: len(loss)]] * data.weights[index].view(-1, len(loss)).mean(dim=0)
            dtype = loss.dtype if loss.device.type == "mps" else weight.dtype  # mps has no float64
            ((loss * weight.to(loss.device, dtype)).sum() / num_losses).backward()
            with torch.no_grad():
                metrics = {f"objective/{name}": values for name, values in self.objective.metrics(batch).items()}
            for name, values in (metrics | {"objective/loss": loss.detach()}).items():
                done.add_mean(name, values, num_losses)
            if kl_to_reference is not None:
                done.add_mean("policy/kl_to_reference", kl_to_reference, num_steps)
            self.progress.advance(len(index))
        return done

    def _step_batch(
        self, replay: Replay, index: Int[Tensor, " M"], step: Int[Tensor, " M"]
    ) -> tuple[StepBatch, Float[Tensor, " M"] | None]:
        """Return what the objective sees, with gradient, and the KL to the reference in nats per element."""
        data, is_mean = replay.data, self.policy.log_prob_reduction == "mean"
        reference = None
        if self.objective.needs.reference or self.config.log_kl_to_reference:
            # First, so that its memory is free again before the graph of the policy's pass is kept.
            with torch.no_grad(), self.policy.denoiser.reference():
                reference, _ = replay.distributions(index, step)
        gaussian, action = replay.distributions(index, step)
        kl = gaussian.kl(reference) if reference else None
        log_prob = self.policy.log_prob(gaussian, action)
        batch = StepBatch(
            log_prob=log_prob,
            old_log_prob=data.log_probs[index, step].to(action.device),
            advantage=data.advantages[index].to(log_prob),
        )
        if reference and kl is not None and self.objective.needs.reference:
            batch = replace(
                batch,
                reference_log_prob=self.policy.log_prob(reference, action),
                kl_to_reference=kl / data.num_elements if is_mean else kl,
            )
        return batch, None if kl is None else kl.detach() / data.num_elements

    def _step_weights(self, step_index: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the weight of each trained step's loss, with mean 1."""
        variance = torch.tensor(self.config.optimization.decided_variance, dtype=torch.float64)
        return step_weights(
            self.config.optimization.step_weights,
            self.policy.chain.sensitivity[step_index],
            variance[step_index] if len(variance) else None,
        )

    def _set_learning_rate(self, factor: float) -> float:
        """Set the learning rate to a multiple of the optimizer's initial one, as torch's LambdaLR does."""
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        return float(self.optimizer.param_groups[0]["lr"])

    def _step(self, round_number: int) -> float:
        """Take one optimizer step; return the gradient norm before clipping."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimization.max_grad_norm))
        if not math.isfinite(norm):
            raise RunStopped(round_number=round_number, cause=f"the gradient norm is {norm}.")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def _contain(
    steps: _Steps,
    snapshot: Snapshot | None,
    region: TrustRegion,
    replay: Replay,
    minibatch: Int[Tensor, "u m"],
    *,
    kl_after: float | None,
    round_number: int,
) -> None:
    """Shrink or revert the last optimizer step; without one, replay and sampling themselves differ by too much."""
    if snapshot is None:
        raise RunStopped(
            round_number=round_number,
            cause=f"replay differs from sampling by more than trust_region.max_kl = {region.max_kl} nats per element; "
            "use float32, or raise it.",
        )
    contained = region.contain(
        snapshot, kl_before=steps.kl, kl_after=kl_after, measure=lambda: replay.measure_kl(minibatch)
    )
    steps.kl, steps.last_scale = contained.kl, contained.step_scale


def _check_finite(values: Tensor, name: str, steps: Int[Tensor, " M"], round_number: int) -> None:
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        value = float(values[first].detach())
        raise RunStopped(
            round_number=round_number, cause=f"the {name} of denoising step {int(steps[first])} is {value}."
        )


def _mean_over_passes(passes: Sequence[_Pass]) -> dict[str, float]:
    names = sorted({name for done in passes for name in done.means})
    return {name: float(np.mean([done.means[name] for done in passes])) for name in names}
