"""A grid of images of a study's arms: a panel per arm, a row per prompt, all of equal noise."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import torch

from b2diffurl.analysis.sample import Generation, sample
from b2diffurl.analysis.study.runner import Runner
from b2diffurl.analysis.study.spec import BASE, Cell, Samples, StudyFile
from b2diffurl.reporting.plots import save_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES_PER_IMAGE = 0.9
_TITLE_POINTS = 9
_TITLE_CHARACTERS_PER_INCH = 13  # a character of the title is about .6 of its size wide


def save_samples(study: StudyFile, cells: Sequence[Cell], runner: Runner, file: Path) -> None:
    """Write the grid of the first condition; arms whose run folder has no adapter are left out.

    Args:
        study: a study with samples.
        cells: its runs.
        runner: knows the run folders.
        file: PNG file to write.
    """
    samples = study.samples
    assert samples is not None
    condition = cells[0].condition
    chosen = [cell for cell in cells if (cell.seed, cell.condition) == (samples.seed, condition)]
    trained = [cell for cell in chosen if runner.directory(cell).lora.is_dir()]
    if not trained:
        runner.on_message(f"no grid of images: no run of seed {samples.seed} has its adapter in {runner.output}")
        return
    columns = [(BASE, _generate(trained[0], samples, runner, lora=None))]
    columns += [(cell.arm, _generate(cell, samples, runner, lora=runner.directory(cell).lora)) for cell in trained]
    width, height = samples.images_per_prompt, len(samples.prompts)
    panels = [
        partial(_show, images=images, num_columns=width, title=arm, prompts=samples.prompts if place == 0 else ())
        for place, (arm, images) in enumerate(columns)
    ]
    save_panels(panels, file, panel_inches=(width * _INCHES_PER_IMAGE + 0.4, height * _INCHES_PER_IMAGE + 0.4))


def _generate(cell: Cell, samples: Samples, runner: Runner, *, lora: Path | None) -> torch.Tensor:
    """Generate the images of an arm as one image, a row per prompt."""
    sampler = cell.run.sampler
    generation = Generation(
        num_inference_steps=sampler.num_inference_steps, eta=sampler.eta, guidance_scale=sampler.guidance_scale,
        negative_prompt=sampler.negative_prompt, memory=cell.run.memory, device=runner.device,
    )  # fmt: skip
    prompts = [prompt for prompt in samples.prompts for _ in range(samples.images_per_prompt)]
    images = sample(cell.run.model, prompts, lora=lora, seed=samples.seed, generation=generation).images
    _, channels, height, width = images.shape
    rows, columns = len(samples.prompts), samples.images_per_prompt
    by_place = images.view(rows, columns, channels, height, width)
    return by_place.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def _show(axes: "Axes", *, images: torch.Tensor, num_columns: int, title: str, prompts: Sequence[str]) -> None:
    axes.imshow(images.permute(1, 2, 0).clamp(0, 1).numpy())
    width = int(num_columns * _INCHES_PER_IMAGE * _TITLE_CHARACTERS_PER_INCH)
    axes.set_title(fill(title, width), fontsize=_TITLE_POINTS)
    side = images.shape[1] / max(1, len(prompts))
    axes.set_xticks([])
    axes.set_yticks([side * (row + 0.5) for row in range(len(prompts))], [p.replace(" ", "\n", 2) for p in prompts])
    axes.tick_params(length=0)
