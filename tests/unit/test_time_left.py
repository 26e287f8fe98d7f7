"""The time that a run has left, with a clock of the test."""

import io

import pytest
from rich.console import Console

from b2diffurl.cli.console import ConsoleObserver
from b2diffurl.cli.time_left import RoundWork, TimeLeft, run_time_left
from b2diffurl.run.recipes import recipe


class Clock:
    """A clock that stands still until it is set forward."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def do_round(left: TimeLeft, clock: Clock, *, sampling: float, update: float) -> None:
    left.begin_phase("sample")
    clock.seconds += sampling
    left.begin_phase("score")
    left.begin_phase("update")
    clock.seconds += update
    left.end_round()


def test_rounds_of_any_length_are_extrapolated() -> None:
    """Nothing is known before the first image; then rounds of an hour count as those of a second do."""
    for length in (1.0, 3600.0):
        clock = Clock()
        left = TimeLeft([RoundWork(sampling=10.0, update=5.0)] * 4, clock=clock)
        assert left.seconds() is None
        do_round(left, clock, sampling=2 * length, update=length)
        assert left.seconds() == pytest.approx(9 * length)
        left.begin_phase("sample")
        clock.seconds += length
        left.advance(0.5)
        assert left.seconds() == pytest.approx(8 * length)


def test_growing_rounds_are_weighted_by_their_cost() -> None:
    """1 unit of sampling takes 1 s, 1 of updates 2 s; 20 + 10 units are left, and 5 of the evaluation."""
    clock = Clock()
    left = TimeLeft(
        [RoundWork(sampling=10.0, update=5.0), RoundWork(sampling=20.0, update=10.0)], after=5.0, clock=clock
    )
    do_round(left, clock, sampling=10.0, update=10.0)
    assert left.seconds() == pytest.approx(20 + 2 * 10 + 5)
    do_round(left, clock, sampling=20.0, update=20.0)
    assert left.seconds() == pytest.approx(5)
    left.begin_phase("evaluate after")
    assert left.seconds() == pytest.approx(5)


def test_the_first_round_is_estimated_while_it_runs() -> None:
    """Half of 10 units in 5 s; an update costs 3 times as much per unit until it is measured."""
    clock = Clock()
    left = TimeLeft([RoundWork(sampling=10.0, update=10.0)], clock=clock)
    left.begin_phase("sample")
    clock.seconds = 5.0
    left.advance(0.5)
    assert left.seconds() == pytest.approx(5 + 3 * 10)


def test_a_resumed_run_counts_only_the_rounds_to_come() -> None:
    clock = Clock()
    left = TimeLeft([RoundWork(sampling=1.0, update=1.0)] * 10, clock=clock)
    left.begin_round(8)
    do_round(left, clock, sampling=1.0, update=1.0)
    assert left.seconds() == pytest.approx(2)


def test_the_bars_end_at_their_end_and_name_the_time() -> None:
    """More is reported than was announced; the bar stays at its end. A resumed run begins where it was."""
    console = Console(file=io.StringIO(), width=80)
    clock = Clock()
    left = TimeLeft([RoundWork(sampling=1.0, update=1.0)] * 3, clock=clock)
    shown = ConsoleObserver(console, num_rounds=3, rounds_done=1, time_left=left)
    shown.on_phase("sample", total=10)
    clock.seconds = 60.0
    shown.on_progress(5)
    rounds, phase = shown._progress.tasks
    assert rounds.completed == 1
    assert rounds.fields["rate"].startswith("done in about ")
    shown.on_progress(9)
    assert phase.completed == phase.total == 10
    shown.on_round({"round": 2, "reward_queries": 10})
    assert rounds.completed == 2


def test_a_run_is_estimated_from_its_evaluations() -> None:
    run = recipe("emoji-b2-paper")
    left = run_time_left(run)
    left.begin_round(run.num_rounds)
    assert left.seconds() is None
