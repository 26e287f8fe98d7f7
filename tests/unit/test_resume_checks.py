"""What a resumed run refuses, and that nothing is erased then."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from b2diffurl.algorithm.adaptive import Adaptive
from b2diffurl.algorithm.records import PastRound
from b2diffurl.algorithm.schedule import Backward, Full, Table
from b2diffurl.config import read_toml, to_toml
from b2diffurl.errors import UserError
from b2diffurl.evaluation.generate import GeneratedImages
from b2diffurl.reporting import write_report
from b2diffurl.run import checkpoint as checkpoints
from b2diffurl.run.checkpoint import Checkpoint
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.recipes import recipe
from b2diffurl.run.resume import check_directory
from b2diffurl.run.settings import Run

RUN = recipe("emoji-b2-paper")
FILES = ("adapter.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def started(path: Path) -> RunDirectory:
    """A run after two rounds."""
    directory = RunDirectory(path)
    directory.begin(RUN)
    metrics, scores = directory.open_metrics(first_round=1), directory.open_scores(first_round=1)
    for number in (1, 2):
        metrics.append([{"round": number}])
        scores.append([{"round": number}] * RUN.reward_queries_per_round)
        saved = Checkpoint(
            round_number=number,
            reward_queries=16 * number,
            adapter={"w": torch.full((64,), float(number))},
            optimizer={"w/step": torch.tensor(float(number))},
            state={},
            settings=to_toml(RUN),
            prompts_sha256="abc",
        )
        directory.save_checkpoint(saved, num_kept=2)
    return directory


def contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "half": content[: len(content) // 2], "flipped": flipped}[how])


@pytest.mark.parametrize("how", ["missing", "empty", "half", "flipped"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, name: str, how: str) -> None:
    directory, messages = started(tmp_path), list[str]()
    damage(directory.checkpoints / "round_00002" / name, how)
    loaded = directory.load_checkpoint(on_message=messages.append)
    assert loaded is not None
    assert (loaded.round_number, loaded.adapter["w"][0]) == (1, 1.0)
    assert len(messages) == 1
    assert "round_00002 is damaged" in messages[0]
    assert name in messages[0]


def test_without_a_whole_checkpoint_nothing_is_erased(tmp_path: Path) -> None:
    directory = started(tmp_path)
    for number in (1, 2):
        damage(directory.checkpoints / f"round_0000{number}" / FILES[number], "half")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="no checkpoint that is whole"):
        check_directory(directory, RUN, resume=True)
    assert contents(tmp_path) == before


def test_a_repaired_run_never_removes_its_new_checkpoint(tmp_path: Path) -> None:
    """The damaged checkpoints of later rounds do not count as the newest."""
    directory = started(tmp_path)
    saved = Checkpoint(round_number=1, reward_queries=0, adapter={}, optimizer={}, state={})
    directory.save_checkpoint(saved, num_kept=1)
    assert [path.name for path in directory.checkpoints.iterdir()] == ["round_00001"]


def test_what_a_killed_removal_left_is_removed(tmp_path: Path) -> None:
    directory = started(tmp_path)
    damage(directory.checkpoints / "round_00001" / FILES[0], "missing")
    (directory.checkpoints / "round_00003").mkdir()
    directory.remove_old_checkpoints(last_round=2, num_kept=1)
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["round_00002", "round_00003"]
    directory.remove_old_checkpoints(last_round=0, num_kept=1)
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["round_00002", "round_00003"]


@pytest.mark.parametrize("how", ["missing", "empty", "half", "zeroed", "one line less", "one line more"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "scores.jsonl"])
def test_lines_of_finished_rounds_that_are_missing_are_refused(tmp_path: Path, name: str, how: str) -> None:
    """The checkpoint continues after them, so that they would be missing for good."""
    directory = started(tmp_path)
    check_directory(directory, RUN, resume=True)
    file = tmp_path / name
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    if how == "missing":
        file.unlink()
    else:
        changed = {
            "empty": "", "half": "".join(lines)[: file.stat().st_size // 2], "zeroed": "\0" * file.stat().st_size,
            "one line less": "".join(lines[:-1]), "one line more": "".join([*lines, lines[0]]),
        }  # fmt: skip
        file.write_text(changed[how], encoding="utf-8")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"{name} has \d+ instead of \d+ lines of round [12], which"):
        check_directory(directory, RUN, resume=True)
    assert contents(tmp_path) == before


def test_lines_of_rounds_after_the_checkpoint_are_not_checked(tmp_path: Path) -> None:
    directory = started(tmp_path)
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write(json.dumps({"round": 3}) + "\n")
    check_directory(directory, RUN, resume=True)


@pytest.mark.parametrize("how", ["empty", "half", "zeroed"])
def test_a_damaged_sample_image_is_refused(tmp_path: Path, how: str) -> None:
    directory = started(tmp_path)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    directory.write_samples(GeneratedImages(images=images, prompts=("a cat",)), round_number=2)
    check_directory(directory, RUN, resume=True)
    file = tmp_path / "samples" / "round_00002" / "000.png"
    content = file.read_bytes()
    file.write_bytes({"empty": b"", "half": content[: len(content) // 2], "zeroed": bytes(len(content))}[how])
    with pytest.raises(UserError, match=r"000\.png cannot be read as an image; remove it"):
        check_directory(directory, RUN, resume=True)


@pytest.mark.parametrize("names", [(".lock",), ("checkpoints/",), (".lock", "checkpoints/", "run.toml.partial")])
def test_a_run_killed_before_its_settings_were_written_can_be_started(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    check_directory(RunDirectory(tmp_path), RUN, resume=False)
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / "mine.txt").touch()
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        check_directory(RunDirectory(tmp_path), RUN, resume=False)


def test_stray_files_are_ignored(tmp_path: Path) -> None:
    directory = started(tmp_path)
    (directory.checkpoints / "round_notes.txt").touch()
    (directory.checkpoints / "round_99999").touch()
    loaded = directory.load_checkpoint(on_message=pytest.fail)
    assert loaded is not None
    assert loaded.round_number == 2


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = started(tmp_path)
    monkeypatch.setattr(checkpoints, "FORMAT", 9)
    with pytest.raises(UserError, match="has format 2, and this version of b2diffurl reads format 9"):
        directory.load_checkpoint()


def test_a_missing_checkpoints_folder_is_refused(tmp_path: Path) -> None:
    directory = started(tmp_path)
    directory.checkpoints.rename(tmp_path.with_name("elsewhere"))
    with pytest.raises(UserError, match="metrics of 2 rounds and no checkpoints folder"):
        check_directory(directory, RUN, resume=True)


def test_edited_settings_and_other_prompts_are_refused(tmp_path: Path) -> None:
    directory = started(tmp_path)
    check_directory(directory, RUN, resume=True, prompts_sha256="abc")
    with pytest.raises(UserError, match="other prompts"):
        check_directory(directory, RUN, resume=True, prompts_sha256="other")
    edited = replace(RUN, optimization=replace(RUN.optimization, learning_rate=0.25))
    directory.run_file.write_text(to_toml(edited), encoding="utf-8")
    for run in (edited, RUN):
        with pytest.raises(UserError, match=r"other settings \(optimization\.learning_rate is"):
            check_directory(directory, run, resume=True)


def with_past(path: Path, run: Run, *lengths: int, name: str = "round_00002") -> RunDirectory:
    """A run after a round of each interval length."""
    directory = RunDirectory(path)
    directory.begin(run)
    saved = Checkpoint(
        round_number=len(lengths), reward_queries=0, adapter={}, optimizer={}, settings=to_toml(run),
        state={"past": [{"interval_length": length, "pair_fraction": 1.0} for length in lengths]},
        rewards_sha256={"my.py:f": "abc"},
    )  # fmt: skip
    metrics, scores = directory.open_metrics(first_round=1), directory.open_scores(first_round=1)
    for number in range(1, len(lengths) + 1):
        metrics.append([{"round": number}])
        scores.append([{"round": number, "prompt": "a cat", "reward": 0.5}] * run.reward_queries_per_round)
    directory.save_checkpoint(saved, num_kept=1)
    assert (directory.checkpoints / name).is_dir()
    return directory


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize(
    "schedule", [Full(), Table(rows=((1, 14), (2, 20))), Backward(tau_first=20), Backward(tau_first=14, tau_max=15)]
)
def test_the_number_of_rounds_may_change_where_no_interval_depends_on_it(
    tmp_path: Path, schedule: Full | Table | Backward, edited: bool
) -> None:
    run = replace(RUN, schedule=schedule, num_rounds=2)
    length = schedule.interval_length(2, num_rounds=2, num_inference_steps=20)
    directory = with_past(tmp_path, run, 14, length)
    longer = replace(run, num_rounds=9)
    if edited:
        directory.begin(longer)
    check_directory(directory, longer, resume=True)
    later = [
        schedule.interval_length(i, num_rounds=9, num_inference_steps=20, past=past_of(14, length)) for i in (3, 9)
    ]
    assert later == [length, length]
    with pytest.raises(
        UserError, match=r"num_rounds is 1 but output .* has a checkpoint of round 2; give 2 or more\.$"
    ):
        check_directory(directory, replace(run, num_rounds=1), resume=True)


def past_of(*lengths: int) -> list[PastRound]:
    return [PastRound(interval_length=length, pair_fraction=1.0) for length in lengths]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schedule": Backward(tau_first=14)}, "the intervals of schedule backward depend on it"),
        ({"schedule": Adaptive(tau_first=14)}, "the intervals of schedule adaptive depend on it"),
        (
            {"schedule": Full(), "optimization": replace(RUN.optimization, lr_schedule="cosine")},
            "the learning rates of its rounds depend on it",
        ),
    ],
)
def test_another_number_of_rounds_is_refused_where_rounds_would_have_been_others(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    run = replace(RUN, **changes)
    directory = with_past(tmp_path, run, 14, 14)
    with pytest.raises(UserError, match=rf"^num_rounds is 18 in output .* and 99 here, but {match}.*; give 18, .*\.$"):
        check_directory(directory, replace(run, num_rounds=99), resume=True)


def test_a_run_that_gets_more_rounds_keeps_the_new_number(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.begin(RUN)
    directory.begin(replace(RUN, num_rounds=99))
    assert read_toml(directory.run_file, Run).num_rounds == 99


def test_a_changed_reward_file_is_accepted_and_named(tmp_path: Path) -> None:
    directory = with_past(tmp_path, RUN, 14, 14)
    assert check_directory(directory, RUN, resume=True, rewards_sha256={"my.py:f": "abc"}) == ()
    notes = check_directory(directory, RUN, resume=True, rewards_sha256={"my.py:f": "other"})
    assert notes == (
        "the source file of reward my.py:f changed between rounds 2 and 3: their rewards may not be comparable.",
    )
    directory.add_notes(notes)
    directory.add_notes(["<b>"])
    assert directory.read().notes == (*notes, "<b>")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert notes[0] in html
    assert "&lt;b&gt;" in html


def test_a_resumed_run_keeps_its_run_file(tmp_path: Path) -> None:
    directory = started(tmp_path)
    before = directory.run_file.stat()
    directory.begin(RUN)
    after = directory.run_file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("line", [b"garbage", b"", b"null", b"{}", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "scores.jsonl"])
def test_a_garbage_line_is_refused_before_anything_is_erased(tmp_path: Path, name: str, line: bytes) -> None:
    directory = started(tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.write(line + b"\n")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=name):
        check_directory(directory, RUN, resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["evaluation.json", "stopped.json", "env.json"])
@pytest.mark.parametrize("content", [b"garbage", b"[]", b"\xff", json.dumps("x").encode()])
def test_a_garbage_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    directory = started(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        check_directory(directory, RUN, resume=True)
