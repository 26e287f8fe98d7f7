"""What every objective must hold to be used in a run: the four of this package, and two of a user's.

The user's are in this file and are named as a user would name them, "module:Class".
"""

import tomllib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from b2diffurl.algorithm.interfaces import Needs, Objective
from b2diffurl.algorithm.objectives import DDPO, DPO, DPOK, CustomObjective, DDPOKl, PolicyGradient
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.algorithm.records import SelectedTrajectories, StepBatch
from b2diffurl.algorithm.rollout import sample_branches
from b2diffurl.algorithm.selection import All
from b2diffurl.algorithm.update import Optimization, Update, UpdateSettings
from b2diffurl.config import from_tables, to_tables, to_toml
from b2diffurl.errors import UserError
from b2diffurl.models import LoRA
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.reporting import note_of
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.settings import Run
from tests.conftest import perturb
from tests.rounds import (
    ONE_STEP,
    Chosen,
    Round,
    adamw,
    choose,
    choose_by,
    flat,
    metrics_of,
    move,
    sample_round,
    sgd,
    update,
    weights,
)


class Plain(Objective):
    """All that a user has to write."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def loss(self, batch: StepBatch) -> Tensor:
        return -self.scale * (batch.log_prob - batch.old_log_prob) * batch.advantage


class IPO:
    """All that a user can write, without inheriting anything: (margin - 1/2)^2, of arXiv 2310.12036."""

    needs: ClassVar[Needs] = Needs(reference=True, pairs=True)

    def loss(self, batch: StepBatch) -> Tensor:
        return (self._margin(batch) - 0.5) ** 2

    def metrics(self, batch: StepBatch) -> dict[str, Tensor]:
        return {"far_from_half": (self._margin(batch) - 0.5).abs()}

    def _margin(self, batch: StepBatch) -> Tensor:
        assert batch.reference_log_prob is not None
        better, worse = (batch.log_prob - batch.reference_log_prob).chunk(2)
        return better - worse


class Recorder(Objective):
    """Another objective, and what it was given."""

    def __init__(self, other: Objective) -> None:
        self.other, self.needs = other, other.needs  # pyright: ignore[reportAttributeAccessIssue]
        self.seen: list[StepBatch] = []

    def loss(self, batch: StepBatch) -> Tensor:
        self.seen.append(batch)
        return self.other.loss(batch)


class WithoutLoss:
    needs: ClassVar[Needs] = Needs()


class ForgetsLoss(Objective):
    def metrics(self, batch: StepBatch) -> dict[str, Tensor]:
        return {"zero": 0 * batch.log_prob}


BUILT_IN: dict[str, Objective] = {
    "ddpo": DDPO(),
    "ddpo-kl": DDPOKl(),
    "policy-gradient": PolicyGradient(),
    "dpok": DPOK(),
    "dpo": DPO(),
}
OWN: dict[str, Objective] = {
    "custom": CustomObjective(name=f"{__name__}:Plain", options={"scale": 2.0}),
    "custom with pairs": CustomObjective(name=f"{__name__}:IPO"),
}
OBJECTIVES = BUILT_IN | OWN
each = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def make_batch(objective: Objective, *, num_units: int = 9, dtype: torch.dtype = torch.float32) -> StepBatch:
    """Steps near the policy that sampled and the reference; good and bad ones in turn, pairs with the better first."""
    m = 2 if objective.needs.pairs else 1
    generator = torch.Generator().manual_seed(0)
    log_prob, a, b = (torch.randn(m * num_units, generator=generator, dtype=dtype) for _ in range(3))
    good = torch.arange(m * num_units) < num_units if m == 2 else torch.arange(num_units) % 2 == 0
    reference = objective.needs.reference
    return StepBatch(
        log_prob=(log_prob + 0.02 * a).requires_grad_(),
        old_log_prob=log_prob,
        advantage=torch.where(good, 1.5, -0.5).to(dtype),
        reference_log_prob=log_prob - 0.05 * b if reference else None,
        kl_to_reference=(0.1 * b**2).requires_grad_() if reference else None,
    )


def in_order(batch: StepBatch, order: Tensor, *, num_members: int) -> StepBatch:
    """The same units in another order, the halves of pairs kept."""
    rows = torch.cat([order + half * len(order) for half in range(num_members)])
    reference, kl = batch.reference_log_prob, batch.kl_to_reference
    return StepBatch(
        log_prob=batch.log_prob[rows],
        old_log_prob=batch.old_log_prob[rows],
        advantage=batch.advantage[rows],
        reference_log_prob=None if reference is None else reference[rows],
        kl_to_reference=None if kl is None else kl[rows],
    )


# The objective alone


@each
def test_is_an_objective(objective: Objective) -> None:
    assert isinstance(objective, Objective)
    assert isinstance(objective.needs, Needs)


@each
@pytest.mark.parametrize("num_units", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_is_one_finite_number_a_unit(objective: Objective, num_units: int, dtype: torch.dtype) -> None:
    loss = objective.loss(make_batch(objective, num_units=num_units, dtype=dtype))
    assert loss.shape == (num_units,)
    assert loss.dtype == dtype
    assert bool(torch.isfinite(loss).all())
    assert loss.requires_grad


@each
def test_descent_raises_the_good_and_lowers_the_bad(objective: Objective) -> None:
    batch = make_batch(objective)
    (gradient,) = torch.autograd.grad(objective.loss(batch).sum(), batch.log_prob)
    assert torch.equal(gradient < 0, batch.advantage > 0)
    assert torch.equal(gradient > 0, batch.advantage < 0)


@each
def test_a_unit_has_the_loss_it_has_alone(objective: Objective) -> None:
    m = 2 if objective.needs.pairs else 1
    batch, order = make_batch(objective), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    moved = in_order(batch, order, num_members=m)
    assert torch.equal(objective.loss(moved), objective.loss(batch)[order])
    for name, values in objective.metrics(batch).items():
        assert torch.equal(objective.metrics(moved)[name], values[order])
    alone = [objective.loss(in_order(batch, torch.tensor([i]), num_members=1)) for i in range(9)] if m == 1 else []
    if alone:
        torch.testing.assert_close(torch.cat(alone), objective.loss(batch))


@each
def test_metrics_are_one_number_a_unit_and_need_no_gradient(objective: Objective) -> None:
    batch = make_batch(objective)
    with torch.no_grad():
        told = objective.metrics(batch)
    for values in told.values():
        assert values.shape == (9,)
        assert not values.requires_grad
        assert bool(torch.isfinite(values).all())
    bare = replace(batch, log_prob=batch.log_prob.detach())
    assert told.keys() == objective.metrics(bare).keys()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_metric_has_a_note(name: str) -> None:
    objective = BUILT_IN[name]
    names = {f"objective/{metric}" for metric in objective.metrics(make_batch(objective))}
    assert all(note_of(name) for name in names)
    assert bool(names) == (name != "policy-gradient")


# Through a round's update


@pytest.fixture(scope="module")
def sampled() -> Round:
    return sample_round(trained_by=0.01)


PAIRS = [(1, 0), (3, 2), (4, 7), (5, 6), (9, 8)]
INDEX = [0, 2, 3, 5, 6, 8, 11]


def loss_and_gradient(
    objective: Objective, sampled: Round, selection: Chosen, *, micro_batch_size: int = 64
) -> tuple[float, Tensor]:
    policy = sampled.start()
    move(policy, by=0.003)
    before = weights(policy)
    config = replace(ONE_STEP, max_grad_norm=1e9, micro_batch_size=micro_batch_size)
    metrics = update(policy, sampled, selection, config=config, objective=objective, optimizer=sgd(policy))
    assert metrics["objective/loss"] is not None
    return metrics["objective/loss"], before - weights(policy)


@each
def test_neither_order_nor_micro_batches_change_more_than_rounding(objective: Objective, sampled: Round) -> None:
    loss, gradient = loss_and_gradient(objective, sampled, choose(*INDEX, pairs=PAIRS))
    scale = float(gradient.abs().max())
    assert scale > 1e-3
    others = [
        loss_and_gradient(objective, sampled, choose(*reversed(INDEX), pairs=PAIRS[::-1])),
        *(
            loss_and_gradient(objective, sampled, choose(*INDEX, pairs=PAIRS), micro_batch_size=size)
            for size in (1, 4, 7, 16)
        ),
    ]
    for other_loss, other_gradient in others:
        assert other_loss == pytest.approx(loss, abs=1e-5)
        torch.testing.assert_close(other_gradient, gradient, rtol=0, atol=2e-5 * max(scale, 1))


@each
@pytest.mark.parametrize("log_kl_to_reference", [False, True])
def test_it_is_given_what_it_needs_and_no_more(objective: Objective, log_kl_to_reference: bool, sampled: Round) -> None:
    recorder = Recorder(objective)
    selection = choose(*INDEX, pairs=PAIRS)
    config = Optimization(num_inner_epochs=2, num_minibatches=2, micro_batch_size=7)
    metrics = update(
        sampled.start(),
        sampled,
        selection,
        config=config,
        objective=recorder,
        log_kl_to_reference=log_kl_to_reference,
    )
    needs = objective.needs
    assert recorder.seen
    for batch in recorder.seen:
        assert (batch.reference_log_prob is not None) == needs.reference
        assert (batch.kl_to_reference is not None) == needs.reference
        assert batch.log_prob.requires_grad
        if batch.kl_to_reference is not None and batch.reference_log_prob is not None:
            assert batch.kl_to_reference.requires_grad
            assert not batch.reference_log_prob.requires_grad
            assert float(batch.kl_to_reference.detach().min()) > 0
    assert ("policy/kl_to_reference" in metrics) == (needs.reference or log_kl_to_reference)
    seen = [unit for batch in recorder.seen for unit in units_in(batch, sampled, pairs=needs.pairs)]
    units = PAIRS if needs.pairs else [(i,) for i in INDEX]
    assert sorted(seen) == sorted(2 * [(unit, step) for unit in units for step in range(3)])


def units_in(batch: StepBatch, sampled: Round, *, pairs: bool) -> Iterator[tuple[tuple[int, ...], int]]:
    """Trajectories and step of each unit: every old log-prob is there once, and so tells where it is from."""
    places = {
        value.item(): (i, n) for i, row in enumerate(sampled.trajectories.log_probs) for n, value in enumerate(row)
    }
    assert len(places) == sampled.trajectories.log_probs.numel()
    rows = [places[value] for value in batch.old_log_prob.tolist()]
    advantages = [sampled.advantages[i].item() for i, _ in rows]
    assert batch.advantage.tolist() == advantages
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]] if pairs else [rows]
    for members in zip(*halves, strict=True):
        trajectories, steps = zip(*members, strict=True)
        assert len(set(steps)) == 1
        assert len({sampled.trajectories.prompts[i] for i in trajectories}) == 1
        yield trajectories, steps[0]


@each
def test_an_empty_selection_is_no_update(objective: Objective, sampled: Round) -> None:
    policy = sampled.start()
    optimizer = adamw(policy)
    selection = choose() if not objective.needs.pairs else choose(3, 4)  # trajectories, but no pair
    metrics = update(policy, sampled, selection, objective=objective, optimizer=optimizer, log_kl_to_reference=True)
    assert torch.equal(weights(policy), weights(sampled.policy))
    assert not optimizer.state
    assert metrics == {
        "objective/loss": None,
        "policy/ratio_max_error": None,
        "policy/grad_norm": None,
        "policy/kl_to_old": None,
        "update/num_optimizer_steps": 0,
        "update/step_reverted": 0,
        "update/step_scale": None,
    }


@each
def test_the_update_is_an_ascent_of_the_good(objective: Objective, sampled: Round) -> None:
    """Over all pairs or steps, the good become likelier against the bad."""
    advantages = torch.tensor([-1.0, 1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 1.0, -1.0])
    sampled = replace(sampled, advantages=advantages)
    selection = choose_by(All(), advantages, sampled.trajectories.prompts, num_branches=4)
    policy = sampled.start()
    optimizer = torch.optim.SGD(policy.parameters(), lr=1e-2)
    update(policy, sampled, selection, objective=objective, optimizer=optimizer)
    recorder = Recorder(PolicyGradient())
    update(policy, sampled, choose(*range(12)), objective=recorder)
    (batch,) = recorder.seen
    change = ((batch.log_prob - batch.old_log_prob).detach() * batch.advantage).sum()
    assert float(change) > 0


# In a run


def tables(**objective: Any) -> dict[str, Any]:
    quick = to_tables(replace(emoji_b2_paper(), optimization=Optimization(num_inner_epochs=1, num_minibatches=1)))
    return quick | {"objective": objective}


@each
def test_a_run_with_it_goes_through_toml_and_back(objective: Any) -> None:
    one_step = Optimization(num_inner_epochs=1, num_minibatches=1)
    run = replace(emoji_b2_paper(), objective=objective, optimization=one_step)
    assert from_tables(tomllib.loads(to_toml(run)), Run) == run


@pytest.mark.parametrize("name", BUILT_IN)
def test_its_name_in_a_table_is_enough(name: str) -> None:
    assert from_tables(tables(use=name), Run).objective == BUILT_IN[name]


def test_a_users_own_is_named_with_its_options_beside_it() -> None:
    short = from_tables(tables(use=f"{__name__}:Plain", scale=3.0), Run)
    long = from_tables(tables(use="custom", name=f"{__name__}:Plain", options={"scale": 3.0}), Run)
    assert short == long
    batch = make_batch(short.objective)
    assert torch.equal(short.objective.loss(batch), Plain(scale=3.0).loss(batch))
    assert not torch.equal(short.objective.loss(batch), Plain().loss(batch))


def test_options_of_one_do_not_leak_into_another() -> None:
    batch = make_batch(Plain())
    losses = [CustomObjective(name=f"{__name__}:Plain", options={"scale": scale}).loss(batch) for scale in (1.0, 2.0)]
    assert torch.equal(2 * losses[0], losses[1])


HERE = __name__
OWN_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no class": ({"use": "custom", "name": "mine"}, "objective.name is 'mine'; give module:Class or file.py:Class."),
    "no module": ({"use": "nowhere.a:B"}, "objective is 'nowhere.a:B' but there is no module 'nowhere'; is it on "),
    "not in it": ({"use": "math:B"}, "objective is 'math:B' but module math has no class 'B'."),
    "no loss": ({"use": f"{HERE}:WithoutLoss"}, f"objective '{HERE}:WithoutLoss' lacks loss; let "),
    "forgets loss": ({"use": f"{HERE}:ForgetsLoss"}, f"objective '{HERE}:ForgetsLoss' lacks loss; "),
    "wrong option": (
        {"use": f"{HERE}:Plain", "scael": 2.0},
        f"objective '{HERE}:Plain' does not accept the options {{",
    ),
    "no option's type": ({"use": f"{HERE}:Plain", "scale": [1.0]}, "objective."),
}


@pytest.mark.parametrize(("table", "said"), OWN_REFUSED.values(), ids=OWN_REFUSED)
def test_an_own_objective_that_cannot_be_used_is_refused_in_one_sentence(table: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        from_tables(tables(**table), Run)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


# On the embedded model

EMOJI_PROMPTS = ("a bear riding a bike", "a cat playing chess")


@pytest.fixture(scope="module")
def trained() -> TextToImageModel:
    """The embedded model, away from its reference."""
    policy = TextToImageModel.load("emoji")
    policy.add_lora(LoRA(rank=4, alpha=8.0), seed=0)
    perturb(policy)
    return policy


def bound(model: TextToImageModel) -> DenoisingPolicy:
    return DenoisingPolicy(denoiser=model, chain=model.ddim(num_inference_steps=5, eta=1.0), guidance_scale=1.0)


@pytest.fixture(scope="module")
def rollout(trained: TextToImageModel) -> SelectedTrajectories:
    (chunk,) = sample_branches(
        bound(trained), EMOJI_PROMPTS, interval_length=3, num_branches=2, noise=NoiseKey(seed=0, stream=1), chunk_size=4
    )
    return flat(chunk.trajectories)


@contextmanager
def as_it_was(policy: TextToImageModel) -> Generator[None]:
    before = policy.adapter_state()
    try:
        yield
    finally:
        policy.load_adapter_state(before)


@each
def test_the_embedded_model(objective: Objective, trained: TextToImageModel, rollout: SelectedTrajectories) -> None:
    """Ratios are 1 before the first step; the step moves the adapter, and the reference to no bit."""
    x, t = rollout.latents[:2, 0], torch.tensor([500, 20])
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0])
    parameters = trained.trainable_parameters()
    with as_it_was(trained):
        before = trained.adapter_state()
        with torch.no_grad(), trained.reference():
            reference = trained.predict(x, t, trained.encode(EMOJI_PROMPTS), guidance_scale=1.0)
        chosen = choose_by(All(), advantages, rollout.prompts, num_branches=2)
        update = Update(
            bound(trained),
            torch.optim.AdamW(parameters.values(), lr=1e-4),
            objective,
            UpdateSettings(optimization=ONE_STEP, trust_region=emoji_b2_paper().trust_region),
        )
        result = update.optimize(replace(rollout, advantages=advantages, pairs=chosen.pairs), seed=0, round_number=1)
        metrics = metrics_of(result)
        assert metrics["update/num_optimizer_steps"] == 1
        assert metrics["policy/ratio_max_error"] is not None
        assert metrics["policy/ratio_max_error"] <= 1e-6
        assert any(not torch.equal(parameter, before[name]) for name, parameter in parameters.items())
        assert all(parameter.requires_grad for parameter in parameters.values())
        with torch.no_grad(), trained.reference():
            assert torch.equal(trained.predict(x, t, trained.encode(EMOJI_PROMPTS), guidance_scale=1.0), reference)
        with torch.no_grad():
            assert not torch.equal(trained.predict(x, t, trained.encode(EMOJI_PROMPTS), guidance_scale=1.0), reference)
