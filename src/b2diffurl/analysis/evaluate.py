"""Evaluate the images of a model, with or without an adapter: the function behind `b2diffurl evaluate`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from b2diffurl.analysis.sample import Generation, sample
from b2diffurl.errors import UserError
from b2diffurl.evaluation.judges import JudgeChoice, choose_judge, load_judge
from b2diffurl.models import EMOJI
from b2diffurl.prompts.lists import read_prompts


def evaluate(
    model: str,
    prompts: str | Sequence[str],
    *,
    lora: Path | str | None = None,
    num_images: int = 900,
    seed: int = 0,
    judge: str = "auto",
    generation: Generation = Generation(),  # noqa: B008 - frozen
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """Generate images and compute the metrics of a judge: alignment and diversity, higher is better.

    Args:
        model: "emoji", a local diffusers directory, a .safetensors checkpoint file, or a hub id.
        prompts: prompts, or the name of a list or the path of a prompts file.
        lora: adapter directory of a run.
        num_images: number of images, with the prompts in turn.
        seed: seed of the noise.
        judge: "auto", "clip" or "clip:MODEL"; see `find_judge`.
        generation: sampler, precision and device.
        on_progress: called with the number of images that have been completed since the last call.

    Returns:
        The metrics by name.

    Raises:
        UserError: an argument is invalid, or the model, the adapter or the prompts cannot be found.
    """
    texts = read_prompts([prompts] if isinstance(prompts, str) else prompts)
    choice = find_judge(judge, model=model, prompts=texts)
    images = sample(
        model, texts, lora=lora, num_images=num_images, seed=seed, generation=generation, on_progress=on_progress
    )
    return load_judge(choice, device=generation.device)(images.images, images.prompts)


def find_judge(judge: str, *, model: str, prompts: Sequence[str]) -> JudgeChoice:
    """Choose the judge of a model without a run.

    Args:
        judge: "auto" (the scene oracle and the embedded CLIP for "emoji" on its prompts, else the embedded CLIP for
            "emoji" and the paper's ViT-H-14 for other models), "clip" (ViT-H-14) or "clip:MODEL".
        model: as for `evaluate`.
        prompts: the prompts that will be evaluated.

    Raises:
        UserError: the judge needs a run.
    """
    reward = f"clip:{EMOJI}" if model == EMOJI else "clip"  # what "auto" uses if the scene oracle does not fit
    choice = choose_judge(judge, model=model, prompts=prompts, reward=reward)
    if choice.kind not in ("emoji", "clip"):
        raise UserError(f"judge is {judge!r}, which needs a run; give auto, clip or clip:MODEL.")
    return choice
