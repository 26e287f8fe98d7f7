"""The model card: what an adapter was made of, how it learned, what it does, whose work it rests on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from b2diffurl.models.model_source import EMOJI, is_checkpoint, is_hub_id, public_name
from b2diffurl.reporting.citations import Paper, papers_of
from b2diffurl.reporting.plots import draw_curves
from b2diffurl.rewards import parse_reward
from b2diffurl.run.settings import Run

_CURVE_FILE = "reward.png"


def write_card(directory: Path, run: Run, *, evaluation: Mapping[str, Any], metrics_file: Path) -> None:
    """Write README.md, and the curve that it shows, beside an adapter.

    Args:
        directory: of the adapter.
        run: that it comes from.
        evaluation: what the run's evaluation.json says.
        metrics_file: the run's metrics.jsonl.
    """
    draw_curves({run.recipe: [metrics_file]}, directory / _CURVE_FILE)
    (directory / "README.md").write_text(model_card(run, evaluation), encoding="utf-8")


def model_card(run: Run, evaluation: Mapping[str, Any]) -> str:
    """The text of the card, with the Hugging Face hub's metadata on top. Folders of this machine are not told."""
    name = public_name(run.model)
    licence = f"The adapter is a change to {name} and comes under the licence of that model."
    parts = [
        _metadata(run.model),
        f"# LoRA on {name}, trained by reinforcement learning\n",
        f"Made by b2diffurl, recipe `{run.recipe}`, with the reward `{_public_reward(run)}` on the prompts "
        f"`{public_name(run.prompts)}`. What the reward does not measure may have become worse.\n",
        _usage(run),
        f"## Reward\n\n![mean reward of the training pictures by reward queries]({_CURVE_FILE})\n",
    ]
    if "before" in evaluation and "after" in evaluation:
        parts.append(_table(evaluation["before"], evaluation["after"], evaluation.get("num_images")))
    parts += [f"## Licence\n\n{licence}\n", _citations(papers_of(run))]
    return "\n".join(parts)


def _metadata(base_model: str) -> str:
    lines = ["library_name: diffusers", "pipeline_tag: text-to-image"]
    lines += ["tags:", *(f"- {tag}" for tag in ("lora", "text-to-image", "reinforcement-learning", "b2diffurl"))]
    lines.append(f"license: {'ofl-1.1' if base_model == EMOJI else 'other'}")
    if is_hub_id(base_model):
        lines.append(f"base_model: {base_model}")
    return "\n".join(["---", *lines, "---", ""])


def _public_reward(run: Run) -> str:
    """The reward without folders and addresses of this machine."""
    told: list[str] = []
    for term in parse_reward(run.reward):
        rest = {"remote": "", "own": Path(term.name).name}.get(term.kind, public_name(term.rest))
        name = ":".join(part for part in ("" if term.kind == "own" else term.kind, rest) if part)
        told.append(name if term.weight == 1 else f"{term.weight:g}*{name}")
    return " + ".join(told).replace(" + -", " - ")


def _usage(run: Run) -> str:
    base_model, sampler = run.model, run.sampler
    told = {name: getattr(sampler, name) for name in ("num_inference_steps", "guidance_scale", "eta")}
    if sampler.negative_prompt:
        told["negative_prompt"] = sampler.negative_prompt
    how = ", ".join(f"{name}={value!r}" for name, value in told.items())
    imports, source = "from diffusers import DDIMScheduler, DiffusionPipeline", f'"{public_name(base_model)}"'
    load = "DiffusionPipeline.from_pretrained"
    if base_model == EMOJI:
        imports, source = imports + "\nfrom b2diffurl import emoji", "emoji.model_dir()"
    elif is_checkpoint(base_model):
        imports = "from diffusers import DDIMScheduler, StableDiffusionPipeline  # StableDiffusionXLPipeline for XL"
        load = "StableDiffusionPipeline.from_single_file"
    return (
        f"```python\n{imports}\n\npipe = {load}({source})\n"
        "config = pipe.scheduler.config\n"
        "pipe.scheduler = DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)\n"
        'pipe.load_lora_weights("DIRECTORY OR HUB ID OF THIS ADAPTER")\n'
        f'pipe("a prompt", {how})\n```\n\n'
        'For PEFT alone: `PeftModel.from_pretrained(unet, "DIRECTORY/peft")`.\n'
    )


def _table(before: Mapping[str, float], after: Mapping[str, float], num_images: int | None) -> str:
    rows = [f"| {name} | {before[name]:.4f} | {after[name]:.4f} |" for name in before if name in after]
    of = "" if num_images is None else f"Of {num_images} pictures.\n\n"
    return "\n".join([f"## Before and after\n\n{of}| | before | after |", "|---|---|---|", *rows, ""])


def _citations(papers: Sequence[Paper]) -> str:
    parts = "\n".join(f"- {paper.part}: [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" for paper in papers)
    entries = "\n\n".join(paper.bibtex for paper in papers)
    return f"## Citation\n\n{parts}\n\n```bibtex\n{entries}\n```\n"
