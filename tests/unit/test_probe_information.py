"""Derivatives along a direction against autograd, and information per query against its closed form."""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from b2diffurl.algorithm.directional import trajectory_scores
from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.algorithm.rollout import sample_branches
from b2diffurl.algorithm.selection import BestWorst
from b2diffurl.analysis.probe.information import InformationSettings, analyze
from b2diffurl.analysis.probe.rules import PAPER, ScoredGroups, branched_rules, unbranched_rules
from b2diffurl.analysis.probe.setup import Cost
from b2diffurl.analysis.probe.show import write_information
from b2diffurl.analysis.probe.signal import InformationTable, information
from tests.linear_chain import (
    NUM_ELEMENTS,
    NUM_STEPS,
    LinearPolicy,
    bound,
    coefficients,
    initial_effect,
    mean_reward,
)
from tests.rounds import NUM_ELEMENTS as TINY_ELEMENTS
from tests.rounds import bind, flat, sample_round, twin_log_prob
from tests.tiny import PROMPTS, TinyPolicy


def test_derivatives_equal_autograd() -> None:
    """Along a random direction of all parameters; float32 means at two places, so not to the last digits."""
    sampled = sample_round()
    policy = sampled.start()
    generator = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=generator) for p in policy.parameters()]

    @contextmanager
    def moved(scale: float) -> Generator[None]:
        kept = [p.data for p in policy.parameters()]
        for p, d in zip(policy.parameters(), direction, strict=True):
            p.data = p.data + scale * d
        yield
        for p, data in zip(policy.parameters(), kept, strict=True):
            p.data = data

    (chunk,) = sample_branches(
        bind(policy, sampled.ddim), PROMPTS, interval_length=3, num_branches=4,
        noise=NoiseKey(seed=0, stream=1), chunk_size=64,
    )  # fmt: skip
    scores = trajectory_scores(
        bind(policy, sampled.ddim), chunk.trajectories, moved, epsilon=1e-3, batch_size=7
    ).flatten(0, 1)
    place = type(sampled)(
        policy=policy, ddim=sampled.ddim, trajectories=flat(chunk.trajectories), advantages=torch.zeros(12)
    )
    double = TinyPolicy().double()
    double.load_state_dict(policy.state_dict())
    for trajectory in (0, 5, 11):
        for step in range(3):
            log_prob = TINY_ELEMENTS * twin_log_prob(double, place, trajectory, step)
            slopes = torch.autograd.grad(log_prob, list(double.parameters()))
            expected = sum(float((slope * d).sum()) for slope, d in zip(slopes, direction, strict=True))
            assert float(scores[trajectory, step]) == pytest.approx(expected, rel=2e-3, abs=2e-3 * float(scores.std()))


def scored(*, num_groups: int, num_branches: int, interval_length: int) -> ScoredGroups:
    """Groups of the linear chain; the direction is the same bias at every step."""
    network = LinearPolicy()
    (chunk,) = sample_branches(
        bound(network), ["a cat"] * num_groups, interval_length=interval_length, num_branches=num_branches,
        noise=NoiseKey(seed=2, stream=num_branches), chunk_size=10**6, keep_trunks=True,
    )  # fmt: skip
    assert chunk.trunks is not None
    branches, trunks = torch.zeros(num_groups, num_branches, NUM_STEPS), torch.zeros(num_groups, 1, NUM_STEPS)
    for scores, part in ((branches, chunk.trajectories), (trunks, chunk.trunks)):
        if len(part.step_index):
            scores[:, :, part.step_index] = trajectory_scores(
                bound(network), part, network.moved, epsilon=0.1, batch_size=10**6
            )
    return ScoredGroups(
        prompts=("a cat",) * num_groups,
        rewards=mean_reward(chunk.final_latents),
        branches=branches.double(),
        trunks=trunks[:, 0].double(),
        interval_length=interval_length,
    )


@pytest.fixture(scope="module")
def single() -> ScoredGroups:
    return scored(num_groups=4000, num_branches=1, interval_length=NUM_STEPS)


@pytest.fixture(scope="module")
def groups() -> ScoredGroups:
    return scored(num_groups=2000, num_branches=4, interval_length=3)


