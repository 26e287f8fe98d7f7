"""A round's optimizer steps, on a tiny policy with real trajectories.

Shapes: B = 12 trajectories of 3 trunks with 4 branches, n = 3 trained steps of T = 5.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from b2diffurl.algorithm.interfaces import Objective
from b2diffurl.algorithm.objectives import DDPO
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.algorithm.trust_region import Snapshot, TrustRegion
from b2diffurl.algorithm.update import Optimization
from b2diffurl.diffusion.gaussian import LogProbReduction
from b2diffurl.errors import RunStopped
from tests.reference import ddpo as ddpo_twin
from tests.reference import learning_rate as learning_rate_twin
from tests.reference import trust_region as trust_region_twin
from tests.rounds import (
    EVERY,
    NO_REGION,
    NUM_ELEMENTS,
    ONE_STEP,
    Chosen,
    Metrics,
    Round,
    adamw,
    choose,
    move,
    sample_round,
    sgd,
    twin_log_prob,
    twin_weights,
    update,
    weights,
)
from tests.tiny import TinyPolicy

INF = float("inf")


@pytest.fixture(scope="module")
def sampled() -> Round:
    return sample_round()


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the twin says of a pass over selected trajectories."""

    loss: float
    kl: float
    clip_fraction: float
    gradient: Tensor


def twin_pass(
    policy: TinyPolicy, sampled: Round, selection: Chosen, *, clip_range: float, step_weights: str = "equal"
) -> Expected:
    """One step of one trajectory after the other: literal means over all of them."""
    policy = copy.deepcopy(policy).double()
    weight = twin_weights(sampled) if step_weights == "even" else [1.0] * sampled.trajectories.num_trained_steps
    losses, squares, clipped, gradients = [], [], [], []
    for trajectory in selection.index.tolist():
        for step in range(sampled.trajectories.num_trained_steps):
            log_prob = twin_log_prob(policy, sampled, trajectory, step)
            advantage = sampled.advantages[trajectory].item()
            numbers = (log_prob.item(), sampled.trajectories.log_probs[trajectory, step].item(), advantage)
            slopes = torch.autograd.grad(log_prob, list(policy.parameters()))
            slope = torch.cat([part.flatten() for part in slopes])
            by_log_prob = ddpo_twin.gradient(*numbers, clip_range=clip_range)
            losses.append(ddpo_twin.loss(*numbers, clip_range=clip_range))
            gradients.append(weight[step] * by_log_prob * slope)
            clipped.append(by_log_prob == 0)
            squares.append(((numbers[0] - numbers[1]) * (NUM_ELEMENTS if sampled.reduction == "mean" else 1)) ** 2)
    num = len(losses)
    return Expected(
        loss=sum(losses) / num,
        kl=(math.sqrt(1 + sum(squares) / num) - 1) / NUM_ELEMENTS,
        clip_fraction=sum(clipped) / num,
        gradient=torch.stack(gradients).sum(0) / num,
    )


# Replay and gradient


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_replay_equals_rollout_before_the_first_step(reduction: LogProbReduction) -> None:
    sampled = sample_round(reduction=reduction)
    for micro_batch_size in (5, 64):
        metrics = update(sampled.start(), sampled, config=replace(ONE_STEP, micro_batch_size=micro_batch_size))
        assert metrics["policy/ratio_max_error"] is not None
        assert metrics["policy/ratio_max_error"] <= (1e-6 if reduction == "mean" else NUM_ELEMENTS * 1e-6)
        assert metrics["objective/clip_fraction"] == 0


