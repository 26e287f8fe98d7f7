"""Reward variance within branch groups as a function of the interval length (ours).

A few trunks are branched at several places of the chain. Where the members of a branch group get the same reward, the
interval is too short to teach anything; where they differ in everything, the contrast teaches everything, style
included. The paper's first interval lies in between (section 3.2). The steps whose branches get the same reward are
those that need no training (`variance.py`).

Shapes: G trunks, K branches each, L interval lengths, images of 3 x H x W in [0, 1].
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.randomness import PROBE_STREAM, NoiseKey, prompt_rng
from b2diffurl.algorithm.rollout import RolloutChunk, sample_branches
from b2diffurl.algorithm.selection import BestWorst
from b2diffurl.analysis.probe.predict import Prediction, by_prompt, history_places, predict
from b2diffurl.analysis.probe.setup import Branched, Cost, Setup
from b2diffurl.analysis.probe.variance import DecidedVariance, decided_variance
from b2diffurl.distributed import AUTO, choose_device
from b2diffurl.emoji.oracle import load_oracle
from b2diffurl.emoji.worlds import world_of
from b2diffurl.errors import UserError
from b2diffurl.prompts.lists import sample_prompts
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.resolve import ResolvedRun
from b2diffurl.run.settings import Run

_MAX_DEFAULT_LENGTHS = 20  # of a longer chain, evenly spaced interval lengths


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSettings:
    """What to measure.

    Attributes:
        lengths: interval lengths; empty for all from 1 to T, or for 20 over a longer chain. The whole chain is always
            measured.
        num_trunks: G >= 2; the standard error of a share of groups is at most 1 / (2 sqrt(G)), and that of a variance
            about sqrt(2 / (G (K - 1))) of it for normal rewards.
        num_branches: K >= 3; the largest number that can be suggested is K - 1.
    """

    lengths: tuple[int, ...] = ()
    num_trunks: int = 48
    num_branches: int = 6

    def checked_lengths(self, num_inference_steps: int) -> tuple[int, ...]:
        """Return the interval lengths to measure, in ascending order.

        Raises:
            UserError: a number is out of range.
        """
        num = min(num_inference_steps, _MAX_DEFAULT_LENGTHS)
        lengths = self.lengths or tuple(round((i + 1) * num_inference_steps / num) for i in range(num))
        if not 1 <= min(lengths) <= max(lengths) <= num_inference_steps:
            raise UserError(f"lengths is {lengths}; give interval lengths from 1 to {num_inference_steps}.")
        if self.num_trunks < 2:
            raise UserError(f"num_trunks is {self.num_trunks}; give 2 or more, such as 48.")
        if self.num_branches < 3:
            raise UserError(f"num_branches is {self.num_branches}; give 3 or more, such as 6.")
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
            "style"); empty outside the emoji worlds.
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
        decided: reward variance that each step decides.
        predictions: predicted information of credit rules per reward query, one tuple per row.
        cost: what the measurement took.
        num_inference_steps: T.
        num_trunks: G.
        num_branches: K.
        example: one trunk's images, its K branches for every row.
        example_prompt: the prompt of that trunk.
    """

    rows: tuple[Row, ...]
    decided: DecidedVariance
    predictions: tuple[tuple[Prediction, ...], ...]
    cost: Cost
    num_inference_steps: int
    num_trunks: int
    num_branches: int
    example: Float[Tensor, "rows K 3 H W"]
    example_prompt: str


