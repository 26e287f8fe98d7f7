"""Interval lengths against the slow twin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2diffurl.algorithm.adaptive import Adaptive, GrowthReason
from b2diffurl.algorithm.forward import Forward
from b2diffurl.algorithm.interfaces import Schedule
from b2diffurl.algorithm.records import PastRound, StepInterval
from b2diffurl.algorithm.schedule import Backward, Full, Table, interval_of
from b2diffurl.algorithm.spaced import Spaced
from b2diffurl.errors import UserError
from tests.reference import schedule as twin


@given(data=st.data(), num_rounds=st.integers(1, 300), num_steps=st.integers(1, 60))
def test_backward_equals_the_twin(data: st.DataObject, num_rounds: int, num_steps: int) -> None:
    tau_first = data.draw(st.integers(1, num_steps))
    tau_max = data.draw(st.just(0) | st.integers(tau_first, num_steps))
    i = data.draw(st.integers(0, 2 * num_rounds))  # past the end too: at most the whole chain
    schedule = Backward(tau_first=tau_first, tau_max=tau_max)
    got = schedule.interval_length(i + 1, num_rounds=num_rounds, num_inference_steps=num_steps)
    assert got == twin.interval_length(
        i, num_rounds=num_rounds, num_inference_steps=num_steps, tau_first=tau_first, tau_max=tau_max
    )


@given(data=st.data(), num_rounds=st.integers(1, 100), num_steps=st.integers(1, 30))
def test_intervals_begin_at_tau_first_and_never_shrink_or_pass_the_chain(
    data: st.DataObject, num_rounds: int, num_steps: int
) -> None:
    tau_first = data.draw(st.integers(1, num_steps))
    schedule = Backward(tau_first=tau_first)
    lengths = [
        schedule.interval_length(i + 1, num_rounds=num_rounds, num_inference_steps=num_steps) for i in range(num_rounds)
    ]
    assert lengths[0] == tau_first
    assert lengths == sorted(lengths)
    assert lengths[-1] <= num_steps


def test_the_reference_run_spends_equally_many_rounds_on_every_length() -> None:
    """T = 20, tau_first = 14, S = 100: 7 lengths, each for 14 or 15 rounds."""
    lengths = [
        Backward(tau_first=14).interval_length(i + 1, num_rounds=100, num_inference_steps=20) for i in range(100)
    ]
    assert [lengths.count(tau) for tau in range(14, 21)] == [15, 14, 14, 15, 14, 14, 14]


def test_an_interval_of_the_whole_chain_stays_so() -> None:
    lengths = [Backward(tau_first=20).interval_length(i + 1, num_rounds=4, num_inference_steps=20) for i in range(4)]
    assert lengths == [20] * 4


def test_full_is_the_whole_chain_in_every_round() -> None:
    assert {Full().interval_length(i + 1, num_rounds=5, num_inference_steps=20) for i in range(5)} == {20}


@pytest.mark.parametrize("schedule", [Backward(), Full(), Table(rows=((1, 14),)), Forward(), Adaptive()])
def test_is_a_schedule(schedule: object) -> None:
    assert isinstance(schedule, Schedule)


@pytest.mark.parametrize("tau_first", [0, -3])
def test_an_interval_without_steps_is_refused(tau_first: int) -> None:
    with pytest.raises(UserError, match=rf"^schedule\.tau_first is {tau_first}; give 1 or more\.$"):
        Backward(tau_first=tau_first)


def test_an_interval_longer_than_the_chain_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule\.tau_first is 14 but sampler\.num_inference_steps is 10; give"):
        Backward(tau_first=14).check(num_inference_steps=10, num_branches=4)


# The end of the interval, and of its growth


def test_growth_stops_at_tau_max_and_keeps_its_pace_until_there() -> None:
    free, stopped = Backward(tau_first=14), Backward(tau_first=14, tau_max=17)
    lengths = [
        [schedule.interval_length(i, num_rounds=7, num_inference_steps=20) for i in range(1, 8)]
        for schedule in (free, stopped)
    ]
    assert lengths == [[14, 15, 16, 17, 18, 19, 20], [14, 15, 16, 17, 17, 17, 17]]


def test_an_adaptive_interval_at_tau_max_has_no_reason_to_grow() -> None:
    past = [PastRound(interval_length=17, pair_fraction=0.0)] * 5
    assert Adaptive(tau_max=17).growth_reason(num_rounds=5, num_inference_steps=20, past=past) is GrowthReason.NONE
    assert Adaptive(tau_max=18).growth_reason(num_rounds=9999, num_inference_steps=20, past=past) > GrowthReason.NONE


@pytest.mark.parametrize("schedule", [Backward(), Full(), Table(rows=((1, 14),)), Forward(), Adaptive()])
def test_by_default_the_interval_has_no_end(schedule: Schedule) -> None:
    assert schedule.tau_last == 0


def test_a_schedule_of_a_user_has_no_end_unless_it_gives_one() -> None:
    class Own(Schedule):
        def interval_length(self, *_: object, **__: object) -> int:
            return 3

    class Ended(Own):
        tau_last = 2  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    assert (Own().tau_last, Ended().tau_last) == (0, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Backward(tau_last=14),
            "tau_last is 14 but tau_first is 14, so that no step would be trained; give",
        ),
        (lambda: Adaptive(tau_first=3, tau_last=5), "tau_last is 5 but tau_first is 3, so that no step would be trai"),
        (lambda: Table(rows=((1, 14), (2, 6)), tau_last=6), "tau_last is 6 but the shortest of rows is 6, so that no"),
        (lambda: Full(tau_last=10).check(num_inference_steps=10, num_branches=1), "tau_last is 10 but sampler.num_inf"),
        (lambda: Backward(tau_last=-1), "tau_last is -1; give 0 or more."),
        (lambda: Backward(tau_max=-1), "tau_max is -1; give 0 or more."),
        (lambda: Backward(tau_max=13), "tau_max is 13 but tau_first is 14; give at least 14, or 0 for no limit."),
        (lambda: Adaptive(tau_max=13), "tau_max is 13 but tau_first is 14; give at least 14, or 0 for no limit."),
        (
            lambda: Adaptive(tau_max=21).check(num_inference_steps=20, num_branches=4),
            "tau_max is 21 but sampler.num_inference_steps is 20; give at most 20.",
        ),
    ],
)
def test_an_end_that_leaves_nothing_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as refused:
        make()
    assert str(refused.value).startswith(f"schedule.{message}")
    assert str(refused.value).endswith(".")


def test_ends_just_inside_are_accepted() -> None:
    Backward(tau_last=13, tau_max=14).check(num_inference_steps=14, num_branches=4)
    Table(rows=((1, 14), (2, 6)), tau_last=5)
    Full(tau_last=9).check(num_inference_steps=10, num_branches=1)


# Table


@given(
    rounds=st.sets(st.integers(2, 30), max_size=5),
    lengths=st.lists(st.integers(1, 20), min_size=6, max_size=6),
    i=st.integers(0, 40),
)
def test_a_table_equals_the_twin(rounds: set[int], lengths: list[int], i: int) -> None:
    rows = tuple(zip([1, *sorted(rounds)], lengths, strict=False))
    got = Table(rows=rows).interval_length(i + 1, num_rounds=40, num_inference_steps=20)
    assert got == twin.table_length(i, rows)


@pytest.mark.parametrize(
    "rows",
    [(), ((2, 14),), ((0, 14), (1, 14)), ((1, 14), (1, 15)), ((1, 14), (5, 15), (3, 16)), ((1, 0),), ((1, 3), (2, -1))],
)
def test_bad_rows_are_refused_in_one_sentence(rows: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(UserError) as refused:
        Table(rows=rows)
    assert str(refused.value).startswith(f"schedule.rows is {rows}; give ")
    assert str(refused.value).endswith(".")


def test_a_row_longer_than_the_chain_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^schedule\.rows is 21 but sampler\.num_inference_steps is 20; give at most 20"
    ):
        Table(rows=((1, 14), (3, 21))).check(num_inference_steps=20, num_branches=4)
    Table(rows=((1, 20),)).check(num_inference_steps=20, num_branches=4)


# Adaptive

# Exact in floating point, and so are means over 1, 2 or 4 of them.
EIGHTHS = st.integers(0, 8).map(lambda eighths: Fraction(eighths, 8))
FRACTIONS = st.lists(EIGHTHS, min_size=1, max_size=30)


def lengths_of(
    schedule: Adaptive, pair_fractions: Sequence[float], *, num_inference_steps: int
) -> list[tuple[int, GrowthReason]]:
    """Length of each round and what is found after it, every round's past being the rounds before it."""
    num_rounds = len(pair_fractions)
    past: list[PastRound] = []
    out: list[tuple[int, GrowthReason]] = []
    for i, fraction in enumerate(pair_fractions):
        length = schedule.interval_length(
            i + 1, num_rounds=num_rounds, num_inference_steps=num_inference_steps, past=past
        )
        past.append(PastRound(interval_length=length, pair_fraction=fraction))
        found = schedule.growth_reason(num_rounds=num_rounds, num_inference_steps=num_inference_steps, past=past)
        out.append((length, found))
    return out


