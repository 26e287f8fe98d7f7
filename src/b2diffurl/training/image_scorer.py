"""Decodes finished branch groups and scores their images while the next ones are sampled.

Shapes: G branch groups of K images of 3 x H x W in [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from b2diffurl.algorithm.collapse import contrast
from b2diffurl.algorithm.progress import NO_PROGRESS, Progress
from b2diffurl.algorithm.records import Scores
from b2diffurl.algorithm.rollout import RolloutChunk
from b2diffurl.errors import RunStopped
from b2diffurl.prompts.lists import PromptList
from b2diffurl.training.scorer import Scoring


class ImageScorer:
    """The scorer of one round of a text-to-image model.

    Args:
        scoring: scores batches of images in a thread of its own.
        decode: from latents to images.
        prompt_list: the prompts' metadata, for rewards that take it.
        num_branches: K.
        num_images: images of the round on this rank.
        round_number: the round, for messages.
        progress: advanced by the number of images.
        num_kept_groups: the images of so many branch groups, the first ones of this rank, are kept to be shown.

    Attributes:
        kept: their images, on the CPU.
    """

    def __init__(
        self,
        scoring: Scoring,
        *,
        decode: Callable[[Tensor], Tensor],
        prompt_list: PromptList,
        num_branches: int,
        num_images: int,
        round_number: int,
        progress: Progress = NO_PROGRESS,
        num_kept_groups: int = 0,
    ) -> None:
        self._scoring = scoring
        self._decode = decode
        self._prompt_list = prompt_list
        self._num_branches = num_branches
        self._num_images = num_images
        self._round_number = round_number
        self._progress = progress
        self._num_kept = num_kept_groups * num_branches
        self._contrast: list[Tensor] = []
        self.kept: list[Tensor] = []
        progress.phase("sample", num_images)

    def submit(self, chunk: RolloutChunk) -> None:
        """Decode a chunk and queue its images.

        Raises:
            RewardFailed: an earlier batch failed.
            RunStopped: an image is not finite.
        """
        images = self._decode(chunk.final_latents.flatten(0, 1))
        if not bool(torch.isfinite(images).all()):
            what = "latents" if not bool(torch.isfinite(chunk.final_latents).all()) else "images"
            raise RunStopped(
                round_number=self._round_number,
                first_bad_round=self._round_number - 1,  # that round's update made the policy that sampled them
                cause=f"the final {what} are not finite; lower optimization.learning_rate in a new run.",
            )
        prompts = [prompt for prompt in chunk.trajectories.prompts for _ in range(self._num_branches)]
        self._contrast.append(contrast(images))
        self.kept += [image.cpu() for image in images[: self._num_kept - len(self.kept)]]
        self._scoring.submit(images, prompts, self._prompt_list.metadata_of(prompts))
        self._progress.advance(len(images))

    def result(self) -> Scores:
        """Wait for all scores.

        Raises:
            RewardFailed: the reward failed after its retries.
        """
        self._progress.phase("score", self._num_images)
        scores = self._scoring.result(self._progress.advance)

        def grouped(values: Tensor) -> Tensor:
            return values.view(-1, self._num_branches)

        return Scores(
            rewards=grouped(scores.rewards),
            contrast=grouped(torch.cat(self._contrast)),
            terms={name: grouped(values) for name, values in scores.terms.items()},
            info=scores.info,
        )
