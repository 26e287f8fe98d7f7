"""Count the operations of this process on the files of a folder, and act at one of them.

Operations: open (to write), write, fsync, truncate, rename, unlink, mkdir, rmdir. They are counted from 1 in the order
in which they happen, which is the same in every run. Python's own functions are replaced in the process that calls
`install`; `safetensors` writes files from Rust, so its file is written elsewhere and copied by counted operations.
"""

import builtins
import errno
import io
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
from safetensors import SafetensorError

ALLOCATING = (
    "open",
    "write",
    "fsync",
    "rename",
    "mkdir",
)  # what a full disk refuses; truncate only makes files shorter
_BY_PATH = {
    "rename": "rename", "replace": "rename", "unlink": "unlink", "remove": "unlink", "mkdir": "mkdir", "rmdir": "rmdir",
}  # fmt: skip
_BY_DESCRIPTOR = {"fsync": "fsync", "ftruncate": "truncate", "write": "write", "pwrite": "write"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        number: its number, from 1.
        kind: what is done.
        path: path of the file or directory.
    """

    number: int
    kind: str
    path: str


class Fault(Protocol):
    """What happens before an operation; it may kill the process, raise OSError, or do nothing."""

    def __call__(self, operation: Operation, write_part: Callable[[], object]) -> None:
        """Act.

        Args:
            operation: the operation that is about to happen.
            write_part: writes the first half of the data of a write; does nothing for other operations.
        """
        ...


def kill_at(number: int, *, in_the_middle: bool = False) -> Fault:
    """Return the fault that kills the process before an operation, or after half of a write."""

    def act(operation: Operation, write_part: Callable[[], object]) -> None:
        if operation.number == number:
            if in_the_middle:
                write_part()
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def stop_at(number: int) -> Fault:
    """Return the fault that stops the process before an operation, until it receives SIGCONT."""

    def act(operation: Operation, write_part: Callable[[], object]) -> None:  # noqa: ARG001
        if operation.number == number:
            os.kill(os.getpid(), signal.SIGSTOP)

    return act


def no_space_from(number: int) -> Fault:
    """Return the fault that refuses every allocating operation from `number` on; the first write is a partial one."""

    def act(operation: Operation, write_part: Callable[[], object]) -> None:
        if operation.number >= number and operation.kind in ALLOCATING:
            if operation.number == number:
                write_part()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), operation.path)

    return act


def remove_at(number: int, folder: Path) -> Fault:
    """Return the fault that removes the folder before an operation."""
    remove = shutil.rmtree

    def act(operation: Operation, write_part: Callable[[], object]) -> None:  # noqa: ARG001
        if operation.number == number:
            remove(folder)

    return act


@dataclass(slots=True)
class Operations:
    """The operations of this process below a folder.

    Attributes:
        folder: operations elsewhere are not counted.
        fault: called before each operation.
        log: file that receives one line per operation, or None.
    """

    folder: Path
    fault: Fault | None = None
    log: Path | None = None
    _count: int = 0
    _active: bool = True
    _log_lines: io.TextIOWrapper | None = None
    _real: dict[str, Any] = field(default_factory=dict[str, Any])

    def install(self) -> None:
        """Replace the functions of this process; there is no way back."""
        if self.log is not None:
            self._log_lines = self.log.open("w", encoding="utf-8")
        for name, kind in _BY_PATH.items():
            self._replace(name, kind, self._path_of_arguments)
        for name, kind in _BY_DESCRIPTOR.items():
            self._replace(name, kind, self._path_of_descriptor)
        self._real["open"] = io.open
        io.open = builtins.open = self._open  # pyright: ignore[reportAttributeAccessIssue]
        self._real["os_open"] = os.open
        os.open = self._os_open
        self._real["serialize_file"] = safetensors.torch.serialize_file
        safetensors.torch.serialize_file = self._serialize_file

    def happen(self, kind: str, path: str, write_part: Callable[[], object] = lambda: None) -> None:
        """Count an operation that is about to happen, and act."""
        if not self._active or not path.startswith(str(self.folder)):
            return
        self._count += 1
        if self._log_lines is not None:
            self._log_lines.write(f"{self._count}\t{kind}\t{path}\n")
            self._log_lines.flush()
        if self.fault is not None:
            self._active = False  # what the fault does is not counted
            try:
                self.fault(Operation(self._count, kind, path), write_part)
            finally:
                self._active = True

    def _replace(self, name: str, kind: str, path_of: Callable[..., str]) -> None:
        real = getattr(os, name)
        self._real[name] = real

        def counted(*arguments: Any, **options: Any) -> Any:
            self.happen(kind, path_of(*arguments, **options))
            return real(*arguments, **options)

        setattr(os, name, counted)

    def _path_of_arguments(self, path: Any, *_: Any, dir_fd: int | None = None, **__: Any) -> str:
        above = self._path_of_descriptor(dir_fd) if dir_fd is not None else ""
        return str(Path(above, os.fsdecode(path)).absolute())

    def _path_of_descriptor(self, descriptor: int, *_: Any) -> str:
        try:
            return str(Path(f"/proc/self/fd/{descriptor}").readlink())
        except OSError:
            return ""

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT:
            self.happen("open", self._path_of_arguments(path, dir_fd=dir_fd))
        return self._real["os_open"](path, flags, mode, dir_fd=dir_fd)

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        is_counted = isinstance(file, str | os.PathLike) and set(mode) & set("wax+") and "opener" not in options
        path = self._path_of_arguments(file) if is_counted else ""
        if not path.startswith(str(self.folder)) or not self._active:
            return self._real["open"](file, mode, buffering, *arguments, **options)
        self.happen("open", path)
        raw = _CountedFile(path, mode.replace("b", "").replace("t", ""), self)
        stream = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return stream if "b" in mode else io.TextIOWrapper(stream, *arguments, **options)

    def _serialize_file(self, tensors: Any, filename: Any, *arguments: Any, **options: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            elsewhere = Path(folder) / "tensors"
            self._real["serialize_file"](tensors, str(elsewhere), *arguments, **options)
            content = elsewhere.read_bytes()
        try:
            with self._open(filename, "wb") as file:
                file.write(content)
        except OSError as error:
            raise SafetensorError(f"Error while serializing: I/O error: {error.strerror}") from error


class _CountedFile(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, path: str, mode: str, operations: Operations) -> None:
        super().__init__(path, mode)
        self._path = path
        self._operations = operations

    def write(self, data: Any, /) -> int:
        """Count a write, and do it."""
        view = memoryview(data).cast("B")
        self._operations.happen("write", self._path, lambda: super(_CountedFile, self).write(view[: len(view) // 2]))
        return super().write(view)


def read_log(log: Path) -> list[Operation]:
    """Read the operations that `Operations` has logged."""
    lines = (line.split("\t") for line in log.read_text(encoding="utf-8").splitlines())
    return [Operation(int(number), kind, path) for number, kind, path in lines]