def measure(
    run: Run | ResolvedRun,
    settings: ProbeSettings = ProbeSettings(),
    *,
    lora: Path | None = None,
    device: torch.device | str = AUTO,
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
    settings.checked_lengths((run.run if isinstance(run, ResolvedRun) else run).sampler.num_inference_steps)
    setup = Setup.load(run, lora=lora, device=choose_device(device), reward=reward)
    run = setup.run
    lengths = settings.checked_lengths(run.sampler.num_inference_steps)
    prompts = sample_prompts(setup.train_prompts, settings.num_trunks, rng=prompt_rng(run.seed, 0))
    rewards: list[Tensor] = []
    examples: list[Tensor] = []
    shapes: list[tuple[float, dict[str, float]]] = []
    cost = Cost().start()
    for length in lengths:
        branched = _sample(setup, settings, prompts, interval_length=length, cost=cost, on_progress=on_progress)
        rewards.append(branched.rewards)
        examples.append(branched.images[0])
        shapes.append((_distance(branched.images), _differ(branched.images, prompts)))
    within = np.stack([values.var(dim=1).numpy() for values in rewards])
    decided = decided_variance(within, lengths)
    history = [history_places(lengths, decided, place=i) for i in range(len(lengths))]
    fractions = _pair_fractions(run, rewards, prompts, history)
    return Probe(
        rows=_rows(lengths, rewards, shapes, fractions),
        decided=decided,
        predictions=tuple(
            predict(rewards, prompts, place=i, lengths=lengths, decided=decided) for i in range(len(lengths))
        ),
        cost=cost,
        num_inference_steps=run.sampler.num_inference_steps,
        num_trunks=settings.num_trunks,
        num_branches=settings.num_branches,
        example=torch.stack(examples),
        example_prompt=prompts[0],
    )


def _sample(
    setup: Setup,
    settings: ProbeSettings,
    prompts: Sequence[str],
    *,
    interval_length: int,
    cost: Cost,
    on_progress: Callable[[int], None],
) -> Branched:
    """Branch all trunks at one place; the trunks' noise is the same for all."""
    chunks = sample_branches(
        setup.policy,
        prompts,
        interval_length=interval_length,
        num_branches=settings.num_branches,
        noise=NoiseKey(seed=setup.run.seed, stream=PROBE_STREAM),
        chunk_size=setup.run.rollout.chunk_size,
    )
    latents = torch.cat([chunk.final_latents for chunk in _counted(chunks, cost, on_progress)])
    branched = setup.score(latents, prompts)
    cost.add()
    return branched


def _counted(chunks: Iterator[RolloutChunk], cost: Cost, on_progress: Callable[[int], None]) -> Iterator[RolloutChunk]:
    for chunk in chunks:
        num_images = chunk.final_latents.shape[:2].numel()
        cost.add(num_images=num_images, num_evaluations=chunk.num_evaluations)
        on_progress(num_images)
        yield chunk


def _rows(
    lengths: Sequence[int],
    rewards: Sequence[Float[Tensor, "G K"]],
    shapes: Sequence[tuple[float, dict[str, float]]],
    fractions: Sequence[dict[int, float]],
) -> tuple[Row, ...]:
    """Return the statistics of all lengths, given their rewards, distances, differences and fractions of pairs."""
    return tuple(
        Row(
            interval_length=length,
            std_within=float(values.var(dim=1).mean().sqrt()),
            std_between=float(values.mean(dim=1).std()),
            pair_fraction=fraction,
            distance=distance,
            differ=differ,
        )
        for length, values, (distance, differ), fraction in zip(lengths, rewards, shapes, fractions, strict=True)
    )


def _distance(images: Float[Tensor, "G K 3 H W"]) -> float:
    distances = [(images[:, i] - images[:, j]).abs().mean() for i, j in combinations(range(images.shape[1]), 2)]
    return float(torch.stack(distances).mean())


def _pair_fractions(
    run: Run, rewards: Sequence[Float[Tensor, "G K"]], prompts: Sequence[str], history: Sequence[Sequence[int]]
) -> list[dict[int, float]]:
    """Share of groups that would form a pair, per interval length and number of branches.

    The rewards of the interval lengths in `history` are the past that the advantages are normalized with.
    """
    tables = [by_prompt(values, prompts) for values in rewards]
    selector = run.selection if isinstance(run.selection, BestWorst) else BestWorst()
    fractions: list[dict[int, float]] = []
    for i, values in enumerate(rewards):
        past = [tables[other] for other in history[i]]
        advantages = run.advantage.normalize(values, prompts, past=past).float()
        num_groups, num_branches = advantages.shape
        by_number: dict[int, float] = {}
        for num in range(2, num_branches + 1):
            subsets = [advantages[:, list(members)] for members in combinations(range(num_branches), num)]
            num_pairs = sum(len(selector.select(subset, prompts).pairs) for subset in subsets)
            by_number[num] = num_pairs / len(subsets) / num_groups
        fractions.append(by_number)
    return fractions


def _differ(images: Float[Tensor, "G K 3 H W"], prompts: Sequence[str]) -> dict[str, float]:
    world = world_of(prompts)
    if world is None or images.shape[-1] != 32:
        return {}
    num_branches = images.shape[1]
    oracle = load_oracle(world)
    scene = oracle.judge(images.flatten(0, 1))
    repeated = [prompt for prompt in prompts for _ in range(num_branches)]
    attributes = {"alignment": oracle.scene_is_right(scene, repeated), "style": scene.style.argmax(-1)}
    grouped = {name: values.view(-1, num_branches) for name, values in attributes.items()}
    return {name: float((g != g[:, :1]).any(dim=1).float().mean()) for name, g in grouped.items()}
