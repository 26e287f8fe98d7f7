"""`b2diffurl evaluate MODEL`: evaluate a model's images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from b2diffurl.analysis.evaluate import evaluate as compute_metrics
from b2diffurl.analysis.evaluate import find_judge
from b2diffurl.cli.common import check_file, parse, prepare
from b2diffurl.cli.generation import GenerationFlags, print_adapter_interval, progress_bar
from b2diffurl.distributed import check_device
from b2diffurl.errors import UserError
from b2diffurl.prompts.lists import read_prompts


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(GenerationFlags):
    """Evaluate a model's images: alignment and diversity.

    Attributes:
        num_images: number of images to evaluate, with the prompts in turn.
        metrics: metrics to print; by default all that this model and these prompts have.
        judge: auto (the scene oracle for "emoji" on its prompts, else the embedded CLIP for "emoji" and the paper's
            ViT-H-14 for other models), clip (ViT-H-14) or clip:MODEL.
        json: file to write the numbers to.
    """

    num_images: int = 900
    metrics: tuple[str, ...] = ()
    judge: str = "auto"
    json: Path | None = None


def evaluate(words: list[str]) -> int:
    """Evaluate a model's images."""
    flags = parse(EvaluateCommand, words, prog="b2diffurl evaluate")
    prompts = read_prompts(flags.prompts)
    available = find_judge(flags.judge, model=flags.model, prompts=prompts).metrics
    unknown = [name for name in flags.metrics if name not in available]
    if unknown:
        raise UserError(
            f"metrics holds {unknown[0]!r}; for this model and these prompts give some of: {', '.join(available)}."
        )
    if flags.json is not None and not flags.json.parent.is_dir():
        raise UserError(f"json is {flags.json}, whose folder does not exist; create it first.")
    if flags.json is not None:
        check_file(flags.json, setting="json")
    check_device(flags.generation.device)
    prepare()
    print_adapter_interval(flags)
    with progress_bar(flags.num_images) as advance:
        metrics = compute_metrics(
            flags.model, prompts, lora=flags.lora, num_images=flags.num_images, seed=flags.seed, judge=flags.judge,
            generation=flags.generation, on_progress=advance,
        )  # fmt: skip
    metrics = {name: metrics[name] for name in flags.metrics or available}
    for name, value in metrics.items():
        print(f"{name:<16} {value:.4f}")
    if flags.json is not None:
        flags.json.write_text(json.dumps(_settings(flags) | metrics, indent=2) + "\n", encoding="utf-8")
    return 0


def _settings(flags: EvaluateCommand) -> dict[str, Any]:
    return {
        "model": flags.model,
        "lora": str(flags.lora) if flags.lora else None,
        "num_images": flags.num_images,
        "prompts": list(flags.prompts),
        "seed": flags.seed,
        "guidance_scale": flags.generation.sampler(flags.model).guidance_scale,
    }
