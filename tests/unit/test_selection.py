"""Best and worst of branch groups against the slow twin."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from b2diffurl.algorithm.extremes import Extremes
from b2diffurl.algorithm.gap import Gap
from b2diffurl.algorithm.interfaces import Selector
from b2diffurl.algorithm.power import Power
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.errors import UserError
from tests.reference import selection as twin
from tests.rounds import Chosen, choose_by


def select(advantages: list[float], *, num_branches: int) -> Chosen:
    return choose_by(BestWorst(), torch.tensor(advantages), ["a cat"] * len(advantages), num_branches=num_branches)


@given(data=st.data(), num_groups=st.integers(0, 5), num_branches=st.integers(2, 5))
def test_best_worst_equals_the_twin(data: st.DataObject, num_groups: int, num_branches: int) -> None:
    """Few different values, so that ties and advantages on the threshold are common."""
    values = st.sampled_from([-5.0, -1.25, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 5.0])
    size = num_groups * num_branches
    advantages = data.draw(st.lists(values, min_size=size, max_size=size))
    pos, neg = data.draw(st.sampled_from([0.25, 0.5, 0.6])), data.draw(st.sampled_from([-0.25, -0.5, -0.6]))
    selector = BestWorst(pos_threshold=pos, neg_threshold=neg)
    got = choose_by(selector, torch.tensor(advantages), ["a cat"] * size, num_branches=num_branches)
    index, pairs = twin.best_and_worst(advantages, num_branches=num_branches, pos_threshold=pos, neg_threshold=neg)
    assert got.index.tolist() == index
    assert [tuple(pair) for pair in got.pairs.tolist()] == pairs
    assert len(got) == len(index)


def test_a_best_on_the_threshold_is_in_and_a_worst_on_it_is_out() -> None:
    selection = select([0.5, 0.0, 0.0, -0.5, 0.0, -0.6], num_branches=2)
    assert selection.index.tolist() == [0, 5]
    assert selection.pairs.shape == (0, 2)


def test_groups_without_both_give_one_trajectory_and_no_pair() -> None:
    selection = select([0.9, 0.1, -0.9, -0.1, 0.9, -0.9], num_branches=2)
    assert selection.index.tolist() == [0, 2, 4, 5]
    assert selection.pairs.tolist() == [[4, 5]]


def test_ties_give_the_first_of_them() -> None:
    selection = select([-1.0, 1.0, 1.0, -1.0], num_branches=4)
    assert selection.index.tolist() == [0, 1]
    assert selection.pairs.tolist() == [[1, 0]]


def test_a_group_of_equals_invents_no_preference() -> None:
    assert len(select([0.0] * 4, num_branches=4)) == 0
    selection = select([2.0] * 4, num_branches=4)
    assert selection.index.tolist() == [0]
    assert selection.pairs.tolist() == []


def test_nothing_worth_training_on_is_an_empty_selection() -> None:
    selection = select([0.1, -0.1, 0.4, -0.5], num_branches=2)
    assert len(selection) == 0
    assert selection.index.dtype == selection.pairs.dtype == torch.int64
    assert selection.pairs.shape == (0, 2)


def test_all_is_every_trajectory_whatever_its_advantage() -> None:
    selection = choose_by(All(), torch.tensor([0.0, 0.1, -5.0]), ["a cat", "a dog", "a bear"], num_branches=1)
    assert selection.index.tolist() == [0, 1, 2]
    assert selection.pairs.shape == (0, 2)


@pytest.mark.parametrize("selector", [BestWorst(), All(), Gap(), Power(), Extremes()])
def test_is_a_selector(selector: object) -> None:
    assert isinstance(selector, Selector)


@pytest.mark.parametrize("value", [0.0, -0.5, float("nan")])
def test_a_pos_threshold_that_is_not_positive_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=rf"^selection\.pos_threshold is {value}; give a number above 0\."):
        BestWorst(pos_threshold=value)


@pytest.mark.parametrize("value", [0.0, 0.5, float("nan")])
def test_a_neg_threshold_that_is_not_negative_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=rf"^selection\.neg_threshold is {value}; give a number below 0\."):
        BestWorst(neg_threshold=value)


@given(data=st.data(), num_groups=st.integers(0, 4), num_branches=st.integers(1, 5))
def test_the_pairs_of_all_equal_the_twin(data: st.DataObject, num_groups: int, num_branches: int) -> None:
    """Without branching over prompts in any order; few different values, so that ties are common."""
    size = num_groups * num_branches
    advantages = data.draw(st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.5, 2.0]), min_size=size, max_size=size))
    prompts = data.draw(st.lists(st.sampled_from(["a cat", "a dog", "a bear"]), min_size=size, max_size=size))
    got = choose_by(All(), torch.tensor(advantages), prompts, num_branches=num_branches)
    assert got.index.tolist() == list(range(size))
    assert [tuple(pair) for pair in got.pairs.tolist()] == twin.all_pairs(
        advantages, prompts, num_branches=num_branches
    )


def test_pairs_with_branching_are_of_one_group_even_where_groups_share_a_prompt() -> None:
    selection = choose_by(All(), torch.tensor([5.0, 4.0, 1.0, 0.0]), ["a cat"] * 4, num_branches=2)
    assert selection.pairs.tolist() == [[0, 1], [2, 3]]


def test_pairs_without_branching_are_of_one_prompt() -> None:
    prompts = ["a cat", "a dog", "a cat", "a dog", "a cat", "a bear"]
    selection = choose_by(All(), torch.tensor([0.0, 3.0, 2.0, 1.0, 1.0, 9.0]), prompts, num_branches=1)
    assert selection.pairs.tolist() == [[2, 0], [1, 3]]  # the middle cat and the only bear have nobody


def test_ties_are_no_pairs() -> None:
    assert choose_by(All(), torch.zeros(6), ["a cat"] * 6, num_branches=3).pairs.shape == (0, 2)
    selection = choose_by(All(), torch.tensor([0.5, 0.5, 2.0, 0.5]), ["a cat"] * 4, num_branches=4)
    assert selection.pairs.tolist() == [[2, 3]]


# Gap and power


@given(data=st.data(), num_groups=st.integers(0, 5), num_branches=st.integers(2, 4))
def test_gap_equals_the_twin(data: st.DataObject, num_groups: int, num_branches: int) -> None:
    size = num_groups * num_branches
    advantages = data.draw(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0]), min_size=size, max_size=size))
    delta = data.draw(st.sampled_from([0.0, 0.7, 1.1, 2.3]))
    got = choose_by(Gap(delta=delta), torch.tensor(advantages), ["a cat"] * size, num_branches=num_branches)
    index, pairs = twin.gap(advantages, num_branches=num_branches, delta=delta)
    assert got.index.tolist() == index
    assert [tuple(pair) for pair in got.pairs.tolist()] == pairs


def test_gap_refuses_groups_without_contrast_and_not_lucky_trunks() -> None:
    """Pooled standard deviation: sqrt((0.5 + 0 + 0.02) / 3) = 0.416."""
    advantages = torch.tensor([5.0, 4.0, -3.0, -3.0, 0.1, -0.1])
    selection = choose_by(Gap(delta=1.0), advantages, ["a cat"] * 6, num_branches=2)
    assert selection.pairs.tolist() == [[0, 1]]
    assert choose_by(Gap(delta=2.5), advantages, ["a cat"] * 6, num_branches=2).pairs.shape == (0, 2)


def test_gap_of_a_difference_that_is_exactly_delta_is_out() -> None:
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])  # pooled standard deviation sqrt(4 / 2)
    assert len(choose_by(Gap(delta=math.sqrt(2)), advantages.double(), ["a cat"] * 4, num_branches=2)) == 0
    assert len(choose_by(Gap(delta=1.41), advantages, ["a cat"] * 4, num_branches=2)) == 4


def test_gap_of_groups_of_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"^rollout\.num_branches is 1 but selection gap needs at least 2; give more"):
        Gap().check(num_branches=1)
    with pytest.raises(UserError, match=r"^selection\.delta is -1\.0; give a finite number of 0 or more\."):
        Gap(delta=-1.0)


@given(
    advantages=st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0]), min_size=1, max_size=8),
    exponent=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_power_weights_equal_the_twin_and_the_rest_is_all(advantages: list[float], exponent: float) -> None:
    values, prompts = torch.tensor(advantages).view(-1, 1), ["a cat"] * len(advantages)
    got, every = Power(exponent=exponent).select(values, prompts), All().select(values, prompts)
    assert got.weights is not None
    assert got.weights.tolist() == pytest.approx(twin.power_weights(advantages, exponent=exponent), rel=1e-6)
    assert torch.equal(got.index, every.index)
    assert torch.equal(got.pairs, every.pairs)
    assert every.weights is None


def test_a_large_power_neither_overflows_nor_vanishes() -> None:
    weights = Power(exponent=1000.0).select(torch.tensor([[5.0, 1e-3, -5.0, 0.0]]), ["a cat"]).weights
    assert weights is not None
    assert weights.tolist() == [2.0, 0.0, 2.0, 0.0]


# Extremes


@given(
    advantages=st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0]), min_size=0, max_size=13),
    fraction=st.sampled_from([0.01, 0.3, 0.5, 0.8, 1.0]),
)
def test_extremes_equal_the_twin(advantages: list[float], fraction: float) -> None:
    prompts = ["a cat"] * len(advantages)
    got = choose_by(Extremes(fraction=fraction), torch.tensor(advantages), prompts, num_branches=1)
    assert got.index.tolist() == twin.extremes(advantages, fraction=fraction)


def test_extremes_are_of_the_round_and_not_of_a_group() -> None:
    advantages = torch.tensor([3.0, 2.0, 0.1, -0.1, -2.0, -3.0])
    selection = choose_by(Extremes(fraction=2 / 3), advantages, ["a cat"] * 6, num_branches=2)
    assert selection.index.tolist() == [0, 1, 4, 5]
    assert selection.pairs.tolist() == [[0, 1], [4, 5]]


def test_pairs_of_extremes_have_both_members_selected() -> None:
    prompts = ["a cat", "a cat", "a dog", "a dog"]
    selection = choose_by(Extremes(fraction=0.5), torch.tensor([3.0, 0.0, 1.0, -2.0]), prompts, num_branches=1)
    assert selection.index.tolist() == [0, 3]
    assert selection.pairs.shape == (0, 2)


@pytest.mark.parametrize("value", [0.0, 1.5, float("nan")])
def test_a_fraction_outside_its_range_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"^selection\.fraction is"):
        Extremes(fraction=value)


@pytest.mark.parametrize("selector", [BestWorst(), Gap(delta=0.0), All(), Power(), Extremes(), Extremes(fraction=0.3)])
@given(seed=st.integers(0, 99), num_groups=st.integers(1, 5), num_branches=st.integers(2, 5))
def test_plan_counts_as_many_trajectories_as_a_selector_selects_at_most(
    selector: Selector, seed: int, num_groups: int, num_branches: int
) -> None:
    most = selector.max_selected(num_groups=num_groups, num_branches=num_branches)
    advantages = 9 * torch.randn(num_groups, num_branches, generator=torch.Generator().manual_seed(seed))
    selection = selector.select(advantages, ["a cat"] * num_groups)
    assert len(selection.index) <= most
    opposed = torch.linspace(-9, 9, num_branches).repeat(num_groups, 1)  # every best is good, every worst bad
    assert len(selector.select(opposed, ["a cat"] * num_groups).index) == most
