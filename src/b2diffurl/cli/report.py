"""`b2diffurl report RUN [RUN ...]`: rebuild the report of a run, or compare several runs on one page."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from b2diffurl.cli.common import check_file, parse
from b2diffurl.errors import UserError
from b2diffurl.reporting import write_comparison, write_report


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Rebuild the report of a run from its folder, or compare two to six runs on one page.

    Attributes:
        runs: run folders; one to rebuild its report.html, several to compare them.
        output: the page that compares several runs.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    output: Path = Path("comparison.html")


def report(words: list[str]) -> int:
    """Write the page and print where it is."""
    flags = parse(ReportCommand, words, prog="b2diffurl report")
    if not flags.runs:
        raise UserError("report needs a run folder; give one, or several to compare them.")
    if len(flags.runs) == 1:
        if flags.output != ReportCommand.output:
            raise UserError(
                f"output is {flags.output}, which has no effect for one run: its report is report.html in its folder; "
                "leave it out, or give several runs."
            )
        print(write_report(flags.runs[0]))
        return 0
    check_file(flags.output, setting="output")
    print(write_comparison(flags.runs, flags.output))
    return 0
