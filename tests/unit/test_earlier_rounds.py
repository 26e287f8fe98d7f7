"""Trajectories of earlier rounds that are trained on again.

Shapes: 12 trajectories of 3 steps of this round, and as many of an earlier round that another policy sampled; T = 5.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from b2diffurl.algorithm.earlier_rounds import EarlierRounds
from b2diffurl.algorithm.minibatches import minibatches
from b2diffurl.algorithm.objectives import DDPO, DPO, DPOK, PolicyGradient
from b2diffurl.algorithm.records import SelectedTrajectories
from b2diffurl.algorithm.training_data import TrainingData
from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.algorithm.update import Optimization, Update, UpdateResult, UpdateSettings
from b2diffurl.errors import UserError
from b2diffurl.run.recipes import emoji_b2_paper
from tests.rounds import (
    NO_REGION,
    NUM_ELEMENTS,
    Round,
    adamw,
    bind,
    choose,
    move,
    sample_round,
    sgd,
    take,
    twin_gradient,
    weights,
)  # fmt: skip
from tests.tiny import TinyPolicy

ONE_STEP = Optimization(num_inner_epochs=1, num_minibatches=1, max_grad_norm=1e9, micro_batch_size=7, replay_rounds=2)
SETTINGS = UpdateSettings(optimization=ONE_STEP, trust_region=NO_REGION)


@pytest.fixture(scope="module")
def sampled() -> Round:
    return sample_round()


@pytest.fixture(scope="module")
def older() -> SelectedTrajectories:
    """Trajectories that another policy sampled, two steps of each trained, and weighted."""
    other = sample_round(trained_by=0.02)
    kept = take(other, choose(0, 3, 7, 8, 11))
    return replace(
        kept, latents=kept.latents[:, 1:], log_probs=kept.log_probs[:, 1:], step_index=kept.step_index[1:],
        weights=torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0]),
    )  # fmt: skip


def make_update(
    policy: TinyPolicy, sampled: Round, *earlier: SelectedTrajectories, config: UpdateSettings = SETTINGS
) -> Update:
    update = Update(bind(policy, sampled.ddim), sgd(policy), DDPO(clip_range=0.01), config)
    for batch in earlier:
        update.earlier.add([batch])
    return update


def optimize(update: Update, selected: SelectedTrajectories) -> UpdateResult:
    return update.optimize(selected, seed=0, round_number=7)


# Update


def test_the_gradient_is_the_literal_mean_with_each_trajectorys_own_old_log_probs(
    sampled: Round, older: SelectedTrajectories
) -> None:
    """Away from both policies that sampled; the KL is measured from the one that sampled this round, on its actions."""
    policy = sampled.start()
    move(policy, by=0.02)
    selected = take(sampled, choose(1, 4, 5, 10))
    expected, _ = twin_gradient(policy, sampled, [selected, older])
    alone, _ = twin_gradient(policy, sampled, [selected])
    before = weights(policy)
    result = optimize(make_update(policy, sampled, older), selected)
    moved = (before - weights(policy)).double()
    torch.testing.assert_close(moved, expected, rtol=0, atol=2e-6)
    assert float((moved - alone).abs().max()) > 1e-3
    _, kl = twin_gradient(policy, sampled, [selected])
    assert result.kl_to_old == pytest.approx(kl, rel=1e-3)
    assert result.num_replayed == 5
    # With guidance, the update of both and the measurement of this round's trajectories.
    assert result.num_evaluations == 2 * (4 * 3 + 5 * 2 + 4 * 3)


@pytest.mark.parametrize("replay_first", [False, True])
def test_before_the_first_step_only_this_rounds_ratios_are_1(
    sampled: Round, older: SelectedTrajectories, *, replay_first: bool
) -> None:
    """Old log-probs of earlier rounds are kept as they were sampled."""
    policy = sampled.start()
    expected, _ = twin_gradient(policy, sampled, [take(sampled, choose(1, 4)), older])
    before = weights(policy)
    update = make_update(policy, sampled, older, config=replace(SETTINGS, replay_first=replay_first))
    result = optimize(update, take(sampled, choose(1, 4)))
    assert result.ratio_max_error is not None
    assert result.ratio_max_error <= 1e-6
    torch.testing.assert_close((before - weights(policy)).double(), expected, rtol=0, atol=2e-6)


def test_the_trust_region_does_not_measure_how_far_earlier_policies_are(
    sampled: Round, older: SelectedTrajectories
) -> None:
    """The earlier policy is outside of the region of this one, and the update takes all its steps."""
    _, distance = twin_gradient(sampled.policy, sampled, [older])
    config = replace(
        SETTINGS,
        optimization=replace(ONE_STEP, num_minibatches=2),
        trust_region=TrustRegion(max_kl=distance / 2),
    )
    policy = sampled.start()
    update = Update(bind(policy, sampled.ddim), adamw(policy, learning_rate=1e-5), DDPO(), config)
    update.earlier.add([older])
    result = optimize(update, take(sampled, choose(1, 4, 5, 10)))
    assert (result.num_optimizer_steps, result.step_scale) == (2, 1.0)
    assert result.kl_to_old is not None
    assert result.kl_to_old < distance / 10


def test_the_trust_region_still_shrinks_a_step_that_is_too_large(sampled: Round, older: SelectedTrajectories) -> None:
    policy = sampled.start()
    config = replace(SETTINGS, trust_region=TrustRegion(max_kl=1e-4))
    result = optimize(make_update(policy, sampled, older, config=config), take(sampled, choose(1, 4, 5, 10)))
    _, kl = twin_gradient(policy, sampled, [take(sampled, choose(1, 4, 5, 10))])
    assert result.step_scale is not None
    assert 0 < result.step_scale < 1
    assert result.kl_to_old == pytest.approx(kl, rel=1e-2)
    assert kl <= 1e-4


def test_without_new_trajectories_there_is_no_update(sampled: Round, older: SelectedTrajectories) -> None:
    policy = sampled.start()
    before = weights(policy)
    result = optimize(make_update(policy, sampled, older), take(sampled, choose()))
    assert torch.equal(before, weights(policy))
    assert (result.num_optimizer_steps, result.num_replayed, result.kl_to_old) == (0, 0, None)


def test_a_round_is_trained_on_again_in_the_next_ones(sampled: Round) -> None:
    """Round 2 of the same update sees what round 1 selected, with the log-probs of then; round 4 no longer does."""
    policy = sampled.start()
    update = make_update(policy, sampled)
    first, second = take(sampled, choose(0, 2)), take(sampled, choose(5))
    assert optimize(update, first).num_replayed == 0
    start = copy.deepcopy(policy)
    before = weights(policy)
    now = replace(second, log_probs=twin_log_probs(start, sampled, second))
    assert optimize(update, now).num_replayed == 2
    expected, _ = twin_gradient(start, sampled, [now, first])
    torch.testing.assert_close((before - weights(policy)).double(), expected, rtol=2e-5, atol=2e-6)
    assert [len(batch) for batch in update.earlier.batches] == [2, 1]
    update.earlier.add([second])
    assert [len(batch) for batch in update.earlier.batches] == [1, 1]


def twin_log_probs(policy: TinyPolicy, sampled: Round, batch: SelectedTrajectories) -> Tensor:
    """Log-probs under a policy, as if it had sampled."""
    bound = bind(policy, sampled.ddim)
    columns: list[Tensor] = []
    with torch.no_grad():
        for i, step in enumerate(batch.step_index):
            gaussian = bound.step(batch.latents[:, i], step.expand(len(batch)), policy.encode(batch.prompts))
            columns.append(bound.log_prob(gaussian, batch.latents[:, i + 1]))
    return torch.stack(columns, dim=1)


def test_without_replay_nothing_is_kept_and_nothing_changes(sampled: Round) -> None:
    selected, results = take(sampled, choose(1, 4, 5, 10)), list[Tensor]()
    for num_rounds in (0, 2):  # in round 1 there is nothing to replay
        policy = sampled.start()
        config = replace(SETTINGS, optimization=replace(ONE_STEP, replay_rounds=num_rounds))
        update = make_update(policy, sampled, config=config)
        optimize(update, selected)
        results.append(weights(policy))
        assert len(update.earlier.rounds) == min(num_rounds, 1)
    assert torch.equal(*results)


# Minibatches


def test_every_minibatch_has_its_share_of_both_and_the_order_of_new_examples_is_kept() -> None:
    new, earlier = torch.arange(10)[:, None], torch.arange(10, 33)[:, None]
    plain = list(minibatches(new, num_epochs=1, num_minibatches=4, rng=np.random.default_rng(0)))
    both = list(minibatches(new, num_epochs=1, num_minibatches=4, rng=np.random.default_rng(0), earlier=earlier))
    assert len(both) == 4
    for alone, mixed in zip(plain, both, strict=True):
        assert torch.equal(mixed[: len(alone)], alone)
        assert len(mixed) - len(alone) in (5, 6)
    assert torch.cat(both).flatten().sort().values.tolist() == list(range(33))
    few = list(minibatches(new[:2], num_epochs=2, num_minibatches=4, rng=np.random.default_rng(0), earlier=earlier))
    assert len(few) == 4
    assert all(int((part < 10).sum()) == 1 for part in few)


def test_the_steps_of_a_trajectory_are_those_of_its_own_round(sampled: Round, older: SelectedTrajectories) -> None:
    data = TrainingData.join([take(sampled, choose(3, 7))], [older])
    assert data.num_new == 2
    assert data.examples(as_pairs=False).tolist() == [[0], [1]]
    assert data.earlier_examples().flatten().tolist() == [2, 3, 4, 5, 6]
    assert data.step_index.tolist() == [2, 3, 4, 3, 4]
    before, after = data.transitions(torch.tensor([2, 6]), torch.tensor([3, 4]))
    assert torch.equal(before, torch.stack([older.latents[0, 0], older.latents[4, 1]]))
    assert torch.equal(after, torch.stack([older.latents[0, 1], older.latents[4, 2]]))


# What is kept


def test_the_last_rounds_are_kept_on_the_cpu_without_pairs(sampled: Round, older: SelectedTrajectories) -> None:
    earlier = EarlierRounds(num_rounds=2)
    paired = take(sampled, choose(0, 1, pairs=[(0, 1)]), as_pairs=True)
    for batches in ([older], [paired, older], [take(sampled, choose())]):
        earlier.add(batches)
    assert [len(batches) for batches in earlier.rounds] == [2, 0]  # a round without a selection counts
    assert [len(batch) for batch in earlier.batches] == [2, 5]
    assert len(paired.pairs) == 1
    assert all(len(batch.pairs) == 0 for batch in earlier.batches)
    nothing = EarlierRounds()
    nothing.add([older])
    assert nothing.rounds == []


def test_a_checkpoint_holds_all_of_it_to_the_bit(sampled: Round, older: SelectedTrajectories) -> None:
    earlier, again = EarlierRounds(num_rounds=3), EarlierRounds(num_rounds=3)
    for batches in ([older, take(sampled, choose(0, 1))], [], [take(sampled, choose(4))]):
        earlier.add(batches)
    stored = save({name: value.contiguous() for name, value in earlier.tensors().items()})
    again.load(load(stored), earlier.prompts())
    assert [len(batches) for batches in again.rounds] == [2, 0, 1]
    assert again.prompts() == earlier.prompts()
    ours, theirs = earlier.tensors(), again.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.batches[0].weights is not None
    assert again.batches[1].weights is None
    assert again.batches[0].num_elements == NUM_ELEMENTS


# Settings


@pytest.mark.parametrize(
    ("objective", "reason"), [(DPO(), "trains on pairs"), (DPOK(), "is on-policy"), (PolicyGradient(), "is on-policy")]
)
def test_objectives_without_an_importance_ratio_are_refused(
    objective: DPO | DPOK | PolicyGradient, reason: str
) -> None:
    optimization = Optimization(num_inner_epochs=1, num_minibatches=1, replay_rounds=3)
    with pytest.raises(UserError) as refused:
        replace(emoji_b2_paper(), objective=objective, optimization=optimization)
    message = f"optimization.replay_rounds is 3 but objective {objective.use} {reason}"
    assert str(refused.value).startswith(message)
    assert str(refused.value).endswith("; give objective:ddpo, or 0.")