@given(
    data=st.data(),
    fractions=FRACTIONS,
    num_steps=st.integers(1, 20),
    window=st.sampled_from([1, 2, 4]),
    least=EIGHTHS,
)
def test_adaptive_equals_the_twin(
    data: st.DataObject,
    fractions: list[Fraction],
    num_steps: int,
    window: int,
    least: Fraction,
) -> None:
    tau_first = data.draw(st.integers(1, num_steps))
    tau_max = data.draw(st.just(0) | st.integers(tau_first, num_steps))
    schedule = Adaptive(tau_first=tau_first, tau_max=tau_max, window=window, least_pair_fraction=float(least))
    got = lengths_of(schedule, [float(fraction) for fraction in fractions], num_inference_steps=num_steps)
    expected = twin.adaptive_lengths(
        fractions,
        num_rounds=len(fractions),
        num_inference_steps=num_steps,
        tau_first=tau_first,
        window=window,
        least_pair_fraction=least,
        tau_max=tau_max,
    )
    assert [(length, found.name.lower()) for length, found in got] == expected


@given(
    data=st.data(),
    fractions=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    num_steps=st.integers(1, 20),
    window=st.integers(1, 4),
    least=st.floats(0, 1),
)
def test_adaptive_never_shrinks_is_never_shorter_than_backward_and_reaches_the_chain(
    data: st.DataObject, fractions: list[float], num_steps: int, window: int, least: float
) -> None:
    """Even where the rounds are so few that Backward grows by several steps at once."""
    tau_first, num_rounds = data.draw(st.integers(1, num_steps)), len(fractions)
    schedule = Adaptive(tau_first=tau_first, window=window, least_pair_fraction=least)
    lengths = [length for length, _ in lengths_of(schedule, fractions, num_inference_steps=num_steps)]
    backward = [
        Backward(tau_first=tau_first).interval_length(i + 1, num_rounds=num_rounds, num_inference_steps=num_steps)
        for i in range(num_rounds)
    ]
    assert lengths[0] == tau_first
    assert lengths == sorted(lengths)
    assert all(ours >= theirs for ours, theirs in zip(lengths, backward, strict=True))
    assert lengths[-1] <= num_steps
    if num_rounds > num_steps - tau_first:
        assert lengths[-1] == num_steps


@given(fractions=st.lists(st.floats(0, 1), min_size=2, max_size=30), data=st.data())
def test_a_round_is_decided_by_its_past_alone(fractions: list[float], data: st.DataObject) -> None:
    """What is yet to come, and how often was asked, change nothing: a resumed run decides the same."""
    schedule = Adaptive(tau_first=2)
    whole = lengths_of(schedule, fractions, num_inference_steps=10)
    i = data.draw(st.integers(1, len(fractions) - 1))
    past = [PastRound(interval_length=n, pair_fraction=f) for (n, _), f in zip(whole[:i], fractions[:i], strict=True)]
    again = schedule.interval_length(i + 1, num_rounds=len(fractions), num_inference_steps=10, past=past)
    assert again == whole[i][0]


@pytest.mark.parametrize(
    ("fractions", "reason"),
    [
        ((), GrowthReason.NONE),
        ((0.5,), GrowthReason.NONE),
        ((0.49,), GrowthReason.NO_PAIRS),
        ((0.3, 0.4, 0.2), GrowthReason.NO_PAIRS),  # never at 0.5 here
        ((0.7, 0.5, 0.4), GrowthReason.SATURATED),  # 0.45 in the mean, and it was at 0.5 before
        ((0.7, 0.6, 0.4), GrowthReason.NONE),  # 0.5 in the mean
        ((0.6, 0.3), GrowthReason.SATURATED),
        ((0.1, 0.1, 0.6, 0.6), GrowthReason.NONE),  # older rounds are not looked at
    ],
)
def test_each_reason_has_its_reason(fractions: tuple[float, ...], reason: GrowthReason) -> None:
    """So many rounds that Backward's pace is not felt."""
    past = [PastRound(interval_length=14, pair_fraction=fraction) for fraction in fractions]
    assert Adaptive().growth_reason(num_rounds=10_000, num_inference_steps=20, past=past) is reason


