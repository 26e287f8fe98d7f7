"""Settings through TOML and back; an error in a file gives one line that names the field."""

import copy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.config import from_tables, read_toml, to_tables, to_toml
from b2diffurl.errors import UserError
from b2diffurl.run.recipes import RECIPES, emoji_b2_paper, emoji_ddpo
from b2diffurl.run.settings import Run

RUNS = {name: make() for name, make in RECIPES.items()}
TABLES = {name: to_tables(run) for name, run in RUNS.items()}
NESTED = [
    (recipe, name) for recipe, tables in TABLES.items() for name, value in tables.items() if isinstance(value, dict)
]
FIELDS = [(recipe, name, key) for recipe, name in NESTED for key in TABLES[recipe][name]]
TOP_LEVEL = [name for name, value in TABLES["emoji-b2-paper"].items() if not isinstance(value, dict)]


def changed(recipe: str, table: str | None, key: str, value: Any) -> dict[str, Any]:
    """A recipe's tables with one value set."""
    tables = copy.deepcopy(TABLES[recipe])
    (tables if table is None else tables[table])[key] = value
    return tables


def wrong_for(value: Any) -> Any:
    """A value of another type that a lenient reader would take."""
    if isinstance(value, str):
        return 3
    if isinstance(value, tuple):
        return "x"
    return str(value)


