"""Grids of images of a study's arms, one per condition: a panel per arm, a row per prompt, all of equal noise."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import torch

from b2diffurl.analysis.sample import Generation, sample
from b2diffurl.analysis.study.runner import Runner
from b2diffurl.analysis.study.spec import BASE, Cell, Samples, StudyFile, slug
from b2diffurl.reporting.plots import save_panels
from b2diffurl.run.resolve import resolve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES_PER_IMAGE = 0.9
_TITLE_POINTS = 9
_TITLE_CHARACTERS_PER_INCH = 13  # a character of the title is about .6 of its size wide


def save_samples(study: StudyFile, cells: Sequence[Cell], runner: Runner, folder: Path) -> None:
    """Write the grid of each condition that has prompts: samples-CONDITION.png, or samples.png without conditions.

    Arms whose run folder has no adapter are left out.

    Args:
        study: a study with samples.
        cells: its runs.
        runner: knows the run folders.
        folder: folder of the PNG files.
    """
    samples = study.samples
    assert samples is not None
    for condition in dict.fromkeys(cell.condition for cell in cells):
        if condition not in samples.prompts:
            continue
        chosen = [cell for cell in cells if (cell.seed, cell.condition) == (samples.seed, condition)]
        trained = [cell for cell in chosen if runner.directory(cell).lora.is_dir()]
        if trained:
            name = f"samples-{slug(condition)}" if condition else "samples"
            _save_grid(samples, trained, runner, folder / f"{name}.png")
        else:
            what = f"no grid of images of {condition}" if condition else "no grid of images"
            runner.on_message(f"{what}: no run of seed {samples.seed} has its adapter in {runner.output}")


def _save_grid(samples: Samples, cells: Sequence[Cell], runner: Runner, file: Path) -> None:
    """Write the grid of a condition.

    Args:
        samples: what the grid shows.
        cells: the runs of the condition that have an adapter.
        runner: knows the run folders.
        file: PNG file to write.
    """
    prompts = samples.prompts[cells[0].condition]
    columns = [(BASE, _generate(cells[0], samples, runner, lora=None))]
    columns += [(cell.arm, _generate(cell, samples, runner, lora=runner.directory(cell).lora)) for cell in cells]
    trained_on = {prompt for cell in cells for prompt in resolve(cell.run).train_prompts}
    labels = [_label(prompt, is_held_out=prompt not in trained_on) for prompt in prompts]
    width, height = samples.images_per_prompt, len(prompts)
    panels = [
        partial(_show, images=images, num_columns=width, title=arm, labels=labels if place == 0 else ())
        for place, (arm, images) in enumerate(columns)
    ]
    save_panels(panels, file, panel_inches=(width * _INCHES_PER_IMAGE + 0.4, height * _INCHES_PER_IMAGE + 0.4))


def _label(prompt: str, *, is_held_out: bool) -> str:
    return prompt.replace(" ", "\n", 2) + ("\n(held out)" if is_held_out else "")


def _generate(cell: Cell, samples: Samples, runner: Runner, *, lora: Path | None) -> torch.Tensor:
    """Generate the images of an arm as one image, a row per prompt."""
    sampler = cell.run.sampler
    generation = Generation(
        num_inference_steps=sampler.num_inference_steps, eta=sampler.eta, guidance_scale=sampler.guidance_scale,
        negative_prompt=sampler.negative_prompt, memory=cell.run.memory, device=runner.device,
    )  # fmt: skip
    rows, columns = samples.prompts[cell.condition], samples.images_per_prompt
    prompts = [prompt for prompt in rows for _ in range(columns)]
    images = sample(cell.run.model, prompts, lora=lora, seed=samples.seed, generation=generation).images
    _, channels, height, width = images.shape
    by_place = images.view(len(rows), columns, channels, height, width)
    return by_place.permute(2, 0, 3, 1, 4).reshape(channels, len(rows) * height, columns * width)


def _show(axes: "Axes", *, images: torch.Tensor, num_columns: int, title: str, labels: Sequence[str]) -> None:
    axes.imshow(images.permute(1, 2, 0).clamp(0, 1).numpy())
    width = int(num_columns * _INCHES_PER_IMAGE * _TITLE_CHARACTERS_PER_INCH)
    axes.set_title(fill(title, width), fontsize=_TITLE_POINTS)
    side = images.shape[1] / max(1, len(labels))
    axes.set_xticks([])
    axes.set_yticks([side * (row + 0.5) for row in range(len(labels))], labels)
    axes.tick_params(length=0)
