"""A grid of images of a study's arms: a row per prompt, a group of columns per arm, all of equal noise."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from b2diffurl.analysis.sample import Generation, sample
from b2diffurl.analysis.study.runner import Runner
from b2diffurl.analysis.study.spec import BASE, Cell, Samples, StudyFile
from b2diffurl.images import to_pil

_SIDE, _GAP, _HEADER = 96, 6, 18


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
    _grid(columns, samples).save(file)


def _generate(cell: Cell, samples: Samples, runner: Runner, *, lora: Path | None) -> list[Image.Image]:
    sampler = cell.run.sampler
    generation = Generation(
        num_inference_steps=sampler.num_inference_steps, eta=sampler.eta, guidance_scale=sampler.guidance_scale,
        negative_prompt=sampler.negative_prompt, memory=cell.run.memory, device=runner.device,
    )  # fmt: skip
    prompts = [prompt for prompt in samples.prompts for _ in range(samples.images_per_prompt)]
    images = sample(cell.run.model, prompts, lora=lora, seed=samples.seed, generation=generation).images
    return [to_pil(image).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS) for image in images]


def _grid(columns: Sequence[tuple[str, list[Image.Image]]], samples: Samples) -> Image.Image:
    """Place the images; the arm stands above its columns, the prompt above its row."""
    num_each = samples.images_per_prompt
    group = num_each * _SIDE + _GAP
    row = _SIDE + _HEADER
    grid = Image.new("RGB", (len(columns) * group, _HEADER + len(samples.prompts) * row), "white")
    draw = ImageDraw.Draw(grid)
    for place, (arm, images) in enumerate(columns):
        draw.text((place * group + 4, 3), arm, fill="black")
        for index, image in enumerate(images):
            grid.paste(image, (place * group + index % num_each * _SIDE, _HEADER + index // num_each * row + _HEADER))
    for index, prompt in enumerate(samples.prompts):
        draw.text((4, _HEADER + index * row + 3), prompt, fill="black")
    return grid
