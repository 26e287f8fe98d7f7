"""One round's optimizer steps over the selected trajectories, held inside a trust region.

Selected trajectories are shuffled and split into minibatches; each optimizer step sees all interval steps of its
trajectories. Gradients are means over the real number of steps: nothing is dropped, padded or carried over.

Shapes: S selected trajectories, n trained steps, M single steps in one forward pass.
"""

# Tensor.tolist and Tensor.split have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from b2diffurl.config import settings
from b2diffurl.contracts import Objective
from b2diffurl.diffusion.ddim import DDIM
from b2diffurl.diffusion.gaussian import Gaussian, LogProbReduction
from b2diffurl.errors import RunStopped, UserError
from b2diffurl.records import Selection, StepBatch, Trajectories
from b2diffurl.rollout import Denoiser, policy_step


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

    The distance is KL(old || new) of one denoising step in nats, estimated on the round's own actions by half the
    squared log-ratio (Schulman 2020, "Approximating KL divergence", estimator k2), the log-ratio summed over the
    latent's elements. An optimizer step that leaves the region is taken back and ends the round's update.

    Attributes:
        max_kl: nats a step, > 0; "inf" switches the region off.
    """

    max_kl: float = 2.0

    def __post_init__(self) -> None:
        if not self.max_kl > 0:
            raise UserError(f"trust_region.max_kl is {self.max_kl}; give nats above 0, such as 2.0, or inf for none.")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    """What one forward and backward pass over a minibatch showed."""

    loss: float
    kl: float
    clip_fraction: float
    ratio_max_error: float


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
        on_progress: called with the number of single steps that each forward pass has done.
    """

    def __init__(
        self,
        *,
        policy: Denoiser,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        ddim: DDIM,
        objective: Objective,
        config: Optimization,
        trust_region: TrustRegion,
        guidance_scale: float,
        log_prob_reduction: LogProbReduction = "mean",
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.policy, self.optimizer, self.ddim, self.objective = policy, optimizer, ddim, objective
        self.parameters = list(parameters.values())
        self.config, self.max_kl, self.guidance_scale = config, trust_region.max_kl, guidance_scale
        self.reduction: LogProbReduction = log_prob_reduction
        self.on_progress = on_progress

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
        for minibatch in self._minibatches(selection, seed=seed, round_index=round_index):
            done = self._forward_backward(trajectories, advantages, minibatch, round_index)
            if done is None:
                assert before is not None, "replay does not equal rollout"
                self._put_back(before)
                taken_back, before = 1, None
                break
            passes.append(done)
            kl = done.kl
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
            "objective/loss": float(np.mean([p.loss for p in passes])) if passes else None,
            "objective/clip_fraction": float(np.mean([p.clip_fraction for p in passes])) if passes else None,
            "policy/ratio_max_error": passes[0].ratio_max_error if passes else None,
            "policy/grad_norm": float(np.mean(grad_norms)) if grad_norms else None,
            "policy/kl_to_old": kl if passes else None,
            "update/num_optimizer_steps": len(grad_norms) - taken_back,
            "update/taken_back": taken_back,
        }

    def _minibatches(self, selection: Selection, *, seed: int, round_index: int) -> Iterator[Int[Tensor, " s"]]:
        rng = np.random.default_rng((seed, round_index, 1))
        for _ in range(self.config.num_inner_epochs if len(selection) else 0):
            order = selection.index[torch.from_numpy(rng.permutation(len(selection)))]
            yield from order.tensor_split(min(self.config.num_minibatches, len(order)))

    def _forward_backward(
        self, trajectories: Trajectories, advantages: Tensor, minibatch: Int[Tensor, " s"], round_index: int
    ) -> _Pass | None:
        """Accumulate the gradient of a minibatch; None where the policy has left the trust region."""
        loss_sum, kl_sum, clipped, max_error, num = 0.0, 0.0, 0.0, 0.0, len(minibatch) * trajectories.num_steps
        weights = self._step_weights(trajectories.step_index)
        for index, step in self._micro_batches(trajectories, minibatch):
            gaussian, action = self._replay(trajectories, index, step)
            old = trajectories.log_probs[index, step]
            batch = StepBatch(
                log_prob=gaussian.log_prob(action, reduction=self.reduction),
                old_log_prob=old.to(action.device),
                advantage=advantages[index].to(action.device),
            )
            self._check_finite(batch.log_prob, "log-prob", trajectories, step, round_index)
            log_ratio = (batch.log_prob - batch.old_log_prob).detach()
            kl_sum += float(self._kl(log_ratio, action).sum())
            if kl_sum / num > self.max_kl:  # no term is negative: the rest cannot bring it back
                return None
            loss = self.objective.loss(batch)
            self._check_finite(loss, "loss", trajectories, step, round_index)
            ((loss * weights[step].to(loss.device)).sum() / num).backward()
            loss_sum += float(loss.detach().sum())
            max_error = max(max_error, float(log_ratio.exp().sub(1).abs().max()))
            if hasattr(self.objective, "is_clipped"):
                clipped += float(self.objective.is_clipped(batch).sum())  # pyright: ignore[reportAttributeAccessIssue]
            self.on_progress(len(index))
        return _Pass(loss=loss_sum / num, kl=kl_sum / num, clip_fraction=clipped / num, ratio_max_error=max_error)

    def _step_weights(self, step_index: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Weight of each trained step's loss, mean 1."""
        if self.config.step_weights == "equal":
            return torch.ones(len(step_index))
        weights = 1 / self.ddim.sensitivity[step_index]
        return (weights / weights.mean()).float()

    @torch.no_grad()
    def _measure_kl(self, trajectories: Trajectories, minibatch: Int[Tensor, " s"]) -> float:
        kl_sum, num = 0.0, 0
        for index, step in self._micro_batches(trajectories, minibatch):
            gaussian, action = self._replay(trajectories, index, step)
            log_ratio = (
                gaussian.log_prob(action, reduction=self.reduction).cpu() - trajectories.log_probs[index, step].cpu()
            )
            kl_sum += float(self._kl(log_ratio, action).sum())
            num += len(index)
        return kl_sum / num

    def _micro_batches(
        self, trajectories: Trajectories, minibatch: Int[Tensor, " s"]
    ) -> Iterator[tuple[Int[Tensor, " M"], Int[Tensor, " M"]]]:
        """Pairs (trajectory, trained step) of a minibatch, `micro_batch_size` at a time."""
        n = trajectories.num_steps
        index, step = minibatch.repeat_interleave(n), torch.arange(n).repeat(len(minibatch))
        size = self.config.micro_batch_size
        yield from zip(index.split(size), step.split(size), strict=True)

    def _replay(
        self, trajectories: Trajectories, index: Int[Tensor, " M"], step: Int[Tensor, " M"]
    ) -> tuple[Gaussian, Tensor]:
        x = trajectories.latents[index, step].to(self.policy.device)
        action = trajectories.latents[index, step + 1].to(self.policy.device)
        prompts = [trajectories.prompts[i] for i in index.tolist()]
        step_index = trajectories.step_index[step]
        gaussian = policy_step(self.policy, self.ddim, x, step_index, prompts, guidance_scale=self.guidance_scale)
        return gaussian, action

    def _kl(self, log_ratio: Float[Tensor, " M"], action: Float[Tensor, "M C H W"]) -> Float[Tensor, " M"]:
        elements = action[0].numel() if self.reduction == "mean" else 1
        return 0.5 * (log_ratio * elements) ** 2

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
