"""The cost of a run, before anything is downloaded or loaded: evaluations of the UNet, bytes, peak memory.

Evaluations are exact where they do not depend on the selection; a run counts its own (`network/*` in metrics.jsonl).
Memory is an estimate: weights, adapter with its optimizer state, activations kept for the backward pass
(`python benchmarks/activations.py`), and allowances of ours.
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from b2diffurl.algorithm.records import StepInterval
from b2diffurl.emoji import is_embedded
from b2diffurl.errors import UserError
from b2diffurl.models import ModelSource
from b2diffurl.models.memory import ConcreteDtype, decode_batch_size
from b2diffurl.run.settings import Run

_MIB, _GIB = 2**20, 2**30
_VAE_PARAMETERS = 83_653_863
_CLIP_PARAMETERS = {"clip": 986_109_441, "pickscore": 986_109_441}  # ViT-H-14, float32
CUDA_CONTEXT_BYTES = 600 * _MIB  # ours: context, kernels and the allocator's slack
_FRACTION_TO_FILL = 0.8  # of the memory, as estimated: measured peaks were above the estimate (docs/performance.md)


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Sizes of a model family.

    Attributes:
        name: display name.
        unet_parameters: number of parameters of the UNet.
        text_parameters: number of parameters of the text encoders.
        latent_size: height and width of the latents that the sizes below are for.
        kept_bytes: activations kept for the backward pass, per image, by (precision, gradient checkpointing);
            measured by benchmarks/activations.py.
        forward_bytes: peak of a forward pass in bfloat16, per image (ours).
        adapter_parameters: number of parameters of a LoRA of rank 8 on attention.
        adapted_parameters: number of weights of the layers that it adapts; in float32 they are stored merged, too.
        forward_flops: floating-point operations of a forward pass of the UNet, per image (ours, rough).
    """

    name: str
    unet_parameters: int
    text_parameters: int
    latent_size: int
    kept_bytes: dict[tuple[str, bool], int]
    forward_bytes: int
    adapter_parameters: int
    adapted_parameters: int
    forward_flops: float


def _kept(*mib: int) -> dict[tuple[str, bool], int]:
    full, full_checkpointing, half, half_checkpointing = (value * _MIB for value in mib)
    table = {("float32", False): full, ("float32", True): full_checkpointing}
    for dtype in ("bfloat16", "float16"):
        table |= {(dtype, False): half, (dtype, True): half_checkpointing}
    return table


FAMILIES = {
    768: Family(
        name="Stable Diffusion 1.x", unet_parameters=859_520_964, text_parameters=123_060_480, latent_size=64,
        kept_bytes=_kept(1522, 285, 991, 142), forward_bytes=100 * _MIB, adapter_parameters=1_594_368,
        adapted_parameters=93_511_680, forward_flops=0.8e12,
    ),
    1024: Family(
        name="Stable Diffusion 2.x", unet_parameters=865_910_724, text_parameters=340_387_840, latent_size=96,
        kept_bytes=_kept(3228, 454, 2126, 227), forward_bytes=200 * _MIB, adapter_parameters=1_659_904,
        adapted_parameters=99_901_440, forward_flops=2.0e12,
    ),
    2048: Family(
        name="Stable Diffusion XL", unet_parameters=2_567_463_684, text_parameters=817_720_320, latent_size=128,
        kept_bytes=_kept(10646, 931, 7418, 465), forward_bytes=250 * _MIB, adapter_parameters=11_612_160,
        adapted_parameters=955_187_200, forward_flops=6.0e12,
    ),
}  # fmt: skip
# Hub ids whose shape is known without a download: the width of the text embeddings and the size of the latents.
_HUB = {
    "CompVis/stable-diffusion-v1-4": (768, 64),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (768, 64),
    "stabilityai/stable-diffusion-2-1-base": (1024, 64),
    "stabilityai/stable-diffusion-2-1": (1024, 96),
    "stabilityai/stable-diffusion-xl-base-1.0": (2048, 128),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The shape of a model, known before it is loaded.

    Attributes:
        family: sizes of its family; None if they are not known, as for the embedded model.
        channels: channels of a latent.
        latent_size: height and width of a latent.
        assumed: whether the shape is only a guess.
    """

    family: Family | None
    channels: int
    latent_size: int
    assumed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundCost:
    """The cost of one round.

    Attributes:
        num_interval_steps: tau, the length of the interval.
        num_trained_steps: number of its steps that are trained.
        trunk_evaluations: evaluations of the UNet on trunks, with the interval's first step, which their branches
            share; guidance doubles them.
        branch_evaluations: evaluations on branches, from the interval's second step on.
        most_update_evaluations: evaluations in the update if as many trajectories are selected as possible; a forward
            and backward pass counts as one, as do the reference and the measurement of the trust region, but not the
            up to five measurements of one minibatch that shrinking a step takes.
        latent_bytes: stored latents of the trained steps, and of the trunks where they are trained.
        replayed_latent_bytes: stored latents of the earlier rounds that are trained on again, on the CPU, at most.
    """

    num_interval_steps: int
    num_trained_steps: int
    trunk_evaluations: int
    branch_evaluations: int
    most_update_evaluations: int
    latent_bytes: int
    replayed_latent_bytes: int = 0

    @property
    def rollout_evaluations(self) -> int:
        """Evaluations on trunks and branches."""
        return self.trunk_evaluations + self.branch_evaluations


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes on the device, by use.

    Attributes:
        weights: UNet, text encoders, autoencoder; with float32 weights the merged weights of the adapted layers, too.
        adapter: LoRA, its gradient and AdamW's two moments, float32.
        reward: a CLIP model on the same device, if the reward has one of known size.
        latents: stored latents of a round.
        work: the maximum of sampling, decoding and the backward pass.
    """

    weights: int
    adapter: int
    reward: int
    latents: int
    work: int

    @property
    def total(self) -> int:
        """Sum, with the overhead of the device."""
        return self.weights + self.adapter + self.reward + self.latents + self.work + CUDA_CONTEXT_BYTES


def model_shape(model: str) -> Shape:
    """Find the shape of a model from its configuration files or its name.

    Raises:
        UserError: the model cannot be found or is not supported.
    """
    location = ModelSource(model).location
    config_file = Path(location) / "unet" / "config.json"
    if config_file.is_file():
        config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
        size = config["sample_size"]
        family = FAMILIES.get(config["cross_attention_dim"])
        if family is not None and config["block_out_channels"][0] != 320:
            family = None
        latent_size = size if isinstance(size, int) else size[0]
        return Shape(family=family, channels=config["in_channels"], latent_size=latent_size)
    if Path(location).is_file():
        width = _checkpoint_text_width(Path(location))
        return Shape(family=FAMILIES[width], channels=4, latent_size=FAMILIES[width].latent_size, assumed=width == 1024)
    width, latent_size = _HUB.get(location, (768, 64))
    return Shape(family=FAMILIES[width], channels=4, latent_size=latent_size, assumed=location not in _HUB)


def _checkpoint_text_width(file: Path) -> int:
    """Width of the text embeddings that a checkpoint's UNet attends to, from the file's header alone."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(length))
    for name, tensor in header.items():
        if name.endswith("attn2.to_k.weight") and tensor["shape"][1] in FAMILIES:
            return int(tensor["shape"][1])
    raise UserError(f"model {str(file)!r} is not a checkpoint of Stable Diffusion 1.x, 2.x or XL; give one of these.")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trained:
    """What is trained of one round, at most.

    Attributes:
        num_selected: selected trajectories.
        num_steps: trained steps of each.
        num_states_each: stored latents of each, from before the first trained step to after the last.
        num_trunks: trained trunks.
        num_trunk_steps: steps of each.
    """

    num_selected: int
    num_steps: int
    num_states_each: int
    num_trunks: int
    num_trunk_steps: int

    @property
    def num_single_steps(self) -> int:
        """Single steps of all."""
        return self.num_selected * self.num_steps + self.num_trunks * self.num_trunk_steps

    @property
    def num_states(self) -> int:
        """Stored latents of all."""
        return self.num_selected * self.num_states_each + self.num_trunks * (self.num_trunk_steps + 1)


def _trained(run: Run, interval: StepInterval) -> _Trained:
    num_trunks = run.num_trunks
    selected = run.selection.max_selected(num_groups=num_trunks, num_branches=run.rollout.num_branches)
    if run.objective.needs.pairs:
        selected = 2 * (selected // 2)
    num_trunk_steps = run.sampler.num_inference_steps - interval.length if run.rollout.train_trunk else 0
    return _Trained(
        num_selected=selected,
        num_steps=len(interval.trained),
        num_states_each=interval.trained[-1] - interval.trained[0] + 2,
        num_trunks=num_trunks if num_trunk_steps else 0,
        num_trunk_steps=num_trunk_steps,
    )


def round_costs(run: Run, shape: Shape) -> list[RoundCost]:
    """Compute the cost of every round; for an adaptive schedule the minimum."""
    intervals, num_replayed = run.intervals(), run.optimization.replay_rounds
    return [
        round_cost(run, shape, interval=interval, earlier=intervals[max(0, i - num_replayed) : i])
        for i, interval in enumerate(intervals)
    ]


def round_cost(run: Run, shape: Shape, *, interval: StepInterval, earlier: Sequence[StepInterval] = ()) -> RoundCost:
    """Compute the cost of a round with this interval.

    Args:
        run: the settings.
        shape: shape of the model.
        interval: the interval and its trained steps.
        earlier: intervals of the earlier rounds that are trained on again.
    """
    halves = 1 if run.sampler.guidance_scale == 1 else 2
    num_trajectories, total = run.reward_queries_per_round, run.sampler.num_inference_steps
    optimization, trained = run.optimization, _trained(run, interval)
    replayed = [_trained(run, one) for one in earlier]
    passes = 2 if run.objective.needs.reference or run.logging.kl_to_reference else 1
    members = 2 if run.objective.needs.pairs else 1
    num_examples = trained.num_selected // members + trained.num_trunks
    last_minibatch = members * (num_examples // max(1, min(optimization.num_minibatches, num_examples)))
    measured = last_minibatch * max(trained.num_steps, trained.num_trunk_steps)
    single_steps = trained.num_single_steps + sum(round_.num_single_steps for round_ in replayed)
    evaluations = single_steps * optimization.num_inner_epochs * passes
    if planned_dtype(run) != "float32":
        evaluations += trained.num_single_steps
    states = num_trajectories * trained.num_states_each + trained.num_trunks * (trained.num_trunk_steps + 1)
    bytes_each = 4 * shape.channels * shape.latent_size**2
    return RoundCost(
        num_interval_steps=interval.length,
        num_trained_steps=trained.num_steps,
        trunk_evaluations=halves * run.num_trunks * (total - interval.length + 1),
        branch_evaluations=halves * num_trajectories * (interval.length - 1),
        most_update_evaluations=halves * (evaluations + measured),
        latent_bytes=bytes_each * states,
        replayed_latent_bytes=bytes_each * sum(round_.num_states for round_ in replayed),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluations:
    """Network evaluations of a whole run: forward passes of the UNet for one image, two per step with guidance.

    Attributes:
        sampling: evaluations that sample the images of the rounds.
        update: evaluations of the updates, at most; a forward and backward pass counts as one.
        images: evaluations that sample the evaluated images, held-out prompts included, and the preview images.
    """

    sampling: int
    update: int
    images: int


def run_evaluations(run: Run, shape: Shape) -> Evaluations:
    """Count the network evaluations of a run."""
    costs, logging = round_costs(run, shape), run.logging
    images = (1 + logging.evaluate_before) * logging.num_evaluation_images
    if logging.evaluate_every_rounds:
        interim = logging.num_interim_images or logging.num_evaluation_images
        images += interim * ((run.num_rounds - 1) // logging.evaluate_every_rounds)
    lists = 2 if run.held_out_prompts or run.held_out_fraction else 1
    halves = 1 if run.sampler.guidance_scale == 1 else 2
    images = lists * images + num_previews(run)
    return Evaluations(
        sampling=sum(cost.rollout_evaluations for cost in costs),
        update=sum(cost.most_update_evaluations for cost in costs),
        images=halves * images * run.sampler.num_inference_steps,
    )


def num_previews(run: Run) -> int:
    """Count the preview images of a run: before training, every few rounds, and after the last."""
    every = run.logging.samples_every_rounds
    return run.logging.num_samples * (1 + run.num_rounds // every + bool(run.num_rounds % every))


def planned_dtype(run: Run) -> ConcreteDtype:
    """Return the dtype of the frozen weights on a GPU, as far as it is known without the model's config."""
    if run.memory.base_dtype != "auto":
        return run.memory.base_dtype
    return "float32" if is_embedded(run.model) else "float16"


def estimate_memory(run: Run, shape: Shape) -> MemoryEstimate | None:
    """Estimate the peak bytes on the device; None for a model of unknown size."""
    family = shape.family
    if family is None:
        return None
    dtype, checkpointing = planned_dtype(run), run.memory.gradient_checkpointing
    bytes_each = 4 if dtype == "float32" else 2
    scale = (shape.latent_size / family.latent_size) ** 2
    halves = 1 if run.sampler.guidance_scale == 1 else 2
    forward = scale * family.forward_bytes * bytes_each / 2 * halves
    backward = scale * family.kept_bytes[dtype, checkpointing] * halves
    pixels = (8 * shape.latent_size) ** 2
    decoded_at_once = pixels * min(run.rollout.chunk_size, decode_batch_size(pixels))
    decode = 4 * 3.5 * 256 * decoded_at_once  # ours: the autoencoder's widest maps at full size, float32
    adapter = family.adapter_parameters * run.lora.rank / 8
    merged = family.adapted_parameters if dtype == "float32" else 0
    num_steps = run.sampler.num_inference_steps
    whole = StepInterval(num_steps, tuple(range(num_steps - run.schedule.tau_last)))
    longest = round_cost(run, shape, interval=whole)
    return MemoryEstimate(
        weights=bytes_each * (family.unet_parameters + family.text_parameters + merged) + 4 * _VAE_PARAMETERS,
        adapter=int(16 * adapter),
        reward=4 * sum(num for name, num in _CLIP_PARAMETERS.items() if name in run.reward.split(" ")),
        latents=longest.latent_bytes,
        work=int(
            max(run.rollout.chunk_size * forward, run.optimization.micro_batch_size * (backward + forward / 4), decode)
        ),
    )


def fit(run: Run, shape: Shape, *, memory_bytes: float) -> Run | None:
    """Choose the largest powers of two as chunk sizes that leave a fifth of the memory free.

    The smallest sizes may take all of the memory.

    Returns:
        The run with these sizes, or None if even the smallest do not fit.
    """
    to_fill = _FRACTION_TO_FILL * memory_bytes
    sizes = [2**i for i in range(7, -1, -1)]
    best = replace(
        run,
        rollout=replace(run.rollout, chunk_size=max(1, run.rollout.num_branches)),
        optimization=replace(run.optimization, micro_batch_size=1),
    )
    if _total(best, shape) > memory_bytes:
        return None
    for size in sizes:
        tried = replace(best, optimization=replace(best.optimization, micro_batch_size=size))
        if _total(tried, shape) <= to_fill:
            best = tried
            break
    for size in sizes:
        tried = replace(best, rollout=replace(best.rollout, chunk_size=size))
        if _total(tried, shape) <= to_fill:
            return tried
    return best


def _total(run: Run, shape: Shape) -> float:
    estimate = estimate_memory(run, shape)
    return float(estimate.total) if estimate else math.nan
