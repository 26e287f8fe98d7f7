"""Normalized rewards against the slow twin, and the cases that other code gets wrong."""

import json
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from b2diffurl.algorithm.advantage import Batch, Branch, PromptHistory, RewardHistory
from b2diffurl.algorithm.interfaces import Normalizer
from b2diffurl.algorithm.selection import BestWorst
from b2diffurl.algorithm.shrunk import Shrunk
from b2diffurl.errors import UserError
from tests.reference import advantage as twin

# Eighths are exact in float64, so that rewards which do not differ have no standard deviation at all.
REWARDS = st.integers(-32, 32).map(lambda eighths: eighths / 8)
ROUND = st.lists(st.tuples(st.sampled_from(["a cat", "a cat riding a bike", "a dog"]), REWARDS), min_size=1, max_size=8)


def history(**changed: float) -> RewardHistory:
    return RewardHistory(normalizer=PromptHistory(**changed))  # pyright: ignore[reportArgumentType]


def advantages(history: RewardHistory, rewards: Tensor, prompts: Sequence[str], *, num_branches: int = 1) -> Tensor:
    """Advantages, not clipped, of trajectories in flat order, one prompt per trajectory."""
    return history.normalize(rewards.view(-1, num_branches), prompts[::num_branches]).flatten()


def once(rewards: Tensor | list[float], *prompts: str) -> list[float]:
    """Advantages of one round without a past; all of one prompt if none is given."""
    rewards = torch.as_tensor(rewards)
    return advantages(history(), rewards, prompts or ["a cat"] * len(rewards)).tolist()


@given(rounds=st.lists(ROUND, min_size=1, max_size=6), num_rounds=st.integers(0, 3))
def test_equals_the_twin_in_every_round(rounds: list[list[tuple[str, float]]], num_rounds: int) -> None:
    ours = history(num_rounds=num_rounds)
    for number, now in enumerate(rounds, start=1):
        rewards, prompts = torch.tensor([reward for _, reward in now]), [prompt for prompt, _ in now]
        expected = twin.advantages(rounds[:number], num_rounds=num_rounds)
        assert advantages(ours, rewards, prompts).tolist() == pytest.approx(expected, abs=1e-6)


@given(values=st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=12), limit=st.sampled_from([0.5, 1.5, 5.0]))
def test_clipping_equals_the_twin(values: list[float], limit: float) -> None:
    for normalizer in (PromptHistory(max_advantage=limit), Batch(max_advantage=limit), Branch(max_advantage=limit)):
        clipped = normalizer.clip(torch.tensor(values)[:, None]).flatten().tolist()
        assert clipped == twin.clipped(values, max_advantage=limit)


def test_the_best_of_a_group_is_chosen_before_clipping() -> None:
    """Paper, section 3.3: three first successes after a long history of zeros are not equally good."""
    ours = RewardHistory(normalizer=PromptHistory(max_advantage=5.0), rounds=[{"p": [0.0] * 400}])
    got = ours.normalize(torch.tensor([[0.3, 0.9, 0.6, 0.0]]), ["p"])
    assert BestWorst().select(got, ["p"]).index.tolist() == [[0, 1]]
    assert ours.normalizer.clip(got)[0, :3].tolist() == [5.0] * 3
    assert not BestWorst(pos_threshold=25.0).select(got, ["p"]).index.numel()  # thresholds see what is not clipped
    assert len(BestWorst(pos_threshold=6.0).select(got, ["p"])) == 1


@given(now=ROUND)
def test_advantages_are_finite_and_average_to_nothing_per_prompt(now: list[tuple[str, float]]) -> None:
    prompts = [prompt for prompt, _ in now]
    got = once([reward for _, reward in now], *prompts)
    for prompt in prompts:
        mine = [value for value, other in zip(got, prompts, strict=True) if other == prompt]
        assert all(math.isfinite(value) for value in mine)
        assert sum(mine) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64])
def test_rewards_of_every_type_make_float_advantages(dtype: torch.dtype) -> None:
    got = advantages(history(), torch.tensor([1, 0, 0, 0]).to(dtype), ["a cat"] * 4)
    assert got.dtype == torch.float32
    assert got.tolist() == pytest.approx([math.sqrt(3), *[-1 / math.sqrt(3)] * 3])


def test_a_single_reward_has_no_advantage() -> None:
    assert once([3.0]) == [0.0]
    assert once([3.0, 1.0, 2.0], "a dog", "a cat", "a cat") == [0.0, -1.0, 1.0]


def test_a_single_reward_a_round_is_compared_with_the_past() -> None:
    ours = history()
    assert advantages(ours, torch.tensor([0.0]), ["a cat"]).tolist() == [0.0]
    assert advantages(ours, torch.tensor([2.0]), ["a cat"]).tolist() == [1.0]


