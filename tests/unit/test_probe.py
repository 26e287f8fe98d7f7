"""Where is the reward decided: the shape of the table on the embedded model, and the rule that reads it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from b2diffurl.algorithm.schedule import Backward
from b2diffurl.algorithm.selection import BestWorst
from b2diffurl.analysis.probe import Probe, ProbeSettings, Row, measure, suggest, write_probe
from b2diffurl.analysis.probe.predict import Prediction
from b2diffurl.analysis.probe.setup import Cost
from b2diffurl.analysis.probe.variance import decided_variance
from b2diffurl.cli import main
from b2diffurl.errors import UserError
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.settings import Sampler


def probe_of(
    within: dict[int, float], *, one_style: dict[int, float] | None = None, predictions: tuple[Prediction, ...] = ()
) -> Probe:
    """A probe with these variances within groups by interval length, without sampling."""
    decided = decided_variance(np.array(list(within.values()))[:, None], list(within), num_bootstrap=2)
    rows = tuple(
        Row(
            interval_length=length, std_within=value**0.5, std_between=0.2, distance=0.1,
            pair_fraction={2: 0.1, 5: 0.2},
            differ={} if one_style is None else {"alignment": 0.5, "style": 1 - one_style[length]},
        )
        for length, value in within.items()
    )  # fmt: skip
    rule = Prediction(advantage="branch", selection="all", num_branches=2, information=0.5, selected_fraction=1.0)
    return Probe(
        rows=rows, decided=decided, predictions=(predictions or (rule,),) * len(rows), cost=Cost(),
        num_inference_steps=list(within)[-1], num_trunks=48, num_branches=5, example=torch.zeros(len(rows), 5, 3, 2, 2),
        example_prompt="a cat",
    )  # fmt: skip


WITHIN = {2: 0.01, 4: 0.04, 5: 0.06, 6: 0.2, 7: 0.55, 8: 0.75, 9: 0.85, 10: 1.0}


def test_the_interval_follows_from_the_decided_variance() -> None:
    """4 steps decide 4 %, 5 steps 6 %; 7 are the first to decide half, 9 the first to decide 80 %."""
    result = suggest(probe_of(WITHIN))
    assert result is not None
    assert (result.tau_last, result.tau_first, result.tau_max) == (4, 7, 9)
    assert "decide 4.0% (standard error 0.0%)" in result.reasons[0]
    assert "one more step would make it 6.0%" in result.reasons[0]
    assert "0.742" in result.reasons[1]
    assert "55%" in result.reasons[1]


def test_the_growth_stops_where_hardly_a_group_has_one_style() -> None:
    one_style = dict(zip(WITHIN, (1.0, 0.9, 0.8, 0.7, 0.5, 0.25, 0.1, 0.0), strict=True))
    result = suggest(probe_of(WITHIN, one_style=one_style))
    assert result is not None
    assert result.tau_max == 8
    assert "one style" in result.reasons[2]
    plenty = suggest(probe_of(WITHIN, one_style=dict.fromkeys(WITHIN, 0.9)))
    assert plenty is not None
    assert plenty.tau_max == 9


def test_the_rule_has_the_most_information_per_evaluation_and_k_per_query() -> None:
    """At tau 7 of 10 with 4 steps left out, k = 4: 3 + 28 evaluations, and 3 x 3 more per trained image."""
    table = [
        Prediction(advantage=a, selection=s, num_branches=k, information=i, selected_fraction=f)
        for a, s, k, i, f in (
            ("branch", "best-worst", 2, 0.5, 1.0), ("branch", "best-worst", 3, 0.615, 0.5),
            ("branch", "best-worst", 4, 0.62, 0.5), ("branch", "all", 2, 0.5, 1.0), ("branch", "all", 3, 0.6, 1.0),
            ("branch", "all", 4, 0.7, 1.0),
        )
    ]  # fmt: skip
    result = suggest(probe_of(WITHIN, predictions=tuple(table)))
    assert result is not None
    assert (result.advantage, result.selection, result.num_branches) == ("branch", "best-worst", 3)
    assert result.flags(emoji_b2_paper()) == (
        "schedule:backward --schedule.tau-first 7 --schedule.tau-last 4 --schedule.tau-max 9 advantage:branch "
        "selection:best-worst --rollout.num-branches 3 --reward-queries-per-round 255"
    )
    assert result.applied_to(emoji_b2_paper()).selection == BestWorst()


def test_a_reward_that_never_differs_suggests_nothing() -> None:
    assert suggest(probe_of(dict.fromkeys(WITHIN, 0.0))) is None


@pytest.mark.slow
def test_the_shape_of_the_table_on_the_embedded_model(tmp_path: Path) -> None:
    """Later branching decides less, in reward, pictures, alignment and style."""
    found = measure(emoji_b2_paper(), ProbeSettings(lengths=(7, 14), num_trunks=12, num_branches=3))
    assert [one.interval_length for one in found.rows] == [7, 14, 20]
    late, middle, whole = found.rows
    assert late.std_within < middle.std_within < whole.std_within
    assert late.distance < middle.distance < whole.distance
    assert late.differ["style"] <= middle.differ["style"] < whole.differ["style"]
    assert late.pair_fraction[3] < whole.pair_fraction[3]
    assert all(one.pair_fraction[2] <= one.pair_fraction[3] for one in found.rows)
    write_probe(found, suggest(found), tmp_path)
    content = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert [one["interval_length"] for one in content["rows"]] == [7, 14, 20]
    assert len(content["decided_variance"]["smoothed"]) == 20
    assert content["cost"]["num_images"] == 3 * 12 * 3
    assert content["cost"]["num_evaluations"] == found.cost.num_evaluations == 12 * (14 + 7 + 1 + 3 * (6 + 13 + 19))
    assert found.decided.share_of_last[7] < 0.15
    with Image.open(tmp_path / "groups.png") as groups:
        assert groups.width >= 3 * 96
    assert (tmp_path / "probe.png").stat().st_size > 1000


def test_it_measures_the_users_own_reward_on_the_users_own_chain() -> None:
    def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        return images.mean(dim=(1, 2, 3))

    run = replace(
        emoji_b2_paper(), sampler=Sampler(num_inference_steps=4, guidance_scale=1.0), schedule=Backward(tau_first=2)
    )
    found = measure(run, ProbeSettings(lengths=(2,), num_trunks=2, num_branches=3), reward=brightness)
    assert [one.interval_length for one in found.rows] == [2, 4]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lengths", "21"], "lengths is (21,); give interval lengths from 1 to 20."),
        (["--lengths", "0"], "lengths is (0,)"),
        (["--num-trunks", "1"], "num_trunks is 1"),
        (["--num-branches", "2"], "num_branches is 2"),
        (["--lora", "no/such/folder"], "no/such/folder"),
        (["--policy", "no/such/folder"], "no/such/folder"),
        (["--policy", ".", "--lora", "."], "policy and lora are both given"),
        (["--lora", ".", "--tau", "21"], "tau is 21; give an interval length from 1 to 20."),
        (["--lora", ".", "--tau-last", "14"], "tau_last is 14 but tau is 14; give at most 13."),
        (["--lora", ".", "--num-groups", "1"], "num_groups is 1"),
        (["--lora", ".", "--memory.base-dtype", "float16"], "memory.base_dtype is 'float16'"),
        (["--num-trunks", "0"], "num_trunks is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "emoji-b2-paper", *flags]) == 2
    assert said in capsys.readouterr().err


def test_from_python_it_is_refused_alike() -> None:
    with pytest.raises(UserError, match="num_trunks is 0"):
        measure(emoji_b2_paper(), ProbeSettings(num_trunks=0))
