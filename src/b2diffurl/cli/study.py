"""`b2diffurl study NAME`: several runs, one table."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from b2diffurl.cli.common import parse


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Train the runs of a study and print its table; runs that are finished are not done again.

    Attributes:
        name: of the study.
        output: its folder.
        seeds: of every arm.
        num_jobs: runs at a time.
    """

    name: tyro.conf.Positional[str]
    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    num_jobs: int = 1


def study(words: list[str]) -> int:
    """Train a study's runs and print its table."""
    from b2diffurl.analysis.study import run_study

    asked = parse(StudyCommand, words, prog="b2diffurl study")
    print(run_study(asked.name, output=asked.output, seeds=asked.seeds, num_jobs=asked.num_jobs, on_message=print))
    return 0
