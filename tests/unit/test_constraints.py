"""The pinned packages, on every Python that the project supports."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
PINNED = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_pinned_package_installs_on_the_oldest_python() -> None:
    """CI has a newer patch release than Debian's 3.11.2, on which pip refuses a pin that requires 3.11.5."""
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    oldest = requires.removeprefix(">=") + ".0"
    checked = 0
    for name in PINNED:
        try:
            needs = distribution(name).metadata["Requires-Python"]
        except ModuleNotFoundError:  # of another platform
            continue
        assert SpecifierSet(needs or "").contains(oldest), f"{name} requires Python {needs}"
        checked += 1
    assert checked > len(PINNED) / 2
