"""Cheap imports and the import order."""

import subprocess
import sys
from pathlib import Path

import pytest

import b2diffurl

ROOT = Path(__file__).parents[2]


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sorted(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(process.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import b2diffurl", {"torch", "diffusers", "peft", "transformers", "matplotlib"}),
        ("import b2diffurl.run.recipes", {"diffusers", "peft", "transformers", "matplotlib"}),
        (
            "from b2diffurl.cli import main; main(['--help'])",
            {"torch", "diffusers", "peft", "transformers", "matplotlib"},
        ),
        ("import b2diffurl.training.trainer", {"tools.emoji_model.render", "tools.emoji_model"}),
    ],
)
def test_imports_stay_cheap(statement: str, absent: set[str]) -> None:
    assert not loaded_by(statement) & absent


def test_the_public_names_are_listed_and_each_is_there() -> None:
    names = {
        "train",
        "sample",
        "evaluate",
        "compare",
        "Run",
        "Result",
        "recipes",
        "Objective",
        "Reward",
        "UserError",
        "RunStopped",
    }
    assert {name for name in dir(b2diffurl) if name != "__version__"} == names == {*b2diffurl.__all__} - {"__version__"}
    assert all(getattr(b2diffurl, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        b2diffurl.nonsense  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_packages_import_only_lower_layers() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    process = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout
