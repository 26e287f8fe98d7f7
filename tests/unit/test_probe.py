"""Where is the reward decided: the shape of the table on the embedded model, and the rule that reads it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from b2diffurl.algorithm.schedule import Backward
from b2diffurl.analysis.probe import Probe, ProbeSettings, Row, measure, suggest, write_probe
from b2diffurl.cli import main
from b2diffurl.errors import UserError
from b2diffurl.run.recipes import emoji_quickstart
from b2diffurl.run.settings import Sampler


def row(num_steps: int, *, within: float, pairs: dict[int, float]) -> Row:
    return Row(
        interval_length=num_steps, std_within=within, std_between=0.2, pair_fraction=pairs, distance=0.1, differ={}
    )


def made(*rows: Row) -> Probe:
    return Probe(
        rows=rows,
        num_inference_steps=20,
        num_trunks=48,
        num_branches=4,
        example=torch.zeros(len(rows), 4, 3, 2, 2),
        example_prompt="a cat",
    )


def test_the_first_interval_decides_half_of_what_the_chain_decides() -> None:
    few, many = {2: 0.1, 3: 0.15, 4: 0.2}, {2: 0.2, 3: 0.45, 4: 0.5}
    found = suggest(
        made(row(7, within=0.1, pairs=few), row(14, within=0.16, pairs=many), row(20, within=0.3, pairs=many))
    )
    assert found is not None
    assert found.tau_first == 14
    assert found.num_branches == 3  # .45 pairs for 6 + 3 * 14 evaluations; .5 for 62 is less, .2 for 34 too
    assert "0.16" in found.reasons[0]
    assert "45%" in found.reasons[1]


def test_a_reward_that_never_differs_suggests_nothing() -> None:
    assert suggest(made(row(20, within=0.0, pairs={2: 0.0, 3: 0.0, 4: 0.0}))) is None


def test_the_shape_of_the_table_on_the_embedded_model(tmp_path: Path) -> None:
    """Later branching decides less, in reward, pictures, alignment and style."""
    found = measure(emoji_quickstart(), ProbeSettings(lengths=(7, 14), num_trunks=12, num_branches=3))
    assert [one.interval_length for one in found.rows] == [7, 14, 20]
    late, middle, whole = found.rows
    assert late.std_within < middle.std_within < whole.std_within
    assert late.distance < middle.distance < whole.distance
    assert late.differ["style"] <= middle.differ["style"] < whole.differ["style"]
    assert late.pair_fraction[3] < whole.pair_fraction[3]
    assert all(one.pair_fraction[2] <= one.pair_fraction[3] for one in found.rows)
    write_probe(found, suggest(found), tmp_path)
    told = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert [one["interval_length"] for one in told["rows"]] == [7, 14, 20]
    with Image.open(tmp_path / "groups.png") as groups:
        assert groups.width >= 3 * 96
    assert (tmp_path / "probe.png").stat().st_size > 1000


def test_it_measures_the_users_own_reward_on_the_users_own_chain() -> None:
    def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        return images.mean(dim=(1, 2, 3))

    run = replace(
        emoji_quickstart(), sampler=Sampler(num_inference_steps=4, guidance_scale=1.0), schedule=Backward(tau_first=2)
    )
    found = measure(run, ProbeSettings(lengths=(2,), num_trunks=2, num_branches=2), reward=brightness)
    assert [one.interval_length for one in found.rows] == [2, 4]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lengths", "21"], "lengths is (21,); give interval lengths from 1 to 20."),
        (["--lengths", "0"], "lengths is (0,)"),
        (["--num-trunks", "1"], "num_trunks is 1"),
        (["--num-branches", "1"], "num_branches is 1"),
        (["--lora", "no/such/folder"], "no/such/folder"),
    ],
)
def test_what_cannot_be_measured_is_refused(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "emoji-quickstart", *flags]) == 2
    assert said in capsys.readouterr().err


def test_from_python_it_is_refused_alike() -> None:
    with pytest.raises(UserError, match="num_trunks is 0"):
        measure(emoji_quickstart(), ProbeSettings(num_trunks=0))