@pytest.mark.parametrize(("num_rounds", "reason"), [(28, GrowthReason.SCHEDULED), (29, GrowthReason.NONE)])
def test_backwards_pace_is_a_reason_to_grow(num_rounds: int, reason: GrowthReason) -> None:
    """7 lengths in 28 rounds: 4 rounds each."""
    past = [PastRound(interval_length=14, pair_fraction=0.5)] * 4
    assert Adaptive().growth_reason(num_rounds=num_rounds, num_inference_steps=20, past=past) is reason


def test_rounds_at_other_lengths_do_not_count() -> None:
    """The pairs of a shorter interval say nothing of this one."""
    past = [PastRound(interval_length=14, pair_fraction=0.9)] * 5 + [PastRound(interval_length=15, pair_fraction=0.3)]
    assert Adaptive().growth_reason(num_rounds=10_000, num_inference_steps=20, past=past) is GrowthReason.NO_PAIRS
    past = [PastRound(interval_length=14, pair_fraction=0.1)] * 5 + [PastRound(interval_length=15, pair_fraction=0.6)]
    assert Adaptive().growth_reason(num_rounds=10_000, num_inference_steps=20, past=past) is GrowthReason.NONE


def test_the_whole_chain_has_no_reason_but_kept() -> None:
    past = [PastRound(interval_length=20, pair_fraction=0.0)] * 5
    assert Adaptive().growth_reason(num_rounds=5, num_inference_steps=20, past=past) is GrowthReason.NONE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau_first", 0),
        ("window", 0),
        ("least_pair_fraction", 1.5),
        ("least_pair_fraction", float("nan")),
        ("least_pair_fraction", -0.1),
    ],
)
def test_adaptive_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^schedule\.{name} is {value}; give .*\.$"):
        Adaptive(**{name: value})  # pyright: ignore[reportArgumentType]


def test_an_adaptive_interval_longer_than_the_chain_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule\.tau_first is 14 but sampler\.num_inference_steps is 10; give"):
        Adaptive().check(num_inference_steps=10, num_branches=4)


