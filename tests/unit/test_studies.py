"""Tables of a study from run directories; the runs themselves are trained by `b2diffurl study`."""

import json
from pathlib import Path

import pytest

from b2diffurl.analysis.study import evaluation_points, run_study
from b2diffurl.run.directory import RunDirectory


def finished_run(folder: Path, *, accuracy: float) -> None:
    """Write the files of a finished run that a study reads."""
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


def test_points_have_reward_queries_and_seconds_of_training(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", accuracy=0.8)
    points = evaluation_points(RunDirectory(tmp_path / "run"))
    assert [(point.reward_queries, point.seconds) for point in points] == [(0, 0.0), (512, 7.0)]
    assert [point.scores["scene_accuracy"] for point in points] == [0.5, 0.8]


def test_finished_runs_are_skipped_and_the_table_has_every_seed(tmp_path: Path) -> None:
    for seed, accuracy in ((0, 0.7), (1, 0.9)):
        finished_run(tmp_path / "emoji-quickstart" / f"seed{seed}", accuracy=accuracy)
    messages: list[str] = []
    table = run_study("quickstart", output=tmp_path, seeds=(0, 1), num_jobs=1, on_message=messages.append)
    assert messages == []
    assert "| emoji-quickstart | 512 | 7 | 0.800 ± 0.100 |" in table
    assert "| emoji-quickstart | 1 | 0.500 -> 0.900 |" in table
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table


def test_a_stopped_run_is_skipped_and_the_table_has_its_cause(tmp_path: Path) -> None:
    folder = tmp_path / "emoji-quickstart" / "seed0"
    folder.mkdir(parents=True)
    (folder / "stopped.json").write_text('{"round": 2, "cause": "the reward failed"}', encoding="utf-8")
    table = run_study("quickstart", output=tmp_path, seeds=(0,), num_jobs=1)
    assert "| emoji-quickstart | stopped |  | the reward failed |" in table


@pytest.mark.slow
def test_a_study_trains_its_runs(tmp_path: Path) -> None:
    """Train a whole quickstart in its own process, which takes minutes."""
    table = run_study("quickstart", output=tmp_path, seeds=(0,), num_jobs=1)
    assert "| emoji-quickstart | 0 | " in table
