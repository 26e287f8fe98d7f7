"""`b2diffurl rewards`: every reward has one line of at most 80 columns, and details."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from b2diffurl.cli import main
from b2diffurl.cli.rewards import all_facts, print_details, print_table
from b2diffurl.rewards.builtin import BUILTIN_MODULES, RewardSettings
from b2diffurl.rewards.facts import SERVERS
from b2diffurl.run.settings import Run

ROOT = Path(__file__).parents[2]


def test_every_reward_has_one_line_at_80_columns() -> None:
    console = Console(width=80, record=True)
    print_table(console)
    lines = console.export_text().splitlines()
    names = [line.split()[0] for line in lines[1 : [line.strip() for line in lines].index("")]]
    assert names == [*BUILTIN_MODULES, *SERVERS, "FILE.py:NAME"]
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in "".join(lines)
    table = {line.split()[0]: line.rstrip() for line in lines if line.strip()}
    assert re.search(r"3\.9 +3\.7 *$", table["clip"])
    assert re.search(r"unknown +3\.7 +a revision", table["hpsv2"])
    assert re.search(r"unknown +unknown +a package", table["ocr"])


@pytest.mark.parametrize("name", [*BUILTIN_MODULES, *SERVERS])
def test_the_details_have_every_fact(name: str) -> None:
    facts = all_facts()[name]
    console = Console(width=80, record=True)
    print_details(console, name)
    text = " ".join(console.export_text().split())
    for fact in (facts.summary, facts.source, facts.weights, facts.license or "license unknown", facts.note):
        assert " ".join(fact.split()) in text
    assert not facts.table or f"[{facts.table}]" in text
    assert len(facts.summary) <= 34
    assert len(facts.needs) <= 10


def test_every_settings_table_is_one_of_a_run() -> None:
    run = Run(model="emoji", reward="clip:emoji", prompts="a.txt", num_rounds=1, reward_queries_per_round=8)
    settings = RewardSettings.of(run)
    tables = {facts.table for facts in all_facts().values()} - {""}
    assert tables == set(RewardSettings.__slots__)
    assert all(getattr(settings, table) == getattr(run, table) for table in tables)


def test_every_server_is_shipped_and_every_reward_is_on_the_page() -> None:
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    for name in SERVERS:
        assert (ROOT / "examples" / "servers" / f"{name}.py").is_file()
    for name in (*BUILTIN_MODULES, *SERVERS):
        assert f"`{name}" in page, name


@pytest.mark.parametrize(
    ("words", "code"), [([], 0), (["--help"], 0), (["clip:emoji"], 0), (["bert:emoji"], 0), (["hpsv2@main"], 0)]
)
def test_the_command(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewards", *words]) == code
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["beauty"], "unknown reward 'beauty'; give one of: clip, "),
        (["aestetic"], "(did you mean 'aesthetic'?)"),
        (["clip", "bert"], "give one."),
    ],
)
def test_an_unknown_name_is_one_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewards", *words]) == 2
    assert message in capsys.readouterr().err