@pytest.mark.parametrize(
    ("reduction", "step_weights", "chosen"),
    [
        ("mean", "equal", EVERY),
        ("mean", "equal", choose(1, 4, 5, 10, 11)),
        ("mean", "even", choose(1, 4, 5, 10, 11)),
        ("sum", "equal", choose(1, 4, 5, 10, 11)),
    ],
)
def test_gradient_and_metrics_are_the_literal_means_over_selected_steps(
    reduction: LogProbReduction, step_weights: Literal["equal", "even"], chosen: Chosen
) -> None:
    """Away from the policy that sampled, so that some ratios are clipped; SGD at rate 1 shows the gradient."""
    sampled = sample_round(reduction=reduction)
    policy = sampled.start()
    move(policy, by=0.03 if reduction == "mean" else 0.002)
    clip_range = 0.01
    expected = twin_pass(policy, sampled, chosen, clip_range=clip_range, step_weights=step_weights)
    assert 0 < expected.clip_fraction < 1
    before = weights(policy)
    metrics = update(
        policy,
        sampled,
        chosen,
        config=replace(ONE_STEP, max_grad_norm=1e9, micro_batch_size=7, step_weights=step_weights),
        objective=DDPO(clip_range=clip_range),
        optimizer=torch.optim.SGD(policy.parameters(), lr=1.0),
    )
    tolerance = 1e-6 if reduction == "mean" else 2e-5 * float(expected.gradient.abs().max())
    torch.testing.assert_close((before - weights(policy)).double(), expected.gradient, rtol=0, atol=tolerance)
    assert metrics["objective/loss"] == pytest.approx(expected.loss, abs=1e-6 if reduction == "mean" else 1e-5)
    assert metrics["objective/clip_fraction"] == pytest.approx(expected.clip_fraction)
    assert metrics["policy/grad_norm"] == pytest.approx(float(expected.gradient.norm()), rel=1e-5)
    moved = twin_pass(policy, sampled, chosen, clip_range=clip_range, step_weights=step_weights)
    assert metrics["policy/kl_to_old"] == pytest.approx(moved.kl, rel=1e-3)


def test_gradients_are_scaled_down_to_the_largest_norm(sampled: Round) -> None:
    policy = sampled.start()
    before = weights(policy)
    metrics = update(
        policy,
        sampled,
        config=replace(ONE_STEP, max_grad_norm=1e-3),
        optimizer=torch.optim.SGD(policy.parameters(), lr=1.0),
    )
    assert float((weights(policy) - before).norm()) == pytest.approx(1e-3, rel=1e-2)
    assert metrics["policy/grad_norm"] is not None
    assert metrics["policy/grad_norm"] > 1e-2  # as it was


@pytest.mark.parametrize("micro_batch_size", [1, 7, 35])
def test_micro_batches_change_nothing_but_memory(micro_batch_size: int, sampled: Round) -> None:
    whole, cut = sampled.start(), sampled.start()
    update(whole, sampled, optimizer=torch.optim.SGD(whole.parameters(), lr=1.0))
    config = replace(ONE_STEP, micro_batch_size=micro_batch_size)
    update(cut, sampled, config=config, optimizer=torch.optim.SGD(cut.parameters(), lr=1.0))
    torch.testing.assert_close(weights(cut), weights(whole), rtol=0, atol=1e-6)


def test_steps_that_are_no_actions_are_not_trained() -> None:
    sampled = sample_round(set_alpha_to_one=True)
    assert sampled.trajectories.step_index.tolist() == [2, 3]
    metrics = update(sampled.start(), sampled)
    assert metrics["policy/ratio_max_error"] is not None
    assert metrics["policy/ratio_max_error"] <= 1e-6


def test_a_step_raises_the_probability_of_what_was_good(sampled: Round) -> None:
    good = torch.arange(12) % 2 == 0
    policy = sampled.start()
    update(
        policy,
        replace(sampled, advantages=torch.where(good, 1.0, -1.0)),
        optimizer=torch.optim.SGD(policy.parameters(), lr=1e-2),
    )
    old, new = sampled.start().double(), policy.double()
    change = torch.tensor(
        [
            sum(
                twin_log_prob(new, sampled, i, step).item() - twin_log_prob(old, sampled, i, step).item()
                for step in range(3)
            )
            for i in range(12)
        ]
    )
    assert change[good].sum() > 0 > change[~good].sum()


# How a round's data is cut


