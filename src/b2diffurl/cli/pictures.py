"""`b2diffurl sample MODEL` and `b2diffurl evaluate MODEL`: draw pictures, judge them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from b2diffurl.cli.common import parse, prepare
from b2diffurl.errors import UserError
from b2diffurl.models import Memory

if TYPE_CHECKING:
    from b2diffurl.evaluation.generate import GeneratedImages


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """What `sample` and `evaluate` share.

    Attributes:
        model: "emoji", a local diffusers directory, a .safetensors checkpoint file, or a hub id.
        lora: adapter folder of a run.
        prompts: a named list such as template1-test, a .txt file, or (several words allowed) prompts themselves.
        seed: of the noise.
        num_inference_steps: denoising steps.
        eta: weight of the noise of each DDIM step.
        guidance_scale: of classifier-free guidance; by default the recipe's for "emoji" (1), else 5.
        negative_prompt: what guidance leads away from.
        memory: number formats, as in training.
        device: where the model runs.
    """

    model: tyro.conf.Positional[str]
    prompts: tuple[str, ...] = ("template1-train",)
    lora: Path | None = None
    seed: int = 0
    num_inference_steps: int = 20
    eta: float = 1.0
    guidance_scale: float | None = None
    negative_prompt: str = ""
    memory: Memory = Memory()  # noqa: RUF009 - frozen
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Sample(_Pictures):
    """Draw pictures into a folder: one PNG a picture, a grid, and prompts.json.

    Attributes:
        output: folder for the pictures, made if it is not there.
        num_images: pictures; by default one a prompt.
    """

    output: Annotated[Path, tyro.conf.arg()]
    num_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Pictures):
    """Judge a model's pictures: alignment and diversity.

    Attributes:
        num_images: pictures to judge, the prompts in turn.
        metrics: which numbers; by default all that this model and these prompts have.
        judge: auto (the scene oracle for "emoji" on its prompts, else the embedded CLIP for "emoji" and the paper's
            ViT-H-14 for other models), clip (ViT-H-14) or clip:MODEL.
        json: file to write the numbers to.
    """

    num_images: int = 900
    metrics: tuple[str, ...] = ()
    judge: str = "auto"
    json: Path | None = None


def sample(words: list[str]) -> int:
    """Draw pictures into a folder."""
    asked = parse(Sample, words, prog="b2diffurl sample")
    if asked.output.exists() and (not asked.output.is_dir() or any(asked.output.iterdir())):
        raise UserError(f"output {asked.output} is there and not an empty folder; give another folder.")
    pictures = _draw(asked, num_images=asked.num_images)
    from b2diffurl.images import grid, to_pil

    asked.output.mkdir(parents=True, exist_ok=True)
    images = [to_pil(image) for image in pictures.images]
    for index, image in enumerate(images):
        image.save(asked.output / f"{index:04d}.png")
    grid(images, num_columns=12).save(asked.output / "grid.png")
    (asked.output / "prompts.json").write_text(json.dumps(pictures.prompts, indent=1), encoding="utf-8")
    print(f"{len(images)} pictures in {asked.output}, all of them in {asked.output / 'grid.png'}")
    return 0


def evaluate(words: list[str]) -> int:
    """Judge a model's pictures."""
    asked = parse(Evaluate, words, prog="b2diffurl evaluate")
    from b2diffurl.evaluation.judges import choose_judge, load_judge

    choice = choose_judge(asked.judge, model=asked.model, prompts=_prompts(asked.prompts), reward=_reward(asked))
    if choice.kind not in ("emoji", "clip"):
        raise UserError(f"judge is {asked.judge!r}, which an evaluation without a run has none of; give auto or clip.")
    metrics = asked.metrics or choice.metrics
    unknown = [name for name in metrics if name not in choice.metrics]
    if unknown:
        raise UserError(
            f"metrics holds {unknown[0]!r}; for this model and these prompts give some of: {', '.join(choice.metrics)}."
        )
    if asked.json is not None and not asked.json.parent.is_dir():
        raise UserError(f"json is {asked.json}, whose folder is not there; make it first.")
    pictures = _draw(asked, num_images=asked.num_images)
    judge = load_judge(choice, device=asked.device)
    judged = judge(pictures.images, pictures.prompts)
    found = {name: judged[name] for name in metrics}
    for name, value in found.items():
        print(f"{name:<16} {value:.4f}")
    if asked.json is not None:
        told = {"model": asked.model, "lora": str(asked.lora) if asked.lora else None, "num_images": asked.num_images}
        told |= {"prompts": list(asked.prompts), "seed": asked.seed, "guidance_scale": _guidance(asked)}
        asked.json.write_text(json.dumps(told | found, indent=2) + "\n", encoding="utf-8")
    return 0