def test_rewards_that_are_all_alike_have_no_advantage() -> None:
    assert once([0.1] * 7) == [0.0] * 7


def test_differences_under_the_floor_are_not_blown_up() -> None:
    assert once([0.5, 0.5 + 1e-6]) == [0.0, 0.0]
    assert once([0.5, 0.75]) == [-1.0, 1.0]


def test_a_standard_deviation_on_the_floor_counts() -> None:
    """The standard deviation is 0.25 and the largest reward 0.5: the floor is relative."""
    assert advantages(history(std_floor=0.5), torch.tensor([0.0, 0.5]), ["a cat"] * 2).tolist() == [-1.0, 1.0]
    assert advantages(history(std_floor=0.5001), torch.tensor([0.0, 0.5]), ["a cat"] * 2).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("config", [PromptHistory(), Batch(), Branch(), Shrunk()])
@pytest.mark.parametrize("scale", [1e-60, 1e-12, 2.0**40, 1e90])
def test_the_scale_of_a_reward_does_not_matter(config: Normalizer, scale: float) -> None:
    rewards = torch.tensor([[0.1, 0.3], [0.2, -0.4], [0.3, 0.35]], dtype=torch.float64)
    prompts = ["a cat", "a cat", "a dog"]
    plain, scaled = (RewardHistory(normalizer=config).normalize(factor * rewards, prompts) for factor in (1.0, scale))
    assert plain.abs().min() > 0
    assert torch.allclose(plain, scaled, rtol=1e-5)


def test_advantages_are_in_standard_deviations_however_many() -> None:
    """One of n rewards differs: it is sqrt(n - 1) standard deviations away."""
    assert once([0.0] * 36 + [1.0])[-1] == pytest.approx(6.0)
    assert once([0.0] * 36 + [-1.0])[-1] == pytest.approx(-6.0)
    assert once([0.0] * 16 + [1.0])[-1] == pytest.approx(4.0)


def test_prompts_that_begin_alike_do_not_merge() -> None:
    long = "a cat riding a bike, " * 40
    assert once([0.0, 1.0, 100.0, 102.0], long, long, long + "x", long + "x") == [-1.0, 1.0, -1.0, 1.0]
    assert once([1.0, 2.0, 3.0], "a cat", "A cat", "a cat ") == [0.0, 0.0, 0.0]


def test_exactly_num_rounds_past_rounds_count_besides_this_one() -> None:
    """With 0s and one 30 in round 0, its 30 is felt until it is num_rounds = 2 rounds old."""
    ours = history(num_rounds=2)
    got = [
        advantages(ours, torch.tensor([first, 0.0]), ["a cat"] * 2)[1].item() for first in (30.0, 0.0, 0.0, 0.0, 0.0)
    ]
    assert got[:3] == pytest.approx([-1.0, -1 / math.sqrt(3), -1 / math.sqrt(5)])
    assert got[3:] == [0.0, 0.0]
    assert len(ours.rounds) == 2


def test_without_past_rounds_each_round_stands_alone() -> None:
    ours = history(num_rounds=0)
    for _ in range(3):
        assert advantages(ours, torch.tensor([0.0, 1.0]), ["a cat"] * 2).tolist() == [-1.0, 1.0]
        assert advantages(ours, torch.tensor([5.0, 5.0]), ["a cat"] * 2).tolist() == [0.0, 0.0]


def test_a_round_without_a_prompt_ages_its_rewards_all_the_same() -> None:
    ours = history(num_rounds=1)
    advantages(ours, torch.tensor([0.0]), ["a cat"])
    advantages(ours, torch.tensor([0.0]), ["a dog"])
    assert advantages(ours, torch.tensor([9.0]), ["a cat"]).tolist() == [0.0]


def test_statistics_are_float64() -> None:
    rewards = torch.tensor([0.0, 2**24, 2**24 + 1], dtype=torch.float64)  # the last two are one number in float32
    assert once(rewards)[1] != once(rewards)[2]


def test_a_history_through_json_goes_on_as_before() -> None:
    first, second = history(), history()
    advantages(first, torch.tensor([0.1, 0.7]), ["a cat", "a dog"])
    second.rounds = json.loads(json.dumps(first.rounds))
    now = (torch.tensor([0.3, 0.2]), ["a cat", "a dog"])
    assert torch.equal(advantages(first, *now), advantages(second, *now))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_rounds", -1),
        ("std_floor", 0.0),
        ("std_floor", float("nan")),
        ("std_floor", float("inf")),
        ("max_advantage", -5.0),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^advantage\.{name} is {value}; give .*\.$"):
        history(**{name: value})


