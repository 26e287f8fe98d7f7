"""The model card of an adapter: gallery, training, scores, usage, license and citations."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from b2diffurl.emoji import EMOJI, is_embedded
from b2diffurl.models.adapter_files import KOHYA_FILE
from b2diffurl.models.model_source import is_checkpoint, is_hub_id, public_name
from b2diffurl.reporting.citations import Citation, citations_of
from b2diffurl.reporting.plots import save_reward_curve
from b2diffurl.rewards import parse_reward
from b2diffurl.run.records import Evaluation, RunRecord
from b2diffurl.run.settings import Run

_CURVE_FILE = "reward.png"
_IMAGES = "images"
_NUM_PAIRS = 6
_TAGS = ("text-to-image", "lora", "diffusers", "reinforcement-learning", "b2diffurl")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two images of one prompt from the same noise.

    Attributes:
        prompt: the prompt.
        before: image before training: path relative to the card.
        after: image after training: path relative to the card.
    """

    prompt: str
    before: str
    after: str


def write_card(directory: Path, run: Run, record: RunRecord) -> None:
    """Write README.md beside an adapter, with its reward curve and a gallery in `images/`.

    Args:
        directory: directory of the adapter.
        run: the run that trained it.
        record: its metrics, scores and sample images.
    """
    rounds = record.rounds
    save_reward_curve(rounds, directory / _CURVE_FILE, title=run.recipe)
    interval_length = int(rounds[-1]["interval/length"]) if run.lora.interval else 0
    pairs = _copy_images(record, directory / _IMAGES)
    card = model_card(run, record.evaluation, interval_length=interval_length, pairs=pairs)
    (directory / "README.md").write_text(card, encoding="utf-8")


def _copy_images(record: RunRecord, folder: Path) -> list[Pair]:
    """Copy the sample images before training and the last ones, of prompts spread over all that have both."""
    before, after = record.before, record.after
    if not before or after is before:
        return []
    common = [index for index in before if index in after and index < len(record.prompts)]
    num = min(_NUM_PAIRS, len(common))
    folder.mkdir()
    pairs: list[Pair] = []
    for index in (common[place * len(common) // num] for place in range(num)):
        for when, images in (("before", before), ("after", after)):
            shutil.copy(images[index], folder / f"{when}_{index:03d}.png")
        names = (f"{_IMAGES}/{when}_{index:03d}.png" for when in ("before", "after"))
        pairs.append(Pair(prompt=record.prompts[index], before=next(names), after=next(names)))
    return pairs


def model_card(
    run: Run, evaluation: Evaluation | None = None, *, interval_length: int = 0, pairs: Sequence[Pair] = ()
) -> str:
    """Return the text of the card with metadata for the Hugging Face Hub, without any path or address of this host.

    Args:
        run: the run that trained the adapter.
        evaluation: scores before and after training, if there are any.
        interval_length: with `lora.interval`, the interval length of the last round.
        pairs: images of the gallery.
    """
    name = public_name(run.model)
    trained = (
        f"Trained with b2diffurl, recipe `{run.recipe}`, with the reward `{_public_reward(run)}` on the prompts "
        f"`{public_name(run.prompts)}`. Properties that the reward does not measure may have become worse."
    )
    if run.lora.init:
        trained += f" Training started from the adapter `{public_name(run.lora.init)}`."
    sections = [
        f"# LoRA on {name}, trained by reinforcement learning\n",
        trained + "\n",
        *([_GALLERY] if pairs else []),
        _usage(run) + (_interval_usage(run, interval_length) if run.lora.interval and interval_length else ""),
        f"## Reward\n\n![mean reward of the training images by reward queries]({_CURVE_FILE})\n",
    ]
    if evaluation and evaluation.before and evaluation.after:
        sections.append(_scores(evaluation))
    sections += [f"## License\n\n{_license(run)}\n", _citations(citations_of(run))]
    metadata = _metadata(run, evaluation, pairs)
    return str(ModelCard("\n".join([f"---\n{metadata.to_yaml()}\n---\n", *sections])))


_GALLERY = """<Gallery />

Images before and after training, of the same noise, of prompts spread over the run's sample prompts.
"""


def _metadata(run: Run, evaluation: Evaluation | None, pairs: Sequence[Pair]) -> ModelCardData:
    data = ModelCardData(
        base_model=run.model if is_hub_id(run.model) else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=list(_TAGS),
        license="ofl-1.1" if is_embedded(run.model) else None,
        model_name=f"LoRA on {public_name(run.model)}",
        eval_results=_results(evaluation) or None,
    )
    if is_hub_id(run.model):
        data["base_model_relation"] = "adapter"
    gallery: list[dict[str, Any]] = []
    for pair in pairs:
        gallery.append({"text": f"{pair.prompt} (before training)", "output": {"url": pair.before}})
        gallery.append({"text": pair.prompt, "output": {"url": pair.after}})
    if gallery:
        data["widget"] = gallery
    return data


def _results(evaluation: Evaluation | None) -> list[EvalResult]:
    """Return the scores after training as the hub reads them."""
    if evaluation is None:
        return []
    prompts = public_name(evaluation.prompts) if evaluation.prompts else "prompts of the run"
    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type=prompts,
            dataset_name=prompts,
            metric_type=name,
            metric_name=name,
            metric_value=value,
        )
        for name, value in evaluation.after.items()
        if math.isfinite(value)
    ]


def _license(run: Run) -> str:
    name = public_name(run.model)
    text = f"The adapter is a modification of {name} and is covered by the license of that model."
    if is_embedded(run.model):
        return text
    return (
        f"{text} The metadata of this card has no license: before you publish it, add `license:` with that of {name}."
    )


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
    if is_embedded(run.model):
        imports += "\nfrom b2diffurl import emoji"
        source = "emoji.model_dir()" if run.model == EMOJI else f"emoji.model_dir({run.model!r})"
    elif is_checkpoint(run.model):
        imports = "from diffusers import DDIMScheduler, StableDiffusionPipeline  # StableDiffusionXLPipeline for XL"
        load = "StableDiffusionPipeline.from_single_file"
    return (
        f"```python\n{imports}\n\npipe = {load}({source})\n"
        "config = pipe.scheduler.config\n"
        "pipe.scheduler = DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)\n"
        'pipe.load_lora_weights("DIRECTORY OR HUB ID OF THIS ADAPTER")\n'
        f'pipe("a prompt", {arguments})\n```\n\n'
        'For PEFT alone: `PeftModel.from_pretrained(unet, "DIRECTORY/peft")`.\n\n'
        f"ComfyUI, A1111 and Forge: put `{KOHYA_FILE}` into the folder of LoRAs (`models/loras` in ComfyUI, "
        "`models/Lora` in the others) and load it on the base model with strength 1, as trained. It has no trigger "
        "word. Its keys were checked against those that ComfyUI's loader maps.\n"
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