def closed_form(trained: list[int], weights: Tensor) -> float:
    """Of DDPO: with c_t the effect of step t on the reward in units of its deviation, and e_t = w_t d log p / d z_t.

    h = A sum of e_t Z_t has the mean m = sum of e_t c_t and the variance sum of e_t^2 + m^2 for normal numbers.
    """
    effects, slopes = coefficients()
    variance = (sum(effect**2 for effect in effects) + initial_effect() ** 2) / NUM_ELEMENTS
    signal = noise = 0.0
    for t in trained:
        slope = float(weights[t]) * slopes[t] * NUM_ELEMENTS**0.5
        signal += slope * effects[t] / (NUM_ELEMENTS * variance) ** 0.5
        noise += slope**2
    sign = 1 if signal > 0 else -1
    return sign * signal**2 / (noise + signal**2)


@pytest.mark.parametrize("weights", [torch.ones(5), torch.tensor([0.2, 1.5, 1.0, 0.3, 2.0])])
def test_information_of_ddpo_is_its_closed_form(single: ScoredGroups, weights: Tensor) -> None:
    rules = unbranched_rules(single, num_partial_steps=3)
    signals = np.stack([rule.signal(weights).numpy() for rule in rules], axis=1)
    sampled = information(signals, num_queries=1)
    for i, trained in enumerate(([0, 1, 2, 3, 4], [0, 1, 2], [2, 3, 4])):
        expected = closed_form(trained, weights)
        assert float(sampled.value[i]) == pytest.approx(expected, abs=4 * float(sampled.std_error[i]))
        assert float(sampled.std_error[i]) < 0.15 * abs(expected)


def test_information_of_centered_groups_is_its_closed_form(groups: ScoredGroups) -> None:
    """The terms are literal sums over the members."""
    pairs = branched_rules(groups, paper=BestWorst(), tau_last=1)
    centered = next(whole for whole, _ in pairs if whole.name == "all, centered in the group")
    differences = groups.rewards - groups.rewards.mean(dim=1, keepdim=True)
    scale = differences.std(correction=0)
    for unit in (0, 17):
        for t in range(NUM_STEPS):
            literal = sum(float(differences[unit, k] / scale * groups.branches[unit, k, t]) for k in range(4))
            assert float(centered.terms[unit, t]) == pytest.approx(literal, abs=1e-9)
    assert centered.trained.tolist() == [False, False, True, True, True]
    effects, slopes = coefficients()
    slopes = [slope * NUM_ELEMENTS**0.5 for slope in slopes[2:]]
    signs = [effect / NUM_ELEMENTS**0.5 for effect in effects[2:]]
    width = sum(sign**2 for sign in signs)
    # h = sum over members of (r - mean) s / std; with B = sum of e c, E[h] = 3 B / std and, by Isserlis, the rest.
    signal = sum(slope * sign for slope, sign in zip(slopes, signs, strict=True))
    square = sum(slope**2 for slope in slopes)
    expected = (3 * signal) ** 2 / (4 * 3 * (width * square + signal**2))
    sampled = information(centered.signal(torch.ones(5)).numpy()[:, None], num_queries=4)
    assert abs(float(sampled.value[0])) == pytest.approx(expected, abs=4 * float(sampled.std_error[0]))


def test_a_trained_trunk_adds_its_steps_with_the_weight_of_its_branches(groups: ScoredGroups) -> None:
    pairs = {whole.name: (whole, short) for whole, short in branched_rules(groups, paper=BestWorst(), tau_last=1)}
    alone, (both, short) = pairs["all, shrunk"][0], pairs["all, shrunk, trunks trained"]
    assert torch.equal(both.terms[:, 2:], alone.terms[:, 2:])
    assert both.trained.all()
    assert short.trained.tolist() == [True, True, True, True, False]
    edge = (groups.rewards.mean(dim=1) - groups.rewards.mean()) * 4
    ratio = both.terms[:, :2] / (edge[:, None] * groups.trunks[:, :2])
    is_equal = torch.isclose(ratio, ratio.median())
    assert float(is_equal.double().mean()) > 0.99
    assert (ratio[~is_equal] < ratio.median()).all()  # the advantages that are clipped


