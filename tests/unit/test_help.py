"""What the command line says about itself: help, explained settings, completion, and hints to misspelled names."""

import re
import subprocess
import sys
import tomllib

import pytest

from b2diffurl.cli import _COMMANDS, main
from b2diffurl.cli.common import expand_components
from b2diffurl.cli.documentation import descriptions, flags_of
from b2diffurl.cli.plan import PlanCommand
from b2diffurl.cli.show import commented
from b2diffurl.cli.train import TrainCommand
from b2diffurl.config import from_tables
from b2diffurl.run.recipes import RECIPES, recipe
from b2diffurl.run.settings import Run

QUICK = "emoji-b2-paper"


def output_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must end with 0, as itself or by SystemExit, and return what it prints."""
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    assert code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_ends_with_0(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without the extra "serve"."""
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "b2diffurl.rewards.remote.server", raising=False)
    assert "usage: b2diffurl" in output_of(capsys, command, "--help")
    if command in ("train", "plan", "probe", "show"):
        assert "usage: b2diffurl" in output_of(capsys, command, QUICK, "--help")


@pytest.mark.parametrize(("command", "cls"), [("train", TrainCommand), ("plan", PlanCommand)])
def test_the_short_help_fits_80_columns(command: str, cls: type, capsys: pytest.CaptureFixture[str]) -> None:
    short = output_of(capsys, command, "sd15", "--help")
    assert max(map(len, short.split("\n"))) <= 80
    shown = set(re.findall(r"^  (--\S+)", short, re.MULTILINE))
    assert 25 <= len(shown) <= 36
    assert shown < {flag.name for flag in flags_of(cls)}
    assert len(re.findall(rf"^  b2diffurl {command}", short, re.MULTILINE)) == 3
    assert "[0.2]" in short  # the recipe's value of held_out_fraction
    assert "recipes: emoji-quickstart" in output_of(capsys, command, "--help")


def test_help_all_has_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the components that the recipe does not name are in their own help."""
    whole = output_of(capsys, "train", QUICK, "--help-all")
    of_others = re.compile(r"--(objective|schedule|selection|advantage)\b|--memory.gradient")
    missing = [
        flag.name for flag in flags_of(TrainCommand) if flag.name not in whole and not of_others.match(flag.name)
    ]
    assert missing == []
    assert "--no-resume" not in whole
    assert "--no-dry-run" not in whole


@pytest.mark.parametrize(
    "word", [["--objective", "dpo"], ["--objective=dpo"], ["--objective.use", "dpo"], ["objective:dpo"]]
)
def test_a_component_has_many_spellings(word: list[str]) -> None:
    assert expand_components([*word, "--seed", "1"]) == ["objective:dpo", "--seed", "1"]


def test_the_value_of_another_flag_is_no_component() -> None:
    assert expand_components(["--reward", "selection:mine"]) == ["--reward", "selection:mine"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trian"], "'train'"),
        (["train", "emoji-quikstart"], "'emoji-quickstart'"),
        (["train", QUICK, "--reward", "pickscor"], "'pickscore'"),
        (["train", QUICK, "--objective", "dop"], "'dpo'"),
        (["train", QUICK, "schedule:backwards"], "'backward'"),
        (["study", "alignmnt"], "'alignment'"),
        (["completion", "zhs"], "'zsh'"),
    ],
)
def test_a_misspelled_name_gets_a_hint(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err.strip()
    assert f"(did you mean {hint}?); give " in err
    assert err.endswith(".")


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["sd15", "--reward", "clip"], "prompts is missing, which recipe sd15 leaves to you; give --prompts FILE"),
        (["sd15", "--prompts", "template1-train"], "reward is missing, which recipe sd15 leaves to you; give --reward"),
        (["sdxl", "--prompts", "template1-train", "--reward", "clip - 0.5*clip:emoji"], "reward has clip:emoji, which"),
        (["sdxl", "--prompts", "template1-train", "--reward", "clip", "--judge", "clip:emoji"], "judge has clip:emoji"),
        ([QUICK, "--recipe", "mine"], "recipe is not a flag; give its name as the first word"),
    ],
)
def test_what_a_recipe_needs_is_said(words: list[str], fragment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words, "--dry-run"]) == 2
    assert fragment in capsys.readouterr().err


@pytest.mark.parametrize("name", RECIPES)
def test_a_commented_run_is_the_same_run(name: str) -> None:
    run = recipe(name)
    text = commented(run)
    assert from_tables(tomllib.loads(text), Run) == run
    assert max(map(len, text.split("\n"))) <= 80
    lines = text.split("\n")
    keys = [i for i, line in enumerate(lines) if re.match(r"\w+ = |\[", line)]
    assert [lines[i] for i in keys if not lines[i - 1].startswith("# ")] == []


def test_comments_are_those_of_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    text = output_of(capsys, "show", "--comments", QUICK)
    assert f"# {descriptions(Run)['seed']}\nseed = 0" in text
    assert "# Low-rank adapter on the UNet's attention." in text
    assert output_of(capsys, "show", QUICK) != text


def completed(script: str, *words: str) -> list[str]:
    """Complete the last of some words with the bash script."""
    line = (
        f'{script}\nCOMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _b2diffurl; echo "${{COMPREPLY[@]}}"'
    )
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands_recipes_flags_and_components(capsys: pytest.CaptureFixture[str]) -> None:
    script = output_of(capsys, "completion", "bash")
    assert completed(script, "b2diffurl", "tr") == ["train"]
    assert completed(script, "b2diffurl", "train", "sd15") == ["sd15", "sd15-ddpo"]
    assert completed(script, "b2diffurl", "train", "sd15", "--lora.r") == ["--lora.rank"]
    assert completed(script, "b2diffurl", "train", "sd15", "--objective", "dp") == ["dpok", "dpo"]
    assert completed(script, "b2diffurl", "study", "align") == ["alignment"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_the_same_words(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = output_of(capsys, "completion", shell)
    for word in ("train", "sd15-ddpo", "lora.rank", "policy-gradient", "alignment"):
        assert word in script
