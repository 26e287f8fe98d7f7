"""Each objective through a round's update, on real trajectories, against the slow twins: value and gradient.

DDPO's is in test_update.py. The policy that samples is away from its reference, and the one that is updated from both.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import pytest
import torch
from torch import Tensor

from b2diffurl.algorithm.interfaces import Objective
from b2diffurl.algorithm.objectives import DDPO, DPO, DPOK, DDPOKl, PolicyGradient
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.diffusion.gaussian import LogProbReduction
from tests.reference import ddpo as ddpo_twin
from tests.reference import dpo as dpo_twin
from tests.reference import dpok as dpok_twin
from tests.reference import gaussian as gaussian_twin
from tests.reference import policy_gradient as policy_gradient_twin
from tests.rounds import (
    NUM_ELEMENTS,
    ONE_STEP,
    Chosen,
    Round,
    choose,
    choose_by,
    move,
    sample_round,
    sgd,
    twin_transition,
    twin_weights,
    update,
    weights,
)
from tests.tiny import PROMPTS, TinyPolicy


@dataclass(frozen=True, kw_only=True)
class TwinStep:
    """One denoising step of one trajectory, in float64.

    Attributes:
        log_prob: of the action.
        old_log_prob: under the policy that sampled.
        reference_log_prob: under the reference.
        kl: to the reference, in the unit of the log-probs.
        log_prob_slope: derivatives of `log_prob` by the policy's weights.
        kl_slope: of `kl`.
    """

    log_prob: float
    old_log_prob: float
    reference_log_prob: float
    kl: float
    log_prob_slope: Tensor
    kl_slope: Tensor


def slope_of(number: Tensor, policy: TinyPolicy) -> Tensor:
    parts = torch.autograd.grad(number, list(policy.parameters()), retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def look(policy: TinyPolicy, sampled: Round, trajectory: int, step: int) -> TwinStep:
    """`policy` is in float64."""
    action = sampled.trajectories.latents[trajectory, step + 1].double().flatten().tolist()
    mean, var = twin_transition(policy, sampled, trajectory, step)
    with policy.reference(), torch.no_grad():
        reference_mean = [m.item() for m in twin_transition(policy, sampled, trajectory, step)[0]]
    log_prob = gaussian_twin.log_prob(action, mean, var, reduction=sampled.reduction)
    kl = dpok_twin.kl(mean, reference_mean, var, reduction=sampled.reduction)
    return TwinStep(
        log_prob=log_prob.item(),
        old_log_prob=sampled.trajectories.log_probs[trajectory, step].item(),
        reference_log_prob=gaussian_twin.log_prob(action, reference_mean, var, reduction=sampled.reduction),
        kl=kl.item(),
        log_prob_slope=slope_of(log_prob, policy),
        kl_slope=slope_of(kl, policy),
    )


Told = tuple[float, Tensor]  # loss of one step of a unit, and its derivatives by the weights
Twin = Callable[[Sequence[TwinStep], float, float], Told]


def ddpo(unit: Sequence[TwinStep], advantage: float, clip_range: float) -> Told:
    (step,) = unit
    numbers = (step.log_prob, step.old_log_prob, advantage)
    slope = ddpo_twin.gradient(*numbers, clip_range=clip_range)
    return ddpo_twin.loss(*numbers, clip_range=clip_range), slope * step.log_prob_slope


def ddpo_kl(unit: Sequence[TwinStep], advantage: float, beta: float) -> Told:
    """DDPO's twin with the KL of DPOK's; the clip range of the case is 0.01."""
    (step,) = unit
    loss, slope = ddpo(unit, advantage, 0.01)
    return loss + dpok_twin.loss(0.0, 0.0, step.kl, beta=beta), slope + beta * step.kl_slope


def policy_gradient(unit: Sequence[TwinStep], advantage: float, _: float) -> Told:
    (step,) = unit
    slope = policy_gradient_twin.gradient(advantage)
    return policy_gradient_twin.loss(step.log_prob, advantage), slope * step.log_prob_slope


def dpok(unit: Sequence[TwinStep], advantage: float, beta: float) -> Told:
    (step,) = unit
    by_log_prob, by_kl = dpok_twin.gradient(advantage, beta=beta)
    loss = dpok_twin.loss(step.log_prob, advantage, step.kl, beta=beta)
    return loss, by_log_prob * step.log_prob_slope + by_kl * step.kl_slope


def dpo(unit: Sequence[TwinStep], _: float, beta: float) -> Told:
    better, worse = unit
    numbers = (better.log_prob, worse.log_prob, better.reference_log_prob, worse.reference_log_prob)
    by_better, by_worse = dpo_twin.gradient(*numbers, beta=beta)
    return dpo_twin.loss(*numbers, beta=beta), by_better * better.log_prob_slope + by_worse * worse.log_prob_slope


@dataclass(frozen=True, kw_only=True)
class Case:
    """An objective and its twin with the same number."""

    objective: Objective
    twin: Twin
    number: float = 0.0


CASES = {
    "ddpo": Case(objective=DDPO(clip_range=0.01), twin=ddpo, number=0.01),
    "ddpo-kl": Case(objective=DDPOKl(clip_range=0.01, beta=0.05), twin=ddpo_kl, number=0.05),
    "policy-gradient": Case(objective=PolicyGradient(), twin=policy_gradient),
    "dpok": Case(objective=DPOK(beta=0.05), twin=dpok, number=0.05),
    "dpo": Case(objective=DPO(beta=0.1), twin=dpo, number=0.1),
}


def units_of(objective: Objective, selection: Chosen) -> list[list[int]]:
    return selection.pairs.tolist() if objective.needs.pairs else [[i] for i in selection.index.tolist()]


@cache
def round_and_moved_policy(reduction: LogProbReduction) -> tuple[Round, TinyPolicy]:
    """The policy that is updated has ratios beside 1; those of a sum differ 32 times as much."""
    sampled = sample_round(reduction=reduction, trained_by=0.01)
    policy = sampled.start()
    move(policy, by=0.01 if reduction == "mean" else 0.001)
    return sampled, policy


@cache
def looked_at(reduction: LogProbReduction) -> dict[tuple[int, int], TwinStep]:
    """Every step of every trajectory."""
    sampled, policy = round_and_moved_policy(reduction)
    policy = copy.deepcopy(policy).double()
    return {(i, step): look(policy, sampled, i, step) for i in range(12) for step in range(3)}


def twin_pass(
    case: Case, looked: dict[tuple[int, int], TwinStep], sampled: Round, selection: Chosen, *, step_weights: str
) -> tuple[float, float, Tensor]:
    """Mean loss, mean KL to the reference in nats an element, and gradient: one step of one unit after the other."""
    n = sampled.trajectories.num_trained_steps
    weight = twin_weights(sampled) if step_weights == "even" else [1.0] * n
    losses: list[float] = []
    kls: list[float] = []
    gradients: list[Tensor] = []
    for members in units_of(case.objective, selection):
        for step in range(n):
            unit = [looked[trajectory, step] for trajectory in members]
            loss, gradient = case.twin(unit, sampled.advantages[members[0]].item(), case.number)
            losses.append(loss)
            gradients.append(weight[step] * gradient)
            kls += [s.kl / (1 if sampled.reduction == "mean" else NUM_ELEMENTS) for s in unit]
    return sum(losses) / len(losses), sum(kls) / len(kls), sum(gradients, torch.zeros(())) / len(gradients)


# Groups of 4 that give both, the best alone, and none: 3 trajectories, 1 pair.
RAGGED = torch.tensor([0.1, 2.0, -1.5, 0.3, 0.7, 0.2, 0.0, 0.1, 0.4, -0.4, 0.0, 0.3])
# Two of them tie in the second group and all in the third: 2 + 1 + 0 pairs, 12 trajectories.
TIES = torch.tensor([0.1, 2.0, -1.5, 0.3, 0.7, 0.7, 0.0, 0.7, 0.4, 0.4, 0.4, 0.4])
SMALL = 0.1  # advantages are scaled by it for the update, so that float32's rounding of the gradient stays under 1e-6
SELECTIONS = {
    "best and worst": (SMALL * RAGGED, choose_by(BestWorst(), RAGGED, list("aaaabbbbcccc"), num_branches=4)),
    "all": (SMALL * TIES, choose_by(All(), TIES, list("aaaabbbbcccc"), num_branches=4)),
}


def test_the_selections_are_ragged() -> None:
    assert [(len(s), len(s.pairs)) for _, s in SELECTIONS.values()] == [(3, 1), (12, 3)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chosen", SELECTIONS)
@pytest.mark.parametrize(
    ("reduction", "step_weights", "micro_batch_size"),
    [("mean", "equal", 64), ("mean", "even", 7), ("mean", "equal", 1), ("sum", "equal", 5)],
)
def test_value_and_gradient_equal_the_twin(
    name: str,
    chosen: str,
    reduction: LogProbReduction,
    step_weights: Literal["equal", "even"],
    micro_batch_size: int,
) -> None:
    case, (advantages, selection) = CASES[name], SELECTIONS[chosen]
    if reduction == "sum" and name == "dpo":  # whose beta is in units of one over the log-prob's
        case = replace(case, objective=DPO(beta=0.02), number=0.02)
    sampled, moved = round_and_moved_policy(reduction)
    sampled, policy = replace(sampled, advantages=advantages), copy.deepcopy(moved)
    loss, kl, gradient = twin_pass(case, looked_at(reduction), sampled, selection, step_weights=step_weights)
    before = weights(policy)
    metrics = update(
        policy,
        sampled,
        selection,
        config=replace(ONE_STEP, max_grad_norm=1e9, micro_batch_size=micro_batch_size, step_weights=step_weights),
        objective=case.objective,
        log_kl_to_reference=True,
        optimizer=sgd(policy),
    )
    size = float(gradient.abs().max())
    assert size > 0.01
    tolerance = 1e-6 if reduction == "mean" else 2e-5 * size
    torch.testing.assert_close((before - weights(policy)).double(), gradient, rtol=0, atol=tolerance)
    assert metrics["objective/loss"] == pytest.approx(loss, abs=1e-6 if reduction == "mean" else 1e-4)
    assert metrics["policy/kl_to_reference"] == pytest.approx(kl, rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_the_ratio_is_one_before_the_first_step(name: str) -> None:
    sampled = sample_round(trained_by=0.1)
    selection = choose_by(All(), sampled.advantages, sampled.trajectories.prompts, num_branches=4)
    for micro_batch_size in (5, 64):
        config = replace(ONE_STEP, micro_batch_size=micro_batch_size)
        metrics = update(sampled.start(), sampled, selection, config=config, objective=CASES[name].objective)
        assert metrics["policy/ratio_max_error"] is not None
        assert metrics["policy/ratio_max_error"] <= 1e-6


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_kl_and_its_gradient_are_nothing_at_the_reference(reduction: LogProbReduction) -> None:
    """Without advantages the KL is all there is of DPOK's loss."""
    sampled = sample_round(reduction=reduction)
    sampled = replace(sampled, advantages=torch.zeros(12))
    policy = sampled.start()
    metrics = update(policy, sampled, objective=DPOK(beta=100.0), optimizer=sgd(policy))
    assert metrics["objective/loss"] == metrics["objective/kl_term"] == metrics["policy/kl_to_reference"] == 0
    assert metrics["policy/grad_norm"] == 0
    assert torch.equal(weights(policy), weights(sampled.policy))