@pytest.mark.parametrize(
    ("num_inner_epochs", "num_minibatches", "num_selected"),
    [(1, 1, 1), (2, 4, 1), (1, 4, 5), (3, 2, 5), (1, 20, 5), (2, 1, 12), (1, 12, 12)],
)
def test_optimizer_steps_are_epochs_times_minibatches_or_trajectories(
    num_inner_epochs: int, num_minibatches: int, num_selected: int, sampled: Round
) -> None:
    policy = sampled.start()
    optimizer = adamw(policy)
    done: list[int] = []
    metrics = update(
        policy,
        sampled,
        choose(*range(num_selected)),
        config=Optimization(num_inner_epochs=num_inner_epochs, num_minibatches=num_minibatches, micro_batch_size=8),
        optimizer=optimizer,
        on_progress=done.append,
    )
    expected = num_inner_epochs * min(num_minibatches, num_selected)
    assert metrics["update/num_optimizer_steps"] == expected
    assert {int(state["step"]) for state in optimizer.state.values()} == {expected}
    assert sum(done) == num_inner_epochs * num_selected * 3  # every step of every trajectory, once an epoch
    assert max(done) <= 8


def test_an_empty_selection_is_a_round_without_an_update(sampled: Round) -> None:
    policy = sampled.start()
    optimizer = adamw(policy)
    policy.by_time.grad = torch.ones(2)  # left over from elsewhere
    metrics = update(policy, sampled, choose(), optimizer=optimizer, trust_region=TrustRegion())
    assert torch.equal(weights(policy), weights(sampled.policy))
    assert not optimizer.state
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert metrics == {
        "objective/loss": None,
        "policy/ratio_max_error": None,
        "policy/grad_norm": None,
        "policy/kl_to_old": None,
        "update/num_optimizer_steps": 0,
        "update/step_reverted": 0,
        "update/step_scale": None,
    }


def test_trajectories_that_are_not_selected_leave_no_trace(sampled: Round) -> None:
    policies = []
    for latents in (sampled.trajectories.latents, sampled.trajectories.latents.clone()):
        if policies:
            latents[[0, 2, 6]] = float("nan")
        policy = sampled.start()
        changed = replace(sampled, trajectories=replace(sampled.trajectories, latents=latents))
        update(policy, changed, choose(1, 3, 4, 5, 7, 8, 9, 10, 11), config=replace(ONE_STEP, num_minibatches=3))
        policies.append(weights(policy))
    assert torch.equal(*policies)


def test_nothing_is_carried_over_to_the_next_round(sampled: Round) -> None:
    """Gradients: a second update begins from none, whatever the first one or others have left."""
    policy, other = sampled.start(), sampled.start()
    for parameter in policy.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    update(policy, sampled)
    update(other, sampled)
    assert torch.equal(weights(policy), weights(other))
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_minibatches_depend_on_seed_and_round_alone(sampled: Round) -> None:
    def after(seed: int, round_number: int) -> Tensor:
        policy = sampled.start()
        config = Optimization(num_inner_epochs=1, num_minibatches=2)
        update(policy, sampled, config=config, seed=seed, round_number=round_number)
        return weights(policy)

    first = after(0, 1)
    torch.manual_seed(123)
    assert torch.equal(first, after(0, 1))
    assert not torch.equal(first, after(0, 2))
    assert not torch.equal(first, after(1, 1))


# The trust region


