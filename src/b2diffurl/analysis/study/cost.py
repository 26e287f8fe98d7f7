"""What a study will cost on this machine, before anything is trained."""

import time
from collections.abc import Sequence

import torch

from b2diffurl.algorithm.randomness import EVALUATION_STREAM, NoiseKey
from b2diffurl.analysis.plan import model_shape, run_evaluations
from b2diffurl.analysis.study.runner import Runner
from b2diffurl.analysis.study.spec import Cell
from b2diffurl.emoji import is_embedded
from b2diffurl.evaluation.generate import generate_images
from b2diffurl.models import ModelSource
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.prompts.lists import read_prompts
from b2diffurl.reporting.text import count, format_duration
from b2diffurl.run.binding import bind_policy
from b2diffurl.run.settings import Run

_IMAGES = 32
_TRAINED_COST = 2.1  # a forward and backward pass over a forward pass, measured on the embedded model


def plan_text(cells: Sequence[Cell], runner: Runner) -> str:
    """Return one line per arm and condition: runs, images, network evaluations, time; and the sum of what is missing.

    The time is that of one run on one core, from the seconds of a network evaluation measured now; only the embedded
    models are measured, because others may have to be downloaded.
    """
    existing = runner.existing(cells)
    missing = list({cell.key: cell for cell in cells if cell.key not in existing}.values())
    seconds_each = _seconds_per_evaluation(cells[0].run) if is_embedded(cells[0].run.model) else None
    lines = ["| arm | runs | missing | images per run | network evaluations per run | time per run |"]
    lines.append("|" + " --- |" * 6)
    for name in dict.fromkeys((cell.condition, cell.arm) for cell in cells):
        runs = [cell for cell in cells if (cell.condition, cell.arm) == name]
        run = runs[0].run
        cost = run_evaluations(run, model_shape(run.model))
        num_missing = sum(cell.key not in existing for cell in runs)
        lines.append(
            f"| {' '.join(filter(None, name))} | {len(runs)} | {num_missing} | "
            f"{run.num_rounds * run.reward_queries_per_round:,} | {cost.sampling + cost.update:,} + {cost.images:,} to "
            "evaluate | "
            f"{_duration(run, seconds_each)} |"
        )
    if seconds_each is not None:
        total = sum(_seconds(cell.run, seconds_each) for cell in missing) / runner.num_jobs
        lines += ["", f"{count(len(missing), 'run')} to train: about {format_duration(total)} with "
                  f"{count(runner.num_jobs, 'job')}."]  # fmt: skip
    return "\n".join(lines)


def _seconds(run: Run, seconds_each: float) -> float:
    cost = run_evaluations(run, model_shape(run.model))
    return seconds_each * (cost.sampling + _TRAINED_COST * cost.update + cost.images)


def _duration(run: Run, seconds_each: float | None) -> str:
    return "not measured" if seconds_each is None else format_duration(_seconds(run, seconds_each))


def _seconds_per_evaluation(run: Run) -> float:
    """Measure the CPU time of a network evaluation of one latent in seconds, on one thread, in a batch of 32.

    CPU time, because other processes on the machine lengthen the wall time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = TextToImageModel.load(ModelSource(run.model), device="cpu", memory=run.memory)
        model.add_lora(run.lora, seed=run.seed)
        policy = bind_policy(model, run)
        prompts, noise = read_prompts(run.prompts), NoiseKey(seed=0, stream=EVALUATION_STREAM)
        generate_images(policy, prompts, num_images=1, noise=noise)
        started = time.process_time()
        generate_images(policy, prompts, num_images=_IMAGES, noise=noise)
        return (time.process_time() - started) / (_IMAGES * run.sampler.num_inference_steps)
    finally:
        torch.set_num_threads(threads)