def test_the_kl_pulls_the_policy_back_to_the_reference() -> None:
    sampled = replace(sample_round(trained_by=0.1), advantages=torch.zeros(12))
    policy = sampled.start()
    kls: list[float] = []
    for round_number in range(1, 9):
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.05)
        metrics = update(policy, sampled, objective=DPOK(), optimizer=optimizer, round_number=round_number)
        kl, norm = metrics["policy/kl_to_reference"], metrics["policy/grad_norm"]
        assert kl is not None
        assert norm is not None
        assert norm > 0
        kls.append(kl)
    assert kls == sorted(kls, reverse=True)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_kl_term_is_in_the_unit_of_the_log_probs(reduction: LogProbReduction) -> None:
    metrics = update(
        (sampled := sample_round(reduction=reduction, trained_by=0.1)).start(), sampled, objective=DPOK(beta=1.0)
    )
    term, an_element = metrics["objective/kl_term"], metrics["policy/kl_to_reference"]
    assert term is not None
    assert an_element is not None
    assert an_element > 0.1 / NUM_ELEMENTS
    assert term == pytest.approx(an_element * (1 if reduction == "mean" else NUM_ELEMENTS), rel=1e-5)


def test_the_kl_to_the_reference_is_logged_where_it_is_asked_for() -> None:
    sampled = sample_round(trained_by=0.1)
    config = replace(ONE_STEP, micro_batch_size=7)
    assert "policy/kl_to_reference" not in update(sampled.start(), sampled, config=config)
    logged = update(sampled.start(), sampled, config=config, log_kl_to_reference=True)
    needed = update(sampled.start(), sampled, config=config, objective=DPOK())
    assert logged["policy/kl_to_reference"] == needed["policy/kl_to_reference"]