@given(first=st.integers(1, 20), num_rounds=st.integers(1, 40), tau_last=st.integers(0, 19))
def test_forward_trains_as_many_steps_as_backward_from_the_other_side(
    first: int, num_rounds: int, tau_last: int
) -> None:
    forward, backward = Forward(tau_first=first, tau_last=tau_last), Backward(tau_first=first)
    for i in range(1, num_rounds + 1):
        assert forward.interval_length(i, num_rounds=num_rounds, num_inference_steps=20) == 20
        interval = interval_of(forward, i, num_rounds=num_rounds, num_inference_steps=20)
        length = backward.interval_length(i, num_rounds=num_rounds, num_inference_steps=20)
        assert interval == StepInterval(20, tuple(range(min(length, 20 - tau_last))))


def test_forward_must_fit_the_chain() -> None:
    with pytest.raises(UserError, match=r"tau_first is 21 but sampler.num_inference_steps is 20"):
        Forward(tau_first=21).check(num_inference_steps=20, num_branches=1)
    with pytest.raises(UserError, match=r"tau_last is 20 .* no step would be trained"):
        Forward(tau_last=20).check(num_inference_steps=20, num_branches=1)


@given(data=st.data(), num_steps=st.integers(1, 60))
def test_spaced_steps_lie_in_the_middle_of_equal_parts(data: st.DataObject, num_steps: int) -> None:
    """Against the twin in exact fractions; they are distinct, and tau_last of them are left out."""
    tau_last = data.draw(st.integers(0, num_steps - 1))
    num_trained = data.draw(st.integers(1, num_steps - tau_last))
    spaced = Spaced(num_trained=num_trained, tau_last=tau_last)
    spaced.check(num_inference_steps=num_steps, num_branches=1)
    interval = interval_of(spaced, 1, num_rounds=1, num_inference_steps=num_steps)
    assert interval.length == num_steps
    assert list(interval.trained) == twin.middles(num_steps - tau_last, num_parts=num_trained)


def test_ten_of_twenty_steps_are_every_second_one() -> None:
    assert interval_of(Spaced(), 3, num_rounds=9, num_inference_steps=20).trained == tuple(range(1, 20, 2))


def test_spaced_steps_must_fit_the_chain() -> None:
    with pytest.raises(UserError, match=r"num_trained is 15 but there are 14 steps without the last tau_last; give at"):
        Spaced(num_trained=15, tau_last=6).check(num_inference_steps=20, num_branches=1)


@dataclass(frozen=True)
class Fixed(Schedule):
    """A user's schedule with the same interval and the same trained steps in every round."""

    length: int
    steps: tuple[int, ...]

    def interval_length(self, *_: object, **__: object) -> int:
        return self.length

    def trained_steps(self, *_: object, **__: object) -> tuple[int, ...]:
        return self.steps


def test_a_users_schedule_may_train_any_steps_of_its_interval() -> None:
    interval = interval_of(Fixed(3, (1, 3)), 1, num_rounds=1, num_inference_steps=4)
    assert interval == StepInterval(3, (1, 3))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Fixed(0, (3,)), r"the schedule gives round 2 an interval of 0 steps; give 1 to 4\."),
        (Fixed(5, (3,)), r"an interval of 5 steps; give 1 to 4\."),
        (Fixed(3, ()), r"trains the steps \[\] of round 2; give one or more steps from 1 to 3, ascending\."),
        (Fixed(3, (0, 1)), r"trains the steps \[0, 1\] of round 2"),
        (Fixed(3, (3, 4)), r"trains the steps \[3, 4\] of round 2"),
        (Fixed(3, (2, 1)), r"trains the steps \[2, 1\] of round 2"),
        (Fixed(3, (2, 2)), r"trains the steps \[2, 2\] of round 2"),
    ],
)
def test_steps_that_the_chain_does_not_have_are_refused(schedule: Fixed, message: str) -> None:
    with pytest.raises(UserError, match=message):
        interval_of(schedule, 2, num_rounds=4, num_inference_steps=4)
