"""Which cases of a parametrized test are slow tests."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_except(fast: Collection[str], cases: Iterable[Any]) -> list[Any]:
    """Return the cases as parameters; those whose name, alone or first in a tuple, is not among the fast are slow."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*one, marks=() if one[0] in fast else pytest.mark.slow) for one in values]