def test_logging_the_kl_moves_nothing() -> None:
    sampled = sample_round(trained_by=0.1)
    plain, logged = sampled.start(), sampled.start()
    update(plain, sampled)
    update(logged, sampled, log_kl_to_reference=True)
    assert torch.equal(weights(plain), weights(logged))


@pytest.mark.parametrize("micro_batch_size", [1, 3, 64])
@pytest.mark.parametrize(("num_minibatches", "num_pairs"), [(2, 5), (4, 5), (4, 1)])
def test_pairs_are_units(micro_batch_size: int, num_minibatches: int, num_pairs: int) -> None:
    """Optimizer steps are counted in pairs, and every pair's steps come once an epoch, both members."""
    sampled = sample_round()
    pairs = [(0, 1), (0, 2), (5, 7), (8, 11), (10, 9)][:num_pairs]
    done: list[int] = []
    config = replace(ONE_STEP, num_inner_epochs=2, num_minibatches=num_minibatches, micro_batch_size=micro_batch_size)
    metrics = update(
        sampled.start(), sampled, choose(0, pairs=pairs), config=config, objective=DPO(), on_progress=done.append
    )
    assert metrics["update/num_optimizer_steps"] == 2 * min(num_minibatches, num_pairs)
    assert sum(done) == 2 * num_pairs * 2 * 3
    assert max(done) <= max(2, micro_batch_size)
    assert all(num % 2 == 0 for num in done)


def test_without_branching_the_pairs_are_of_one_prompt() -> None:
    """Two prompts in turn; the twin again, away from the policy that sampled."""
    prompts = (PROMPTS[0], PROMPTS[1]) * 3
    sampled = sample_round(prompts=prompts, num_branches=1, trained_by=0.01)
    selection = choose_by(All(), sampled.advantages, sampled.trajectories.prompts, num_branches=1)
    assert len(selection.pairs) == 2
    policy, twin_policy = sampled.start(), sampled.start().double()
    looked = {(i, s): look(twin_policy, sampled, i, s) for i in selection.pairs.flatten().tolist() for s in range(3)}
    _, _, gradient = twin_pass(CASES["dpo"], looked, sampled, selection, step_weights="equal")
    before = weights(policy)
    config = replace(ONE_STEP, max_grad_norm=1e9)
    update(policy, sampled, selection, config=config, objective=CASES["dpo"].objective, optimizer=sgd(policy))
    torch.testing.assert_close((before - weights(policy)).double(), gradient, rtol=0, atol=1e-6)
