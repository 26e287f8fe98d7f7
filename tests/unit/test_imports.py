"""Cheap imports and the import order."""

import subprocess
import sys
from pathlib import Path

import pytest

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
        ("from b2diffurl.cli import main; main(['--help'])", {"diffusers", "peft", "transformers", "matplotlib"}),
        ("import b2diffurl.training.trainer", {"tools.emoji_model.render", "tools.emoji_model"}),
    ],
)
def test_imports_stay_cheap(statement: str, absent: set[str]) -> None:
    assert not loaded_by(statement) & absent


def test_packages_import_only_lower_layers() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    process = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout
