"""The time that a run takes on a device: seconds per network evaluation, measured or a rough value, times the number.

Shapes: M single steps of C x H x W latents.
"""

import time
from dataclasses import dataclass

import torch

from b2diffurl.algorithm.randomness import EVALUATION_STREAM, NoiseKey
from b2diffurl.analysis.plan import Evaluations, Family, model_shape, run_evaluations
from b2diffurl.analysis.plan import Shape as ModelShape
from b2diffurl.analysis.probe.setup import Setup
from b2diffurl.evaluation.generate import generate_images
from b2diffurl.rewards import score_images
from b2diffurl.run.resolve import ResolvedRun
from b2diffurl.run.settings import Run

_NUM_IMAGES = 2
# Ours, rough: about 50 GFLOP/s per core in float32, and 3 forward passes per forward and backward pass.
_CORE_FLOPS, _UPDATE_FACTOR = 5e10, 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Seconds of the parts of a run.

    Attributes:
        sampling: per network evaluation in sampling, decoding included.
        update: per network evaluation in updates, the backward pass included.
        reward: per image that is scored.
        num_images: images that sampling was measured with; 0 for a rough value.
        peak_bytes: largest memory of the GPU in the measurement; 0 where it was not measured.
    """

    sampling: float
    update: float
    reward: float = 0.0
    num_images: int = 0
    peak_bytes: int = 0


def run_seconds(run: Run, shape: ModelShape, speed: Speed) -> float:
    """Estimate the seconds of a whole run, in which updates take as many evaluations as they can at most."""
    cost: Evaluations = run_evaluations(run, shape)
    queries = run.num_rounds * run.reward_queries_per_round
    return speed.sampling * (cost.sampling + cost.images) + speed.update * cost.update + speed.reward * queries


def rough_cpu_speed(family: Family, *, num_threads: int) -> Speed:
    """Return a rough speed of a CPU, from the operations of the family's UNet."""
    seconds = family.forward_flops / (_CORE_FLOPS * num_threads)
    return Speed(sampling=seconds, update=_UPDATE_FACTOR * seconds)


def measure_speed(resolved: ResolvedRun, *, device: str) -> Speed:
    """Generate two images, score them, and train one micro-batch; nothing is saved.

    A small model is measured with a whole chunk of images instead, as two would take as long.

    Args:
        resolved: the run; its model and reward are loaded.
        device: device of the model, not "auto".

    Raises:
        UserError: the model or the reward cannot be loaded.
    """
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    setup = Setup.load(resolved, lora=None, device=device, reward=None)
    setup.model.add_lora(resolved.run.lora, seed=resolved.run.seed)
    is_small = model_shape(resolved.run.model).family is None
    num_images = resolved.run.rollout.chunk_size if is_small else _NUM_IMAGES
    if is_cuda or is_small:  # the first passes choose kernels and allocate memory
        _sample(setup, num_images=num_images)
        _train(setup)
    sampling, reward = _sample(setup, num_images=num_images)
    update = _train(setup)
    peak = torch.cuda.max_memory_allocated(device) if is_cuda else 0
    return Speed(sampling=sampling, update=update, reward=reward, num_images=num_images, peak_bytes=peak)


def _sample(setup: Setup, *, num_images: int) -> tuple[float, float]:
    """Return the seconds per network evaluation of sampling, and per scored image."""
    policy, noise = setup.policy, NoiseKey(seed=0, stream=EVALUATION_STREAM)
    started = time.perf_counter()
    generated = generate_images(policy, setup.train_prompts, num_images=num_images, noise=noise)
    sampled = time.perf_counter()
    metadata = setup.prompt_list.metadata_of(generated.prompts)
    score_images(setup.reward, generated.images, generated.prompts, metadata)
    scored = time.perf_counter()
    num_evaluations = num_images * policy.chain.num_steps * policy.evaluations_per_step
    return (sampled - started) / num_evaluations, (scored - sampled) / num_images


def _train(setup: Setup) -> float:
    """Return the seconds per network evaluation of a forward and backward pass over one micro-batch."""
    policy, run = setup.policy, setup.run
    num, num_trained = run.optimization.micro_batch_size, policy.chain.num_steps - run.schedule.tau_last
    prompts = [setup.train_prompts[i % len(setup.train_prompts)] for i in range(num)]
    x = torch.randn(num, *policy.denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    x, step_index = x.to(policy.denoiser.device), torch.arange(num) % num_trained
    conditioning = policy.denoiser.encode(prompts)
    started = time.perf_counter()
    gaussian = policy.step(x, step_index, conditioning)
    log_prob = policy.log_prob(gaussian, gaussian.mean.detach() + 0.01)
    log_prob.mean().backward()
    for parameter in setup.model.trainable_parameters().values():
        assert parameter.grad is not None
        float(parameter.grad.sum())  # waits for the device
        parameter.grad = None
    return (time.perf_counter() - started) / (num * policy.evaluations_per_step)
