"""`b2diffurl sample MODEL`: generate images."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from b2diffurl.analysis.sample import sample as generate_images
from b2diffurl.cli.common import announce_device, check_output, parse, prepare
from b2diffurl.cli.generation import GenerationFlags, print_adapter_intervals, print_chain_note, progress_bar
from b2diffurl.distributed import check_device
from b2diffurl.errors import UserError
from b2diffurl.images import grid, to_pil
from b2diffurl.prompts.lists import read_prompts
from b2diffurl.reporting.text import count

_GRID_COLUMNS = 12


@dataclass(frozen=True, kw_only=True)
class SampleCommand(GenerationFlags):
    """Generate images into a folder: one PNG per image, a grid, and prompts.json.

    Attributes:
        output: folder for the images, created if it does not exist.
        lora: adapter folder of a run.
        num_images: number of images; by default one per prompt.
    """

    output: Annotated[Path, tyro.conf.arg()]
    lora: Path | None = None
    num_images: int | None = None


def sample(words: list[str]) -> int:
    """Generate images into a folder."""
    flags = parse(SampleCommand, words, prog="b2diffurl sample")
    check_output(flags.output)
    if flags.output.exists() and (not flags.output.is_dir() or any(flags.output.iterdir())):
        raise UserError(f"output is {flags.output}, which exists and is not an empty folder; give another folder.")
    prompts = read_prompts(flags.prompts)
    check_device(flags.generation.device)
    prepare()
    print_chain_note(flags.model)
    print_adapter_intervals(() if flags.lora is None else (flags.lora,), flags.generation)
    generation = replace(flags.generation, device=announce_device(flags.generation.device))
    with progress_bar(flags.num_images or len(prompts)) as advance:
        generated = generate_images(
            flags.model, prompts, lora=flags.lora, num_images=flags.num_images, seed=flags.seed,
            generation=generation, on_progress=advance,
        )  # fmt: skip
    flags.output.mkdir(parents=True, exist_ok=True)
    images = [to_pil(image) for image in generated.images]
    for index, image in enumerate(images):
        image.save(flags.output / f"{index:04d}.png")
    grid(images, num_columns=_GRID_COLUMNS).save(flags.output / "grid.png")
    (flags.output / "prompts.json").write_text(json.dumps(generated.prompts, indent=1), encoding="utf-8")
    print(f"{count(len(images), 'image')} in {flags.output}, all together in {flags.output / 'grid.png'}")
    return 0
