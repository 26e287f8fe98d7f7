"""Files of a run folder: a kill or a full disk at any moment leaves the old content or the new one."""

import errno
import os
from pathlib import Path

import pytest

from b2diffurl.errors import UserError
from b2diffurl.run import files

CALLS = ("fsync", "replace", "rename")


class KilledError(BaseException):
    """Nothing that the code handles."""


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Raise at the call of this number to fsync, replace or rename."""
    calls = 0
    for name in CALLS:
        original = getattr(os, name)

        def wrapped(*arguments: object, original: object = original, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number:
                raise error
            assert callable(original)
            return original(*arguments, **options)

        monkeypatch.setattr(os, name, wrapped)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_killed_write_leaves_the_old_or_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "run.toml"
    files.write_text(path, "old")
    with monkeypatch.context() as patch:
        fail_at(patch, number, KilledError())
        with pytest.raises(KilledError):
            files.write_text(path, "newer")
    assert path.read_text(encoding="utf-8") == ("newer" if number == 3 else "old")
    files.write_text(path, "newest")
    assert [file.name for file in tmp_path.iterdir()] == ["run.toml"]
    assert path.read_text(encoding="utf-8") == "newest"


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.toml"
    files.write_text(path, "old")
    fail_at(monkeypatch, 1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(UserError, match=r"run\.toml cannot be written: No space left on device; .*\.$"):
        files.write_text(path, "newer")
    assert [file.name for file in tmp_path.iterdir()] == ["run.toml"]
    assert path.read_text(encoding="utf-8") == "old"


def test_everything_is_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    for name in CALLS:
        original = getattr(os, name)

        def wrapped(*arguments: object, name: str = name, original: object = original) -> object:
            names.append(name)
            assert callable(original)
            return original(*arguments)

        monkeypatch.setattr(os, name, wrapped)
    files.write_text(tmp_path / "a", "text")
    assert names == ["fsync", "replace", "fsync"]
    names.clear()
    with files.replaced_directory(tmp_path / "folder") as partial:
        (partial / "one").touch()
        (partial / "two").touch()
    assert names == ["fsync", "fsync", "fsync", "rename", "fsync"]
    files.append_text(tmp_path / "a", "more")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "textmore"
    assert names[-1] == "fsync"


@pytest.mark.parametrize("number", range(1, 6))
def test_a_replaced_directory_exists_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    target = tmp_path / "round_00001"
    with files.replaced_directory(target) as partial:
        (partial / "content").write_text("old", encoding="utf-8")
    with monkeypatch.context() as patch:
        fail_at(patch, number, KilledError())
        with pytest.raises(KilledError), files.replaced_directory(target) as partial:
            (partial / "content").write_text("new", encoding="utf-8")
    either = [path / "content" for path in (target, target.with_name("round_00001.old"))]
    assert any(path.is_file() for path in either)
