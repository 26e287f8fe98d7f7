"""The lock of a run folder: one process at a time, and a killed process does not block the next one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from b2diffurl.errors import UserError
from b2diffurl.run.lock import LOCK_NAME, locked

HOLD = """
import sys, time
from pathlib import Path
from b2diffurl.run.lock import locked
with locked(Path(sys.argv[1]), on_message=print):
    print("locked", flush=True)
    time.sleep(60)
"""


def start_holder(folder: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_process_is_refused_and_a_killed_one_does_not_block(tmp_path: Path) -> None:
    folder, messages = tmp_path / "run", list[str]()
    holder = start_holder(folder)
    try:
        with (
            pytest.raises(UserError, match=f"in use by process {holder.pid} on {socket.gethostname()};"),
            locked(folder, on_message=messages.append),
        ):
            pass
        assert json.loads((folder / LOCK_NAME).read_bytes())["pid"] == holder.pid
        assert messages == []
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with locked(folder, on_message=messages.append):
        assert json.loads((folder / LOCK_NAME).read_bytes())["pid"] == os.getpid()
    assert len(messages) == 1
    assert f"process {holder.pid} on" in messages[0]
    assert "taken over" in messages[0]


def test_one_process_cannot_lock_twice(tmp_path: Path) -> None:
    messages: list[str] = []
    with locked(tmp_path, on_message=messages.append):
        with pytest.raises(UserError, match="in use"), locked(tmp_path, on_message=messages.append):
            pass
        assert (tmp_path / LOCK_NAME).is_file()
    with locked(tmp_path, on_message=messages.append):
        pass
    assert not (tmp_path / LOCK_NAME).exists()
    assert messages == []


def test_a_failed_start_leaves_no_folder_and_a_started_run_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    with pytest.raises(KeyError), locked(folder, on_message=print):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with locked(folder, on_message=print):
        (folder / "run.toml").touch()
    assert [path.name for path in folder.iterdir()] == ["run.toml"]


def test_a_folder_that_cannot_be_created_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lock = locked(tmp_path / "file" / "x", on_message=print)
    with pytest.raises(UserError, match="cannot be written: Not a directory;"), lock:
        pass


def test_a_folder_that_was_removed_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lock = locked(folder, on_message=print)
    lock.__enter__()
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="was removed while it was in use"):
        lock.__exit__(None, None, None)
