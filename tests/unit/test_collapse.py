"""What stops a run that falls apart, and what does not."""

import json
from dataclasses import replace

import pytest
import torch

from b2diffurl.algorithm.collapse import Collapse, CollapseMonitor, contrast, student_t
from b2diffurl.algorithm.records import Scores
from b2diffurl.algorithm.update import UpdateResult
from b2diffurl.errors import RunStopped, UserError
from tests.reference import collapse as twin

UPDATED = UpdateResult(
    num_optimizer_steps=8, step_scale=1.0, kl_to_old=1e-4, grad_norm=1.0, ratio_max_error=0.0, learning_rate=1e-4,
    means={}, num_evaluations=0, num_replayed=0, seconds=1.0,
)  # fmt: skip
ALL_REFUSED = replace(UPDATED, step_scale=0.0, num_optimizer_steps=0)


def scores(rewards: torch.Tensor, images_contrast: float = 0.2) -> Scores:
    """One image per trunk."""
    rewards = rewards.double()[:, None]
    return Scores(rewards=rewards, contrast=torch.full_like(rewards, images_contrast))


def watch(**changed: float) -> CollapseMonitor:
    return CollapseMonitor(config=Collapse(**changed))  # pyright: ignore[reportArgumentType]


def see(watched: CollapseMonitor, mean: float, *, images_contrast: float = 0.2, round_number: int = 1) -> None:
    """64 trunks whose rewards have this mean and a standard deviation of 0.1."""
    rewards = torch.tensor([mean - 0.1, mean + 0.1], dtype=torch.float64).repeat(32)
    watched.check_scores(scores(rewards, images_contrast), round_number=round_number)


def test_contrast_is_the_standard_deviation_within_pictures() -> None:
    """Black and white in equal parts has 0.5, a flat picture 0, however pictures differ from one another."""
    half = torch.zeros(3, 4, 4)
    half[:, :2] = 1
    flat = [torch.full((3, 4, 4), value) for value in (0.0, 1.0)]
    assert contrast(torch.stack([half, *flat])).tolist() == [0.5, 0, 0]


def test_a_reward_that_rises_and_wavers_goes_on() -> None:
    watched = watch()
    for mean in (0.5, 0.6, 0.41, 0.7, 0.51):  # at most 0.19 under the best: less than 2 x 0.1
        see(watched, mean)


def test_a_reward_far_under_the_best_rounds_stops_the_run() -> None:
    watched = watch()
    see(watched, 0.5)
    see(watched, 0.9)
    with pytest.raises(RunStopped, match=r"mean reward fell from 0\.9 to 0\.65; lower optimization") as stopped:
        see(watched, 0.65, round_number=7)
    assert stopped.value.round_number == 7
    assert str(stopped.value).startswith("Stopped in round 7: ")


def test_the_rounds_before_are_the_measure() -> None:
    """However much the rewards of a collapsed round differ."""
    watched = watch(max_reward_drop=1.0)
    see(watched, 0.5)
    with pytest.raises(RunStopped):
        watched.check_scores(scores(torch.tensor([-9.0, 9.7]).repeat(32)), round_number=2)


def test_a_sparse_reward_that_begins_with_nothing_may_waver() -> None:
    watched = watch()
    watched.check_scores(scores(torch.zeros(8)), round_number=1)
    watched.check_scores(scores(torch.tensor([1.0, 1.0, 0, 0, 0, 0, 0, 0])), round_number=2)
    watched.check_scores(scores(torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0])), round_number=3)


def test_one_success_of_a_rare_reward_is_no_peak() -> None:
    """The best round's own standard error counts: 1/4 after 200 rounds of zeros is one trunk."""
    watched = watch()
    for round_number in range(200):
        watched.check_scores(scores(torch.zeros(4)), round_number=round_number)
    watched.check_scores(scores(torch.tensor([0.0, 1.0, 0.0, 0.0])), round_number=201)
    watched.check_scores(scores(torch.zeros(4)), round_number=202)


def by_trunk(*means: float) -> Scores:
    """Groups of two rewards, 0.02 apart."""
    rewards = torch.tensor([[mean - 0.01, mean + 0.01] for mean in means], dtype=torch.float64)
    return Scores(rewards=rewards, contrast=torch.full_like(rewards, 0.2))


def test_the_allowed_drop_equals_its_slow_twin() -> None:
    rounds = [[0.1, 0.5, 0.4], [0.3, 0.9, 0.2], [0.2, 0.2, 0.3], [0.4, 0.5, 0.3]]
    watched = watch(max_reward_drop=0.5)
    for number, means in enumerate(rounds):
        expected = twin.allowed_drop(
            [[[mean - 0.01, mean + 0.01] for mean in past] for past in rounds[: number + 1]], max_reward_drop=0.5
        )
        assert watched.allowed_drop(by_trunk(*means).rewards) == pytest.approx(expected, rel=1e-9)
        watched.check_scores(by_trunk(*means), round_number=number + 1)


