"""Training of trunks, and weights of examples, in rollout, round and update.

Shapes: 3 trunks of 2 steps, each with 4 branches of 3 steps, of T = 5.
"""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from b2diffurl.algorithm.advantage import Branch, PromptHistory, RewardHistory
from b2diffurl.algorithm.collapse import Collapse, CollapseMonitor
from b2diffurl.algorithm.interfaces import Objective
from b2diffurl.algorithm.objectives import DDPO, DPO
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.algorithm.records import SelectedTrajectories, StepBatch, Trajectories
from b2diffurl.algorithm.rollout import Rollout, TrunkWeight, sample_branches
from b2diffurl.algorithm.round import LatentScorer, RoundResult, RoundState, Strategy, run_round
from b2diffurl.algorithm.schedule import Backward, Full
from b2diffurl.algorithm.selection import All
from b2diffurl.algorithm.shrunk import Shrunk
from b2diffurl.algorithm.training_data import TrainingData
from b2diffurl.algorithm.update import Optimization, Update, UpdateResult, UpdateSettings
from b2diffurl.errors import UserError
from b2diffurl.run.recipes import emoji_b2_paper
from tests.reference import shrunk as twin
from tests.rounds import (
    NO_REGION,
    ONE_STEP,
    Round,
    adamw,
    bind,
    choose,
    flat,
    move,
    ratio_error,
    sample_round,
    sgd,
    take,
    twin_gradient,
    weights,
)
from tests.tiny import PROMPTS, TinyPolicy, chain, stable_diffusion_scheduler

SETTINGS = UpdateSettings(optimization=replace(ONE_STEP, max_grad_norm=1e9, micro_batch_size=7), trust_region=NO_REGION)


def sampled_trunks(sampled: Round, *, chunk_size: int = 5) -> Trajectories:
    """The trunks of `sample_round`."""
    chunks = sample_branches(
        bind(sampled.policy, sampled.ddim), PROMPTS, interval_length=3, num_branches=4,
        noise=NoiseKey(seed=0, stream=1), chunk_size=chunk_size, keep_trunks=True,
    )  # fmt: skip
    return Trajectories.join([chunk.trunks for chunk in chunks if chunk.trunks is not None])


@pytest.fixture(scope="module")
def sampled() -> Round:
    return sample_round()


@pytest.fixture(scope="module")
def trunks(sampled: Round) -> SelectedTrajectories:
    advantages = sampled.advantages.view(3, 4).mean(dim=1)
    return replace(flat(sampled_trunks(sampled)), advantages=advantages, weights=torch.full((3,), 4.0))


def optimize(
    policy: TinyPolicy,
    sampled: Round,
    selected: SelectedTrajectories,
    trunks: SelectedTrajectories | None,
    *,
    config: UpdateSettings = SETTINGS,
    objective: Objective | None = None,
) -> UpdateResult:
    update = Update(bind(policy, sampled.ddim), sgd(policy), objective or DDPO(clip_range=0.01), config)
    return update.optimize(selected, trunks=trunks, seed=0, round_number=7)


# Rollout


@pytest.mark.parametrize("chunk_size", [1, 5, 64])
def test_replay_equals_rollout_on_trunk_steps(sampled: Round, chunk_size: int) -> None:
    kept = sampled_trunks(sampled, chunk_size=chunk_size)
    assert kept.latents.shape == (3, 1, 3, 2, 4, 4)
    assert kept.step_index.tolist() == [0, 1]
    assert kept.prompts == PROMPTS
    assert ratio_error(bind(sampled.policy, sampled.ddim), kept, batch_size=2) <= 1e-6


def test_branches_continue_the_kept_trunks_and_are_those_without(sampled: Round) -> None:
    plain = sample_round().trajectories.latents.view(3, 4, 4, 2, 4, 4)
    kept = sampled_trunks(sampled)
    assert torch.equal(kept.latents[:, :, -1].expand(-1, 4, -1, -1, -1), plain[:, :, 0])


def test_trunks_are_kept_only_if_asked_for(sampled: Round) -> None:
    (chunk,) = sample_branches(
        bind(sampled.policy, sampled.ddim), PROMPTS, interval_length=3, num_branches=1,
        noise=NoiseKey(seed=0, stream=1), chunk_size=64,
    )  # fmt: skip
    assert chunk.trunks is None


# Update


