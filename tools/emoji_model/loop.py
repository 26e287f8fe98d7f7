"""The training loop of all stages: AdamW, warm-up and cosine decay, resumable at any step.

Data is keyed by step (`rng(seed, step)`), so a resumed stage uses the same data as an uninterrupted one.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

_SAVE_EVERY_SECONDS = 60.0
_PRINT_EVERY_STEPS = 200
_WARMUP_STEPS = 200
_FINAL_LEARNING_RATE_FRACTION = 0.02
_AVERAGED_FRACTION = 0.25  # of the steps; the moving average has the decay 0.999 in 4,000

StepLoss = Callable[[int, np.random.Generator], tuple[Tensor, dict[str, float]]]


def rng(seed: int, step: int) -> np.random.Generator:
    """Create the random generator of one step."""
    return np.random.default_rng((seed, step))


def _learning_rate_fraction(step: int, num_steps: int) -> float:
    warmup = min(1.0, (step + 1) / _WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * step / num_steps))
    return warmup * (_FINAL_LEARNING_RATE_FRACTION + (1 - _FINAL_LEARNING_RATE_FRACTION) * cosine)


def fit(
    name: str,
    *,
    module: nn.Module,
    loss: StepLoss,
    num_steps: int,
    learning_rate: float,
    work: Path,
    seed: int,
    ema: nn.Module | None = None,
) -> None:
    """Minimize `loss(step, rng)` over the parameters of `module`; resume from `work/name.pt` if it exists.

    Args:
        name: name of the stage and of its state file.
        module: network to train in place.
        loss: computes the loss of one step, and metrics to print.
        num_steps: optimizer steps of the whole stage.
        learning_rate: peak learning rate of AdamW.
        work: folder of the state files.
        seed: random seed of the data.
        ema: copy of `module` that receives the exponential moving average of its weights.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=1e-3, betas=(0.9, 0.99))
    state_file = _StateFile(work / f"{name}.pt", module=module, optimizer=optimizer, ema=ema)
    first_step = state_file.load()

    def take_step(step: int) -> tuple[Tensor, dict[str, float]]:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _learning_rate_fraction(step, num_steps)
        value, numbers = loss(step, rng(seed, step))
        assert value.isfinite(), f"the loss of {name} is {value.item()} at step {step}"
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if ema is not None:
            decay = 1 - 1 / max(1.0, _AVERAGED_FRACTION * num_steps)
            _average(ema, module, min(decay, (step + 1) / (step + 10)))
        return value, numbers

    module.train()
    saved = printed = time.monotonic()
    for step in range(first_step, num_steps):
        value, numbers = take_step(step)
        now = time.monotonic()
        if (step + 1) % _PRINT_EVERY_STEPS == 0:
            shown = "  ".join(f"{key} {number:.4f}" for key, number in numbers.items())
            left = (now - printed) / _PRINT_EVERY_STEPS * (num_steps - step - 1) / 60
            print(f"{name} {step + 1}/{num_steps}  loss {value.item():.4f}  {shown}  {left:.1f} min left", flush=True)
            printed = now
        if now - saved > _SAVE_EVERY_SECONDS or step + 1 == num_steps:
            state_file.save(step + 1)
            saved = now
    module.eval()


class _StateFile:
    """State of a stage, in a file that is written atomically."""

    def __init__(
        self, path: Path, *, module: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None
    ) -> None:
        self.path = path
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {"module": module, "optimizer": optimizer}
        if ema is not None:
            self.parts["ema"] = ema

    def load(self) -> int:
        """Restore the state and return the number of completed steps, 0 without a file."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return state["step"]

    def save(self, step: int) -> None:
        """Save the state after `step` steps."""
        partial = self.path.with_suffix(".partial")
        torch.save({name: part.state_dict() for name, part in self.parts.items()} | {"step": step}, partial)
        partial.replace(self.path)


@torch.no_grad()
def _average(ema: nn.Module, module: nn.Module, decay: float) -> None:
    for mean, now in zip(ema.parameters(), module.parameters(), strict=True):
        mean.lerp_(now, 1 - decay)
