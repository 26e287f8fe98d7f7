"""What a run says about itself before it begins, on the console and in run.log."""

from pathlib import Path

from b2diffurl.evaluation.judges import NO_JUDGE_NOTE
from b2diffurl.models.text_to_image import SAFETY_CHECKER_NOTE
from b2diffurl.run.resolve import ResolvedRun


def opening_notes(resolved: ResolvedRun, output: Path) -> list[str]:
    """Return the first lines of a run: its size, the chain, the safety checker, and evaluation without a judge."""
    run = resolved.run
    notes = [f"{run.recipe}: {run.num_rounds} rounds of {run.reward_queries_per_round} reward queries into {output}"]
    if resolved.model.chain_note:
        notes.append(resolved.model.chain_note)
    if resolved.model.has_safety_checker:
        notes.append(SAFETY_CHECKER_NOTE)
    if run.logging.num_evaluation_images and resolved.lacks_judge:
        notes.append(NO_JUDGE_NOTE)
    return notes
