"""`b2diffurl study NAME`: train several runs and compare them in one table."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from b2diffurl.analysis.study import run_study
from b2diffurl.cli.common import check_output, parse


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Train the runs of a study and print its table; finished runs are not repeated.

    Attributes:
        name: name of the study.
        output: folder of the study.
        seeds: seeds of every arm.
        num_jobs: number of runs at a time.
    """

    name: tyro.conf.Positional[str]
    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    num_jobs: int = 1


def study(words: list[str]) -> int:
    """Train a study's runs and print its table."""
    flags = parse(StudyCommand, words, prog="b2diffurl study")
    check_output(flags.output)
    print(run_study(flags.name, output=flags.output, seeds=flags.seeds, num_jobs=flags.num_jobs, on_message=print))
    return 0
