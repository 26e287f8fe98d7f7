"""`b2diffurl merge MODEL`: write a model with an adapter merged into its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from b2diffurl.cli.common import check_output, parse, prepare
from b2diffurl.errors import UserError
from b2diffurl.models import ModelSource
from b2diffurl.models.merge import check_mergeable, merge_adapter
from b2diffurl.run import files


@dataclass(frozen=True, kw_only=True)
class MergeCommand:
    """Write a complete diffusers pipeline with an adapter merged into its weights.

    Attributes:
        model: "emoji", "emoji-objects", a local diffusers directory, a .safetensors checkpoint file, or a hub id.
        lora: adapter folder of a run.
        output: folder for the pipeline; it must not exist.
        scale: factor of what the adapter adds, as trained at 1.
    """

    model: tyro.conf.Positional[str]
    lora: Annotated[Path, tyro.conf.arg()]
    output: Annotated[Path, tyro.conf.arg()]
    scale: float = 1.0


def merge(words: list[str]) -> int:
    """Write a merged pipeline."""
    flags = parse(MergeCommand, words, prog="b2diffurl merge")
    check_output(flags.output)
    if flags.output.exists():
        raise UserError(f"output is {flags.output}, which exists; give the path of a new folder.")
    check_mergeable(flags.lora, scale=flags.scale)
    source = ModelSource(flags.model)
    prepare()
    with files.replaced_directory(flags.output) as partial:
        merge_adapter(source, flags.lora, partial, scale=flags.scale)
    print(f"pipeline {flags.output}: {flags.model} with {flags.lora} merged at scale {flags.scale:g}")
    return 0
