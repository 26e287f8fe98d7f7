"""The trust region: how far one round may move the policy (ours).

PPO's clip range on averaged log-probs hardly ever binds: with 16,384 elements in a latent, 0.1 is 1,562 nats.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from b2diffurl.config import settings


@settings(table="trust_region")
class TrustRegion:
    """A limit on KL(old || new) of one denoising step, in nats per element of the latent.

    Per element, so that one limit serves latents of any size. The KL is estimated on the round's own actions
    (`kl_of_log_ratios`). An optimizer step that leaves the region is reverted and ends the round's update.

    Attributes:
        max_kl: nats per element, > 0; 0.005 lets a step's mean move by a tenth of its noise. "inf" switches the region
            off.
    """

    max_kl: Annotated[float, Gt(0)] = 0.005


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
    def restore(self) -> None:
        """Restore weights and optimizer state."""
        for saved in self._saved:
            saved.parameter.copy_(saved.value)
            if saved.state:
                self._optimizer.state[saved.parameter].update(saved.state)
            else:
                self._optimizer.state.pop(saved.parameter, None)