def test_the_sign_of_the_mean_is_kept_and_scale_does_not_matter() -> None:
    h = np.random.default_rng(0).normal(0.5, 1.0, size=(400, 1))
    both = np.concatenate([h, -1000 * h, 0 * h], axis=1)
    sampled = information(both, num_queries=2, num_bootstrap=50)
    literal = h.mean() ** 2 / (2 * h.var())
    assert sampled.value == pytest.approx([literal, -literal, 0.0])
    assert sampled.samples.shape == (50, 3)


def test_bootstrap_errors_are_those_of_fresh_samples() -> None:
    """Standard deviation of the information over 300 samples of 200 normal numbers."""
    rng = np.random.default_rng(1)
    values = [
        float(information(rng.normal(0.4, 1, (200, 1)), num_queries=1, num_bootstrap=1).value[0]) for _ in range(300)
    ]
    error = information(rng.normal(0.4, 1, (200, 1)), num_queries=1).std_error[0]
    assert float(error) == pytest.approx(float(np.std(values)), rel=0.35)


def test_differences_of_rules_of_the_same_units_are_paired(single: ScoredGroups) -> None:
    """The interval of the difference is narrower than that of independent values: the rules share their noise."""
    everything, first, _ = unbranched_rules(single, num_partial_steps=4)
    table = InformationTable([[everything, first]], {"even": torch.ones(5)})
    rows = table.rows()
    compared = table.compare(first, everything, "even")
    assert compared.difference == pytest.approx(rows[1].value - rows[0].value)
    assert compared.low < compared.difference < compared.high
    both = (rows[0].std_error ** 2 + rows[1].std_error ** 2) ** 0.5
    assert compared.high - compared.low < 0.9 * 2 * 1.96 * both
    assert compared.is_decided == (compared.low > 0 or compared.high < 0)


def test_all_of_it(single: ScoredGroups, groups: ScoredGroups, tmp_path: Path) -> None:
    better = replace(single, rewards=-single.rewards)  # a larger bias lowers x_0
    better_groups = replace(groups, rewards=-groups.rewards)
    kinds = {"even": torch.ones(5), "equal": torch.tensor([1.0, 1.0, 1.0, 1.0, 9.0])}
    result = analyze(
        better, better_groups, kinds, paper=BestWorst(),
        own_weights="even", settings=InformationSettings(tau=3, tau_last=2), norm=1.0, cost=Cost(),
    )  # fmt: skip
    assert len(result.rules) == 2 * (3 + 2 * 7)
    assert result.unit == result.rules[0].value > 0
    assert all(len(values) == NUM_STEPS for values in result.steps.values())
    assert result.comparisons[0].more == "DDPO, first 3"
    values = {(row.rule, row.step_weights): row.value for row in result.rules}
    pairs = {kind: [(one.more, one.less) for one in result.comparisons if one.step_weights == kind] for kind in kinds}
    assert pairs["even"] == pairs["equal"]
    assert (f"{PAPER}; last 2 left out", PAPER) in pairs["equal"]
    for one in result.comparisons:
        expected = values[one.more, one.step_weights] - values[one.less, one.step_weights]
        assert one.difference == pytest.approx(expected)
        assert one.low < one.high
    write_information(result, tmp_path)
    content = json.loads((tmp_path / "information.json").read_text(encoding="utf-8"))
    assert [one["rule"] for one in content["rules"]] == [one.rule for one in result.rules]
    assert {one["step_weights"] for one in content["comparisons"]} == {"even", "equal"}
    assert (tmp_path / "information.png").stat().st_size > 1000


@pytest.mark.parametrize("own_weights", ["even", "equal"])
def test_the_figure_has_the_runs_own_step_weights(
    single: ScoredGroups, groups: ScoredGroups, own_weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plotted: list[Axes] = []

    def plot(panels: Sequence[Callable[[Axes], None]], *_: object, **__: object) -> None:
        plotted.append(Figure().add_subplot())
        panels[0](plotted[0])

    monkeypatch.setattr("b2diffurl.analysis.probe.show.save_panels", plot)
    kinds = {"even": torch.ones(5), "equal": torch.tensor([1.0, 1.0, 1.0, 1.0, 9.0])}
    result = analyze(
        single, groups, kinds, paper=BestWorst(),
        own_weights=own_weights, settings=InformationSettings(tau=3, tau_last=2), norm=1.0, cost=Cost(),
    )  # fmt: skip
    write_information(result, tmp_path)
    assert plotted[0].get_xlabel() == f"information per reward query, step weights {own_weights}"
