"""Score a round's images while the next ones are being generated; order and exceptions are kept.

Shapes: B images of 3 x H x W in [0, 1].
"""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.rewards import Info, InvalidScoresError, Reward, ScoredImages, score_images
from b2diffurl.rewards.scores import prefix_info

_NUM_ATTEMPTS = 3
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageScores:
    """Scores of several images, in the order in which they were submitted.

    Attributes:
        rewards: scores of the reward that is trained on.
        terms: scores of the terms of a weighted sum and of watched rewards, by name.
        info: additional outputs of the rewards, such as captions; None for images without one.
    """

    rewards: Float64[Tensor, " B"]
    terms: dict[str, Float64[Tensor, " B"]]
    info: Info = field(default_factory=dict[str, list[Any]])

    @staticmethod
    def join(batches: "Sequence[ImageScores]") -> "ImageScores":
        """Concatenate the scores of several batches."""
        names = dict.fromkeys(name for scores in batches for name in scores.info)
        return ImageScores(
            rewards=torch.cat([scores.rewards for scores in batches]),
            terms={name: torch.cat([scores.terms[name] for scores in batches]) for name in batches[0].terms},
            info={
                name: [entry for scores in batches for entry in scores.info.get(name, [None] * len(scores.rewards))]
                for name in names
            },
        )


class Scoring:
    """Scoring of one round in a thread of its own; a context manager.

    Args:
        reward: the reward that is trained on.
        watched: rewards that are only logged, by name.
        pause_seconds: wait before a reward that raised is called again; it doubles each time.
        first_image: index in the round of the first image that is submitted, for messages.
    """

    def __init__(
        self,
        reward: Reward,
        *,
        watched: Mapping[str, Reward],
        pause_seconds: float = _PAUSE_SECONDS,
        first_image: int = 0,
    ) -> None:
        self.reward = reward
        self.watched = watched
        self.pause_seconds = pause_seconds
        self._next_image = first_image
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward")
        self._batches: list[Future[ImageScores]] = []

    def __enter__(self) -> "Scoring":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def submit(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> None:
        """Score a batch of images once the batches before it are scored.

        Raises:
            RewardFailed: an earlier batch has failed.
        """
        for batch in self._batches:
            if batch.done():
                batch.result()
        self._batches.append(self._thread.submit(self._score, images, prompts, metadata, self._next_image))
        self._next_image += len(images)

    def result(self, on_progress: Callable[[int], None] = lambda _: None) -> ImageScores:
        """Wait for all batches.

        Args:
            on_progress: called with the number of images of each batch that is scored.

        Raises:
            RewardFailed: the reward raised in every attempt, or did not return one finite number per image.
            UserError: raised by the reward.
        """
        scores: list[ImageScores] = []
        for batch in self._batches:
            scores.append(batch.result())
            on_progress(len(scores[-1].rewards))
        return ImageScores.join(scores)

    @torch.no_grad()
    def _score(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]], first_image: int
    ) -> ImageScores:
        scored = self._score_with_retries(
            partial(score_images, self.reward, images, prompts, metadata, first_image=first_image)
        )
        terms = dict(scored.terms)
        info = dict(scored.info)
        for name, reward in self.watched.items():
            # A score that is only logged may be infinite or NaN.
            watched = self._score_with_retries(
                partial(score_images, reward, images, prompts, metadata, name=name, require_finite=False)
            )
            terms[name] = watched.scores
            info |= prefix_info(watched.info, name)
        return ImageScores(rewards=scored.scores, terms=terms, info=info)

    def _score_with_retries(self, score: Callable[[], ScoredImages]) -> ScoredImages:
        """Call a reward; retry, since user code may fail transiently."""
        for attempt in range(_NUM_ATTEMPTS):
            if attempt:
                time.sleep(self.pause_seconds * 2 ** (attempt - 1))
            try:
                return score()
            except InvalidScoresError as error:
                raise RewardFailed(str(error)) from error
            except (RewardFailed, UserError):  # it has retried already, or retrying does not help
                raise
            except Exception as error:  # user code may raise anything
                if attempt == _NUM_ATTEMPTS - 1:
                    raise RewardFailed(_describe(error)) from error
        raise AssertionError


def _describe(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message} ({last.filename}, line {last.lineno})"
