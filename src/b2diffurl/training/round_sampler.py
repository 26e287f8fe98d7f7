"""A round's trajectories and their scores; every process samples and scores its share of the trunks.

Shapes: G trunks, K branches, B = G K trajectories.
"""

# Tensor.tolist has no type.
# pyright: reportUnknownVariableType=false

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from b2diffurl.algorithm.collapse import check_finite_rewards, contrast
from b2diffurl.algorithm.records import Trajectories
from b2diffurl.algorithm.rollout import NoiseKey, Rollout, sample_branches
from b2diffurl.diffusion.ddim import DDIM
from b2diffurl.distributed import Ranks
from b2diffurl.errors import RunStopped
from b2diffurl.models.policy import Policy
from b2diffurl.prompts.lists import PromptList, draw_prompts
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.settings import Run
from b2diffurl.training.callbacks import Progress
from b2diffurl.training.scorer import Scores, Scoring


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A round's trajectories and what became of them.

    Attributes:
        trajectories: all of the round, in every process.
        scores: of their pictures.
        contrast: of the pictures, mean.
        rollout_seconds: of sampling and decoding.
        reward_seconds: what scoring took longer than that.
    """

    trajectories: Trajectories
    scores: Scores
    contrast: float
    rollout_seconds: float
    reward_seconds: float

    def lines(self, round_index: int) -> Iterator[dict[str, Any]]:
        """What scores.jsonl says of each picture."""
        scores, of = self.scores, self.trajectories
        rewards, groups = scores.rewards.tolist(), of.group_index.tolist()
        terms = {name: values.tolist() for name, values in scores.terms.items()}
        for index, prompt in enumerate(of.prompts):
            line: dict[str, Any] = {
                "round": round_index,
                "group": groups[index],
                "prompt": prompt,
                "reward": rewards[index],
            }
            for name, columns in (("terms", terms), ("info", scores.info)):
                if columns:
                    line[name] = {key: column[index] for key, column in columns.items()}
            yield line


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """Draws rounds.

    Attributes:
        run: whose sampler, rollout and seed count.
        policy: the present policy.
        ddim: the denoising chain.
        prompts: to train on.
        prompt_list: that they are of, for its metadata.
        reward: what is trained on.
        watched: what is scored besides, by name.
        processes: that share the trunks.
        progress: who is told how far it is.
    """

    run: Run
    policy: Policy
    ddim: DDIM
    prompts: tuple[str, ...]
    prompt_list: PromptList
    reward: Reward
    watched: Mapping[str, Reward]
    processes: Ranks
    progress: Progress

    def __call__(self, *, num_steps: int, round_index: int) -> Drawn:
        """Sample a round's pictures and score them on the way.

        Raises:
            RewardFailed: in any of the processes.
            RunStopped: a log-prob or a reward is not finite, or the rewards are not one a picture.
        """
        parts = self.processes.together(partial(self._share, num_steps, round_index))
        drawn = parts[0] if len(parts) == 1 else _joined(parts)
        check_finite_rewards(drawn.scores.rewards, self.run.reward_queries_per_round, round_index=round_index)
        return drawn

    def _share(self, num_steps: int, round_index: int) -> Drawn:
        run, started, contrasts = self.run, time.perf_counter(), list[Tensor]()
        prompts = draw_prompts(self.prompts, run.num_trunks, seed=run.seed, round_index=round_index)
        mine = self.processes.share(run.num_trunks)
        num_pictures = len(mine) * run.rollout.num_branches
        self.progress.phase("sample", num_pictures)
        first_image = mine.start * run.rollout.num_branches
        with Scoring(self.reward, watched=self.watched, first_image=first_image) as scoring:

            def finished(latents: Tensor, of: Sequence[str]) -> None:
                images = self.policy.decode(latents)
                contrasts.append(contrast(images))
                scoring.submit(images, of, self.prompt_list.metadata_of(of))

            rollout = sample_branches(
                self.policy,
                self.ddim,
                prompts=prompts[mine.start : mine.stop],
                num_interval_steps=num_steps,
                num_branches=run.rollout.num_branches,
                guidance_scale=run.sampler.guidance_scale,
                noise=NoiseKey(seed=run.seed, stream=round_index, first_trunk=mine.start),
                chunk_size=run.rollout.chunk_size,
                log_prob_reduction=run.rollout.log_prob_reduction,
                on_progress=self.progress.advance,
                on_finished=finished,
            )
            _check_finite_log_probs(rollout, round_index)
            sampled = time.perf_counter()
            self.progress.phase("score", num_pictures)
            scores = scoring.result(self.progress.advance)
        return Drawn(
            trajectories=rollout.trajectories,
            scores=scores,
            contrast=float(torch.cat(contrasts).mean()),
            rollout_seconds=sampled - started,
            reward_seconds=time.perf_counter() - sampled,
        )


def _joined(parts: Sequence[Drawn]) -> Drawn:
    """What the processes drew, as if one had."""
    trajectories = [part.trajectories for part in parts]
    numbers, groups = [len(part) for part in trajectories], list[Tensor]()
    for part in trajectories:
        first = int(groups[-1][-1]) + 1 if groups else 0
        groups.append(part.group_index + first)
    return Drawn(
        trajectories=replace(
            trajectories[0],
            latents=torch.cat([part.latents.cpu() for part in trajectories]),
            log_probs=torch.cat([part.log_probs.cpu() for part in trajectories]),
            prompts=tuple(prompt for part in trajectories for prompt in part.prompts),
            group_index=torch.cat(groups),
        ),
        scores=Scores.join([part.scores for part in parts]),
        contrast=sum(part.contrast * num for part, num in zip(parts, numbers, strict=True)) / sum(numbers),
        rollout_seconds=max(part.rollout_seconds for part in parts),
        reward_seconds=max(part.reward_seconds for part in parts),
    )


def _check_finite_log_probs(rollout: Rollout, round_index: int) -> None:
    bad = ~torch.isfinite(rollout.trajectories.log_probs)
    if bool(bad.any()):
        step = int(rollout.trajectories.step_index[int(bad.nonzero()[0, 1])])
        raise RunStopped(
            round_index=round_index,
            first_bad_round=round_index - 1,  # the policy that sampled is what the round before has made of it
            cause=f"a log-prob of denoising step {step} is not finite.",
        )