@pytest.mark.parametrize("num_minibatches", [1, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_step_out_of_the_trust_region_is_taken_back(num_minibatches: int, reduction: LogProbReduction) -> None:
    """Seen on the next minibatch, or, after the last one, on that one again."""
    sampled = sample_round(reduction=reduction)
    policy = sampled.start()
    metrics = update(
        policy,
        sampled,
        config=Optimization(num_inner_epochs=1, num_minibatches=num_minibatches),
        optimizer=adamw(policy, learning_rate=1.0),
        trust_region=TrustRegion(max_kl=1e-5, on_exceed="revert"),
    )
    assert torch.equal(weights(policy), weights(sampled.policy))
    assert metrics["update/step_reverted"] == 1
    assert metrics["update/num_optimizer_steps"] == 0
    assert metrics["policy/kl_to_old"] == pytest.approx(0, abs=1e-8)
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_steps_within_the_region_stay_and_the_first_one_out_of_it_ends_the_round(sampled: Round) -> None:
    def run(num_steps: int, max_kl: float) -> tuple[Tensor, Metrics]:
        policy = sampled.start()
        config = Optimization(num_inner_epochs=num_steps, num_minibatches=1)
        metrics = update(
            policy,
            sampled,
            config=config,
            optimizer=adamw(policy, learning_rate=1e-3),
            trust_region=TrustRegion(max_kl=max_kl, on_exceed="revert"),
        )
        return weights(policy), metrics

    wide = 1e9
    after_one, first = run(1, wide)
    after_two, second = run(2, wide)
    assert first["policy/kl_to_old"] is not None
    assert second["policy/kl_to_old"] is not None
    assert 0 < first["policy/kl_to_old"] < second["policy/kl_to_old"]
    between = (first["policy/kl_to_old"] + second["policy/kl_to_old"]) / 2
    for num_steps in (2, 5):
        stayed, metrics = run(num_steps, between)
        assert torch.equal(stayed, after_one)
        assert metrics["update/num_optimizer_steps"] == 1
        assert metrics["update/step_reverted"] == 1
        assert metrics["policy/kl_to_old"] == pytest.approx(first["policy/kl_to_old"], rel=1e-6)
    stayed, metrics = run(2, 1.01 * second["policy/kl_to_old"])
    assert torch.equal(stayed, after_two)
    assert metrics["update/step_reverted"] == 0


@pytest.mark.parametrize("micro_batch_size", [5, 64])
@pytest.mark.parametrize("num_minibatches", [1, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("max_kl", [1e-5, 1e-2])
def test_a_first_step_out_of_the_trust_region_is_shrunk_to_its_border(
    num_minibatches: int, reduction: LogProbReduction, max_kl: float, micro_batch_size: int
) -> None:
    """The weights are the snapshot plus that fraction of the step, and AdamW's state is that after the step."""
    sampled = sample_round(reduction=reduction)

    def run(trust_region: TrustRegion, num_steps: int) -> tuple[Tensor, Metrics, torch.optim.Optimizer]:
        policy = sampled.start()
        optimizer = adamw(policy, learning_rate=0.3)
        config = Optimization(num_inner_epochs=1, num_minibatches=num_steps, micro_batch_size=micro_batch_size)
        metrics = update(policy, sampled, config=config, optimizer=optimizer, trust_region=trust_region)
        return weights(policy), metrics, optimizer

    shrunk, metrics, optimizer = run(TrustRegion(max_kl=max_kl), num_minibatches)
    scale, kl = metrics["update/step_scale"], metrics["policy/kl_to_old"]
    assert scale is not None
    assert kl is not None
    assert 0 < scale < 1
    assert 0.7 * max_kl < kl <= max_kl
    assert metrics["update/step_reverted"] == 0
    assert metrics["update/num_optimizer_steps"] == 1
    before = weights(sampled.policy)
    (steps,) = {int(state["step"]) for state in optimizer.state.values()}
    assert steps == 1
    if num_minibatches == 1:
        full, _, other = run(NO_REGION, 1)
        torch.testing.assert_close(shrunk, before + scale * (full - before), atol=1e-6, rtol=1e-5)
        for ours, theirs in zip(optimizer.state.values(), other.state.values(), strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_later_step_out_of_the_region_is_shrunk_towards_the_step_before(sampled: Round) -> None:
    def run(num_steps: int, max_kl: float) -> tuple[Tensor, Metrics]:
        policy = sampled.start()
        config = Optimization(num_inner_epochs=num_steps, num_minibatches=1)
        metrics = update(policy, sampled, config=config, trust_region=TrustRegion(max_kl=max_kl))
        return weights(policy), metrics

    after_one, first = run(1, 1e9)
    after_two, second = run(2, 1e9)
    assert first["policy/kl_to_old"] is not None
    assert second["policy/kl_to_old"] is not None
    between = (first["policy/kl_to_old"] + second["policy/kl_to_old"]) / 2
    for num_steps in (2, 5):
        shrunk, metrics = run(num_steps, between)
        scale, kl = metrics["update/step_scale"], metrics["policy/kl_to_old"]
        assert scale is not None
        assert kl is not None
        assert 0.3 < scale < 1
        assert first["policy/kl_to_old"] < kl <= between
        assert metrics["update/num_optimizer_steps"] == 2
        torch.testing.assert_close(shrunk, after_one + scale * (after_two - after_one), atol=1e-7, rtol=1e-6)
    kept, metrics = run(2, 1.01 * second["policy/kl_to_old"])
    assert torch.equal(kept, after_two)
    assert metrics["update/step_scale"] == 1


@pytest.mark.parametrize("reach", [0.5, 1.0, 3.0, 1e4])
@pytest.mark.parametrize("start", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("power", [1.0, 2.0, 6.0])
@pytest.mark.parametrize("is_known", [True, False])
def test_containing_a_step_equals_the_twin(reach: float, start: float, power: float, is_known: bool) -> None:
    """One weight; a KL that grows with the square of its distance, more slowly or faster."""

    def kl_of(weight: float) -> float:
        return abs(weight) ** power

    parameter = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
    snapshot = Snapshot(torch.optim.SGD([parameter], lr=1.0))
    with torch.no_grad():
        parameter.add_(1 - start + reach)
    got = TrustRegion(max_kl=1.0).contain(
        snapshot,
        kl_before=1e-3,  # on another minibatch
        kl_after=kl_of(1 + reach) if is_known else None,
        measure=lambda: kl_of(float(parameter.detach())),
    )
    scale, weight, kl = trust_region_twin.shrink(start, 1 + reach, kl_of, max_kl=1.0)
    assert got.step_scale == pytest.approx(scale, rel=1e-9)
    assert float(parameter.detach()) == pytest.approx(weight, rel=1e-9)
    assert got.kl == pytest.approx(kl if scale else 1e-3, rel=1e-9)  # reverted: that before the step
    assert got.kl <= 1.0


def test_a_step_that_begins_outside_on_its_minibatch_is_reverted() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.1]))
    snapshot = Snapshot(torch.optim.SGD([parameter], lr=1.0))
    with torch.no_grad():
        parameter.fill_(3.0)
    got = TrustRegion(max_kl=1.0).contain(
        snapshot, kl_before=0.9, kl_after=9.0, measure=lambda: float(parameter.detach()) ** 2
    )
    assert (float(parameter.detach()), got.step_scale, got.kl) == (pytest.approx(1.1), 0.0, 0.9)


@pytest.mark.parametrize("kl", [INF, float("nan")])
def test_a_step_of_no_finite_kl_is_reverted(kl: float) -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    snapshot = Snapshot(torch.optim.SGD([parameter], lr=1.0))
    with torch.no_grad():
        parameter.fill_(kl)
    got = TrustRegion().contain(snapshot, kl_before=1e-4, kl_after=None, measure=lambda: kl)
    assert (float(parameter.detach()), got.step_scale, got.kl) == (1.0, 0.0, 1e-4)


def test_the_kl_is_that_of_the_twin(sampled: Round) -> None:
    """That of two Gaussians whose log-ratios are as large, after the round's only step."""
    policy = sampled.start()
    metrics = update(policy, sampled, trust_region=TrustRegion(max_kl=1e9))
    expected = twin_pass(policy, sampled, EVERY, clip_range=0.1).kl
    assert metrics["policy/kl_to_old"] == pytest.approx(expected, rel=1e-4)


def test_without_a_region_nothing_is_taken_back(sampled: Round) -> None:
    policy = sampled.start()
    metrics = update(
        policy, sampled, config=Optimization(), optimizer=adamw(policy, learning_rate=1.0), trust_region=NO_REGION
    )
    assert metrics["update/step_reverted"] == 0
    assert metrics["update/num_optimizer_steps"] == 8
    assert not torch.allclose(weights(policy), weights(sampled.policy), atol=0.1)


def test_without_a_region_the_kl_is_known_all_the_same(sampled: Round) -> None:
    policy = sampled.start()
    metrics = update(policy, sampled, optimizer=adamw(policy, learning_rate=1.0), trust_region=NO_REGION)
    assert metrics["policy/kl_to_old"] is not None
    assert metrics["policy/kl_to_old"] > 0.1


# The learning rate


@pytest.mark.parametrize("lr_schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("num_rounds", "warmup_rounds"), [(1, 0), (2, 1), (7, 0), (7, 3), (100, 5)])
def test_the_learning_rate_is_that_of_torchs_schedulers(
    lr_schedule: Literal["constant", "linear", "cosine"], num_rounds: int, warmup_rounds: int
) -> None:
    config = Optimization(lr_schedule=lr_schedule, warmup_rounds=warmup_rounds)
    got = [config.learning_rate_factor(i, num_rounds=num_rounds) for i in range(1, num_rounds + 1)]
    expected = learning_rate_twin.rates(lr_schedule, num_rounds=num_rounds, warmup_rounds=warmup_rounds)
    assert got == pytest.approx(expected, rel=1e-9)
    assert all(0 < factor <= 1 for factor in got)  # the last round trains too
    assert got[warmup_rounds] == 1


def test_every_round_sets_the_rate_from_the_first_one(sampled: Round) -> None:
    """A factor is one of the optimizer's own rate and not of the last round's."""
    policy, other = sampled.start(), sampled.start()
    optimizer = sgd(policy)
    update(policy, sampled, optimizer=optimizer, learning_rate_factor=0.0)
    assert torch.equal(weights(policy), weights(sampled.policy))
    update(policy, sampled, optimizer=optimizer, learning_rate_factor=0.5)
    update(other, sampled, optimizer=torch.optim.SGD(other.parameters(), lr=0.5))
    assert torch.equal(weights(policy), weights(other))
    assert optimizer.param_groups[0]["lr"] == 0.5


# Numbers that are not finite


@pytest.mark.parametrize("value", [float("nan"), INF])
def test_a_loss_that_is_not_finite_stops_before_the_step(value: float, sampled: Round) -> None:
    advantages = sampled.advantages.clone()
    advantages[4] = value
    policy = sampled.start()
    optimizer = adamw(policy)
    with pytest.raises(RunStopped) as stopped:
        update(policy, replace(sampled, advantages=advantages), choose(4), optimizer=optimizer)
    assert stopped.value.round_number == 7
    assert str(stopped.value).startswith("Stopped in round 7: the loss of denoising step 2 is ")
    assert torch.equal(weights(policy), weights(sampled.policy))
    assert not optimizer.state


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_log_prob_that_is_not_finite_names_its_denoising_step(step: int, sampled: Round) -> None:
    log_probs = sampled.trajectories.log_probs.clone()
    log_probs[9, step] = float("nan")
    policy = sampled.start()
    changed = replace(sampled, trajectories=replace(sampled.trajectories, log_probs=log_probs))
    with pytest.raises(RunStopped, match=f"of denoising step {step + 2} is nan"):
        update(policy, changed)
    assert torch.equal(weights(policy), weights(sampled.policy))


class InfiniteSlope(Objective):
    """An objective with a finite loss whose gradient is not."""

    def loss(self, batch: StepBatch) -> Tensor:
        return (batch.log_prob - batch.log_prob.detach()).sqrt()


def test_a_gradient_that_is_not_finite_stops_before_the_step(sampled: Round) -> None:
    policy = sampled.start()
    optimizer = adamw(policy)
    with pytest.raises(RunStopped, match=r"^Stopped in round 7: the gradient norm is (nan|inf)\.$"):
        update(policy, sampled, objective=InfiniteSlope(), optimizer=optimizer)
    assert torch.equal(weights(policy), weights(sampled.policy))
    assert not optimizer.state


def test_an_objective_that_has_nothing_but_a_loss_is_welcome(sampled: Round) -> None:
    class Plain(Objective):
        def loss(self, batch: StepBatch) -> Tensor:
            return -batch.log_prob * batch.advantage

    metrics = update(sampled.start(), sampled, objective=Plain())
    assert metrics["update/num_optimizer_steps"] == 1
