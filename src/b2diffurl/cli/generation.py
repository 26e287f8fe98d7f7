"""Flags that `sample` and `evaluate` share, and their progress bar."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from b2diffurl.analysis.sample import Generation
from b2diffurl.models import ModelSource, check_lora, read_adapter_interval


@dataclass(frozen=True, kw_only=True)
class GenerationFlags:
    """Flags that `sample` and `evaluate` share.

    Attributes:
        model: "emoji", "emoji-objects", a local diffusers directory, a .safetensors checkpoint file, or a hub id.
        prompts: a named list such as template1-test, a .txt, .json or .toml file, or one or more prompts.
        seed: seed of the noise.
        generation: sampler, precision and device.
    """

    model: tyro.conf.Positional[str]
    prompts: tuple[str, ...] = ("template1-train",)
    seed: int = 0
    generation: Annotated[Generation, tyro.conf.arg(name="")] = Generation()  # noqa: RUF009 - frozen


def print_chain_note(model: str) -> None:
    """Print which chain is used where it is not that of the model's own scheduler."""
    note = ModelSource(model).chain_note
    if note:
        print(note)


def print_adapter_intervals(loras: Sequence[Path], generation: Generation) -> None:
    """Print in which steps an adapter is on, if it was trained for some of them only.

    Raises:
        UserError: an adapter folder does not exist.
    """
    for lora in loras:
        check_lora(lora)
        interval = read_adapter_interval(lora)
        if interval is not None:
            total = generation.num_inference_steps
            steps = interval.num_steps(total)
            print(f"The adapter {lora} is on in the last {steps} of {total} steps, as it was trained.")


@contextmanager
def progress_bar(total: int) -> Generator[Callable[[int], None]]:
    """Show a progress bar on stderr; gives the function that advances it."""
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        bar = progress.add_task("sampling", total=total)
        yield lambda num: progress.advance(bar, num)
