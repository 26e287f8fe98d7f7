"""Score a round's pictures while the next ones are still being sampled; order and exceptions are kept.

Shapes: B pictures of 3 x H x W in [0, 1].
"""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.rewards import Info, picture_info, score_parts
from b2diffurl.rewards.interface import Reward

_NUM_TRIES = 3
_PAUSE_SECONDS = 1.0
Parts = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """A round's scores, in the order the pictures were given.

    Attributes:
        rewards: what is trained on; of the type and shape that the reward gave.
        parts: scores of a sum's parts and of watched rewards, by name.
        info: what the rewards say of the pictures besides; None where a reward has nothing to say of one.
    """

    rewards: Tensor
    parts: dict[str, Float[Tensor, " B"]]
    info: Info = field(default_factory=dict[str, list[Any]])

    @staticmethod
    def join(found: "Sequence[Scores]") -> "Scores":
        """Scores of several batches as if they had been one."""
        names = dict.fromkeys(name for scores in found for name in scores.info)
        return Scores(
            rewards=torch.cat([scores.rewards.reshape(-1) for scores in found]),
            parts={name: torch.cat([scores.parts[name] for scores in found]) for name in found[0].parts},
            info={
                name: [entry for scores in found for entry in scores.info.get(name, [None] * len(scores.rewards))]
                for name in names
            },
        )


class Scoring:
    """One round's scoring, in a thread of its own; a context manager.

    Args:
        reward: what is trained on.
        watched: what is scored besides and only logged, by name.
        pause_seconds: before a reward that raised is tried again; doubled each time.
    """

    def __init__(
        self,
        reward: Reward,
        *,
        watched: Mapping[str, Reward],
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self.reward, self.watched = reward, watched
        self.pause_seconds = pause_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward")
        self._batches: list[Future[Scores]] = []

    def __enter__(self) -> "Scoring":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def submit(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> None:
        """Score a batch of pictures as soon as those before it are done.

        Raises:
            RewardFailed: a batch before this one has failed.
        """
        for done in self._batches:
            if done.done():
                done.result()
        self._batches.append(self._thread.submit(self._score, images, prompts, metadata))

    def result(self, on_progress: Callable[[int], None] = lambda _: None) -> Scores:
        """Wait for all batches.

        Args:
            on_progress: called with the number of pictures of each batch that is done.

        Raises:
            RewardFailed: the reward kept raising, in its own words.
            UserError: the reward is none.
        """
        found: list[Scores] = []
        for batch in self._batches:
            found.append(batch.result())
            on_progress(len(found[-1].rewards))
        return Scores.join(found)

    @torch.no_grad()
    def _score(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Scores:
        rewards, parts = self._patiently(self.reward, images, prompts, metadata)
        info = picture_info(self.reward, len(images))
        for name, reward in self.watched.items():
            parts = parts | {name: self._patiently(reward, images, prompts, metadata)[0]}
            info |= {f"{name}/{key}": entries for key, entries in picture_info(reward, len(images)).items()}
        return Scores(rewards=rewards, parts=parts, info=info)

    def _patiently(
        self, reward: Reward, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> tuple[Tensor, Parts]:
        """Try a reward of anybody's making again before it counts as failed."""
        for left in range(_NUM_TRIES - 1, -1, -1):
            try:
                rewards, parts = score_parts(reward, images, prompts, metadata)
            except (RewardFailed, UserError):  # it has been patient itself; or patience does not help
                raise
            except Exception as error:  # whatever a foreign function may raise
                if not left:
                    raise RewardFailed(_told(error)) from error
                time.sleep(self.pause_seconds * 2 ** (_NUM_TRIES - 1 - left))
            else:
                _check_shape(rewards, len(images))
                return rewards, parts
        raise AssertionError


def _check_shape(rewards: Tensor, num: int) -> None:
    if tuple(rewards.shape) != (num,):
        raise RewardFailed(f"it gave shape {tuple(rewards.shape)} for {num} pictures; give one number a picture.")


def _told(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
