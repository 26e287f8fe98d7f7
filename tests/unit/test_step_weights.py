"""Weights of the steps against their twins, and the settings that give them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from b2diffurl.algorithm.objectives import DDPO
from b2diffurl.algorithm.schedule import Backward, Full
from b2diffurl.algorithm.step_weights import step_weights
from b2diffurl.algorithm.update import Optimization, Update, UpdateSettings
from b2diffurl.config import read_toml, to_toml
from b2diffurl.errors import UserError
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.settings import Run
from tests.reference import step_weights as twin
from tests.rounds import bind, sample_round, sgd

SENSITIVITY = [0.6, 1.1, 5.4, 0.9]
VARIANCE = [0.3, 1.2, 0.05, 0.4]


def test_equal_weights_are_1() -> None:
    assert step_weights("equal", torch.tensor(SENSITIVITY)).tolist() == [1.0] * 4


def test_even_weights_are_their_twin() -> None:
    assert step_weights("even", torch.tensor(SENSITIVITY)).tolist() == pytest.approx(twin.even(SENSITIVITY))


@pytest.mark.parametrize("unit", [1.0, 1e-4])
def test_probe_weights_are_those_of_the_largest_signal_to_noise_ratio(unit: float) -> None:
    """The unit of the reward does not matter."""
    variance = torch.tensor([unit * v for v in VARIANCE], dtype=torch.float64)
    weights = step_weights("probe", torch.tensor(SENSITIVITY, dtype=torch.float64), variance)
    assert weights.tolist() == pytest.approx(twin.probe(SENSITIVITY, VARIANCE), rel=1e-5)
    assert float(weights.mean()) == pytest.approx(1.0)
    assert weights.dtype == torch.float32


def test_equal_variance_gives_the_even_weights() -> None:
    sensitivity = torch.tensor(SENSITIVITY, dtype=torch.float64)
    torch.testing.assert_close(
        step_weights("probe", sensitivity, torch.full((4,), 0.2)), step_weights("even", sensitivity)
    )


def test_steps_that_decide_nothing_have_no_weight() -> None:
    assert step_weights("probe", torch.ones(3), torch.tensor([0.0, 4.0, 1.0])).tolist() == [0.0, 2.0, 1.0]
    with pytest.raises(ValueError, match="No trained step"):
        step_weights("probe", torch.ones(2), torch.zeros(2))


def test_the_update_takes_the_variance_of_each_trained_step() -> None:
    """The tiny policy has 5 steps, of which a round trains any; the variance is given by the step's own number."""
    sampled = sample_round()
    policy = sampled.start()
    optimization = Optimization(step_weights="probe", decided_variance=(0.1, 0.2, 0.3, 0.4, 0.9))
    update = Update(bind(policy, sampled.ddim), sgd(policy), DDPO(), UpdateSettings(optimization=optimization))
    for steps in ([2, 3, 4], [4, 0]):
        expected = twin.probe(
            sampled.ddim.sensitivity[steps].tolist(), [optimization.decided_variance[i] for i in steps]
        )
        weights = update._step_weights(torch.tensor(steps))
        assert weights.tolist() == pytest.approx(expected, rel=1e-5)


def with_optimization(optimization: Optimization, **changed: object) -> Run:
    return replace(emoji_b2_paper(), optimization=optimization, **changed)


def test_a_run_with_its_variance_is_read_back(tmp_path: Path) -> None:
    variance = tuple(0.01 * (i + 1) for i in range(20))
    run = with_optimization(Optimization(step_weights="probe", decided_variance=variance))
    (tmp_path / "run.toml").write_text(to_toml(run), encoding="utf-8")
    assert read_toml(tmp_path / "run.toml", Run) == run


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step_weights": "probe"}, r'step_weights is "probe" but decided_variance is empty; give .*\.$'),
        ({"decided_variance": (1.0,)}, r"decided_variance is given but step_weights is 'equal'.*; set .*\.$"),
        ({"step_weights": "even", "decided_variance": (1.0,)}, r"step_weights is 'even', which does not use it"),
        (
            {"step_weights": "probe", "decided_variance": (1.0, -1.0)},
            r"^optimization\.decided_variance is \(1.0, -1.0\)",
        ),
        (
            {"step_weights": "probe", "decided_variance": (float("inf"),)},
            r"^optimization\.decided_variance is \(inf,\)",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Optimization(**changed)  # pyright: ignore[reportArgumentType]


def test_the_variance_must_fit_the_chain() -> None:
    with pytest.raises(UserError, match=r"has 3 numbers but sampler\.num_inference_steps is 20; give one"):
        with_optimization(Optimization(step_weights="probe", decided_variance=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [(Backward(tau_first=5), 15, 20), (Backward(tau_first=5, tau_last=2), 15, 18), (Full(tau_last=19), 0, 1)],
)
def test_some_trained_step_must_decide_something(schedule: Backward | Full, first: int, last: int) -> None:
    """1 at all steps that are not trained in the first round, which has the shortest interval."""
    nothing = tuple(0.0 if first <= i < last else 1.0 for i in range(20))
    with pytest.raises(UserError, match=f"0 at every trained step of an interval of {20 - first} steps"):
        with_optimization(Optimization(step_weights="probe", decided_variance=nothing), schedule=schedule)
    enough = tuple(1.0 if i == last - 1 else 0.0 for i in range(20))
    with_optimization(Optimization(step_weights="probe", decided_variance=enough), schedule=schedule)