def _draw(asked: _Pictures, *, num_images: int | None) -> "GeneratedImages":
    from b2diffurl.models import check_lora, resolve_model
    from b2diffurl.run.settings import Sampler

    prompts = _prompts(asked.prompts)
    guidance_scale = _guidance(asked)
    Sampler(
        num_inference_steps=asked.num_inference_steps,
        eta=asked.eta,
        guidance_scale=guidance_scale,
        negative_prompt=asked.negative_prompt,
    )
    if num_images is not None and num_images < 1:
        raise UserError(f"num_images is {num_images}; give 1 or more.")
    resolve_model(asked.model)
    if asked.lora is not None:
        check_lora(asked.lora)
    prepare()
    from rich.console import Console
    from rich.progress import Progress

    from b2diffurl.algorithm.policy import DenoisingPolicy
    from b2diffurl.algorithm.randomness import EVALUATION_STREAM, NoiseKey
    from b2diffurl.evaluation.generate import generate_images
    from b2diffurl.models.policy import Policy, check_prompts, load_tokenizers

    check_prompts(load_tokenizers(asked.model), prompts)
    policy = Policy.load(asked.model, device=asked.device, memory=asked.memory, negative_prompt=asked.negative_prompt)
    if asked.lora is not None:
        policy.load_lora(asked.lora)
    ddim = policy.ddim(num_inference_steps=asked.num_inference_steps, eta=asked.eta)
    total = num_images or len(prompts)
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        bar = progress.add_task("sampling", total=total)
        return generate_images(
            DenoisingPolicy(denoiser=policy, chain=ddim, guidance_scale=guidance_scale), prompts, num_images=total,
            noise=NoiseKey(seed=asked.seed, stream=EVALUATION_STREAM),
            on_progress=lambda num: progress.advance(bar, num),
        )  # fmt: skip


def _reward(asked: Evaluate) -> str:
    """The reward whose CLIP judges where the scene oracle cannot."""
    from b2diffurl.models import EMOJI

    return f"clip:{EMOJI}" if asked.model == EMOJI else "clip"


def _prompts(asked: tuple[str, ...]) -> tuple[str, ...]:
    """A named list, a file, or the prompts themselves."""
    from b2diffurl.prompts.lists import load_prompts, named_lists

    if not asked or not all(prompt.strip() for prompt in asked):
        raise UserError("prompts is empty; give a named list, a .txt file, or prompts in quotes.")
    if len(asked) == 1 and (asked[0] in named_lists() or asked[0].endswith(".txt") or Path(asked[0]).exists()):
        return load_prompts(asked[0])
    return asked


def _guidance(asked: _Pictures) -> float:
    from b2diffurl.models import EMOJI
    from b2diffurl.run.recipes import EMOJI_GUIDANCE_SCALE
    from b2diffurl.run.settings import Sampler

    if asked.guidance_scale is not None:
        return asked.guidance_scale
    return EMOJI_GUIDANCE_SCALE if asked.model == EMOJI else Sampler().guidance_scale
