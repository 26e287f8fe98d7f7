"""The numbers of a few reduced rounds are those that are stored; `make golden` records them anew."""

import pytest
import torch

from tests.marks import slow_except
from tools.golden import RECIPES, differences, read_stored, run_recipe

RTOL = 2e-3  # other CPUs round differently, and three rounds amplify it; the same machine gives 1e-6
FAST = ("emoji-quickstart",)  # each takes 15 s or more


@pytest.mark.parametrize("name", slow_except(FAST, RECIPES))
def test_golden_rounds(name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = run_recipe(name)
    finally:
        torch.set_num_threads(threads)
    lines = list(differences(read_stored()[name], found, rtol=RTOL))
    assert not lines, "\n".join(lines)
