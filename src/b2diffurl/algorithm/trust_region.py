"""The trust region: how far one round may move the policy (ours).

PPO's clip range on averaged log-probs hardly ever binds: with 16,384 elements in a latent, 0.1 is 1,562 nats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from b2diffurl.config import settings

_MAX_TRIES = 3
_MARGIN = 0.95  # of the step to the border: the KL is only about quadratic


@dataclass(frozen=True, kw_only=True, slots=True)
class Contained:
    """The part of an optimizer step that the trust region keeps.

    Attributes:
        step_scale: fraction of the step, 0 (reverted) to below 1.
        kl: distance to the policy that sampled, in nats per element.
    """

    step_scale: float
    kl: float


@settings(table="trust_region")
class TrustRegion:
    """A limit on KL(old || new) of one denoising step, in nats per element of the latent.

    Per element, so that one limit serves latents of any size. The KL is estimated on the round's own actions
    (`kl_of_log_ratios`). An optimizer step that leaves the region ends the round's update.

    Attributes:
        max_kl: nats per element, > 0; 0.005 lets a step's mean move by a tenth of its noise. "inf" switches the region
            off.
        on_exceed: "shrink" scales a step that leaves the region down to its border, "revert" reverts it.
    """

    max_kl: Annotated[float, Gt(0)] = 0.005
    on_exceed: Literal["shrink", "revert"] = "shrink"

    def contain(
        self, snapshot: "Snapshot", *, kl_before: float, kl_after: float | None, measure: Callable[[], float]
    ) -> Contained:
        """Shrink or revert the optimizer step that was taken after the snapshot and left the region.

        The square root of the KL grows at most linearly along the step, from its value before to that after, so the
        border is not nearer than the fraction (sqrt(max_kl) - sqrt(before)) / (sqrt(after) - sqrt(before)) of the step,
        which is sqrt(max_kl / after) for the first step of a round. The KL is measured after shrinking; a step that is
        still outside after three tries is reverted. AdamW's state remains that after the step, unless it is reverted.

        Args:
            snapshot: weights and optimizer state before the step.
            kl_before: KL of the weights before the step, which may have been measured on another minibatch.
            kl_after: KL of the weights after the step, above `max_kl`; None if it is not known exactly.
            measure: returns the KL of the current weights on one minibatch.
        """
        scale = 1.0
        if self.on_exceed == "shrink":
            kl = measure() if kl_after is None else kl_after
            snapshot.keep_step(0.0)
            kl_start = measure()
            for _ in range(_MAX_TRIES):
                fraction = _MARGIN * _fraction_to_border(self.max_kl, kl_before=kl_start, kl_after=kl)
                if not fraction > 0:  # a KL is not finite, or the step began outside on this minibatch
                    break
                scale *= fraction
                snapshot.keep_step(scale)
                kl = measure()
                if kl <= self.max_kl:
                    return Contained(step_scale=scale, kl=kl)
        snapshot.restore()
        return Contained(step_scale=0.0, kl=kl_before)


def _fraction_to_border(max_kl: float, *, kl_before: float, kl_after: float) -> float:
    """Return the fraction of a step at which the KL is `max_kl`, if its square root grows linearly.

    >>> _fraction_to_border(1.0, kl_before=0.0, kl_after=16.0), _fraction_to_border(4.0, kl_before=1.0, kl_after=16.0)
    (0.25, 0.3333333333333333)
    """
    if kl_after <= max_kl:  # outside on another minibatch, inside on this measurement
        return 1.0
    start = math.sqrt(kl_before)
    return (math.sqrt(max_kl) - start) / (math.sqrt(kl_after) - start)


@dataclass(frozen=True, slots=True)
class _Saved:
    parameter: Tensor
    value: Tensor
    state: dict[str, Tensor]


class Snapshot:
    """The parameters of an optimizer and its state for them, to be restored.

    Args:
        optimizer: AdamW, or any other optimizer whose state is tensors.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._after: list[Tensor] = []
        self._saved = [
            _Saved(
                parameter,
                parameter.detach().clone(),
                {key: value.clone() for key, value in optimizer.state.get(parameter, {}).items()},
            )
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]

    @torch.no_grad()
    def keep_step(self, fraction: float) -> None:
        """Set the weights to the saved ones plus a fraction of the step; the optimizer state is unchanged.

        Args:
            fraction: 0 to 1 of the way from the saved weights to those of the first call of this method.
        """
        if not self._after:
            self._after = [saved.parameter.detach().clone() for saved in self._saved]
        for saved, after in zip(self._saved, self._after, strict=True):
            saved.parameter.copy_(torch.lerp(saved.value, after, fraction))

    @torch.no_grad()
    def restore(self) -> None:
        """Restore weights and optimizer state."""
        for saved in self._saved:
            saved.parameter.copy_(saved.value)
            if saved.state:
                self._optimizer.state[saved.parameter].update(saved.state)
            else:
                self._optimizer.state.pop(saved.parameter, None)
