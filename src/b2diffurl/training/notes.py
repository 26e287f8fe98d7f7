"""The first lines of a run, on the console and in run.log: size, device, dtype, and what it does not do."""

from dataclasses import replace

from b2diffurl.config import read_toml
from b2diffurl.distributed import describe_device
from b2diffurl.emoji import EMOJI, is_embedded
from b2diffurl.evaluation.judges import NO_JUDGE_NOTE
from b2diffurl.models.pipeline import choose_dtype
from b2diffurl.models.text_to_image import SAFETY_CHECKER_NOTE
from b2diffurl.reporting.text import count
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.resolve import ResolvedRun
from b2diffurl.run.settings import Run


def opening_notes(resolved: ResolvedRun, directory: RunDirectory, *, device: str, resume: bool) -> list[str]:
    """Return the first lines of a run: size, device, dtype, chain, safety checker, and evaluation without a judge.

    Args:
        resolved: the run, as its user has given it.
        directory: the run folder.
        device: device of the model, not "auto".
        resume: whether the run in the folder is continued.

    Raises:
        UserError: the GPU cannot be used, or the model's index or config cannot be read.
    """
    run = resolved.run
    fixed, reason = with_dtype(resolved, directory, device=device, resume=resume)
    notes = [
        f"{run.recipe}: {count(run.num_rounds, 'round')} of "
        f"{count(run.reward_queries_per_round, 'reward query', plural='reward queries')} into {directory.path}",
        f"device   {describe_device(device)}",
        f"dtype    {fixed.run.memory.base_dtype}: {reason}",
    ]
    if resolved.model.chain_note:
        notes.append(resolved.model.chain_note)
    if resolved.model.has_safety_checker:
        notes.append(SAFETY_CHECKER_NOTE)
    if run.logging.num_evaluation_images and resolved.lacks_judge:
        notes.append(NO_JUDGE_NOTE)
    if run.recipe.startswith(f"{EMOJI}-") and not is_embedded(run.model):
        notes.append(
            f"The settings of recipe {run.recipe} are those of an embedded model, such as guidance "
            f"{run.sampler.guidance_scale:g} and learning rate {run.optimization.learning_rate:g}; for other models "
            "begin with recipe sd15 or sdxl."
        )
    return notes


def with_dtype(resolved: ResolvedRun, directory: RunDirectory, *, device: str, resume: bool) -> tuple[ResolvedRun, str]:
    """Replace the dtype "auto" by the one that the run will keep, on whatever device it is resumed.

    Args:
        resolved: the run.
        directory: the run folder; a run that is resumed has its dtype in run.toml.
        device: device of the model, not "auto".
        resume: whether the run in the folder is continued.

    Returns:
        The run with its dtype, and the reason for this dtype.

    Raises:
        UserError: run.toml or the config of the model's UNet cannot be read.
    """
    memory = resolved.run.memory
    dtype, reason = memory.base_dtype, "as set"
    if dtype == "auto" and resume and directory.is_started():
        dtype, reason = read_toml(directory.run_file, Run).memory.base_dtype, "as the run began"
    if dtype == "auto":
        dtype, reason = choose_dtype(resolved.model, memory, device=device)
    fixed = replace(memory, base_dtype=dtype)
    return replace(resolved, run=replace(resolved.run, memory=fixed)), reason
