"""Resolving a run finds everything that it names, once, and refuses what cannot be found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from b2diffurl.errors import UserError
from b2diffurl.prompts.lists import load_prompts
from b2diffurl.run.recipes import emoji_b2_paper, emoji_objects
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Run
from b2diffurl.training.trainer import train

LONG = "a bear riding a bike " * 8


def test_the_quickstart_is_resolved() -> None:
    resolved = resolve(replace(emoji_b2_paper(), held_out_prompts="template1-test", watch=("jpeg-size:compressible",)))
    assert resolved.model.name == "emoji"
    assert (Path(resolved.model.location) / "model_index.json").is_file()
    assert resolved.train_prompts == resolved.prompt_list.prompts == load_prompts("template1-train")
    assert resolved.held_out_prompts == load_prompts("template1-test")
    assert [term.name for term in resolved.reward_terms] == ["clip:emoji"]
    assert [term.name for term in resolved.watched_terms] == ["jpeg-size:compressible"]
    assert resolved.judge.kind == "emoji"
    assert not resolved.lacks_judge


@pytest.mark.parametrize(
    ("run", "changes", "message"),
    [
        (
            emoji_b2_paper(),
            {"reward": "clip:emoji-objects"},
            "reward has clip:emoji-objects, .* such as clip:emoji[.]$",
        ),
        (emoji_objects(2), {"reward": "clip:emoji"}, "reward has clip:emoji, .* such as clip:emoji-objects[.]$"),
        (emoji_objects(3), {"judge": "clip:emoji"}, "judge has clip:emoji, .*'emoji-objects'"),
        (emoji_objects(3), {"watch": ("clip:emoji",)}, "watch has clip:emoji, .*'emoji-objects'"),
        (emoji_b2_paper(), {"model": "me/mine"}, "reward has clip:emoji, .* begin with recipe sd15 or sdxl[.]$"),
        (
            emoji_objects(2),
            {"model": "me/mine"},
            "reward has clip:emoji-objects, .* begin with recipe sd15 or sdxl[.]$",
        ),
        (emoji_objects(2), {"reward": "bert:emoji"}, "reward has bert:emoji, .* such as bert:emoji-objects[.]$"),
        (
            emoji_b2_paper(),
            {"reward": "bert:emoji", "model": "me/mine"},
            "reward has bert:emoji, .* such as bert, and begin with recipe sd15 or sdxl[.]$",
        ),
    ],
)
def test_a_reward_of_a_world_is_refused_with_another_model(run: Run, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(replace(run, **changes))


@pytest.mark.parametrize("template", [2, 3])
def test_the_recipes_of_the_other_templates_have_the_judge_of_their_world(template: int) -> None:
    resolved = resolve(replace(emoji_objects(template), held_out_prompts=f"emoji-template{template}-test"))
    assert (resolved.judge.kind, resolved.judge.world) == ("emoji", "emoji-objects")
    assert resolved.train_prompts == load_prompts(f"emoji-template{template}-train")


def test_a_fraction_is_held_out() -> None:
    resolved = resolve(replace(emoji_b2_paper(), held_out_fraction=0.2))
    assert len(resolved.held_out_prompts) == 9
    assert {*resolved.train_prompts} | {*resolved.held_out_prompts} == {*resolved.prompt_list.prompts}


def test_a_reward_from_python_has_no_terms() -> None:
    resolved = resolve(replace(emoji_b2_paper(), reward="mine"), own_reward=True)
    assert resolved.reward_terms == ()


@pytest.mark.parametrize(("judge", "lacks"), [("auto", True), ("none", False), ("reward", False)])
def test_a_run_without_a_fitting_judge_is_recognized(judge: str, lacks: bool, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a unicorn\n", encoding="utf-8")
    run = replace(emoji_b2_paper(), prompts=str(prompts), reward="jpeg-size:compressible", judge=judge)
    assert resolve(run).lacks_judge is lacks


def test_a_watched_reward_that_is_a_term_of_the_reward_is_refused() -> None:
    with pytest.raises(UserError, match=r"^watch holds 'clip:emoji', which is a term of the reward"):
        resolve(replace(emoji_b2_paper(), watch=("clip:emoji",)))


def test_two_ways_to_hold_prompts_out_are_refused() -> None:
    with pytest.raises(UserError, match=r"^held_out_fraction is 0\.2 and held_out_prompts is 'a\.txt'; give one of "):
        replace(emoji_b2_paper(), held_out_fraction=0.2, held_out_prompts="a.txt")


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match=r"^held_out_fraction is .*; give a number from 0 to below 1\.$"):
        replace(emoji_b2_paper(), held_out_fraction=fraction)


def test_held_out_prompts_that_would_be_cut_are_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = tmp_path / "held_out.txt"
    held_out.write_text(LONG, encoding="utf-8")
    monkeypatch.setattr(
        "b2diffurl.models.text_to_image.TextToImageModel.load", lambda *_, **__: pytest.fail("a model was loaded")
    )
    run = replace(emoji_b2_paper(), held_out_prompts=str(held_out))
    resolve(run)  # reads no tokenizer
    with pytest.raises(UserError, match="would be cut"):
        train(run, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