def refusal(tables: dict[str, Any]) -> str:
    with pytest.raises(UserError) as refused:
        from_tables(tables, Run)
    message = str(refused.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_goes_through_toml_and_back(recipe: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(to_toml(RUNS[recipe]), encoding="utf-8")
    assert read_toml(file, Run) == RUNS[recipe]


def test_what_a_recipe_does_not_use_goes_through_toml_too() -> None:
    run = replace(emoji_b2_paper(), model='a "quoted"\nname \U0001f43b', trust_region=TrustRegion(max_kl=float("inf")))
    assert from_tables(to_tables(run), Run) == run


def test_toml_is_complete() -> None:
    def check(value: Any, table: dict[str, Any]) -> None:
        assert list(table) == [field.name for field in fields(value)]
        for name, inner in table.items():
            if is_dataclass(getattr(value, name)):
                check(getattr(value, name), inner)

    check(RUNS["emoji-b2-paper"], TABLES["emoji-b2-paper"])


def test_a_file_may_leave_out_what_has_a_default(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'model = "emoji"\nreward = "clip:emoji"\nprompts = "template1-train"\nnum_rounds = 3\n'
        "reward_queries_per_round = 8\n[sampler]\neta = 1\n",
        encoding="utf-8",
    )
    expected = Run(
        model="emoji", reward="clip:emoji", prompts="template1-train", num_rounds=3, reward_queries_per_round=8
    )
    assert read_toml(file, Run) == expected


@pytest.mark.parametrize(("recipe", "table"), [(recipe, None) for recipe in RECIPES] + NESTED)
def test_an_unknown_key_is_refused_in_every_table(recipe: str, table: str | None) -> None:
    message = refusal(changed(recipe, table, "clip_rnage", 1))
    assert message.startswith(f"{table}." if table else "clip_rnage ")
    assert "clip_rnage is not a setting; " in message


@pytest.mark.parametrize(("recipe", "table", "key"), FIELDS)
def test_a_wrong_type_is_refused_in_every_field(recipe: str, table: str, key: str) -> None:
    wrong = wrong_for(TABLES[recipe][table][key])
    message = refusal(changed(recipe, table, key, wrong))
    assert message.startswith(table)
    assert key in message
    assert repr(wrong) in message


@pytest.mark.parametrize("key", TOP_LEVEL)
def test_a_wrong_type_is_refused_at_top_level(key: str) -> None:
    wrong = wrong_for(TABLES["emoji-b2-paper"][key])
    assert refusal(changed("emoji-b2-paper", None, key, wrong)).startswith(f"{key} is {wrong!r}: ")


@pytest.mark.parametrize("wrong", [True, 1.0, 1.5, [1], {"value": 1}])
def test_whole_numbers_are_whole_numbers(wrong: object) -> None:
    assert refusal(changed("emoji-b2-paper", None, "num_rounds", wrong)).startswith(f"num_rounds is {wrong!r}: ")


@pytest.mark.parametrize("table", sorted({table for _, table in NESTED}))
def test_a_table_must_be_a_table(table: str) -> None:
    assert refusal(changed("emoji-b2-paper", None, table, 3)).startswith(f"{table} is 3: ")


@pytest.mark.parametrize(("recipe", "table"), [(r, t) for r, t, key in FIELDS if key == "use"])
def test_a_wrong_use_is_refused(recipe: str, table: str) -> None:
    message = refusal(changed(recipe, table, "use", "bogus"))
    assert message.startswith(table)
    assert "'bogus'" in message
    assert repr(TABLES[recipe][table]["use"]) in message  # one way out


@pytest.mark.parametrize(("table", "key"), [("schedule", "tau_first"), ("selection", "pos_threshold")])
def test_a_field_of_a_choice_is_named_as_it_is_written(table: str, key: str) -> None:
    assert refusal(changed("emoji-b2-paper", table, key, "x")).startswith(f"{table}.{key} is 'x': ")


def test_a_date_is_a_wrong_type_too(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("seed = 2026-11-01\n" + to_toml(RUNS["emoji-ddpo"]).replace("seed = 0\n", ""), encoding="utf-8")
    with pytest.raises(UserError, match="seed is "):
        read_toml(file, Run)


@pytest.mark.parametrize("table", ["schedule", "selection"])
def test_a_choice_without_use_is_refused(table: str) -> None:
    tables = copy.deepcopy(TABLES["emoji-b2-paper"])
    del tables[table]["use"]
    assert refusal(tables).startswith(f"{table}.use is missing; ")


def test_a_key_of_another_choice_is_refused() -> None:
    message = refusal(changed("emoji-ddpo", "schedule", "tau_first", 14))
    assert "tau_first is not a setting; " in message


@pytest.mark.parametrize("key", ["model", "reward", "prompts", "num_rounds", "reward_queries_per_round"])
def test_what_has_no_default_must_be_there(key: str) -> None:
    tables = copy.deepcopy(TABLES["emoji-b2-paper"])
    del tables[key]
    assert refusal(tables).startswith(f"{key} is missing; ")


def test_pairs_have_two_numbers() -> None:
    assert "optimization.betas" in refusal(changed("emoji-b2-paper", "optimization", "betas", [0.9]))
    assert "optimization.betas" in refusal(changed("emoji-b2-paper", "optimization", "betas", [0.9, 0.9, 0.9]))


def test_a_value_out_of_range_has_the_message_of_its_range() -> None:
    message = refusal(changed("emoji-b2-paper", "objective", "clip_range", 0.0))
    assert message == "objective.clip_range is 0.0; give a number above 0, such as 0.1."


def test_a_contradiction_has_the_message_of_the_run() -> None:
    message = refusal(changed("emoji-b2-paper", "rollout", "num_branches", 1))
    assert message.startswith("rollout.num_branches is 1 but selection best-worst needs at least 2; ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"num_rounds = ", "is not valid TOML: "),
        (b"model = 'a'\nmodel = 'b'\n", "is not valid TOML: "),
        (b"model = '\xff'", "is not valid TOML: "),
        (to_toml(RUNS["emoji-ddpo"]).encode() + b"typo = 1", "logging.typo is not a setting; "),
    ],
)
def test_a_bad_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_toml(file, Run)
    assert str(refused.value).startswith(str(file))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml cannot be read: No such file"):
        read_toml(tmp_path / "none.toml", Run)


def test_settings_are_frozen_and_keyword_only() -> None:
    run: Any = emoji_ddpo()
    with pytest.raises(AttributeError):
        run.seed = 3
    with pytest.raises(TypeError):
        TrustRegion(3.0)  # pyright: ignore[reportCallIssue]