def test_a_low_round_of_few_trunks_is_no_collapse_and_one_of_many_is() -> None:
    """Trunks at 0.4 and 0.6: a round of two at 0.25 is a matter of chance, one of 64 is not."""
    few, many = watch(), watch()
    for round_number in range(1, 9):
        few.check_scores(by_trunk(0.4, 0.6), round_number=round_number)
        many.check_scores(by_trunk(*[0.4, 0.6] * 32), round_number=round_number)
    few.check_scores(by_trunk(0.2, 0.3), round_number=9)
    with pytest.raises(RunStopped):
        many.check_scores(by_trunk(*[0.2, 0.3] * 32), round_number=9)


def test_a_fall_in_an_early_round_of_few_trunks_is_caught() -> None:
    """Three rounds of four trunks have 9 degrees of freedom: 11 standard errors are allowed."""
    watched = watch()
    for round_number in (1, 2):
        watched.check_scores(by_trunk(0.4, 0.6, 0.5, 0.5), round_number=round_number)
    allowed = watched.allowed_drop(by_trunk(*[0.0] * 4).rewards)
    watched.check_scores(by_trunk(*[0.5 - 0.99 * allowed] * 4), round_number=3)
    with pytest.raises(RunStopped):
        watched.check_scores(by_trunk(*[-9.0] * 4), round_number=4)


def test_a_rare_dark_image_is_no_fall_of_all() -> None:
    """Images of about 0.87, of which one in eight has 0.05; the first rounds have none of these."""
    watched = watch()
    watched.check_scores(by_trunk(0.87, 0.83, 0.83, 0.87), round_number=1)
    watched.check_scores(by_trunk(0.90, 0.89, 0.90, 0.89), round_number=2)
    watched.check_scores(by_trunk(0.90, 0.89, 0.05, 0.89), round_number=3)


@pytest.mark.parametrize(("freedom", "exact"), [(3, 10.21), (5, 5.893), (10, 4.144), (30, 3.385), (100, 3.174)])
def test_student_t_is_close_to_the_table(freedom: int, exact: float) -> None:
    """The upper 0.1 % point, whose normal quantile is 3.0902; the approximation is rather too large than too small."""
    assert 0.999 * exact <= student_t(3.0902, freedom) <= 1.08 * exact


@pytest.mark.parametrize(
    ("first", "later", "stops"), [(0.1, 0.24, False), (0.1, 0.26, True), (0.2, 0.07, True), (0.2, 0.09, False)]
)
def test_contrast_may_change_by_a_factor_either_way(first: float, later: float, stops: bool) -> None:
    watched = watch(max_contrast_factor=2.5)
    see(watched, 0.5, images_contrast=first)
    if stops:
        with pytest.raises(RunStopped, match=f"contrast went from {first:.3f} to {later:.3f}; "):
            see(watched, 0.5, images_contrast=later)
    else:
        see(watched, 0.5, images_contrast=later)


def test_contrast_is_compared_with_the_first_round_not_the_last() -> None:
    watched = watch(max_contrast_factor=2.0)
    see(watched, 0.5, images_contrast=0.1)
    see(watched, 0.5, images_contrast=0.15)
    with pytest.raises(RunStopped):
        see(watched, 0.5, images_contrast=0.25)


@pytest.mark.parametrize("kl", [0.0201, float("inf"), float("nan")])
def test_a_policy_that_moved_too_far_stops_the_run(kl: float) -> None:
    with pytest.raises(RunStopped, match="nats per element in one round; lower optimization"):
        watch().check_update(replace(UPDATED, kl_to_old=kl), round_number=4)
    watch().check_update(replace(UPDATED, kl_to_old=0.02), round_number=4)


def test_a_round_without_an_update_is_no_collapse() -> None:
    empty = replace(UPDATED, kl_to_old=None, num_optimizer_steps=0)
    watched = watch(max_refused_rounds=1)
    for round_number in range(5):
        watched.check_update(empty, round_number=round_number)


def test_rounds_in_a_row_without_an_accepted_step_stop_the_run() -> None:
    watched = watch(max_refused_rounds=2)
    watched.check_update(ALL_REFUSED, round_number=1)
    watched.check_update(replace(UPDATED, step_scale=0.0), round_number=2)  # a later step was taken back: not refused
    watched.check_update(ALL_REFUSED, round_number=3)
    with pytest.raises(RunStopped, match="in 2 rounds in a row the first optimizer step left the trust region"):
        watched.check_update(ALL_REFUSED, round_number=4)


def test_first_steps_that_are_only_shrunk_go_on() -> None:
    watched = watch(max_refused_rounds=1)
    for round_number in range(1, 5):
        watched.check_update(replace(UPDATED, step_scale=0.1, num_optimizer_steps=1), round_number=round_number)


def test_a_watch_through_json_goes_on_as_before() -> None:
    fresh = watch()
    fresh.load_state(json.loads(json.dumps(fresh.state())))
    assert fresh == watch()
    watched = watch()
    see(watched, 0.9)
    watched.check_update(ALL_REFUSED, round_number=1)
    other = watch()
    other.load_state(json.loads(json.dumps(watched.state())))
    assert other == watched
    with pytest.raises(RunStopped):
        see(other, 0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_kl", 0.0), ("max_reward_drop", -1.0), ("max_contrast_factor", 1.0), ("max_kl", float("nan")),
     ("max_refused_rounds", 0)],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^collapse\.{name} is {value}; give .*\.$"):
        watch(**{name: value})
