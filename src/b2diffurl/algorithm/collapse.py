"""Collapse detection: stop a run whose policy, rewards or images diverge (ours).

It needs no second model and no second rollout: it compares the rewards and the contrast of each round's own images with
those the run started from, and checks the KL that the update has measured.

Shapes: B images of 3 x H x W in [0, 1]; G branch groups of K trajectories.
"""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.records import Scores
from b2diffurl.algorithm.update import UpdateResult
from b2diffurl.config import PositiveInt, settings
from b2diffurl.errors import RunStopped


@settings(table="collapse")
class Collapse:
    """When a run counts as collapsed (ours).

    Attributes:
        max_kl: nats per element that one round may move the policy, whatever the trust region is; 0.02 is a fifth of a
            step's noise.
        max_reward_drop: how far the mean reward may fall below the best round's, in standard deviations over the images
            of the first round whose rewards differ.
        max_contrast_factor: factor by which the images' mean contrast may grow or shrink relative to the first round.
        max_refused_rounds: number of rounds in a row in which the trust region may revert the first optimizer step, not
            only shrink it.
    """

    max_kl: Annotated[float, Gt(0)] = 0.02
    max_reward_drop: Annotated[float, Gt(0)] = 2.0
    max_contrast_factor: Annotated[float, Gt(1)] = 2.5
    max_refused_rounds: PositiveInt = 3


def contrast(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """Return the standard deviation of each image's pixel values, 0 to 0.5."""
    return images.float().flatten(1).std(dim=1, correction=0)


@dataclass(kw_only=True)
class CollapseMonitor:
    """The numbers that a run is compared with; part of a run's state."""

    config: Collapse
    first_reward_std: float | None = None
    first_contrast: float | None = None
    best_reward: float = -float("inf")
    refused_rounds: int = 0
    _names: tuple[str, ...] = field(
        default=("first_reward_std", "first_contrast", "best_reward", "refused_rounds"), init=False, repr=False
    )

    def check_scores(self, scores: Scores, *, round_number: int) -> None:
        """Compare a round's rewards and images with the run's start.

        Raises:
            RunStopped: the mean reward or the contrast has diverged.
        """
        mean, std = float(scores.rewards.mean()), float(scores.rewards.std(correction=0))
        images_contrast = float(scores.contrast.mean())
        if self.first_contrast is None:
            self.first_contrast = images_contrast
        if not self.first_reward_std:  # a sparse reward can begin with rounds in which all are equal
            self.first_reward_std = std
        drop = self.best_reward - mean
        if self.first_reward_std > 0 and drop > self.config.max_reward_drop * self.first_reward_std:
            raise RunStopped(
                round_number=round_number,
                first_bad_round=round_number - 1,  # that round's update made the policy that sampled these images
                cause=f"the mean reward fell from {self.best_reward:.3f} to {mean:.3f}; "
                "lower optimization.learning_rate in a new run.",
            )
        low, high = sorted((self.first_contrast, images_contrast))
        if high > self.config.max_contrast_factor * low:
            raise RunStopped(
                round_number=round_number,
                first_bad_round=round_number - 1,
                cause=f"the images' contrast went from {self.first_contrast:.3f} to {images_contrast:.3f}; "
                "lower optimization.learning_rate in a new run.",
            )
        self.best_reward = max(self.best_reward, mean)

    def check_update(self, update: UpdateResult, *, round_number: int) -> None:
        """Check how far a round's update moved the policy.

        Raises:
            RunStopped: the KL exceeds max_kl, or the first step was reverted for max_refused_rounds rounds in a row.
        """
        kl = update.kl_to_old
        if kl is not None and not kl <= self.config.max_kl:
            raise RunStopped(
                round_number=round_number,
                cause=f"the policy moved by {kl:.3g} nats per element in one round; lower optimization.learning_rate.",
            )
        is_refused = update.step_reverted and update.num_optimizer_steps == 0
        self.refused_rounds = self.refused_rounds + 1 if is_refused else 0
        if self.refused_rounds >= self.config.max_refused_rounds:
            raise RunStopped(
                round_number=round_number,
                cause=f"in {self.refused_rounds} rounds in a row the first optimizer step left the trust region; "
                "lower optimization.learning_rate.",
            )

    def state(self) -> dict[str, float | int | None]:
        """Return what a checkpoint keeps."""
        return {name: getattr(self, name) for name in self._names}

    def load_state(self, state: dict[str, float | int | None]) -> None:
        """Restore what `state` returned."""
        for name in self._names:
            setattr(self, name, state[name])