# Over a round, and within branch groups

GROUPS = st.integers(2, 4).flatmap(
    lambda k: st.lists(st.lists(REWARDS, min_size=k, max_size=k), min_size=1, max_size=5)
)


@given(groups=GROUPS)
def test_batch_equals_the_twin(groups: list[list[float]]) -> None:
    """Whatever the prompts are."""
    rewards = [reward for members in groups for reward in members]
    ours = RewardHistory(normalizer=Batch())
    prompts = [f"a cat, {i % 3}" for i in range(len(rewards))]
    got = advantages(ours, torch.tensor(rewards), prompts, num_branches=len(groups[0]))
    assert got.tolist() == pytest.approx(twin.batch_advantages(rewards), abs=1e-6)


@given(groups=GROUPS)
def test_branch_equals_the_twin(groups: list[list[float]]) -> None:
    """All of one prompt: groups are told apart by their place."""
    rewards, k = [reward for members in groups for reward in members], len(groups[0])
    ours = RewardHistory(normalizer=Branch())
    got = advantages(ours, torch.tensor(rewards), ["a cat"] * len(rewards), num_branches=k)
    assert got.tolist() == pytest.approx(twin.branch_advantages(rewards, num_branches=k), abs=1e-6)


@given(groups=GROUPS)
def test_branch_is_blind_to_what_a_group_shares(groups: list[list[float]]) -> None:
    rewards, k = torch.tensor(groups).double(), len(groups[0])
    lifted = rewards + 100 * torch.arange(len(groups)).view(-1, 1)
    first, second = (
        advantages(RewardHistory(normalizer=Branch()), r.flatten(), ["a cat"] * r.numel(), num_branches=k)
        for r in (rewards, lifted)
    )
    assert first.tolist() == pytest.approx(second.tolist(), abs=1e-6)
    assert first.view(-1, k).sum(dim=1).tolist() == pytest.approx([0] * len(groups), abs=1e-5)


def test_a_group_of_near_ties_stays_one() -> None:
    """Scaled by the round and not by itself."""
    ours = RewardHistory(normalizer=Branch())
    got = advantages(ours, torch.tensor([0.0, 1e-3, 0.0, 2.0]), ["a cat"] * 4, num_branches=2).tolist()
    assert abs(got[0]) < 1e-3
    assert got[2:] == pytest.approx([-math.sqrt(2), math.sqrt(2)], rel=1e-5)


@pytest.mark.parametrize("config", [Batch(), Branch()])
def test_a_round_has_no_past_and_no_noise_blown_up(config: Batch | Branch) -> None:
    ours = RewardHistory(normalizer=config)
    first = advantages(ours, torch.tensor([0.0, 1.0, 0.0, 1.0]), ["a cat"] * 4, num_branches=2)
    assert first.tolist() == [-1.0, 1.0, -1.0, 1.0]
    assert ours.rounds == []
    assert advantages(ours, torch.tensor([0.1] * 6), ["a cat"] * 6, num_branches=3).tolist() == [0.0] * 6
    near = torch.tensor([0.5, 0.5 + 1e-6], dtype=torch.float64)
    assert advantages(ours, near, ["a cat"] * 2, num_branches=2).tolist() == [0.0, 0.0]
    assert advantages(ours, torch.tensor([True, False]), ["a cat"] * 2, num_branches=2).tolist() == [1.0, -1.0]


@pytest.mark.parametrize("config", [Batch(), Branch()])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rounds_advantages_are_clipped_on_both_sides(config: Batch | Branch, sign: float) -> None:
    rewards = sign * torch.tensor([0.0] * 35 + [1.0])
    got = advantages(RewardHistory(normalizer=config), rewards, ["a cat"] * 36, num_branches=36)
    assert abs(got[-1]) > 5.9
    assert config.clip(got[:, None])[-1] == sign * 5.0


@pytest.mark.parametrize("config", [PromptHistory(), Batch(), Branch()])
def test_is_a_normaliser(config: object) -> None:
    assert isinstance(config, Normalizer)


@pytest.mark.parametrize("cls", [Batch, Branch])
@pytest.mark.parametrize(("name", "value"), [("std_floor", 0.0), ("max_advantage", float("nan"))])
def test_limits_out_of_range_are_refused(cls: type[Batch | Branch], name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^advantage\.{name} is {value}; give .*\.$"):
        cls(**{name: value})  # pyright: ignore[reportArgumentType]


def test_branch_of_groups_of_one_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^rollout\.num_branches is 1 but advantage branch needs at least 2; give more"
    ):
        Branch().check(num_branches=1)
    Branch().check(num_branches=2)
    Batch().check(num_branches=1)
