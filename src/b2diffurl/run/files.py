"""How the files of a run folder are written: either the old or the new content survives a kill or a power failure.

A file is written beside its target, flushed to the disk and renamed; then the directory is flushed. A failed write
raises UserError with the path and the reason of the system, and the previous file stays.
"""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from b2diffurl.errors import UserError


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Return a context that raises UserError, one sentence, where a write to `path` or below it fails."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        file = error.filename if isinstance(error, OSError) and isinstance(error.filename, str) else path
        raise UserError(
            f"{file} cannot be written: {reason or error}; free space or change the permissions, then add --resume if "
            "the run has started."
        ) from error


def partial_path(path: Path) -> Path:
    """Return the path beside a file or directory at which its new content is written."""
    return path.with_name(f"{path.name}.partial")


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by new content, or leave it as it was.

    Raises:
        UserError: the system refuses the write.
    """
    partial = partial_path(path)
    with explained(path):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_directory(path.parent)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def write_text(path: Path, content: str) -> None:
    """Replace a file by new text in UTF-8, or leave it as it was.

    Raises:
        UserError: the system refuses the write.
    """
    write_bytes(path, content.encode("utf-8"))


def append_text(path: Path, content: str) -> None:
    """Append text in UTF-8 and flush it to the disk.

    Raises:
        UserError: the system refuses the write; a part of the last line may have been written.
    """
    with explained(path), path.open("ab") as file:
        file.write(content.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def make_directory(path: Path) -> None:
    """Create a directory, with its parents, unless it exists.

    Raises:
        UserError: the system refuses it.
    """
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def replaced_directory(target: Path) -> Generator[Path]:
    """Return a context that gives an empty directory beside `target`, which takes its place at the end.

    An existing `target` is renamed to `TARGET.old` first and removed last, so that one of both exists at any time.

    Raises:
        UserError: the system refuses a write; `target` is as it was.
    """
    partial, old = partial_path(target), target.with_name(f"{target.name}.old")
    with explained(target):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            _sync_tree(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        partial.rename(target)
        sync_directory(target.parent)
        shutil.rmtree(old, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Flush the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(path: Path) -> None:
    for child in sorted(path.iterdir()):
        if child.is_dir():
            _sync_tree(child)
        else:
            with child.open("rb") as file:
                os.fsync(file.fileno())
    sync_directory(path)
