"""Interval lengths against the slow twin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2diffurl.contracts import Schedule
from b2diffurl.errors import UserError
from b2diffurl.schedule import Backward, Full
from tests.reference import schedule as twin


@given(data=st.data(), num_rounds=st.integers(1, 300), num_steps=st.integers(1, 60))
def test_backward_equals_the_twin(data: st.DataObject, num_rounds: int, num_steps: int) -> None:
    tau_first = data.draw(st.integers(1, num_steps))
    i = data.draw(st.integers(0, 2 * num_rounds))  # past the end too: at most the whole chain
    got = Backward(tau_first=tau_first).num_steps(i, num_rounds=num_rounds, num_inference_steps=num_steps)
    assert got == twin.interval_length(i, num_rounds=num_rounds, num_inference_steps=num_steps, tau_first=tau_first)


@given(data=st.data(), num_rounds=st.integers(1, 100), num_steps=st.integers(1, 30))
def test_intervals_begin_at_tau_first_and_never_shrink_or_pass_the_chain(
    data: st.DataObject, num_rounds: int, num_steps: int
) -> None:
    tau_first = data.draw(st.integers(1, num_steps))
    schedule = Backward(tau_first=tau_first)
    lengths = [schedule.num_steps(i, num_rounds=num_rounds, num_inference_steps=num_steps) for i in range(num_rounds)]
    assert lengths[0] == tau_first
    assert lengths == sorted(lengths)
    assert lengths[-1] <= num_steps


def test_the_reference_run_spends_equally_many_rounds_on_every_length() -> None:
    """T = 20, tau_first = 14, S = 100: 7 lengths, each for 14 or 15 rounds."""
    lengths = [Backward(tau_first=14).num_steps(i, num_rounds=100, num_inference_steps=20) for i in range(100)]
    assert [lengths.count(tau) for tau in range(14, 21)] == [15, 14, 14, 15, 14, 14, 14]


def test_an_interval_of_the_whole_chain_stays_so() -> None:
    lengths = [Backward(tau_first=20).num_steps(i, num_rounds=4, num_inference_steps=20) for i in range(4)]
    assert lengths == [20] * 4


def test_full_is_the_whole_chain_in_every_round() -> None:
    assert {Full().num_steps(i, num_rounds=5, num_inference_steps=20) for i in range(5)} == {20}


@pytest.mark.parametrize("schedule", [Backward(), Full()])
def test_is_a_schedule(schedule: object) -> None:
    assert isinstance(schedule, Schedule)


@pytest.mark.parametrize("tau_first", [0, -3])
def test_an_interval_without_steps_is_refused(tau_first: int) -> None:
    with pytest.raises(UserError, match=rf"^schedule\.tau_first is {tau_first}; give 1 or more steps\.$"):
        Backward(tau_first=tau_first)


def test_an_interval_longer_than_the_chain_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule\.tau_first is 14 but sampler\.num_inference_steps is 10; give"):
        Backward(tau_first=14).num_steps(0, num_rounds=100, num_inference_steps=10)
