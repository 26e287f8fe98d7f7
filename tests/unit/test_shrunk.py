"""The shrunk baseline: its analysis of variance, its limits, and that its credit is unbiased."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from b2diffurl.algorithm.advantage import Branch, PromptHistory, RewardHistory
from b2diffurl.algorithm.anova import Anova, analyze
from b2diffurl.algorithm.interfaces import Normalizer
from b2diffurl.algorithm.shrunk import Shrunk, edge_credit
from b2diffurl.errors import UserError
from tests.reference import shrunk as twin

REWARDS = st.integers(-32, 32).map(lambda eighths: eighths / 8)


def rounds_of(k: int) -> st.SearchStrategy[list[list[tuple[str, list[float]]]]]:
    group = st.tuples(st.sampled_from(["a cat", "a dog"]), st.lists(REWARDS, min_size=k, max_size=k))
    return st.lists(st.lists(group, min_size=1, max_size=4), min_size=1, max_size=4)


def tensors(groups: list[tuple[str, list[float]]]) -> tuple[Tensor, list[str]]:
    return torch.tensor([rewards for _, rewards in groups]), [prompt for prompt, _ in groups]


@given(rounds=st.integers(1, 4).flatmap(rounds_of), num_rounds=st.integers(0, 2))
def test_equals_the_twin_in_every_round(rounds: list[list[tuple[str, list[float]]]], num_rounds: int) -> None:
    """Through JSON between the rounds, as in a checkpoint."""
    ours = RewardHistory(normalizer=Shrunk(num_rounds=num_rounds, max_advantage=1.5))
    for number, now in enumerate(rounds, start=1):
        branches, trunks = twin.advantages(rounds[:number], num_rounds=num_rounds, max_advantage=1.5)
        known = [group for groups in rounds[max(0, number - 1 - num_rounds) : number] for group in groups]
        weight = twin.weight([group for group in known if group[0] in {prompt for prompt, _ in now}])
        credit = ours.credit(*tensors(now), with_trunks=True).clipped(ours.normalizer.clip)
        assert credit.trunks is not None
        torch.testing.assert_close(credit.branches, torch.tensor(branches), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(credit.trunks, torch.tensor(trunks), atol=1e-5, rtol=1e-5)
        assert credit.metrics == {"advantage/shrinkage": pytest.approx(weight, abs=1e-9)}
        number = twin.effective_number([group for group in known if group[0] in {prompt for prompt, _ in now}])
        assert credit.effective_branches == pytest.approx(number, abs=1e-9)
        ours.rounds = json.loads(json.dumps(ours.rounds))


def test_the_analysis_of_variance_by_hand() -> None:
    """Prompt 1: groups (0, 2) and (4, 6), means 1, 5, prompt 3: SSB 2 (4 + 4) = 16, SSW 2 + 2 = 4.

    Prompt 2: groups (1, 1) and (3, 3), means 1, 3, prompt 2: SSB 2 (1 + 1) = 4, SSW 0. Together MSB 20 / 2 = 10 and
    MSW 4 / 4 = 1, so s_w = 1, s_b = (10 - 1) / 2 = 4.5 and w = 4.5 / (4.5 + 1 / 2) = 0.9.
    """
    first, second = torch.tensor([[0.0, 2.0], [4.0, 6.0]]), torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    anova = analyze([first, second])
    assert (anova.sum_between, anova.sum_within, anova.free_between, anova.free_within) == (20, 4, 2, 4)
    assert anova.weight == pytest.approx(0.9)
    ours = RewardHistory(normalizer=Shrunk())
    credit = ours.credit(torch.cat([first, second]), ["1", "1", "2", "2"], with_trunks=True)
    std = math.sqrt((4 + 0.1**2 * 20) / 8)  # r - b is r - group mean + 0.1 (group mean - prompt mean)
    assert credit.branches[0].tolist() == pytest.approx([(0 - 0.9 * 1 - 0.1 * 3) / std, (2 - 0.9 * 1 - 0.1 * 3) / std])
    assert credit.trunks is not None
    assert credit.trunks.tolist() == pytest.approx([-2 / std, 2 / std, -1 / std, 1 / std])


@given(k=st.integers(2, 16), variance_of_trunks=st.floats(0, 10), variance_of_branches=st.floats(0.1, 10))
def test_the_mean_of_a_group_varies_as_that_of_the_effective_number_of_independent_rewards(
    k: int, variance_of_trunks: float, variance_of_branches: float
) -> None:
    """Var(mean of K) = s_b + s_w / K = (s_b + s_w) / n. The mean squares are their expectations here."""
    anova = Anova(
        sum_between=10 * (k * variance_of_trunks + variance_of_branches), sum_within=20 * variance_of_branches,
        num_rewards=30, free_between=10, free_within=20,
    )  # fmt: skip
    number = anova.effective_number(k)
    assert 1 <= number <= k
    mean_varies = variance_of_trunks + variance_of_branches / k
    assert (variance_of_trunks + variance_of_branches) / number == pytest.approx(mean_varies)


def test_members_that_never_differ_give_the_group_mean() -> None:
    credit = RewardHistory(normalizer=Shrunk()).credit(torch.tensor([[1.0, 1.0], [4.0, 4.0]]), ["a cat"] * 2)
    assert credit.metrics == {"advantage/shrinkage": 1.0}
    assert credit.branches.abs().max() == 0


@pytest.mark.parametrize("spread", [3.0, 1e6])
def test_members_that_differ_much_more_than_groups_give_the_prompt_mean(spread: float) -> None:
    rewards = torch.tensor([[-spread, spread], [1 - spread, 1 + spread]])
    credit = RewardHistory(normalizer=Shrunk()).credit(rewards, ["a cat"] * 2)
    assert credit.metrics == {"advantage/shrinkage": 0.0}
    expected = RewardHistory(normalizer=PromptHistory()).normalize(rewards, ["a cat"] * 2)
    torch.testing.assert_close(credit.branches, expected)


def test_groups_of_one_give_the_prompt_mean() -> None:
    """Of one prompt, whose standard deviation is then the pooled one."""
    ours, history = RewardHistory(normalizer=Shrunk()), RewardHistory(normalizer=PromptHistory())
    for rewards in ([0.0, 3.0, 1.0], [2.0], [9.0, 4.0]):
        now = torch.tensor(rewards)[:, None]
        credit = ours.credit(now, ["a cat"] * len(now))
        assert credit.metrics == {"advantage/shrinkage": 0.0}
        torch.testing.assert_close(credit.branches, history.normalize(now, ["a cat"] * len(now)))


def test_the_only_group_of_each_prompt_is_centered() -> None:
    rewards = torch.tensor([[0.0, 2.0], [7.0, 8.0]])
    got = RewardHistory(normalizer=Shrunk()).normalize(rewards, ["a cat", "a dog"])
    torch.testing.assert_close(got, RewardHistory(normalizer=Branch()).normalize(rewards, ["a cat", "a dog"]))


@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("num_branches", [1, 2, 3])
def test_the_expected_gradient_is_the_true_one_up_to_the_stated_factor(weight: float, num_branches: int) -> None:
    """All outcomes of a two-step chain: a trunk a of 3, then K branches b of 2; softmax policies, rewards r(a, b).

    The interval's part is 1 - weight / K of the true gradient, (K - 1) / K at weight 1; the trunk's is the true one.
    """
    generator = torch.Generator().manual_seed(0)
    trunk_logits, branch_logits, reward = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3,), (3, 2), (3, 2))
    )
    p, q = trunk_logits.softmax(0), branch_logits.softmax(1)
    by_trunk, by_branch = trunk_logits.requires_grad_(), branch_logits.requires_grad_()
    value = (by_trunk.softmax(0)[:, None] * by_branch.softmax(1) * reward).sum()
    true_trunk, true_branch = torch.autograd.grad(value, [by_trunk, by_branch])
    trunk_estimate, branch_estimate = torch.zeros(3).double(), torch.zeros(3, 2).double()
    for a in range(3):
        for members in itertools.product(range(2), repeat=num_branches):
            probability = p[a] * math.prod(float(q[a, b]) for b in members)
            rewards = torch.stack([reward[a, b] for b in members])[None]
            branches, trunks = edge_credit(rewards, torch.tensor([0.7]).double(), weight=weight)
            score = torch.eye(3).double()[a] - p
            trunk_estimate += probability * float(trunks) * score  # K trajectories over K
            for credit, b in zip(branches[0], members, strict=True):
                branch_estimate[a] += probability * float(credit) * (torch.eye(2).double()[b] - q[a]) / num_branches
    torch.testing.assert_close(trunk_estimate, true_trunk)
    torch.testing.assert_close(branch_estimate, (1 - weight / num_branches) * true_branch)


def test_a_trunks_default_advantage_is_the_mean_of_its_branches() -> None:
    credit = RewardHistory(normalizer=PromptHistory()).credit(
        torch.tensor([[0.0, 1.0], [2.0, 7.0]]), ["a cat"] * 2, with_trunks=True
    )
    assert credit.trunks is not None
    torch.testing.assert_close(credit.trunks, credit.branches.mean(dim=1))
    assert credit.metrics == {}


def test_is_a_normalizer_with_ranges() -> None:
    assert isinstance(Shrunk(), Normalizer)
    with pytest.raises(UserError, match=r"^advantage\.num_rounds is -1; give 0 or more\."):
        Shrunk(num_rounds=-1)
