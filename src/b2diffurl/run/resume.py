"""What must hold before a run folder is used: it is unused, or it contains this run and can be continued."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace

from b2diffurl.algorithm.records import PastRound
from b2diffurl.config import flat_settings, from_tables, read_toml
from b2diffurl.errors import UserError
from b2diffurl.run.checkpoint import Checkpoint
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.gallery import read_gallery
from b2diffurl.run.records import read_image
from b2diffurl.run.round_lines import check_rounds, read_round_lines
from b2diffurl.run.settings import Run


def check_directory(
    directory: RunDirectory,
    run: Run,
    *,
    resume: bool,
    prompts_sha256: str = "",
    rewards_sha256: Mapping[str, str] | None = None,
    init_sha256: str = "",
    on_message: Callable[[str], None] = lambda _: None,
) -> tuple[str, ...]:
    """Check that a directory is unused or, to resume, that it contains this run and is not damaged. Nothing is written.

    The number of rounds may differ, if neither the rounds done nor those to come would have been others with it.

    Args:
        directory: the directory.
        run: the settings.
        resume: whether the run in the directory is continued.
        prompts_sha256: hash of the prompts of the run; "" to not compare it.
        rewards_sha256: hash of the source file of each custom reward, by name; None to not compare them.
        init_sha256: hash of the adapter that the run starts from; "" for a new one.
        on_message: receives a sentence per damaged checkpoint that is skipped.

    Returns:
        What a reader of the results must know: a sentence per reward whose source has changed.

    Raises:
        UserError: the directory cannot be used for this run.
    """
    if not resume:
        directory.check_unused()
        return ()
    if not directory.is_started():
        raise UserError(f"output {directory.path} holds no run to resume; leave out --resume.")
    recorded = read_toml(directory.run_file, Run)
    record = directory.read()  # reads every file that the report needs
    rounds = record.rounds
    gallery = read_gallery(directory.samples)
    samples = [image for images in record.images.values() for image in images.values()]
    for image in (*samples, *gallery.grids.values(), *(sheet for sheet, _ in gallery.groups.values())):
        read_image(image)
    for file in (directory.metrics_file, directory.scores_file):
        read_round_lines(file)
    checkpoint = directory.load_checkpoint(on_message=on_message)
    if checkpoint is not None:
        _check_checkpoint(directory, checkpoint, run, prompts_sha256, init_sha256)
        num_rounds, num_scores = checkpoint.round_number, run.reward_queries_per_round
        check_rounds(directory.metrics_file, num_rounds=num_rounds, lines_per_round=1)
        check_rounds(directory.scores_file, num_rounds=num_rounds, lines_per_round=num_scores)
    elif rounds and not directory.checkpoints.is_dir():
        raise UserError(
            f"output {directory.path} has the metrics of {len(rounds)} rounds and no {directory.checkpoints.name} "
            "folder; restore that folder, or start a new run in another folder."
        )
    _check_settings(directory, recorded, run, checkpoint)
    if checkpoint is None or rewards_sha256 is None:
        return ()
    return tuple(
        f"the source file of reward {name} changed between rounds {checkpoint.round_number} and "
        f"{checkpoint.round_number + 1}: their rewards may not be comparable."
        for name, trained in checkpoint.rewards_sha256.items()
        if rewards_sha256.get(name) != trained
    )


def _check_checkpoint(
    directory: RunDirectory, checkpoint: Checkpoint, run: Run, prompts_sha256: str, init_sha256: str
) -> None:
    """Compare with the settings and files that the checkpoint was trained with; run.toml may have been edited."""
    if checkpoint.settings:
        _check_settings(directory, from_tables(tomllib.loads(checkpoint.settings), Run), run, checkpoint)
    if checkpoint.prompts_sha256 and prompts_sha256 and checkpoint.prompts_sha256 != prompts_sha256:
        raise UserError(
            f"output {directory.path} holds a run with other prompts: the content of prompts {run.prompts!r}, of the "
            "held-out prompts or of the sample prompts has changed; restore it, or start a new run in another folder."
        )
    if checkpoint.init_sha256 != init_sha256:
        raise UserError(
            f"output {directory.path} holds a run that started from another adapter: the content of lora.init "
            f"{run.lora.init!r} has changed; restore it, or start a new run in another folder."
        )


def _check_settings(directory: RunDirectory, recorded: Run, run: Run, checkpoint: Checkpoint | None) -> None:
    """Refuse other settings; of the number of rounds, one that would have changed a round or is too small."""
    otherwise_same = replace(recorded, num_rounds=run.num_rounds)
    if otherwise_same != run:
        raise _other_settings(directory, otherwise_same, run)
    past = [PastRound(**done) for done in checkpoint.state.get("past", [])] if checkpoint else []
    if run.num_rounds == recorded.num_rounds or not past:
        return
    if run.num_rounds < len(past):
        raise UserError(
            f"num_rounds is {run.num_rounds} but output {directory.path} has a checkpoint of round {len(past)}; "
            f"give {len(past)} or more."
        )
    change = f"num_rounds is {recorded.num_rounds} in output {directory.path} and {run.num_rounds} here, but "
    if run.optimization.lr_schedule != "constant":
        raise UserError(
            f"{change}the learning rates of its rounds depend on it (optimization.lr_schedule is "
            f"{run.optimization.lr_schedule!r}); give {recorded.num_rounds}, or start a new run in another folder."
        )
    if not run.schedule.can_change_num_rounds(num_inference_steps=run.sampler.num_inference_steps, past=past):
        raise UserError(
            f"{change}the intervals of schedule {run.schedule.use} depend on it (backward's do until it has reached "
            f"its last length); give {recorded.num_rounds}, or start a new run in another folder."
        )


def _other_settings(directory: RunDirectory, recorded: Run, run: Run) -> UserError:
    before, now = flat_settings(recorded), flat_settings(run)
    name = next((name for name in before | now if before.get(name) != now.get(name)), "run")
    return UserError(
        f"output {directory.path} holds a run with other settings ({name} is {before.get(name)!r} there and "
        f"{now.get(name)!r} here); restore the setting, or start a new run in another folder."
    )
