"""See that a run falls apart, and stop it: log-ratios, rewards or picture statistics that run away.

What is watched needs no second model and no second rollout: the reward and the contrast of the round's own pictures
against what the run started from, and the KL that the update has measured.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.config import settings
from b2diffurl.errors import RunStopped, UserError


@settings
class Collapse:
    """When a run counts as fallen apart (ours).

    Attributes:
        max_kl: nats an element that a whole round may have moved the policy, whatever the trust region is; 0.02 is a
            fifth of a step's noise.
        max_reward_drop: how far the mean reward may fall under the best round's, in standard deviations over the
            pictures of the first round whose rewards differ.
        max_contrast_factor: by what factor the pictures' mean contrast may grow or shrink against the first round's.
        max_refused_rounds: rounds in a row in which the trust region took back every single step.
    """

    max_kl: float = 0.02
    max_reward_drop: float = 2.0
    max_contrast_factor: float = 2.5
    max_refused_rounds: int = 3

    def __post_init__(self) -> None:
        for name, least in (("max_kl", 0.0), ("max_reward_drop", 0.0), ("max_contrast_factor", 1.0)):
            if not getattr(self, name) > least:
                raise UserError(f"collapse.{name} is {getattr(self, name)}; give a number above {least:g}.")
        if self.max_refused_rounds < 1:
            raise UserError(f"collapse.max_refused_rounds is {self.max_refused_rounds}; give 1 or more.")


def contrast(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """Standard deviation of each picture's values, 0 to 0.5."""
    return images.float().flatten(1).std(dim=1, correction=0)


@dataclass(kw_only=True)
class CollapseWatch:
    """The numbers a run is compared with; part of its checkpoint."""

    config: Collapse
    first_reward_std: float | None = None
    first_contrast: float | None = None
    best_reward: float = -float("inf")
    refused_rounds: int = 0
    _names: tuple[str, ...] = field(
        default=("first_reward_std", "first_contrast", "best_reward", "refused_rounds"), init=False, repr=False
    )

    def after_sampling(self, rewards: Float[Tensor, " B"], images_contrast: float, *, round_index: int) -> None:
        """Compare a round's rewards and pictures with the run's start.

        Raises:
            RunStopped: they have run away.
        """
        mean, std = float(rewards.mean()), float(rewards.std(correction=0))
        if self.first_contrast is None:
            self.first_contrast = images_contrast
        if not self.first_reward_std:  # a sparse reward can begin with rounds in which all are equal
            self.first_reward_std = std
        drop = self.best_reward - mean
        if self.first_reward_std > 0 and drop > self.config.max_reward_drop * self.first_reward_std:
            raise RunStopped(
                round_index=round_index,
                first_bad_round=round_index - 1,  # these pictures are what the round before has made of the policy
                cause=f"the mean reward fell from {self.best_reward:.3f} to {mean:.3f}; "
                "lower optimization.learning_rate in a new run.",
            )
        limit, low, high = self.config.max_contrast_factor, *sorted((self.first_contrast, images_contrast))
        if high > limit * low:
            raise RunStopped(
                round_index=round_index,
                first_bad_round=round_index - 1,
                cause=f"the pictures' contrast went from {self.first_contrast:.3f} to {images_contrast:.3f}; "
                "lower optimization.learning_rate in a new run.",
            )
        self.best_reward = max(self.best_reward, mean)

    def after_update(self, metrics: dict[str, float | int | None], *, round_index: int) -> None:
        """Look at how far a round's update went.

        Raises:
            RunStopped: too far, or the trust region has taken back every step for rounds on end.
        """
        kl = metrics["policy/kl_to_old"]
        if kl is not None and not kl <= self.config.max_kl:
            raise RunStopped(
                round_index=round_index,
                cause=f"the policy moved by {kl:.3g} nats an element in one round; lower optimization.learning_rate.",
            )
        refused = bool(metrics["update/step_reverted"]) and metrics["update/num_optimizer_steps"] == 0
        self.refused_rounds = self.refused_rounds + 1 if refused else 0
        if self.refused_rounds >= self.config.max_refused_rounds:
            raise RunStopped(
                round_index=round_index,
                cause=f"in {self.refused_rounds} rounds in a row the first optimizer step left the trust region; "
                "lower optimization.learning_rate.",
            )

    def state(self) -> dict[str, float | int | None]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in self._names}

    def load_state(self, state: dict[str, float | int | None]) -> None:
        """Put back what `state` gave."""
        for name in self._names:
            setattr(self, name, state[name])


def check_finite_rewards(rewards: Tensor, num: int, *, round_index: int) -> None:
    """Refuse rewards that are not one finite number a picture.

    Raises:
        RunStopped: they are not.
    """
    if tuple(rewards.shape) != (num,):
        raise RunStopped(
            round_index=round_index, cause=f"the reward gave shape {tuple(rewards.shape)} for {num} pictures."
        )
    bad = ~torch.isfinite(rewards.double())
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise RunStopped(round_index=round_index, cause=f"the reward of picture {first} is {float(rewards[first])}.")
