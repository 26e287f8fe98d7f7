"""The tables of a study, from run folders; the runs themselves are trained by `b2diffurl study`."""

import json
from pathlib import Path

import pytest

from b2diffurl.analysis.study import curve, run_study


def finished_run(folder: Path, *, accuracy: float) -> None:
    """A run folder as training leaves it, as far as a study reads it."""
    (folder / "lora").mkdir(parents=True)
    names = ("clip_score", "scene_accuracy", "style_entropy", "inception_score")
    before, after = dict.fromkeys(names, 0.5), dict.fromkeys(names, accuracy)
    (folder / "evaluation.json").write_text(json.dumps({"before": before, "after": after}), encoding="utf-8")
    phases = {"reward/mean": 0.5, "time/rollout_s": 1.0, "time/reward_s": 0.5, "time/update_s": 2.0}
    lines = [
        {"reward_queries": 256, **phases},
        {"reward_queries": 512, **phases, **{f"evaluation/{name}": accuracy for name in names}},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_a_curve_counts_queries_and_the_seconds_of_training(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", accuracy=0.8)
    points = curve(tmp_path / "run")
    assert [(point.reward_queries, point.seconds) for point in points] == [(0, 0.0), (512, 7.0)]
    assert [point.numbers["scene_accuracy"] for point in points] == [0.5, 0.8]


def test_finished_runs_are_not_done_again_and_the_table_has_every_seed(tmp_path: Path) -> None:
    for seed, accuracy in ((0, 0.7), (1, 0.9)):
        finished_run(tmp_path / "emoji-quickstart" / f"seed{seed}", accuracy=accuracy)
    told: list[str] = []
    table = run_study("quickstart", output=tmp_path, seeds=(0, 1), num_jobs=1, tell=told.append)
    assert told == []
    assert "| emoji-quickstart | 512 | 7 | 0.800 ± 0.100 |" in table
    assert "| emoji-quickstart | 1 | 0.500 -> 0.900 |" in table
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table


@pytest.mark.slow
def test_a_study_trains_its_runs(tmp_path: Path) -> None:
    """One whole quickstart in a process of its own; minutes."""
    table = run_study("quickstart", output=tmp_path, seeds=(0,), num_jobs=1)
    assert "| emoji-quickstart | 0 | " in table
