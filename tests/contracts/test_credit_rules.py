"""What every advantage rule and every selection rule must do, the rules of other files included."""

import tomllib
from dataclasses import replace

import pytest
import torch

from b2diffurl.algorithm.advantage import Batch, Branch, PromptHistory
from b2diffurl.algorithm.extremes import Extremes
from b2diffurl.algorithm.gap import Gap
from b2diffurl.algorithm.interfaces import Normalizer, Selector
from b2diffurl.algorithm.power import Power
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.algorithm.shrunk import Shrunk
from b2diffurl.algorithm.strategies import ADVANTAGES, SELECTIONS, AnyAdvantage, AnySelection
from b2diffurl.cli import main
from b2diffurl.config import from_tables, to_toml
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.settings import Run

NORMALIZERS: tuple[AnyAdvantage, ...] = (PromptHistory(), Batch(), Branch(), Shrunk())
SELECTORS: tuple[AnySelection, ...] = (BestWorst(), All(), Gap(), Power(), Extremes())
PROMPTS = ["a cat", "a cat", "a dog"]


def test_every_built_in_rule_is_here() -> None:
    assert {*map(type, NORMALIZERS), *map(type, SELECTORS)} == {
        cls for cls in (*ADVANTAGES, *SELECTIONS) if not cls.__name__.startswith("Custom")
    }


@pytest.mark.parametrize("rule", NORMALIZERS)
def test_an_advantage_rule_is_finite_and_in_shape(rule: AnyAdvantage) -> None:
    assert isinstance(rule, Normalizer)
    rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    past = [{"a cat": [0.0, 1.0, 2.0, 3.0]}, {"a bear": [1.0] * 4}]
    for values in (rewards, torch.zeros_like(rewards)):
        advantages = rule.normalize(values, PROMPTS, past=past[: rule.num_past_rounds])
        trunks = rule.normalize_trunks(values, PROMPTS, past=past[: rule.num_past_rounds])
        assert advantages.shape == (3, 4)
        assert trunks.shape == (3,)
        assert bool(torch.isfinite(advantages).all() and torch.isfinite(trunks).all())
        assert all(0 <= v <= 1 for v in rule.metrics(values, PROMPTS, past=past[: rule.num_past_rounds]).values())
    assert bool(
        (rule.normalize(rewards + 5, PROMPTS, past=[]) - rule.normalize(rewards, PROMPTS, past=[])).abs().max() < 1e-9
    )


@pytest.mark.parametrize("rule", SELECTORS)
def test_a_selection_is_ascending_with_pairs_and_weights_inside(rule: AnySelection) -> None:
    assert isinstance(rule, Selector)
    for seed in range(5):
        selection = rule.select(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)), PROMPTS)
        flat = (selection.index[:, 0] * 4 + selection.index[:, 1]).tolist()
        assert flat == sorted(set(flat))
        assert set((selection.pairs[..., 0] * 4 + selection.pairs[..., 1]).flatten().tolist()) <= set(flat)
        assert bool((selection.pairs[:, 0, 0] == selection.pairs[:, 1, 0]).all())
        if selection.weights is not None:
            assert selection.weights.shape == (len(selection),)
            assert float(selection.weights.mean()) == pytest.approx(1)


@pytest.mark.parametrize("rule", [*NORMALIZERS, *SELECTORS])
def test_a_rule_goes_through_toml_and_flags(
    rule: AnyAdvantage | AnySelection, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = "advantage" if isinstance(rule, Normalizer) else "selection"
    run = replace(emoji_b2_paper(), **{kind: rule})  # pyright: ignore[reportArgumentType]
    assert from_tables(tomllib.loads(to_toml(run)), Run) == run
    assert main(["train", "emoji-b2-paper", "--dry-run", f"{kind}:{rule.use}"]) == 0
    assert getattr(from_tables(tomllib.loads(capsys.readouterr().out), Run), kind) == rule


def test_training_of_trunks_goes_through_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "emoji-b2-paper", "--dry-run", "--rollout.train-trunk"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["rollout"]["train_trunk"] is True