@pytest.mark.parametrize("chosen", [tuple(range(12)), (1, 4, 5, 10), ()])
def test_the_gradient_is_the_literal_mean_over_branches_and_trunks(
    sampled: Round, trunks: SelectedTrajectories, chosen: tuple[int, ...]
) -> None:
    """Away from the policy that sampled, so that some ratios are clipped; SGD at rate 1 shows the gradient."""
    policy = sampled.start()
    move(policy, by=0.03)
    selected = take(sampled, choose(*chosen))
    expected, _ = twin_gradient(policy, sampled, [selected, trunks])
    before = weights(policy)
    result = optimize(policy, sampled, selected, trunks)
    torch.testing.assert_close((before - weights(policy)).double(), expected, rtol=0, atol=2e-6)
    _, kl = twin_gradient(policy, sampled, [selected, trunks])
    assert result.kl_to_old == pytest.approx(kl, rel=1e-3)
    assert result.num_evaluations == 2 * 2 * (3 * len(chosen) + 2 * 3)  # guidance; the update and its measurement


def test_before_the_first_step_ratios_are_1_on_trunks_too(sampled: Round, trunks: SelectedTrajectories) -> None:
    for replay_first in (False, True):
        config = replace(SETTINGS, replay_first=replay_first)
        result = optimize(sampled.start(), sampled, take(sampled, choose(0, 1)), trunks, config=config)
        assert result.ratio_max_error is not None
        assert result.ratio_max_error <= 1e-6


def test_minibatches_cut_branches_and_trunks(sampled: Round, trunks: SelectedTrajectories) -> None:
    policy = sampled.start()
    config = replace(SETTINGS, optimization=Optimization(num_inner_epochs=2, num_minibatches=5, micro_batch_size=4))
    result = optimize(policy, sampled, take(sampled, choose(0, 1)), trunks, config=config)
    assert result.num_optimizer_steps == 2 * 5
    one_each = replace(config, optimization=replace(config.optimization, num_minibatches=50))
    assert optimize(policy, sampled, take(sampled, choose(0, 1)), trunks, config=one_each).num_optimizer_steps == 10


@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.0, 1.0), (2.0, 0.5, 0.0, 1.5)])
def test_weights_multiply_the_loss_of_each_trajectory(sampled: Round, factors: tuple[float, ...]) -> None:
    selected = replace(take(sampled, choose(1, 4, 5, 10)), weights=torch.tensor(factors))
    policy = sampled.start()
    expected, _ = twin_gradient(policy, sampled, [selected])
    before = weights(policy)
    optimize(policy, sampled, selected, None)
    torch.testing.assert_close((before - weights(policy)).double(), expected, rtol=0, atol=4e-6)


def test_equal_weights_change_nothing_to_the_bit(sampled: Round) -> None:
    selected, results = take(sampled, choose(1, 4, 5, 10)), []
    for changed in (selected, replace(selected, weights=torch.ones(4))):
        policy = sampled.start()
        optimize(policy, sampled, changed, None)
        results.append(weights(policy))
    assert torch.equal(*results)


def test_the_weight_of_a_pair_is_the_mean_of_both(sampled: Round) -> None:
    """Two pairs with weights (1, 3) and (0, 0): half of the gradient of the first pair alone, times 2."""
    both = take(sampled, choose(0, 1, 4, 6, pairs=[(0, 1), (4, 6)]), as_pairs=True)
    both = replace(both, weights=torch.tensor([1.0, 3.0, 0.0, 0.0]))
    alone = take(sampled, choose(0, 1, pairs=[(0, 1)]), as_pairs=True)
    moves = []
    for selected in (both, alone):
        policy = sampled.start()
        optimize(policy, sampled, selected, None, objective=DPO())
        moves.append(weights(sampled.policy) - weights(policy))
    assert float(moves[1].abs().max()) > 1e-3
    torch.testing.assert_close(moves[0], moves[1], atol=1e-6, rtol=1e-4)


def test_the_steps_of_each_trajectory_are_those_of_its_batch(sampled: Round, trunks: SelectedTrajectories) -> None:
    data = TrainingData.join([take(sampled, choose(3, 7)), trunks])
    assert data.step_index.tolist() == [2, 3, 4, 0, 1]
    assert data.spans.tolist() == [[0, 3]] * 2 + [[3, 5]] * 3
    assert data.num_single_steps(torch.tensor([[0], [2], [4]])) == 3 + 2 + 2
    index, step = torch.tensor([4, 0, 2, 1]), torch.tensor([3, 2, 4, 0])
    before, after = data.transitions(index, step)
    expected = [(trunks, 2, 0), (sampled.trajectories, 3, 2), (trunks, 0, 1), (sampled.trajectories, 7, 0)]
    for row, (batch, i, j) in enumerate(expected):
        assert torch.equal(before[row], batch.latents[i, j])
        assert torch.equal(after[row], batch.latents[i, j + 1])
        assert data.log_probs[index[row], step[row]] == batch.log_probs[i, j]
        assert data.step_index[step[row]] == batch.step_index[j]


# Round


