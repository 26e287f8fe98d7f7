"""docs/reliability.md has every finding, and the tests that it names exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
IDS = [f"{kind}{number}" for kind, count in {"D": 5, "W": 13, "T": 8, "C": 8}.items() for number in range(1, count + 1)]


def test_every_finding_has_its_row() -> None:
    assert re.findall(r"^\| ([DWTC]\d+) \| `", PAGE, re.MULTILINE) == IDS


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:unit|integration)/\w+\.py)::(\w+)`", PAGE))
    assert len(named) > 50
    defined = {
        (file, node.name)
        for file in {file for file, _ in named}
        for node in ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert named - defined == set()
