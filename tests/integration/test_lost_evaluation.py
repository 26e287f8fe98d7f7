"""A resumed run whose evaluation.json was lost evaluates the pretrained model again, to the bit."""

import json
from pathlib import Path

from b2diffurl.cli import main
from tools.torture.world import make_world


def test_the_first_evaluation_is_made_again(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", seed=0)
    run = tmp_path / "run"
    assert main(world.train(run)) == 0
    file = run / "evaluation.json"
    before = json.loads(file.read_bytes())
    assert before["before"] != before["after"]
    file.unlink()
    assert main(world.train(run, "--resume")) == 0
    assert json.loads(file.read_bytes()) == before
