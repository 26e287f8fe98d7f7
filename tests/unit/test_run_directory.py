"""The run directory: what is written can be read, and no run overwrites another."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from b2diffurl.config import to_toml
from b2diffurl.errors import RunStopped, UserError
from b2diffurl.evaluation.generate import GeneratedImages
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.recipes import recipe
from b2diffurl.run.records import Evaluation, Stop
from b2diffurl.run.resume import check_directory

RUN = recipe("emoji-b2-paper")


def test_a_new_directory_has_empty_records(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    check_directory(directory, RUN, resume=False)
    assert not directory.path.exists()
    assert directory.read_metrics() == ()
    assert directory.read_evaluation() is directory.read_stop() is directory.load_checkpoint() is None
    assert not directory.is_started()
    assert not directory.is_ended()


def test_everything_written_is_in_the_record(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.begin(RUN)
    directory.write_environment(torch.device("cpu"), num_processes=2)
    directory.open_metrics(first_round=1).append([{"round": 1, "reward/mean": 0.5, "objective/loss": None}])
    images = GeneratedImages(images=torch.rand(2, 3, 4, 4), prompts=("a cat", "a dog"))
    directory.write_samples(images, round_number=0)
    directory.write_evaluation("before", {"clip_score": 0.25}, num_images=8, prompts="mine")
    directory.write_evaluation("after", {"clip_score": 0.5}, num_images=8, prompts="mine")
    directory.mark_stopped(RunStopped(round_number=2, cause="the reward failed"))

    record = directory.read()
    assert (record.name, record.settings_text) == ("run", to_toml(RUN))
    assert (record.num_rounds(), record.num_inference_steps()) == (RUN.num_rounds, RUN.sampler.num_inference_steps)
    assert {"torch", "python", "device", "threads"} < set(record.environment)
    assert record.environment["processes"] == "2"
    assert (record.series("reward/mean"), record.round_numbers()) == ([0.5], [1])
    assert record.evaluation == Evaluation(
        before={"clip_score": 0.25}, after={"clip_score": 0.5}, num_images=8, prompts="mine"
    )
    assert record.prompts == ("a cat", "a dog")
    assert {number: sorted(files) for number, files in record.images.items()} == {0: [0, 1]}
    assert record.stop == Stop(round=2, cause="the reward failed")
    assert directory.is_ended()

    directory.mark_stopped(None)
    assert directory.read_stop() is None
    assert not directory.is_ended()


def test_only_the_same_run_can_be_resumed(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    with pytest.raises(UserError, match="holds no run to resume"):
        check_directory(directory, RUN, resume=True)
    directory.begin(RUN)
    check_directory(directory, RUN, resume=True)
    other = replace(RUN, seed=RUN.seed + 1, num_rounds=RUN.num_rounds + 1)  # the number of rounds alone may change
    with pytest.raises(UserError, match=rf"other settings \(seed is {RUN.seed} there and {RUN.seed + 1} here\)"):
        check_directory(directory, other, resume=True)
    with pytest.raises(UserError, match="already holds a run"):
        check_directory(directory, RUN, resume=False)


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="not an empty folder"):
        check_directory(RunDirectory(tmp_path), RUN, resume=False)
