"""JSON lines files across crashes and resumed runs, and trackers."""

import json
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from b2diffurl.config import flat_settings
from b2diffurl.errors import UserError
from b2diffurl.evaluation.generate import GeneratedImages
from b2diffurl.run.recipes import recipe
from b2diffurl.run.round_lines import RoundLines
from b2diffurl.training.callbacks import Observer, ProgressReporter, SampleObserver
from b2diffurl.training.trackers import TrackerName, Trackers, check_trackers, tracker_options


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


# Trackers

PROMPTS = ("a cat, washing", "a dog")


def tensorboard(folder: Path) -> Trackers:
    return Trackers(["tensorboard"], run=recipe("emoji-b2-paper"), directory=folder)


def samples(value: float) -> GeneratedImages:
    return GeneratedImages(images=torch.full((2, 3, 8, 8), value), prompts=PROMPTS)


def events_in(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return events


def test_tensorboard_has_scalars_and_images_over_reward_queries_and_the_settings(tmp_path: Path) -> None:
    board = tensorboard(tmp_path / "first")
    assert isinstance(board, Observer)
    assert isinstance(board, SampleObserver)
    assert not (tmp_path / "first").exists()  # a run folder must be empty when the run begins
    board.on_samples(samples(0.0), reward_queries=0)
    board.on_round({"round": 1, "reward_queries": 256, "reward/mean": 0.5, "objective/loss": None})
    board.on_round({"round": 2, "reward_queries": 512, "reward/mean": 0.75, "objective/loss": -1.0})
    board.on_samples(samples(1.0), reward_queries=512)
    board.close()
    folder = tmp_path / "first" / "tensorboard" / "first"
    events = events_in(folder)
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(256, 0.5), (512, 0.75)]
    assert [(event.step, event.value) for event in events.Scalars("objective/loss")] == [(512, -1.0)]
    assert set(events.Tags()["images"]) == {"samples/000 a cat_ washing", "samples/001 a dog"}
    images = events.Images("samples/001 a dog")
    assert [(image.step, image.width, image.height) for image in images] == [(0, 8, 8), (512, 8, 8)]
    assert images[0].encoded_image_string != images[1].encoded_image_string
    (settings,) = [path.parent for path in folder.glob("*/events.*")]
    started = events_in(settings).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for name, value in flat_settings(recipe("emoji-b2-paper")).items():
        assert name.encode() in started, name
        assert not isinstance(value, str) or value.encode() in started, name


def test_a_resumed_run_repeats_no_point(tmp_path: Path) -> None:
    for rounds in (((1, 10.0), (2, 20.0), (3, 30.0)), ((2, 21.0), (3, 31.0))):
        board = tensorboard(tmp_path)
        for number, mean in rounds:
            board.on_round({"round": number, "reward_queries": 8 * number, "reward/mean": mean})
        board.close()
    events = events_in(tmp_path / "tensorboard" / tmp_path.name)
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(8, 10.0), (16, 21.0), (24, 31.0)]


@pytest.mark.parametrize("name", get_args(TrackerName))
def test_accelerate_accepts_the_arguments_of_every_tracker(name: TrackerName, tmp_path: Path) -> None:
    assert LOGGER_TYPE_TO_CLASS[name](**tracker_options(name, "mine", tmp_path, 0)).name == name


def test_trackers_that_are_not_installed_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"^track holds wandb, which is not installed; run pip install wandb\.$"):
        check_trackers(["tensorboard", "wandb"])
    (tmp_path / "mlflow").mkdir()  # the folder of another run is no package
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(UserError, match="track holds mlflow"):
        check_trackers(["mlflow"])


def test_an_observer_without_on_samples_gets_none() -> None:
    class Rounds:
        def on_phase(self, name: str, *, total: int) -> None: ...
        def on_progress(self, num: int) -> None: ...
        def on_round(self, metrics: object) -> None: ...

    ProgressReporter(observers=(Rounds(),)).samples(samples(0.5), reward_queries=0)
