"""The model card of an adapter: training, scores, usage, license and citations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from b2diffurl.models.model_source import EMOJI, is_checkpoint, is_hub_id, public_name
from b2diffurl.reporting.citations import Citation, citations_of
from b2diffurl.reporting.plots import save_reward_curve
from b2diffurl.rewards import parse_reward
from b2diffurl.run.records import Evaluation
from b2diffurl.run.settings import Run

_CURVE_FILE = "reward.png"


def write_card(
    directory: Path, run: Run, *, evaluation: Evaluation | None, rounds: Sequence[Mapping[str, Any]]
) -> None:
    """Write README.md and its reward curve beside an adapter.

    Args:
        directory: directory of the adapter.
        run: the run that trained it.
        evaluation: scores before and after training, if there are any.
        rounds: metrics of each round.
    """
    save_reward_curve(rounds, directory / _CURVE_FILE, title=run.recipe)
    interval_length = int(rounds[-1]["interval/length"]) if run.lora.interval else 0
    card = model_card(run, evaluation, interval_length=interval_length)
    (directory / "README.md").write_text(card, encoding="utf-8")


def model_card(run: Run, evaluation: Evaluation | None = None, *, interval_length: int = 0) -> str:
    """Return the text of the card with metadata for the Hugging Face Hub, without any path or address of this host.

    Args:
        run: the run that trained the adapter.
        evaluation: scores before and after training, if there are any.
        interval_length: with `lora.interval`, the interval length of the last round.
    """
    name = public_name(run.model)
    sections = [
        _metadata(run.model),
        f"# LoRA on {name}, trained by reinforcement learning\n",
        f"Trained with b2diffurl, recipe `{run.recipe}`, with the reward `{_public_reward(run)}` on the prompts "
        f"`{public_name(run.prompts)}`. Properties that the reward does not measure may have become worse.\n",
        _usage(run) + (_interval_usage(run, interval_length) if run.lora.interval and interval_length else ""),
        f"## Reward\n\n![mean reward of the training images by reward queries]({_CURVE_FILE})\n",
    ]
    if evaluation and evaluation.before and evaluation.after:
        sections.append(_scores(evaluation))
    license_text = f"The adapter is a modification of {name} and is covered by the license of that model."
    sections += [f"## License\n\n{license_text}\n", _citations(citations_of(run))]
    return "\n".join(sections)


def _metadata(base_model: str) -> str:
    lines = ["library_name: diffusers", "pipeline_tag: text-to-image"]
    lines += ["tags:", *(f"- {tag}" for tag in ("lora", "text-to-image", "reinforcement-learning", "b2diffurl"))]
    lines.append(f"license: {'ofl-1.1' if base_model == EMOJI else 'other'}")
    if is_hub_id(base_model):
        lines.append(f"base_model: {base_model}")
    return "\n".join(["---", *lines, "---", ""])


def _public_reward(run: Run) -> str:
    """Return the reward without paths and addresses of this host."""
    terms: list[str] = []
    for term in parse_reward(run.reward):
        argument = {"remote": "", "custom": Path(term.name).name}.get(term.kind, public_name(term.rest))
        name = ":".join(word for word in ("" if term.kind == "custom" else term.kind, argument) if word)
        terms.append(name if term.weight == 1 else f"{term.weight:g}*{name}")
    return " + ".join(terms).replace(" + -", " - ")


def _usage(run: Run) -> str:
    """Return the code that generates images with the adapter and the run's sampler settings."""
    options = {name: getattr(run.sampler, name) for name in ("num_inference_steps", "guidance_scale", "eta")}
    if run.sampler.negative_prompt:
        options["negative_prompt"] = run.sampler.negative_prompt
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    imports = "from diffusers import DDIMScheduler, DiffusionPipeline"
    source = f'"{public_name(run.model)}"'
    load = "DiffusionPipeline.from_pretrained"
    if run.model == EMOJI:
        imports += "\nfrom b2diffurl import emoji"
        source = "emoji.model_dir()"
    elif is_checkpoint(run.model):
        imports = "from diffusers import DDIMScheduler, StableDiffusionPipeline  # StableDiffusionXLPipeline for XL"
        load = "StableDiffusionPipeline.from_single_file"
    return (
        f"```python\n{imports}\n\npipe = {load}({source})\n"
        "config = pipe.scheduler.config\n"
        "pipe.scheduler = DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)\n"
        'pipe.load_lora_weights("DIRECTORY OR HUB ID OF THIS ADAPTER")\n'
        f'pipe("a prompt", {arguments})\n```\n\n'
        'For PEFT alone: `PeftModel.from_pretrained(unet, "DIRECTORY/peft")`.\n'
    )


def _interval_usage(run: Run, interval_length: int) -> str:
    """Return how to switch the adapter on at the beginning of the interval."""
    num_steps = run.sampler.num_inference_steps
    start = num_steps - interval_length
    return (
        f"\n**The adapter has to be off in the first {start} of {num_steps} steps**: it was trained for the last "
        f"{interval_length} only. In diffusers:\n\n"
        "```python\n"
        "def switch_on(pipe, step, timestep, tensors):\n"
        f"    if step == {start - 1}:  # the end of the last step without the adapter\n"
        "        pipe.enable_lora()\n"
        "    return tensors\n\n"
        "pipe.disable_lora()  # before each call\n"
        'pipe("a prompt", ..., callback_on_step_end=switch_on)  # other arguments as above\n'
        "```\n\n"
        f"In ComfyUI, schedule the LoRA with a strength of 0 from 0 % and of 1 from {100 * start / num_steps:g} %.\n"
    )


def _scores(evaluation: Evaluation) -> str:
    rows = [
        f"| {name} | {before:.4f} | {evaluation.after[name]:.4f} |"
        for name, before in evaluation.before.items()
        if name in evaluation.after
    ]
    basis = "" if evaluation.num_images is None else f"Measured on {evaluation.num_images} images.\n\n"
    return "\n".join([f"## Before and after\n\n{basis}| | before | after |", "|---|---|---|", *rows, ""])


def _citations(citations: Sequence[Citation]) -> str:
    items = "\n".join(
        f"- {citation.description}: [arXiv {citation.arxiv}](https://arxiv.org/abs/{citation.arxiv})"
        for citation in citations
    )
    entries = "\n\n".join(citation.bibtex for citation in citations)
    return f"## Citation\n\n{items}\n\n```bibtex\n{entries}\n```\n"
