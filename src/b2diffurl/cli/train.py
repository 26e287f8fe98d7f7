"""`b2diffurl train RECIPE|run.toml`: fine-tune a model."""

import os
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge
from rich.console import Console
from rich.table import Table

from b2diffurl.cli.common import Switch, check_output, named_run, parse, prepare, show_help
from b2diffurl.cli.console import ConsoleObserver
from b2diffurl.cli.cost_lines import cpu_warning
from b2diffurl.cli.processes import NumProcesses, count_processes, run_processes
from b2diffurl.cli.time_left import run_time_left
from b2diffurl.config import PositiveInt, check_range, to_toml
from b2diffurl.distributed import AUTO, Ranks, check_device, choose_device, device_of_rank, join_ranks
from b2diffurl.errors import UserError
from b2diffurl.models.hub import check_push, push_to_hub
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.disk import check_disk_space
from b2diffurl.run.log import RunLog
from b2diffurl.run.records import Evaluation
from b2diffurl.run.resolve import ResolvedRun, resolve
from b2diffurl.run.settings import Run
from b2diffurl.training import trainer
from b2diffurl.training.callbacks import Observer, ReportWriter
from b2diffurl.training.notes import opening_notes
from b2diffurl.training.trackers import TrackerName, Trackers, check_trackers


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Fine-tune a model.

    Attributes:
        run: every setting of the recipe.
        output: the run folder; the default is runs/RECIPE-seedSEED.
        resume: continue the run in that folder from its newest checkpoint.
        dry_run: check everything that can be checked without loading a model, print the run, and stop.
        track: trackers that receive metrics, settings and, where they take them, sample images.
        track_name: name of the run in the trackers; the default is the name of the run folder.
        report_every: rebuild report.html after every so many rounds; the page reloads itself until the run has ended.
        device: device of the model, such as cpu or cuda; "auto" is the first of cuda, mps and cpu that there is.
        num_processes: processes that share the run on this machine; "auto" is one per GPU, or one per core and at most
            4 on a CPU.
        push_to_hub: repository, such as me/my-adapter, that the adapter is uploaded to at the end.
    """

    run: Annotated[Run, tyro.conf.arg(name="")]
    output: Path | None = None
    resume: Switch = False
    dry_run: Switch = False
    track: tuple[TrackerName, ...] = ()
    track_name: str | None = None
    report_every: PositiveInt | None = None
    device: str = AUTO
    num_processes: NumProcesses = 1
    push_to_hub: str | None = None


def train(words: list[str]) -> int:
    """Fine-tune a model into a run folder."""
    show_help(words, "train", TrainCommand)
    base = named_run(words, "train")
    name = words[0]
    own_folder = Path(name).parent if Path(name).name == "run.toml" and "--resume" in words else None
    default = TrainCommand(run=base, output=own_folder)
    flags = parse(TrainCommand, words[1:], prog=f"b2diffurl train {name}", default=default)
    output = flags.output or Path("runs") / f"{flags.run.recipe}-seed{flags.run.seed}"
    _check_surroundings(flags, output)
    num = count_processes(flags.num_processes, flags.device)
    resolved = _resolve(flags, output)
    if flags.dry_run:
        print(to_toml(flags.run), end="")
        return 0
    if num > 1:
        return run_processes(num, partial(_train_as_rank, flags, output))
    return _train_and_push(resolved, flags, output)


def _resolve(flags: TrainCommand, output: Path) -> ResolvedRun:
    """Check the run itself, as far as it is possible without loading a model."""
    with RunLog(RunDirectory(output)).recording() if flags.resume else nullcontext():
        resolved = resolve(flags.run)  # it imports user code, whose tracebacks run.log keeps
    check_disk_space(output, resolved)
    if not resolved.model.is_hub:  # otherwise it would download the tokenizers
        resolved.check_prompt_lengths()
    return resolved


def _train_as_rank(flags: TrainCommand, output: Path) -> int:
    """Train in one of several processes, after the checks of the command."""
    return _train_and_push(resolve(flags.run), flags, output)


def _train_and_push(resolved: ResolvedRun, flags: TrainCommand, output: Path) -> int:
    prepare()
    with join_ranks() as ranks:
        console = Console(quiet=not ranks.is_main)
        _train(resolved, flags, output, ranks, console)
    _print_evaluation(console, RunDirectory(output).read_evaluation())
    console.print(f"adapter  {output / 'lora'}\nreport   {output / 'report.html'}", highlight=False, soft_wrap=True)
    if ranks.is_main and flags.push_to_hub is not None:
        print(f"hub      {push_to_hub(output / 'lora', repo_id=flags.push_to_hub)}")
    return 0


def _check_surroundings(flags: TrainCommand, output: Path) -> None:
    """Check what the run needs around it, before anything is loaded."""
    check_device(flags.device)
    if flags.report_every is not None:
        check_range("report_every", flags.report_every, [Ge(1)])
    if os.environ.get("RANK", "0") == "0":  # the ranks must not create and remove one folder at a time
        check_output(output)
    if flags.push_to_hub is not None:
        check_push(flags.push_to_hub)
    check_trackers(flags.track)
    if flags.track_name is not None and not flags.track:
        raise UserError(f"track_name is {flags.track_name!r} but track is empty; give a tracker, such as tensorboard.")


def _train(resolved: ResolvedRun, flags: TrainCommand, output: Path, ranks: Ranks, console: Console) -> None:
    run = resolved.run
    device = device_of_rank(choose_device(flags.device), ranks)
    time_left, rounds_done = run_time_left(run), _rounds_done(flags, output)
    for line in opening_notes(resolved, RunDirectory(output), device=device, resume=flags.resume):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    warning = cpu_warning(run, device=device)
    if warning:
        console.print(warning, highlight=False, soft_wrap=True)
    trackers = Trackers(
        flags.track if ranks.is_main else (), run=run, directory=output, run_name=flags.track_name or ""
    )
    shown = ConsoleObserver(console, num_rounds=run.num_rounds, rounds_done=rounds_done, time_left=time_left)
    observers: list[Observer] = [shown, trackers]
    if flags.report_every is not None and ranks.is_main:
        observers.append(ReportWriter(output, every_rounds=flags.report_every))
    with shown, closing(trackers):
        trainer.train(
            resolved,
            output=output,
            resume=flags.resume,
            device=device,
            observers=observers,
            ranks=ranks,
            on_message=partial(console.print, highlight=False, markup=False, soft_wrap=True),
        )


def _rounds_done(flags: TrainCommand, output: Path) -> int:
    """Count the rounds that a resumed run has done, as far as its metrics show."""
    return len(RunDirectory(output).read_metrics()) if flags.resume else 0


def _print_evaluation(console: Console, evaluation: Evaluation | None) -> None:
    if evaluation is None:
        return
    title = f"{evaluation.num_images} images of {evaluation.prompts}"
    table = Table("", "before", "after", "change", title=title)
    for name, after in evaluation.after.items():
        before = evaluation.before.get(name)
        values = (
            ("", f"{after:.4f}", "") if before is None else (f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
        )
        table.add_row(name, *values)
    console.print(table)
