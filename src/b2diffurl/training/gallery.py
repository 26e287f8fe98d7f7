"""What a run stores so that a reader of its report can see it; nothing of it reaches the training."""

# Tensor.tolist has no type.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Sequence

import torch
from torch import Tensor

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import PREVIEW_STREAM, NoiseKey
from b2diffurl.algorithm.round import RoundResult
from b2diffurl.distributed import Ranks
from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.evaluation.generate import GeneratedImages, generate_images
from b2diffurl.evaluation.judges import Judge
from b2diffurl.images import from_pil, to_pil
from b2diffurl.rewards.interface import Reward
from b2diffurl.run import gallery
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.gallery import BranchGroup, SampleScores
from b2diffurl.run.log import RunLog
from b2diffurl.run.records import read_image
from b2diffurl.run.resolve import ResolvedRun
from b2diffurl.run.settings import Run
from b2diffurl.training.callbacks import ProgressReporter
from b2diffurl.training.scorer import Scoring

NUM_SHOWN_GROUPS = 4


def num_kept_groups(run: Run, round_number: int) -> int:
    """Return how many branch groups of a round are stored: some of the first round and of those with samples."""
    is_stored = round_number in (1, run.num_rounds) or round_number % run.logging.samples_every_rounds == 0
    return NUM_SHOWN_GROUPS if is_stored else 0


def save_groups(directory: RunDirectory, result: RoundResult, images: Sequence[Tensor]) -> None:
    """Store the first branch groups of a round: images, rewards and which branches were selected.

    Args:
        directory: the run folder.
        result: the round.
        images: those of the first G groups, group by group, 3 x H x W in [0, 1]; none to store nothing.
    """
    rewards = result.sampled.scores.rewards
    num_groups = len(images) // rewards.shape[1]
    selected: list[tuple[int, int]] = [(int(group), int(branch)) for group, branch in result.selection.index.tolist()]
    groups = [
        BranchGroup(
            prompt=result.prompts[index],
            rewards=rewards[index].tolist(),
            selected=[branch for group, branch in selected if group == index],
        )
        for index in range(num_groups)
    ]
    if groups:
        shown = [to_pil(image) for image in images]
        gallery.write_groups(directory.samples, groups, shown, round_number=result.round_number)


def save_grid(
    directory: RunDirectory,
    resolved: ResolvedRun,
    policy: DenoisingPolicy,
    *,
    round_number: int,
    ranks: Ranks,
    progress: ProgressReporter,
) -> None:
    """Generate the n x n grid of the first prompt, before training and after the last round, on all ranks.

    Its noise follows that of the sample images, in the same stream.
    """
    run, side = resolved.run, resolved.run.logging.grid_side
    if not side or round_number not in (0, run.num_rounds):
        return
    noise = NoiseKey(seed=run.seed, stream=PREVIEW_STREAM).shifted(run.logging.num_samples)
    own = generate_images(
        policy,
        resolved.train_prompts[:1],
        num_images=side**2,
        noise=noise,
        shard=ranks.shard(side**2),
        chunk_size=run.rollout.chunk_size,
        on_progress=progress.advance,
    )
    grid = GeneratedImages.join(ranks.gather(own))
    if ranks.is_main:
        images = [to_pil(image) for image in grid.images]
        gallery.write_grid(directory.samples, images, side=side, round_number=round_number)


def score_samples(
    directory: RunDirectory, resolved: ResolvedRun, *, reward: Reward, judge: Judge | None, log: RunLog
) -> None:
    """Score the sample images before training and after it, as they are stored, once the training has ended.

    These scores are not reward queries: nothing is trained on them. A reward that fails leaves them out.

    Args:
        directory: the run folder.
        resolved: the run.
        reward: the run's reward.
        judge: the run's judge; None for none.
        log: receives why there are no scores.
    """
    record = directory.read()
    for round_number in sorted({0, max(record.images, default=0)} & set(record.images)):
        shown = record.images[round_number]
        if list(shown) != list(range(len(record.prompts))):
            continue  # some were removed
        images = torch.stack([from_pil(read_image(path)) for path in shown.values()])
        try:
            scores = _score(images, record.prompts, resolved, reward=reward, judge=judge)
        except (RewardFailed, UserError) as failure:
            log.write(f"the sample images have no scores: {failure}")
            return
        gallery.write_scores(directory.samples, scores, round_number=round_number)


def _score(
    images: Tensor, prompts: Sequence[str], resolved: ResolvedRun, *, reward: Reward, judge: Judge | None
) -> SampleScores:
    with Scoring(reward, watched={}) as scoring:
        scoring.submit(images, prompts, resolved.prompt_list.metadata_of(prompts))
        rewards = scoring.result().rewards
    judged = judge.observe(images, prompts).scores if judge else {}
    return SampleScores(
        rewards=rewards.tolist(),
        judged={name: values.tolist() for name, values in judged.items() if name != "reward"},
    )
