"""What the documentation says is so: doctests, recipes, the README's commands."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import b2diffurl
from b2diffurl.cli import main
from b2diffurl.recipes import RECIPES, recipe
from b2diffurl.run import check_run
from b2diffurl.studies import STUDIES

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(b2diffurl.__path__, "b2diffurl.")
    if ".training" not in module.name and not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_doctests_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_valid_run(name: str) -> None:
    check_run(recipe(name))
    assert recipe(name).recipe == name


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_valid_arms(name: str) -> None:
    for run in STUDIES[name]().values():
        check_run(run)


def commands_of_the_readme() -> list[str]:
    return [line.split("#")[0].strip() for line in README.splitlines() if re.match(r" {4}b2diffurl \w", line)]


def test_the_readme_names_every_command() -> None:
    named = {shlex.split(line)[1] for line in commands_of_the_readme()}
    assert named == {"train", "sample", "evaluate", "study", "show"}


@pytest.mark.parametrize("line", [line for line in commands_of_the_readme() if " train emoji" in line])
def test_train_commands_of_the_readme_are_accepted(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(line)[1:], "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []
