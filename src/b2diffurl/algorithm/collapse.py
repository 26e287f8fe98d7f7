"""Collapse detection: stop a run whose policy, rewards or images diverge (ours).

It needs no second model and no second rollout: it compares the mean reward of each round's own images with the best
round's and their contrast with the first round's, and checks the KL that the update has measured.

Shapes: B images of 3 x H x W in [0, 1]; G branch groups of K trajectories.
"""

import math
from dataclasses import dataclass, fields
from typing import Annotated

from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.records import Scores
from b2diffurl.algorithm.update import UpdateResult
from b2diffurl.config import PositiveInt, settings
from b2diffurl.errors import RunStopped

# Ours. Of 100,000 rounds of an unchanged model, at most 100 may be stopped: docs/reliability.md has the measured rates.
_STANDARD_ERRORS = 4.5
_FEW = 30  # degrees of freedom below which a standard deviation over trunks rests on too few of them


@settings(table="collapse")
class Collapse:
    """When a run counts as collapsed (ours).

    Attributes:
        max_kl: nats per element that one round may move the policy, whatever the trust region is; 0.02 is a fifth of a
            step's noise.
        max_reward_drop: how far the mean reward may fall below the best round's, in standard deviations over the images
            of a round, pooled over the rounds so far. The fall must also exceed 4.5 standard errors of the difference
            of the two means (more in the first rounds), which matters where a round has few trunks.
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


def student_t(z: float, freedom: int) -> float:
    """Return the quantile of Student's t-distribution that has the probability of the normal quantile z >= 0.

    Wallace's approximation (1959, Bounds on normal approximations to Student's and the chi-square distributions).

    >>> [round(student_t(3.0902, freedom), 1) for freedom in (30, 100, 10**6)]  # exactly 3.39, 3.17, 3.09
    [3.4, 3.2, 3.1]
    """
    return math.sqrt(freedom * math.expm1((z * (8 * freedom + 3) / (8 * freedom + 1)) ** 2 / freedom))


@dataclass(kw_only=True)
class CollapseMonitor:
    """The numbers that a run is compared with; part of a run's state.

    The images of one trunk are alike and those of different prompts differ, so that the mean reward of a round is as
    certain as its number of trunks allows. Its standard error comes from the trunks' mean rewards.

    Attributes:
        config: when a run counts as collapsed.
        first_contrast: mean contrast of the first round.
        best_reward: the highest mean reward of a round.
        best_error: standard error of that mean, by its own trunks.
        trunk_squares: squared differences between the trunks' means and their round's, summed over the rounds so far.
        trunk_freedom: degrees of freedom of that sum: trunks minus rounds.
        image_squares: squared differences between rewards and their round's mean, summed over the rounds so far.
        image_freedom: degrees of freedom of that sum: images minus rounds.
        refused_rounds: rounds in a row whose first optimizer step was reverted.
    """

    config: Collapse
    first_contrast: float | None = None
    best_reward: float = -float("inf")
    best_error: float = 0.0
    trunk_squares: float = 0.0
    trunk_freedom: int = 0
    image_squares: float = 0.0
    image_freedom: int = 0
    refused_rounds: int = 0

    def check_scores(self, scores: Scores, *, round_number: int) -> None:
        """Compare a round's rewards and images with those of the rounds before.

        Raises:
            RunStopped: the mean reward or the contrast has diverged.
        """
        mean, images_contrast = float(scores.rewards.mean()), float(scores.contrast.mean())
        if self.first_contrast is None:
            self.first_contrast = images_contrast
        rewards = scores.rewards.double()
        if self.best_reward - mean > self.allowed_drop(rewards):
            raise RunStopped(
                round_number=round_number,
                first_bad_round=round_number - 1,  # that round's update made the policy that sampled these images
                cause=f"the mean reward fell from {self.best_reward:.4g} to {mean:.4g}; "
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
        self._remember(rewards)

    def allowed_drop(self, rewards: Float[Tensor, "G K"]) -> float:
        """Return how far below the best round's the mean reward of a round may be.

        The measure is the spread of the rounds before, however much the rewards of a collapsed round differ. While
        these have few trunks, this round's spread counts too: one dark image among bright ones, which no round before
        happened to have, lowers the mean without a collapse. Infinite in the first round, in runs of one trunk per
        round, and while the trunks of each round before were equal, as a sparse reward can begin.
        """
        if not self.trunk_squares:
            return math.inf
        squares, freedom = self.trunk_squares, self.trunk_freedom
        if freedom < _FEW:
            squares, freedom = squares + _squares(rewards)[0], freedom + len(rewards) - 1
        error = math.sqrt(squares / freedom / len(rewards))
        std = math.sqrt(self.image_squares / self.image_freedom)
        of_difference = math.hypot(error, max(error, self.best_error))
        return max(self.config.max_reward_drop * std, student_t(_STANDARD_ERRORS, freedom) * of_difference)

    def _remember(self, rewards: Float[Tensor, "G K"]) -> None:
        """Add a round to the sums."""
        (trunk_squares, image_squares), freedom = _squares(rewards), len(rewards) - 1
        self.trunk_squares += trunk_squares
        self.trunk_freedom += freedom
        self.image_squares += image_squares
        self.image_freedom += rewards.numel() - 1
        mean = float(rewards.mean())
        if mean > self.best_reward:
            self.best_reward = mean
            self.best_error = math.sqrt(trunk_squares / freedom / len(rewards)) if freedom else 0.0

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
        return {name: getattr(self, name) for name in _STATE}

    def load_state(self, state: dict[str, float | int | None]) -> None:
        """Restore what `state` returned."""
        for name in _STATE:
            setattr(self, name, state[name])


_STATE = tuple(entry.name for entry in fields(CollapseMonitor) if entry.name != "config")


def _squares(rewards: Float[Tensor, "G K"]) -> tuple[float, float]:
    """Return the squared differences to the round's mean, of the trunks' means and of the rewards, each summed."""
    mean = rewards.mean()
    return float((rewards.mean(dim=1) - mean).square().sum()), float((rewards - mean).square().sum())
