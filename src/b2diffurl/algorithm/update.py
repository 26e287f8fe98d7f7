"""One round's optimizer steps over the selected trajectories, held inside a trust region.

What is trained on, a **unit**, is a selected trajectory, or a pair of them for an objective that needs pairs. Units are
shuffled and split into minibatches; each optimizer step sees all interval steps of its units. Gradients are means over
the real number of steps: nothing is dropped, padded or carried over.

Shapes: U units of m trajectories (1, or 2 for pairs), n trained steps, u single steps of units in one forward pass over
M = m u single steps.
"""

# Tensor.tolist and Tensor.split have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from b2diffurl.algorithm.interfaces import Objective
from b2diffurl.algorithm.records import Selection, StepBatch, Trajectories
from b2diffurl.algorithm.rollout import Denoiser, policy_step
from b2diffurl.config import settings
from b2diffurl.diffusion.ddim import DDIM
from b2diffurl.diffusion.gaussian import Gaussian, LogProbReduction, kl_of_log_ratios
from b2diffurl.distributed import Ranks
from b2diffurl.errors import RunStopped, UserError


@settings
class Optimization:
    """AdamW and how a round's data is cut; defaults of the reference run unless a line says "ours".

    Attributes:
        learning_rate: of AdamW.
        betas: of AdamW.
        weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this norm.
        num_inner_epochs: passes over the selected trajectories of a round.
        num_minibatches: optimizer steps a pass (ours: the reference fixes their size instead).
        micro_batch_size: single steps in one forward pass; changes memory and speed, and results by rounding only.
        step_weights: "equal", as in the paper, or "even" (ours): a step's loss is divided by its log-prob's sensitivity
            to the network (`DDIM.sensitivity`), mean 1 over the interval, so that no step drowns the others.
    """

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    num_inner_epochs: int = 2
    num_minibatches: int = 4
    micro_batch_size: int = 64
    step_weights: Literal["equal", "even"] = "equal"

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"optimization.learning_rate is {self.learning_rate}; give a number above 0, such as 1e-4.")
        if not self.max_grad_norm > 0:
            raise UserError(f"optimization.max_grad_norm is {self.max_grad_norm}; give a number above 0, such as 1.")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"optimization.weight_decay is {self.weight_decay}; give 0 or more.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimization.betas is {self.betas}; give two numbers from 0 to below 1.")
        for name in ("num_inner_epochs", "num_minibatches", "micro_batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"optimization.{name} is {getattr(self, name)}; give 1 or more.")


@settings
class TrustRegion:
    """How far one round may move the policy (ours: the clip range on averaged log-probs hardly ever binds).

    The distance is KL(old || new) of one denoising step in nats an element of the latent, so that one limit serves
    latents of any size; it is estimated on the round's own actions (`kl_of_log_ratios`). An optimizer step that leaves
    the region is taken back and ends the round's update.

    Attributes:
        max_kl: nats an element, > 0; 0.005 lets a step's mean move by a tenth of its noise. "inf" switches the region
            off.
    """

    max_kl: float = 0.005

    def __post_init__(self) -> None:
        if not self.max_kl > 0:
            raise UserError(
                f"trust_region.max_kl is {self.max_kl}; give nats an element above 0, such as 0.005, or inf for none."
            )


@runtime_checkable
class Trained(Denoiser, Protocol):
    """What the update needs of a policy besides sampling."""

    def reference(self) -> AbstractContextManager[None]:
        """Within this context it is the pretrained model."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    """What one forward and backward pass over a minibatch, or over a process's part of it, showed.

    Attributes:
        squares: squared log-ratios in nats, summed over single steps.
        ratio_max_error: largest |ratio - 1|.
        means: of the metrics.
    """

    squares: float
    ratio_max_error: float
    means: dict[str, float]


class Update:
    """The update of one round.

    Args:
        policy: gives predictions under its present weights.
        parameters: the trained parameters by name.
        optimizer: over these parameters.
        ddim: the denoising chain.
        objective: gives the loss of every step.
        config: how the data is cut.
        trust_region: how far the round may move the policy.
        guidance_scale: the same as in sampling.
        log_prob_reduction: the same as in sampling.
        log_kl_to_reference: measure the KL to the reference whether the objective needs it or not.
        replay_first: take the old log-probs from a replay before the first optimizer step, in the very shapes of
            training, instead of from sampling: half precision rounds differently in other batch shapes. One more
            forward pass over what is selected.
        processes: that share the work; the trajectories are the same in all of them.
        on_progress: called with the number of single steps that each forward pass has done.
    """

    def __init__(
        self,
        *,
        policy: Trained,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        ddim: DDIM,
        objective: Objective,
        config: Optimization,
        trust_region: TrustRegion,
        guidance_scale: float,
        log_prob_reduction: LogProbReduction = "mean",
        log_kl_to_reference: bool = False,
        replay_first: bool = False,
        processes: Ranks = Ranks(),  # noqa: B008 - frozen
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.policy, self.optimizer, self.ddim, self.objective = policy, optimizer, ddim, objective
        self.parameters = list(parameters.values())
        self.config, self.max_kl, self.guidance_scale = config, trust_region.max_kl, guidance_scale
        self.reduction: LogProbReduction = log_prob_reduction
        self.replay_first, self.processes = replay_first, processes
        self.num_members = 2 if objective.needs.pairs else 1
        self.with_reference = objective.needs.reference or log_kl_to_reference
        self.on_progress = on_progress

    def num_single_steps(self, trajectories: Trajectories, selection: Selection) -> int:
        """Single steps that the round's passes do, which is what `on_progress` counts."""
        return self._units(selection).numel() * trajectories.num_steps * self.config.num_inner_epochs

    def __call__(
        self,
        trajectories: Trajectories,
        advantages: Float[Tensor, " B"],
        selection: Selection,
        *,
        seed: int,
        round_index: int,
    ) -> dict[str, float | int | None]:
        """Take the round's optimizer steps and return its metrics.

        Args:
            trajectories: of the round.
            advantages: one a trajectory.
            selection: the trajectories to train on; an empty one is a round without an update.
            seed: of the shuffling.
            round_index: counted from 1.

        Raises:
            RunStopped: a log-prob, loss or gradient is not finite; the weights are then those before that step.
        """
        passes: list[_Pass] = []
        grad_norms: list[float] = []
        kl, taken_back, before = 0.0, 0, None
        self.optimizer.zero_grad(set_to_none=True)
        replay_error = None
        if self.replay_first:
            trajectories, replay_error = self._replayed(trajectories, selection, seed=seed, round_index=round_index)
        for minibatch in self._minibatches(selection, seed=seed, round_index=round_index):
            done = self._forward_backward(trajectories, advantages, minibatch, round_index)
            if done is None and before is None:
                raise RunStopped(
                    round_index=round_index,
                    cause=f"replay differs from sampling by more than trust_region.max_kl = {self.max_kl} nats an "
                    "element; use float32, or raise it.",
                )
            if done is None:
                assert before is not None
                self._put_back(before)
                taken_back, before = 1, None
                break
            passes.append(done)
            kl = self._kl(done.squares, trajectories, minibatch)
            before = self._snapshot()
            grad_norms.append(self._step(round_index))
        self.optimizer.zero_grad(set_to_none=True)
        if before is not None:  # the last step has not been measured yet
            last_kl = self._measure_kl(trajectories, minibatch)  # pyright: ignore[reportPossiblyUnboundVariable]
            if last_kl <= self.max_kl:
                kl = last_kl
            else:
                self._put_back(before)
                taken_back = 1
        return {
            **_mean_over_passes(passes),
            "policy/ratio_max_error": _first_error(passes, replay_error),
            "policy/grad_norm": float(np.mean(grad_norms)) if grad_norms else None,
            "policy/kl_to_old": kl if passes else None,
            "update/num_optimizer_steps": len(grad_norms) - taken_back,
            "update/step_reverted": taken_back,
        }

    def _units(self, selection: Selection) -> Int[Tensor, "U m"]:
        return selection.pairs if self.num_members == 2 else selection.index[:, None]

    def _minibatches(self, selection: Selection, *, seed: int, round_index: int) -> Iterator[Int[Tensor, "U m"]]:
        rng = np.random.default_rng((seed, round_index, 1))
        units = self._units(selection)
        for _ in range(self.config.num_inner_epochs if len(units) else 0):
            order = units[torch.from_numpy(rng.permutation(len(units)))]
            yield from order.tensor_split(min(self.config.num_minibatches, len(order)))

    def _forward_backward(
        self, trajectories: Trajectories, advantages: Tensor, minibatch: Int[Tensor, "U m"], round_index: int
    ) -> _Pass | None:
        """Accumulate the gradient of a minibatch; None where the policy has left the trust region."""
        num_units = len(minibatch) * trajectories.num_steps
        done = self.processes.together(
            lambda: self._own_part(trajectories, advantages, minibatch, num_units, round_index)
        )
        squares = sum(part.squares for part in done)
        if not self._kl(squares, trajectories, minibatch) <= self.max_kl:
            return None
        self.processes.sum_gradients(self.parameters)
        names = sorted({name for part in done for name in part.means})
        return _Pass(
            squares=squares,
            ratio_max_error=max(part.ratio_max_error for part in done),
            means={name: sum(part.means.get(name, 0.0) for part in done) for name in names},
        )

    def _own_part(
        self,
        trajectories: Trajectories,
        advantages: Tensor,
        minibatch: Int[Tensor, "U m"],
        num_units: int,
        round_index: int,
    ) -> _Pass:
        """This process's part of a pass; its means are its parts of them."""
        squares, max_error, num_steps = 0.0, 0.0, num_units * self.num_members
        means: dict[str, float] = {}
        weights = self._step_weights(trajectories.step_index)
        for index, step in self._micro_batches(trajectories, self._share(minibatch)):
            batch, kl_to_reference = self._batch(trajectories, advantages, index, step)
            self._check_finite(batch.log_prob, "log-prob", trajectories, step, round_index)
            log_ratio = (batch.log_prob - batch.old_log_prob).detach()
            squares += self._squares(log_ratio, trajectories)
            if self._kl(squares, trajectories, minibatch) > self.max_kl:  # the rest cannot bring it back
                break
            loss = self.objective.loss(batch)
            self._check_finite(loss, "loss", trajectories, step, round_index)
            ((loss * weights[step[: len(loss)]].to(loss.device)).sum() / num_units).backward()
            max_error = max(max_error, float(log_ratio.exp().sub(1).abs().max()))
            with torch.no_grad():
                told = {f"objective/{name}": values for name, values in self.objective.metrics(batch).items()}
            told |= {"objective/loss": loss.detach()}
            for name, values in told.items():
                means[name] = means.get(name, 0.0) + float(values.sum()) / num_units
            if kl_to_reference is not None:
                name = "policy/kl_to_reference"
                means[name] = means.get(name, 0.0) + float(kl_to_reference.sum()) / num_steps
            self.on_progress(len(index))
        return _Pass(squares=squares, ratio_max_error=max_error, means=means)

    def _share(self, minibatch: Int[Tensor, "U m"]) -> Int[Tensor, "u m"]:
        share = self.processes.share(len(minibatch))
        return minibatch[share.start : share.stop]

    def _batch(
        self, trajectories: Trajectories, advantages: Tensor, index: Int[Tensor, " M"], step: Int[Tensor, " M"]
    ) -> tuple[StepBatch, Float[Tensor, " M"] | None]:
        """What the objective sees, with gradient, and the KL to the reference in nats an element."""
        reference = None
        if self.with_reference:  # first, so that its memory is free again before the gradient's is taken
            with torch.no_grad(), self.policy.reference():
                reference, _ = self._replay(trajectories, index, step)
        gaussian, action = self._replay(trajectories, index, step)
        kl, num_elements = gaussian.kl(reference) if reference else None, action[0].numel()
        log_prob = gaussian.log_prob(action, reduction=self.reduction)
        batch = StepBatch(
            log_prob=log_prob,
            old_log_prob=trajectories.log_probs[index, step].to(action.device),
            advantage=advantages[index].to(log_prob),
        )
        if reference and kl is not None and self.objective.needs.reference:
            batch = replace(
                batch,
                reference_log_prob=reference.log_prob(action, reduction=self.reduction),
                kl_to_reference=kl / num_elements if self.reduction == "mean" else kl,
            )
        return batch, None if kl is None else kl.detach() / num_elements

    @torch.no_grad()
    def _replayed(
        self, trajectories: Trajectories, selection: Selection, *, seed: int, round_index: int
    ) -> tuple[Trajectories, float]:
        """The trajectories with log-probs in the shapes of training, and how far the ratios to the sampled ones are."""
        log_probs, error = trajectories.log_probs.cpu().clone(), 0.0
        num_first_epoch = min(self.config.num_minibatches, len(self._units(selection)))
        minibatches = self._minibatches(selection, seed=seed, round_index=round_index)
        mine: list[tuple[Tensor, Tensor, Tensor]] = []
        for minibatch in islice(minibatches, num_first_epoch):
            for index, step in self._micro_batches(trajectories, self._share(minibatch)):
                gaussian, action = self._replay(trajectories, index, step)
                mine.append((index, step, gaussian.log_prob(action, reduction=self.reduction).cpu()))
        for index, step, now in chain.from_iterable(self.processes.gather(mine)):
            error = max(error, float((now - log_probs[index, step]).exp().sub(1).abs().max()))
            log_probs[index, step] = now
        return replace(trajectories, log_probs=log_probs), error

    def _step_weights(self, step_index: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Weight of each trained step's loss, mean 1."""
        if self.config.step_weights == "equal":
            return torch.ones(len(step_index))
        weights = 1 / self.ddim.sensitivity[step_index]
        return (weights / weights.mean()).float()

    @torch.no_grad()
    def _measure_kl(self, trajectories: Trajectories, minibatch: Int[Tensor, "U m"]) -> float:
        squares = 0.0
        for index, step in self._micro_batches(trajectories, self._share(minibatch)):
            gaussian, action = self._replay(trajectories, index, step)
            log_prob = gaussian.log_prob(action, reduction=self.reduction).cpu()
            squares += self._squares(log_prob - trajectories.log_probs[index, step].cpu(), trajectories)
        return self._kl(sum(self.processes.gather(squares)), trajectories, minibatch)

    def _micro_batches(
        self, trajectories: Trajectories, minibatch: Int[Tensor, "U m"]
    ) -> Iterator[tuple[Int[Tensor, " M"], Int[Tensor, " M"]]]:
        """Single steps (trajectory, trained step) of a minibatch, `micro_batch_size` at a time, first members first."""
        n, m = trajectories.num_steps, self.num_members
        unit, step = torch.arange(len(minibatch)).repeat_interleave(n), torch.arange(n).repeat(len(minibatch))
        size = max(1, self.config.micro_batch_size // m)
        if not len(minibatch):  # another process has all of it
            return
        for units, steps in zip(unit.split(size), step.split(size), strict=True):
            yield minibatch[units].T.flatten(), steps.repeat(m)

    def _replay(
        self, trajectories: Trajectories, index: Int[Tensor, " M"], step: Int[Tensor, " M"]
    ) -> tuple[Gaussian, Tensor]:
        x = trajectories.latents[index, step].to(self.policy.device)
        action = trajectories.latents[index, step + 1].to(self.policy.device)
        prompts = [trajectories.prompts[i] for i in index.tolist()]
        step_index = trajectories.step_index[step]
        gaussian = policy_step(self.policy, self.ddim, x, step_index, prompts, guidance_scale=self.guidance_scale)
        return gaussian, action

    def _squares(self, log_ratio: Float[Tensor, " M"], trajectories: Trajectories) -> float:
        elements = trajectories.latents[0, 0].numel() if self.reduction == "mean" else 1
        return float(((log_ratio * elements) ** 2).sum())

    def _kl(self, squares: float, trajectories: Trajectories, minibatch: Int[Tensor, "U m"]) -> float:
        """Distance to the policy that sampled, in nats an element, of a minibatch's log-ratios."""
        num_steps = minibatch.numel() * trajectories.num_steps
        return kl_of_log_ratios(squares / num_steps, num_elements=trajectories.latents[0, 0].numel())

    def _step(self, round_index: int) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not np.isfinite(norm):
            raise RunStopped(round_index=round_index, cause=f"the gradient's norm is {norm}.")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _snapshot(self) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """Weights and the optimizer's state of each parameter."""
        return [
            (p.detach().clone(), {key: value.clone() for key, value in self.optimizer.state.get(p, {}).items()})
            for p in self.parameters
        ]

    @torch.no_grad()
    def _put_back(self, before: list[tuple[Tensor, dict[str, Tensor]]]) -> None:
        for parameter, (old, state) in zip(self.parameters, before, strict=True):
            parameter.copy_(old)
            if state:
                self.optimizer.state[parameter].update(state)
            else:
                self.optimizer.state.pop(parameter, None)

    def _check_finite(
        self, values: Tensor, name: str, trajectories: Trajectories, step: Tensor, round_index: int
    ) -> None:
        bad = ~torch.isfinite(values)
        if bool(bad.any()):
            first = int(bad.nonzero()[0])
            where = int(trajectories.step_index[step[first]])
            value = float(values[first].detach())
            raise RunStopped(round_index=round_index, cause=f"the {name} of denoising step {where} is {value}.")


def _first_error(passes: list[_Pass], replay_error: float | None) -> float | None:
    """|ratio - 1| between sampling and replay, before the first optimizer step."""
    if not passes:
        return None
    return passes[0].ratio_max_error if replay_error is None else replay_error


def _mean_over_passes(passes: list[_Pass]) -> dict[str, float | int | None]:
    """Each number's mean over the round's passes; the loss is there even where there was none."""
    names = {name for done in passes for name in done.means}
    found = {name: float(np.mean([done.means[name] for done in passes])) for name in sorted(names)}
    return {"objective/loss": None} | found
