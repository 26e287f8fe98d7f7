"""JSON lines files across crashes and resumed runs, and TensorBoard events."""

import json
from pathlib import Path

import pytest

from b2diffurl.run.round_lines import RoundLines
from b2diffurl.training.callbacks import TensorBoard


def rounds_in(path: Path) -> list[int]:
    return [json.loads(line)["round"] for line in path.read_text(encoding="utf-8").splitlines()]


def write_rounds(path: Path, *rounds: int) -> None:
    lines = RoundLines(path, first_round=1)
    for number in rounds:
        lines.append([{"round": number, "reward/mean": number / 3, "objective/loss": None}])


def test_a_round_is_one_line_with_every_metric(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rounds(path, 1, 2)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"round": 1, "reward/mean": 1 / 3, "objective/loss": None},
        {"round": 2, "reward/mean": 2 / 3, "objective/loss": None},
    ]


def test_a_new_run_starts_with_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    RoundLines(path, first_round=1)
    assert path.read_text(encoding="utf-8") == ""


def test_a_resumed_run_drops_the_rounds_it_repeats(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rounds(path, 1, 2, 3, 4)
    kept = path.read_text(encoding="utf-8").splitlines()[:2]
    resumed = RoundLines(path, first_round=3)
    assert path.read_text(encoding="utf-8").splitlines() == kept
    resumed.append([{"round": 3}, {"round": 3}])
    assert rounds_in(path) == [1, 2, 3, 3]


def test_a_run_resumed_from_its_last_round_drops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rounds(path, 1, 2)
    before = path.read_bytes()
    RoundLines(path, first_round=3)
    assert path.read_bytes() == before


@pytest.mark.parametrize("rest", ['{"round": 3, "rew', '{"round": 3}', '{"round": 2'])
def test_an_incomplete_last_line_is_dropped(rest: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rounds(path, 1, 2)
    with path.open("a", encoding="utf-8") as file:
        file.write(rest)
    RoundLines(path, first_round=9)
    assert rounds_in(path) == [1, 2]
    assert path.read_text(encoding="utf-8").endswith("\n")


def test_tensorboard_steps_are_reward_queries(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path)
    board.on_round({"round": 1, "reward_queries": 256, "reward/mean": 0.5, "objective/loss": None})
    board.on_round({"round": 2, "reward_queries": 512, "reward/mean": 0.75, "objective/loss": -1.0})
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(256, 0.5), (512, 0.75)]
    assert [(event.step, event.value) for event in events.Scalars("objective/loss")] == [(512, -1.0)]
