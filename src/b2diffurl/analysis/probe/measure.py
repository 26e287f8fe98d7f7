"""Within-group reward variance as a function of the interval length (ours).

A few trunks are branched at several places of the chain. Where the members of a branch group get the same reward, the
interval is too short to teach anything; where they differ in everything, the contrast teaches everything, style
included. The paper's first interval lies in between (section 3.2).

Shapes: G trunks, K branches each, images of 3 x H x W in [0, 1].
"""

# Tensor.split and Tensor.unflatten have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import PROBE_STREAM, NoiseKey, prompt_rng
from b2diffurl.algorithm.rollout import RolloutChunk, sample_branches
from b2diffurl.algorithm.selection import BestWorst
from b2diffurl.emoji.oracle import load_oracle
from b2diffurl.errors import UserError
from b2diffurl.evaluation.judges import is_emoji_world, scene_is_right
from b2diffurl.models import read_adapter_interval
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.prompts.lists import PromptList, sample_prompts
from b2diffurl.rewards import load_reward, score_images
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.resolve import ResolvedRun, resolve
from b2diffurl.run.settings import Run
from b2diffurl.training.trainer import bind_policy

_FRACTIONS = (0.35, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the chain; of 20 steps 7, 12, 14, 16, 18, 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSettings:
    """What to measure.

    Attributes:
        lengths: interval lengths; empty for six over the chain. The whole chain is always measured.
        num_trunks: G >= 2; the standard error of a share of groups is about 1 / (2 sqrt(G)).
        num_branches: K >= 2, the largest number that can be suggested.
    """

    lengths: tuple[int, ...] = ()
    num_trunks: int = 48
    num_branches: int = 6

    def checked_lengths(self, num_inference_steps: int) -> tuple[int, ...]:
        """Return the interval lengths to measure, in ascending order.

        Raises:
            UserError: a number is out of range.
        """
        default = [max(1, round(fraction * num_inference_steps)) for fraction in _FRACTIONS]
        lengths = self.lengths or tuple(default)
        if not 1 <= min(lengths) <= max(lengths) <= num_inference_steps:
            raise UserError(f"lengths is {lengths}; give interval lengths from 1 to {num_inference_steps}.")
        if self.num_trunks < 2:
            raise UserError(f"num_trunks is {self.num_trunks}; give 2 or more, such as 48.")
        if self.num_branches < 2:
            raise UserError(f"num_branches is {self.num_branches}; give 2 or more, such as 6.")
        return tuple(sorted({*lengths, num_inference_steps}))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Statistics for one interval length.

    Attributes:
        interval_length: tau, the number of steps after the branch point.
        std_within: standard deviation of the reward within branch groups, in the reward's unit.
        std_between: standard deviation of the groups' mean rewards.
        pair_fraction: share of groups that would form a pair, by number of branches from 2 to K.
        distance: mean absolute difference of two images of a group, 0 to 1.
        differ: share of groups whose members differ in an attribute that the scene oracle classifies ("alignment",
            "style"); empty outside the emoji world.
    """

    interval_length: int
    std_within: float
    std_between: float
    pair_fraction: dict[int, float]
    distance: float
    differ: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """The result of a measurement.

    Attributes:
        rows: in ascending order of the interval length; the last one is the whole chain.
        num_inference_steps: T.
        num_trunks: G.
        num_branches: K.
        example: one trunk's images, its K branches for every row.
        example_prompt: the prompt of that trunk.
    """

    rows: tuple[Row, ...]
    num_inference_steps: int
    num_trunks: int
    num_branches: int
    example: Float[Tensor, "rows K 3 H W"]
    example_prompt: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Branched:
    """All images and rewards of one interval length."""

    images: Float[Tensor, "G K 3 H W"]
    rewards: Float[Tensor, "G K"]


def measure(
    run: Run | ResolvedRun,
    settings: ProbeSettings = ProbeSettings(),
    *,
    lora: Path | None = None,
    device: torch.device | str = "cpu",
    reward: Reward | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Probe:
    """Measure what branches decide, for every interval length. The trunks' noise is the same for all.

    Args:
        run: the settings, or a run that `resolve` has checked. Its model, prompts, reward, sampler, advantage and
            thresholds are used.
        settings: what to measure.
        lora: an adapter folder, to probe a trained policy.
        device: device of the model.
        reward: used instead of the run's own, from Python.
        on_progress: called with the number of finished images.

    Raises:
        UserError: a number is out of range, the run is invalid, or the reward is not one finite number per image.
    """
    resolved = run if isinstance(run, ResolvedRun) else resolve(run, own_reward=reward is not None)
    run = resolved.run
    lengths = settings.checked_lengths(run.sampler.num_inference_steps)
    prompts = sample_prompts(resolved.train_prompts, settings.num_trunks, rng=prompt_rng(run.seed, 0))
    policy = _load_policy(resolved, lora=lora, device=device)
    score = reward or load_reward(run.reward, device=device, bert=run.bert, remote=run.remote)
    measured: list[_Branched] = []
    for length in lengths:
        chunks = sample_branches(
            policy,
            prompts,
            interval_length=length,
            num_branches=settings.num_branches,
            noise=NoiseKey(seed=run.seed, stream=PROBE_STREAM),
            chunk_size=run.rollout.chunk_size,
        )
        latents = [chunk.final_latents for chunk in _counted(chunks, on_progress)]
        measured.append(_score(policy, torch.cat(latents), prompts, score, resolved.prompt_list))
    fractions = _pair_fractions(run, [branched.rewards for branched in measured], prompts)
    return Probe(
        rows=tuple(
            _row(length, branched, fraction, prompts)
            for length, branched, fraction in zip(lengths, measured, fractions, strict=True)
        ),
        num_inference_steps=run.sampler.num_inference_steps,
        num_trunks=settings.num_trunks,
        num_branches=settings.num_branches,
        example=torch.stack([branched.images[0] for branched in measured]),
        example_prompt=prompts[0],
    )


def _load_policy(resolved: ResolvedRun, *, lora: Path | None, device: torch.device | str) -> DenoisingPolicy:
    run = resolved.run
    model = TextToImageModel.load(
        resolved.model, device=device, memory=run.memory, negative_prompt=run.sampler.negative_prompt
    )
    policy = bind_policy(model, run)
    if lora is None:
        return policy
    model.load_lora(lora)
    interval = read_adapter_interval(lora)
    return policy if interval is None else policy.with_adapter_in(interval.num_steps(policy.chain.num_steps))


def _counted(chunks: Iterator[RolloutChunk], on_progress: Callable[[int], None]) -> Iterator[RolloutChunk]:
    for chunk in chunks:
        on_progress(chunk.final_latents.shape[:2].numel())
        yield chunk


def _score(
    policy: DenoisingPolicy,
    latents: Float[Tensor, "G K C H W"],
    prompts: Sequence[str],
    reward: Reward,
    prompt_list: PromptList,
) -> _Branched:
    num_branches = latents.shape[1]
    images = policy.denoiser.decode(latents.flatten(0, 1))
    repeated = [prompt for prompt in prompts for _ in range(num_branches)]
    scores = score_images(reward, images, repeated, prompt_list.metadata_of(repeated)).scores
    return _Branched(images=images.unflatten(0, (-1, num_branches)), rewards=scores.view(-1, num_branches))


def _row(length: int, branched: _Branched, pair_fraction: dict[int, float], prompts: Sequence[str]) -> Row:
    images, rewards = branched.images, branched.rewards
    distances = [(images[:, i] - images[:, j]).abs().mean() for i, j in combinations(range(rewards.shape[1]), 2)]
    return Row(
        interval_length=length,
        std_within=float(rewards.var(dim=1).mean().sqrt()),
        std_between=float(rewards.mean(dim=1).std()),
        pair_fraction=pair_fraction,
        distance=float(torch.stack(distances).mean()),
        differ=_differ(images, prompts),
    )


def _pair_fractions(
    run: Run, rewards: Sequence[Float[Tensor, "G K"]], prompts: Sequence[str]
) -> list[dict[int, float]]:
    """Share of groups that would form a pair, per interval length and number of branches.

    The rewards of all other interval lengths are the history that the advantages are normalized with.
    """
    tables = [_by_prompt(values, prompts) for values in rewards]
    selector = run.selection if isinstance(run.selection, BestWorst) else BestWorst()
    fractions: list[dict[int, float]] = []
    for i, values in enumerate(rewards):
        past = [*tables[:i], *tables[i + 1 :]]
        advantages = run.advantage.normalize(values, prompts, past=past).float()
        num_groups, num_branches = advantages.shape
        by_number: dict[int, float] = {}
        for num in range(2, num_branches + 1):
            subsets = [advantages[:, list(members)] for members in combinations(range(num_branches), num)]
            num_pairs = sum(len(selector.select(subset, prompts).pairs) for subset in subsets)
            by_number[num] = num_pairs / len(subsets) / num_groups
        fractions.append(by_number)
    return fractions


def _by_prompt(rewards: Float[Tensor, "G K"], prompts: Sequence[str]) -> dict[str, list[float]]:
    table: dict[str, list[float]] = {}
    for prompt, values in zip(prompts, rewards, strict=True):
        table.setdefault(prompt, []).extend(float(value) for value in values)
    return table


def _differ(images: Float[Tensor, "G K 3 H W"], prompts: Sequence[str]) -> dict[str, float]:
    if not is_emoji_world(prompts) or images.shape[-1] != 32:
        return {}
    num_branches = images.shape[1]
    scene = load_oracle().judge(images.flatten(0, 1))
    repeated = [prompt for prompt in prompts for _ in range(num_branches)]
    attributes = {"alignment": scene_is_right(scene, repeated), "style": scene.style.argmax(-1)}
    grouped = {name: values.view(-1, num_branches) for name, values in attributes.items()}
    return {name: float((g != g[:, :1]).any(dim=1).float().mean()) for name, g in grouped.items()}
