"""One process per run folder: a lock that ends with its process, also if it is killed.

The lock is `flock` on the file `.lock`, which contains the process and the host for the message. Windows does not have
`flock` and is not supported.
"""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from b2diffurl.errors import UserError
from b2diffurl.run.files import explained

LOCK_NAME = ".lock"
_MAX_ATTEMPTS = 100  # another process may remove the file between open and flock


@contextmanager
def locked(folder: Path, *, on_message: Callable[[str], None]) -> Generator[None]:
    """Return a context in which this process alone may write to a run folder; the folder is created.

    At the end the lock file is removed, and so are the folders created here if nothing was written into them.

    Args:
        folder: the run folder.
        on_message: receives a sentence if the lock of a process that ended without releasing it is taken over.

    Raises:
        UserError: another process holds the lock, the folder cannot be created or locked, or it was removed meanwhile.
    """
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    descriptor, content = _acquire(folder)
    try:
        with explained(folder / LOCK_NAME):
            if content:
                on_message(f"{_holder(content)} ended without releasing {folder}; its lock is taken over.")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        (folder / LOCK_NAME).unlink(missing_ok=True)
        is_left = folder.is_dir()
        os.close(descriptor)
        for path in new_folders:
            if not path.is_dir() or any(path.iterdir()):
                break
            path.rmdir()
    if not is_left:  # removed after the last write, which would have failed
        raise UserError(f"{folder} was removed while it was in use; its files are lost.")


def _acquire(folder: Path) -> tuple[int, bytes]:
    """Lock the file; return its descriptor, and the content that an ended process left in it."""
    file = folder / LOCK_NAME
    for _ in range(_MAX_ATTEMPTS):
        with explained(file):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                continue  # the folder was removed again
            content = os.pread(descriptor, 1000, 0)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise UserError(
                    f"output {folder} is in use by {_holder(content)}; wait until it ends, or give another folder."
                ) from error
            if _is_same_file(descriptor, file):
                return descriptor, os.pread(descriptor, 1000, 0)
            os.close(descriptor)
    raise UserError(f"{file} cannot be locked: other processes create and remove it; give another folder.")


def _is_same_file(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _holder(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
