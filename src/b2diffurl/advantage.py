"""Advantages: rewards normalised per prompt over this round and the last H (paper, appendix D.1).

Statistics are float64. A prompt with fewer than two rewards, or whose rewards hardly differ, gets advantage 0: never
a NaN, never noise blown up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.config import settings
from b2diffurl.errors import UserError


@settings
class PromptHistory:
    """How advantages are normalised.

    Attributes:
        use: the normaliser's name.
        num_rounds: H, past rounds whose rewards count besides this round's; the reference run's is 8.
        std_floor: a prompt whose rewards have a smaller standard deviation gets advantage 0; in the reward's unit.
        max_advantage: advantages are clipped to plus and minus this.
    """

    use: Literal["prompt-history"] = "prompt-history"
    num_rounds: int = 8
    std_floor: float = 1e-4
    max_advantage: float = 5.0

    def __post_init__(self) -> None:
        if self.num_rounds < 0:
            raise UserError(f"advantage.num_rounds is {self.num_rounds}; give 0 or more past rounds.")
        if not self.std_floor > 0:
            raise UserError(f"advantage.std_floor is {self.std_floor}; give a number above 0, such as 1e-4.")
        if not self.max_advantage > 0:
            raise UserError(f"advantage.max_advantage is {self.max_advantage}; give a number above 0, such as 5.")


@dataclass(kw_only=True)
class RewardHistory:
    """The rewards of the last rounds by prompt: (prompt, reward) lists, the newest round last."""

    config: PromptHistory
    rounds: list[dict[str, list[float]]] = field(default_factory=list[dict[str, list[float]]])

    def advantages(self, rewards: Tensor, prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Normalise this round's rewards and remember them.

        Args:
            rewards: one a trajectory; float, int or bool.
            prompts: one a trajectory; compared by their full text.

        Returns:
            (r - mean) / std over the prompt's rewards in this round and the last H, clipped; float32.
        """
        now: dict[str, list[float]] = {}
        values: list[float] = rewards.to(torch.float64).tolist()  # pyright: ignore[reportUnknownVariableType]
        for prompt, value in zip(prompts, values, strict=True):
            now.setdefault(prompt, []).append(value)
        self.rounds = [*self.rounds, now][-self.config.num_rounds - 1 :]
        scale = {prompt: self._mean_and_std(prompt) for prompt in now}
        limit = self.config.max_advantage
        out = [
            0.0 if std is None else min(limit, max(-limit, (value - mean) / std))
            for value, (mean, std) in zip(values, (scale[prompt] for prompt in prompts), strict=True)
        ]
        return torch.tensor(out, dtype=torch.float32)

    def _mean_and_std(self, prompt: str) -> tuple[float, float | None]:
        known = np.array([value for past in self.rounds for value in past.get(prompt, [])], dtype=np.float64)
        std = float(known.std())
        enough = len(known) >= 2 and std >= self.config.std_floor
        return float(known.mean()), std if enough else None
