"""The parts of `make torture`: counted operations and faults, comparisons, the list of finished cases, the table."""

import builtins
import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import strategies as st
from safetensors import SafetensorError

from b2diffurl.run import files
from tools.torture import faults, power_cut
from tools.torture.cases import Case, Journal, Result, failed, passed, run_cases, summarize, to_markdown
from tools.torture.compare import contents, differences, numbers
from tools.torture.faults import Fault, Operation, Operations, no_space_from, read_log, remove_at
from tools.torture.fuzz import explore
from tools.torture.processes import Outcome, is_sentence, is_usage_message

CHANGED = ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "fsync", "ftruncate", "write", "pwrite", "open")


class KilledError(BaseException):
    """Stands for SIGKILL in this process."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Operations]:
    """Install counted operations for one test: what they replace is restored after it."""
    for name in CHANGED:
        monkeypatch.setattr(os, name, getattr(os, name))
    for module in (io, builtins):
        monkeypatch.setattr(module, "open", io.open)
    monkeypatch.setattr(safetensors.torch, "serialize_file", safetensors.torch.serialize_file)

    def make(fault: Fault | None = None) -> Operations:
        operations = Operations(tmp_path / "run", fault=fault, log=tmp_path / "log.txt")
        operations.install()
        return operations

    return make


def killed_at(number: int, *, in_the_middle: bool = False) -> Fault:
    def act(operation: Operation, write_part: Callable[[], object]) -> None:
        if operation.number == number and in_the_middle:
            write_part()
        if operation.number >= number:  # an exception lets the code clean up, a kill does not
            raise KilledError

    return act


def work(folder: Path) -> None:
    """One of each kind of operation."""
    files.make_directory(folder)
    files.write_text(folder / "a", "0123456789")
    files.append_text(folder / "a", "more")
    safetensors.torch.save_file({"x": torch.zeros(2)}, folder / "b")
    with files.replaced_directory(folder / "c") as partial:
        (partial / "d").write_bytes(b"d")
    (folder / "b").unlink()


def test_every_operation_is_counted_in_order(tmp_path: Path, install: Callable[..., Operations]) -> None:
    install()
    work(tmp_path / "run")
    (tmp_path / "elsewhere").write_bytes(b"not counted")
    operations = read_log(tmp_path / "log.txt")
    assert [operation.number for operation in operations] == list(range(1, len(operations) + 1))
    assert [(operation.kind, Path(operation.path).name) for operation in operations] == [
        ("mkdir", "run"),
        ("open", "a.partial"), ("write", "a.partial"), ("fsync", "a.partial"), ("rename", "a.partial"),
        ("fsync", "run"),
        ("open", "a"), ("write", "a"), ("fsync", "a"),
        ("open", "b"), ("write", "b"),
        ("mkdir", "c.partial"), ("open", "d"), ("write", "d"), ("fsync", "d"), ("fsync", "c.partial"),
        ("rename", "c.partial"), ("fsync", "run"),
        ("unlink", "b"),
    ]  # fmt: skip
    assert (tmp_path / "run" / "a").read_text(encoding="utf-8") == "0123456789more"


@pytest.mark.parametrize(("in_the_middle", "left"), [(False, b""), (True, b"01234")])
def test_a_kill_leaves_what_was_written_before(
    tmp_path: Path, install: Callable[..., Operations], in_the_middle: bool, left: bytes
) -> None:
    install(killed_at(3, in_the_middle=in_the_middle))
    with pytest.raises(KilledError):
        work(tmp_path / "run")
    assert (tmp_path / "run" / "a.partial").read_bytes() == left
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_a_full_disk_stays_full(tmp_path: Path, install: Callable[..., Operations]) -> None:
    install(no_space_from(8))
    for _ in range(2):
        with pytest.raises(Exception, match="No space left on device"):
            work(tmp_path / "run")
    assert (tmp_path / "run" / "a").read_bytes() == b"0123456789mo"
    with pytest.raises(SafetensorError, match="No space left on device"):
        safetensors.torch.save_file({"x": torch.zeros(2)}, tmp_path / "run" / "b")
    (tmp_path / "run" / "a").unlink()  # removing is possible


def test_a_folder_can_be_removed(tmp_path: Path, install: Callable[..., Operations]) -> None:
    install(remove_at(7, tmp_path / "run"))
    with pytest.raises(Exception, match="No such file or directory"):
        work(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_faults_name_what_a_full_disk_refuses() -> None:
    for kind in ("open", "write", "fsync", "rename", "mkdir", "unlink", "rmdir", "truncate"):
        operation, fault = Operation(5, kind, "x"), no_space_from(4)
        if kind in faults.ALLOCATING:
            with pytest.raises(OSError, match="No space") as raised:
                fault(operation, lambda: None)
            assert raised.value.errno == errno.ENOSPC
        else:
            fault(operation, lambda: None)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "finished"
    (folder / "lora").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"round": 1, "reward/mean": 0.5, "time/update_s": 1.0}\n', encoding="utf-8")
    (folder / "report.html").write_text("a", encoding="utf-8")
    (folder / "samples.png").write_bytes(b"png")
    safetensors.torch.save_file({"x": torch.zeros(2)}, folder / "lora" / "w.safetensors", {"order": "1"})
    return folder


def test_times_and_metadata_are_not_compared(run_folder: Path) -> None:
    expected = numbers(run_folder)
    assert differences(run_folder, expected) == ""
    (run_folder / "metrics.jsonl").write_text('{"round": 1, "reward/mean": 0.5, "time/update_s": 2.0}\n', "utf-8")
    (run_folder / "report.html").write_text("b", encoding="utf-8")
    safetensors.torch.save_file({"x": torch.zeros(2)}, run_folder / "lora" / "w.safetensors", {"order": "2"})
    assert differences(run_folder, expected) == ""


def test_every_other_difference_is_reported(run_folder: Path) -> None:
    expected = numbers(run_folder)
    (run_folder / "metrics.jsonl").write_text('{"round": 1, "reward/mean": 0.25}\n', encoding="utf-8")
    (run_folder / "a.partial").touch()
    (run_folder / "samples.png").unlink()
    safetensors.torch.save_file({"x": torch.ones(2)}, run_folder / "lora" / "w.safetensors")
    assert differences(run_folder, expected, may_differ=("samples.png",)).split(", ") == [
        "a.partial is left over", "lora/w.safetensors differs", "metrics.jsonl differs",
    ]  # fmt: skip
    assert "samples.png is missing" in differences(run_folder, expected)
    (run_folder / "report.html").unlink()
    assert "report.html" in differences(run_folder, expected)


@pytest.mark.parametrize("how", power_cut.DAMAGES)
def test_every_damage_changes_a_file(tmp_path: Path, how: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    before = contents(tmp_path)
    power_cut.DAMAGES[how](file)
    assert contents(tmp_path) != before


@pytest.mark.parametrize(
    ("code", "stderr", "is_refusal", "is_stop"),
    [
        (2, "b2diffurl: seed is -1; give 0 or more.\n", True, False),
        (2, "b2diffurl: seed is -1; give 0 or more.\nand more.\n", False, False),
        (2, "Parsing error\nFor full helptext, run b2diffurl train emoji-b2-paper --help\n", True, False),
        (2, "Traceback (most recent call last):\nKeyError: 1\n", False, False),
        (1, "Traceback (most recent call last):\nKeyError: 1\n", False, False),
        (1, "b2diffurl: Stopped in round 1: the mean reward fell; lower the rate.\n", False, True),
        (0, "", False, False),
    ],
)
def test_outcomes(code: int, stderr: str, is_refusal: bool, is_stop: bool) -> None:
    outcome = Outcome(code=code, stdout="", stderr=stderr, cpu_seconds=0.0)
    assert (outcome.is_refusal, outcome.is_stop) == (is_refusal, is_stop)
    assert is_sentence(f"\x1b[?25h{stderr}") or is_usage_message(stderr) or not is_refusal


def test_finished_cases_are_not_repeated_and_faults_are(tmp_path: Path) -> None:
    calls: list[str] = []

    def case(name: str, result: Result) -> Case:
        def run() -> Result:
            calls.append(name)
            return result

        return Case(campaign="kills", name=name, run=run)

    def broken() -> Result:
        raise KeyError("x")

    cases = [case("good", passed("equal")), case("bad", failed("lost")), Case(campaign="kills", name="c", run=broken)]
    lines: list[str] = []
    run_cases(cases, Journal(tmp_path / "cases.jsonl"), on_progress=lines.append)
    assert calls == ["good", "bad"]
    assert lines[0] == "FAULT kills, bad: lost"
    journal = Journal(tmp_path / "cases.jsonl")
    run_cases(cases, journal, on_progress=lines.append)
    assert calls == ["good", "bad", "bad"]
    row = summarize(journal.records.values())[0]
    assert row["faults"] == ["bad: lost", "c: KeyError: 'x'"]
    assert (row["cases"], dict(row["outcomes"])) == (3, {"equal": 1, "fault": 2})
    assert json.dumps(row)


def test_the_table_has_one_row_per_campaign() -> None:
    records = [
        {"campaign": "kills", "case": "1", "outcomes": {"equal": 1, "+kills": 4}, "faults": [], "cpu_seconds": 1.5},
        {"campaign": "kills", "case": "2", "outcomes": {"equal": 1, "+kills": 3}, "faults": [], "cpu_seconds": 1.6},
        {"campaign": "fuzz", "case": "1", "outcomes": {"refused": 90, "accepted": 10}, "faults": [], "cpu_seconds": 2},
    ]
    assert to_markdown(summarize(records)).splitlines()[2:] == [
        "| kills | 2 | equal 2, kills 7 | 0 | 3 |",
        "| fuzz | 100 | refused 90, accepted 10 | 0 | 2 |",
    ]


def test_examples_depend_on_the_seed_alone_and_faults_are_kept() -> None:
    def values(seed: int) -> list[int]:
        examples: list[int] = []
        explore(st.integers(0, 10**6), lambda value: examples.append(value) or "accepted", num=20, seed=seed)
        return examples

    assert values(1) == values(1) != values(2)
    outcomes, wrong = explore(
        st.integers(0, 1000), lambda value: "fault: odd" if value % 2 else "accepted", num=50, seed=0
    )
    assert sum(outcomes.values()) == 50
    assert len(wrong) == outcomes["fault"] > 5
    assert wrong[0].startswith("fault: odd at '")
