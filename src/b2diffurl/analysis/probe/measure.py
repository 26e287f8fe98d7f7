"""Branch a few trunks at several places and measure what the branches still decide (ours).

Where members of a branch group get the same reward, the interval is too short to teach anything; where they differ in
everything, the contrast teaches everything, style included. Between lies the paper's first interval (section 3.2).

Shapes: G trunks, K branches each, B = G K pictures of 3 x H x W in [0, 1].
"""

# Tensor.tolist has no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.collapse import check_finite_rewards
from b2diffurl.algorithm.rollout import NoiseKey, sample_branches
from b2diffurl.algorithm.selection import BestWorst
from b2diffurl.emoji.oracle import load_oracle
from b2diffurl.errors import UserError
from b2diffurl.evaluation.generate import PROBE_STREAM
from b2diffurl.evaluation.judges import is_emoji_world, scene_is_right
from b2diffurl.models.policy import Policy
from b2diffurl.prompts.lists import draw_prompts, load_prompt_list, split_prompts
from b2diffurl.rewards import load_reward, score_parts
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.settings import Run

_FRACTIONS = (0.35, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the chain; of 20 steps 7, 12, 14, 16, 18, 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What branches decide that leave their trunk `num_steps` steps before the end.

    Attributes:
        num_steps: tau, length of the interval.
        std_within: standard deviation of the reward within branch groups, in the reward's unit.
        std_between: standard deviation of the groups' mean rewards.
        pair_fraction: by number of branches from 2 to K, the share of groups that would give a pair.
        distance: mean absolute difference of two pictures of a group, 0 to 1.
        differ: share of groups whose members differ in something the scene oracle sees ("alignment", "style"); empty
            outside the emoji world.
    """

    num_steps: int
    std_within: float
    std_between: float
    pair_fraction: dict[int, float]
    distance: float
    differ: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What was measured.

    Attributes:
        rows: in ascending order of num_steps; the last is the whole chain.
        num_inference_steps: T.
        num_trunks: G.
        num_branches: K.
        example: one trunk's pictures, its K branches for every row.
        example_prompt: of that trunk.
    """

    rows: tuple[Row, ...]
    num_inference_steps: int
    num_trunks: int
    num_branches: int
    example: Float[Tensor, "rows K 3 H W"]
    example_prompt: str


def default_lengths(num_inference_steps: int) -> tuple[int, ...]:
    """Interval lengths that are worth a look."""
    return tuple(sorted({max(1, round(fraction * num_inference_steps)) for fraction in _FRACTIONS}))


def check_probe(*, lengths: Sequence[int], num_trunks: int, num_branches: int, num_inference_steps: int) -> None:
    """Refuse what cannot be measured.

    Raises:
        UserError: says what.
    """
    if not lengths or not 1 <= min(lengths) <= max(lengths) <= num_inference_steps:
        raise UserError(f"lengths is {tuple(lengths)}; give interval lengths from 1 to {num_inference_steps}.")
    if num_trunks < 2:
        raise UserError(f"num_trunks is {num_trunks}; give 2 or more, such as 48.")
    if num_branches < 2:
        raise UserError(f"num_branches is {num_branches}; give 2 or more, such as 6.")


def measure(
    run: Run,
    *,
    lengths: Sequence[int] = (),
    num_trunks: int = 48,
    num_branches: int = 6,
    lora: Path | None = None,
    device: torch.device | str = "cpu",
    reward: Reward | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Probe:
    """Measure, for every interval length, what the branches still decide. The trunks' noise is the same for all.

    Args:
        run: whose model, prompts, reward, sampler, advantage and thresholds count.
        lengths: of the interval; by default six over the chain. The whole chain is always measured.
        num_trunks: G; more make the shares surer: their standard error is about 1 / (2 sqrt(G)).
        num_branches: K, the largest number that can be suggested.
        lora: an adapter folder, to probe a policy that has learned something.
        device: where the model runs.
        reward: in place of the run's own, from Python.
        on_progress: called with the number of pictures that are done.

    Raises:
        UserError: a number is out of range, or the run is.
        RunStopped: the reward is not one finite number a picture.
    """
    num_inference_steps = run.sampler.num_inference_steps
    wanted = tuple(sorted({*(lengths or default_lengths(num_inference_steps)), num_inference_steps}))
    check_probe(
        lengths=wanted, num_trunks=num_trunks, num_branches=num_branches, num_inference_steps=num_inference_steps
    )
    prompt_list = load_prompt_list(run.prompts)
    train_prompts, _ = split_prompts(
        prompt_list.prompts,
        held_out_fraction=run.held_out_fraction,
        held_out_prompts=run.held_out_prompts,
        seed=run.seed,
    )
    prompts = draw_prompts(train_prompts, num_trunks, seed=run.seed, round_index=0)
    policy = Policy.load(run.model, device=device, memory=run.memory, negative_prompt=run.sampler.negative_prompt)
    if lora is not None:
        policy.load_lora(lora)
    ddim = policy.ddim(num_inference_steps=num_inference_steps, eta=run.sampler.eta)
    score = reward or load_reward(run.reward, device=device, bert=run.bert, remote=run.remote)
    pictures: list[Tensor] = []
    rewards: list[Tensor] = []
    for length in wanted:
        rollout = sample_branches(
            policy,
            ddim,
            prompts=prompts,
            num_interval_steps=length,
            num_branches=num_branches,
            guidance_scale=run.sampler.guidance_scale,
            noise=NoiseKey(seed=run.seed, stream=PROBE_STREAM),
            chunk_size=run.rollout.chunk_size,
            on_progress=on_progress,
        )
        images = policy.decode(rollout.final_latents)
        of = rollout.trajectories.prompts
        scores = score_parts(score, images, of, prompt_list.metadata_of(of))[0].double()
        check_finite_rewards(scores, len(images), round_index=0)
        pictures.append(images)
        rewards.append(scores)
    repeated = tuple(prompt for prompt in prompts for _ in range(num_branches))
    fractions = _pair_fractions(run, rewards, repeated, num_branches)
    rows = [
        _row(length, images, scores, fraction, repeated, num_branches)
        for length, images, scores, fraction in zip(wanted, pictures, rewards, fractions, strict=True)
    ]
    return Probe(
        rows=tuple(rows),
        num_inference_steps=num_inference_steps,
        num_trunks=num_trunks,
        num_branches=num_branches,
        example=torch.stack([images[:num_branches] for images in pictures]),
        example_prompt=prompts[0],
    )


def _row(
    length: int,
    images: Float[Tensor, "B 3 H W"],
    rewards: Float[Tensor, " B"],
    pair_fraction: dict[int, float],
    prompts: Sequence[str],
    num_branches: int,
) -> Row:
    grouped = rewards.view(-1, num_branches)
    members = images.unflatten(0, (-1, num_branches))
    distances = [(members[:, i] - members[:, j]).abs().mean() for i, j in combinations(range(num_branches), 2)]
    return Row(
        num_steps=length,
        std_within=float(grouped.var(dim=1).mean().sqrt()),
        std_between=float(grouped.mean(dim=1).std()),
        pair_fraction=pair_fraction,
        distance=float(torch.stack(distances).mean()),
        differ=_differ(images, prompts, num_branches),
    )


def _pair_fractions(
    run: Run, rewards: Sequence[Float[Tensor, " B"]], prompts: Sequence[str], num_branches: int
) -> list[dict[int, float]]:
    """Share of groups that would give a pair, by row and number of branches; all rows are one another's history."""
    tables = [_by_prompt(scores, prompts) for scores in rewards]
    selection = run.selection if isinstance(run.selection, BestWorst) else BestWorst()
    out: list[dict[int, float]] = []
    for i, scores in enumerate(rewards):
        past = [*tables[:i], *tables[i + 1 :]]
        advantages = run.advantage.normalize(scores, prompts, num_branches=num_branches, past=past)
        grouped = advantages.float().view(-1, num_branches)
        fractions: dict[int, float] = {}
        for num in range(2, num_branches + 1):
            chosen = [grouped[:, list(members)] for members in combinations(range(num_branches), num)]
            pairs = [len(selection.select(part.flatten(), (), num_branches=num).pairs) for part in chosen]
            fractions[num] = sum(pairs) / len(pairs) / len(grouped)
        out.append(fractions)
    return out


def _by_prompt(rewards: Float[Tensor, " B"], prompts: Sequence[str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, rewards.tolist(), strict=True):
        found.setdefault(prompt, []).append(value)
    return found


def _differ(images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], num_branches: int) -> dict[str, float]:
    if not is_emoji_world(prompts) or images.shape[-1] != 32:
        return {}
    verdict = load_oracle().judge(images)
    seen = {"alignment": scene_is_right(verdict, prompts), "style": verdict.style.argmax(-1)}
    grouped = {name: values.view(-1, num_branches) for name, values in seen.items()}
    return {name: float((g != g[:, :1]).any(dim=1).float().mean()) for name, g in grouped.items()}
