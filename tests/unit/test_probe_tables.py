"""The tables of rules, steps and differences that `probe --lora` prints."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from b2diffurl.analysis.probe import Information, InformationSettings
from b2diffurl.analysis.probe.setup import Cost
from b2diffurl.analysis.probe.signal import Comparison, RuleInformation
from b2diffurl.cli.information_tables import comparisons_table, steps_table

BRANCHED = (
    "best/worst, history, thresholds", "best/worst, history", "all, history", "best/worst, centered in the group",
    "all, centered in the group", "all, shrunk",
)  # fmt: skip


def comparison(kind: str, difference: float, *, less: str = "all, shrunk") -> Comparison:
    """A difference of rules with an interval of 0.02 on both sides."""
    return Comparison(
        more="all, shrunk; last 6 left out", less=less, step_weights=kind,
        difference=difference, low=difference - 0.02, high=difference + 0.02, ratio=None,
    )  # fmt: skip


def measured(*, num_steps: int, comparisons: tuple[Comparison, ...] = ()) -> Information:
    """A result in units of 0.05, where step t of DDPO has 0.001 t and branch groups train the last half."""
    steps = {f"DDPO, all {num_steps} steps": tuple(0.001 * t for t in range(1, num_steps + 1))}
    half = num_steps // 2
    steps |= dict.fromkeys(BRANCHED, (0.0,) * half + (0.0123,) * (num_steps - half))
    steps["all, shrunk, trunks trained"] = (-0.00001,) * num_steps
    return Information(
        rules=(RuleInformation(rule="DDPO", step_weights="even", num_trained_steps=1, value=0.05, std_error=0.01),),
        unit=0.05,
        comparisons=comparisons,
        own_weights="even",
        steps=steps,
        steps_error={rule: tuple(0.002 if value else 0.0 for value in values) for rule, values in steps.items()},
        settings=InformationSettings(tau=half, tau_last=2),
        num_branches=4,
        norm=1.0,
        cost=Cost(),
    )


def printed(table: Table, *, width: int) -> list[str]:
    """The lines of a table on a console of this width."""
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def cells(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")]


@pytest.mark.parametrize("num_steps", [20, 50])
def test_each_step_of_each_rule_has_a_line_readable_at_80_columns(num_steps: int) -> None:
    lines = printed(steps_table(measured(num_steps=num_steps)), width=80)
    assert max(map(len, lines)) <= 80
    rows = [cells(line) for line in lines if line.startswith("│")]
    half = num_steps // 2
    assert rows == [
        [str(t), f"{2 * t} +- 4", *(["25 +- 4"] * 6 if t > half else [""] * 6), "0 +- 4"]
        for t in range(1, num_steps + 1)
    ]
    heads = [cells(line) for line in lines if line.startswith("┃")]
    names = [" ".join(filter(None, words)).replace("/ ", "/") for words in zip(*heads, strict=True)]
    assert names == [
        name.replace(",", "")
        for name in ("step", f"DDPO, all {num_steps} steps", *BRANCHED, "all, shrunk, trunks trained")
    ]


def test_a_difference_is_printed_under_each_kind_of_step_weights() -> None:
    """Two pairs of rules in units of 0.05: decided where 0 is outside of the interval."""
    comparisons = (
        comparison("even", 0.01), comparison("even", -0.03, less="DDPO, last 14"),
        comparison("equal", 0.05), comparison("equal", 0.0, less="DDPO, last 14"),
    )  # fmt: skip
    lines = printed(comparisons_table(measured(num_steps=20, comparisons=comparisons)), width=100)
    assert max(map(len, lines)) <= 100
    (head,) = (cells(line) for line in lines if line.startswith("┃"))
    assert head == ["more", "less", "even weights", "equal weights"]
    assert [cells(line)[1:] for line in lines if line.startswith("│")] == [
        ["all, shrunk", "+0.20", "+1.00 decided"],
        ["", "-0.20 to +0.60", "+0.60 to +1.40"],
        ["DDPO, last 14", "-0.60 decided", "+0.00"],
        ["", "-1.00 to -0.20", "-0.40 to +0.40"],
    ]
