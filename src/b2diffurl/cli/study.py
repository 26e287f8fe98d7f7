"""`b2diffurl study NAME|FILE.toml`: compare arms over seeds in one table."""

import shlex
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from b2diffurl.analysis.study.compare import StudyResults
from b2diffurl.analysis.study.cost import plan_text
from b2diffurl.analysis.study.runner import Runner
from b2diffurl.analysis.study.samples import save_samples
from b2diffurl.analysis.study.spec import make_cells, read_study, study_names
from b2diffurl.analysis.study.tables import write_tables
from b2diffurl.cli.common import check_output, parse, prepare
from b2diffurl.cli.help import wrapped
from b2diffurl.distributed import AUTO, check_device, choose_device
from b2diffurl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Train the runs of a study and compare them; runs whose results exist are not repeated.

    Attributes:
        name: name of a study, or a TOML file.
        output: folder of the run folders, which all studies share; keep it outside the repository.
        results: folder of the results: small files that are meant to be committed.
        seeds: seeds of every arm; empty for the study's own.
        num_images: images that are scored in a run, instead of the study's; 0 for these.
        scale: another size that the study offers, such as sd14; "" for its own.
        device: device of the models, such as cpu or cuda; "auto" is the first of cuda, mps and cpu that there is.
        num_jobs: number of runs at a time.
        plan: only print the runs, their cost and the time that they will take.
        only_table: train nothing; write the table of the results that exist.
    """

    name: tyro.conf.Positional[str]
    output: Path = Path("runs/studies")
    results: Path = Path("results")
    seeds: tuple[int, ...] = ()
    num_images: int = 0
    scale: str = ""
    device: str = AUTO
    num_jobs: int = 1
    plan: bool = False
    only_table: bool = False


def study(words: list[str]) -> int:
    """Train a study's runs and print its table."""
    if set(words) & {"-h", "--help"}:
        print("\n".join(wrapped("studies: ", list(study_names()))), end="\n\n")
    flags = parse(StudyCommand, words, prog="b2diffurl study")
    if flags.num_jobs < 1:
        raise UserError(f"num_jobs is {flags.num_jobs}; give 1 or more.")
    check_device(flags.device)
    prepare()
    spec = read_study(flags.name).at_scale(flags.scale)
    if flags.num_images:
        spec = replace(spec, num_images=flags.num_images)
    cells = make_cells(spec, flags.seeds)
    runner = Runner(
        output=flags.output,
        results=flags.results,
        device=choose_device(flags.device),
        num_jobs=flags.num_jobs,
        on_message=_print,
    )
    if flags.plan:
        print(plan_text(cells, runner))
        return 0
    check_output(flags.results, setting="results")
    check_output(flags.output)
    with _terminable():
        results = runner.existing(cells) if flags.only_table else runner.run(cells)
    comparison = StudyResults(cells, results)
    name = "-".join(filter(None, (Path(flags.name).stem, flags.scale)))
    name += f"-{flags.num_images}" if flags.num_images else ""
    command = shlex.join(["b2diffurl", "study", *_without_places(words)])
    print(write_tables(spec, comparison, flags.results / name, command=command), end="")
    if spec.samples is not None and not flags.only_table:
        save_samples(spec, cells, runner, flags.results / name)
    return 0 if not comparison.num_missing or flags.only_table else 1


@contextmanager
def _terminable() -> Generator[None]:
    """Treat SIGTERM, a job scheduler's signal, as an interruption, so that the processes that train end too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _without_places(words: list[str]) -> list[str]:
    """Leave out the flags that do not change the numbers."""
    kept: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word in ("--output", "--results", "--num-jobs"):
            next(remaining, None)
        elif word != "--only-table" and not word.startswith(("--output=", "--results=", "--num-jobs=")):
            kept.append(word)
    return kept


def _print(message: str) -> None:
    print(message, flush=True)