class RecordingUpdate(Update):
    """An update, and the trunks that it gets."""

    trunks: SelectedTrajectories | None = None

    def optimize(
        self,
        selected: SelectedTrajectories,
        trunks: SelectedTrajectories | None = None,
        *,
        seed: int,
        round_number: int,
        learning_rate_factor: float = 1.0,
    ) -> UpdateResult:
        self.trunks = trunks
        return super().optimize(
            selected, trunks, seed=seed, round_number=round_number, learning_rate_factor=learning_rate_factor
        )


@dataclass
class Watching(Objective):
    """DDPO, and the advantages that it gets."""

    advantages: list[float] = field(default_factory=list[float])

    def loss(self, batch: StepBatch) -> Tensor:
        self.advantages += batch.advantage.tolist()
        return DDPO().loss(batch)


def one_round(
    *, train_trunk: bool, interval_length: int = 3, trunk_weight: TrunkWeight = "branches"
) -> tuple[RoundResult, list[float], SelectedTrajectories | None]:
    network = TinyPolicy()
    ddim = chain(stable_diffusion_scheduler(), num_inference_steps=5, eta=1.0)
    policy: DenoisingPolicy = bind(network, ddim)
    objective = Watching()
    never = Collapse(max_kl=math.inf, max_reward_drop=math.inf, max_contrast_factor=math.inf)
    state = RoundState(history=RewardHistory(normalizer=Shrunk()), monitor=CollapseMonitor(config=never))
    strategy = Strategy(
        schedule=Backward(tau_first=interval_length), selector=All(), num_branches=4, num_rounds=10, chunk_size=5,
        seed=0, train_trunk=train_trunk, trunk_weight=trunk_weight,
    )  # fmt: skip
    update = RecordingUpdate(policy, adamw(network), objective, SETTINGS)
    result = run_round(
        policy, update, state, strategy, round_number=1,
        prompts=(PROMPTS[0], PROMPTS[0], PROMPTS[1]), scorer=LatentScorer(lambda x, _: x.mean(dim=(1, 2, 3))),
    )  # fmt: skip
    return result, objective.advantages, update.trunks


def test_a_round_trains_each_trunk_once_per_step_with_its_own_advantage() -> None:
    result, got, trunks = one_round(train_trunk=True)
    assert trunks is not None
    assert trunks.weights is not None
    assert trunks.weights.tolist() == [4.0] * 3
    assert trunks.step_index.tolist() == [0, 1]
    history = RewardHistory(normalizer=Shrunk())
    credit = history.credit(result.sampled.scores.rewards, result.prompts, with_trunks=True)
    assert credit.trunks is not None
    assert sorted(got) == sorted([*credit.branches.flatten().tolist() * 3, *credit.trunks.tolist() * 2])
    assert result.metrics == {"selection/num_trunks": 3, **credit.metrics}


def test_the_effective_weight_is_the_number_of_independent_rewards_of_a_trunk() -> None:
    """Only the weight differs; it is that of the textbook, for the rewards of this round."""
    plain, _, _ = one_round(train_trunk=True)
    result, _, trunks = one_round(train_trunk=True, trunk_weight="effective")
    rewards = plain.sampled.scores.rewards
    assert torch.equal(result.sampled.scores.rewards, rewards)
    expected = twin.effective_number(list(zip(plain.prompts, rewards.tolist(), strict=True)))
    assert 1 < expected < 4
    assert trunks is not None
    assert trunks.weights is not None
    assert trunks.weights.tolist() == pytest.approx([expected] * 3)
    assert result.metrics["selection/trunk_weight"] == pytest.approx(expected)


def test_without_trunks_or_without_their_training_there_is_nothing_besides_branches() -> None:
    result, got, _ = one_round(train_trunk=True, interval_length=5)
    assert result.metrics["selection/num_trunks"] == 0
    assert len(got) == 12 * 5
    result, got, trunks = one_round(train_trunk=False)
    assert trunks is None
    assert "selection/num_trunks" not in result.metrics
    assert len(got) == 12 * 3


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": Full()}, "rollout.train_trunk is true but schedule full trains all 20 steps in every round"),
        ({"schedule": Backward(tau_first=20)}, "rollout.train_trunk is true but schedule backward trains all 20 steps"),
        ({"objective": DPO()}, "rollout.train_trunk is true but objective dpo trains on pairs"),
        ({"advantage": Branch()}, "rollout.train_trunk is true but advantage branch is 0 on average"),
    ],
)
def test_train_trunk_without_effect_is_refused(changes: dict[str, object], message: str) -> None:
    run = replace(emoji_b2_paper(), advantage=PromptHistory(), **changes) if "advantage" not in changes else None
    run = run or replace(emoji_b2_paper(), **changes)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError) as refused:
        replace(run, rollout=Rollout(train_trunk=True))
    assert str(refused.value).startswith(message)
    assert "; " in str(refused.value)
    assert str(refused.value).endswith(".")
