"""Import and call user code, given as "module:Name" or "path/to/file.py:Name"."""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from b2diffurl.errors import UserError


@contextmanager
def user_code(what: str, *, raises: type[Exception]) -> Generator[None]:
    """Return a context for a call or an import of user code, so that it cannot change or end the run around it.

    The working directory, the default dtype and device and the grad mode are restored at its end. The state of the
    global random generators is not: nothing in a run uses them, and a reward that does must not repeat its numbers.

    Args:
        what: subject of the message, such as "reward my.py:f".
        raises: the exception that a SystemExit becomes.

    Raises:
        raises: the user code called sys.exit.
    """
    folder, grad = Path.cwd(), torch.is_grad_enabled()
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        yield
    except SystemExit as stop:
        raise raises(f"{what} called sys.exit({stop.code!r}) ({_place(stop)}); raise an exception instead.") from stop
    finally:
        os.chdir(folder)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device == torch.device("cpu") else device)


def _place(error: BaseException) -> str:
    """The first line of user code in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    frame = (own or frames)[-1 if isinstance(error, SystemExit) else 0]
    return f"{frame.filename}, line {frame.lineno}"


def find_named(name: str, *, kind: str, what: str) -> Callable[..., Any]:
    """Import a class or function by name.

    Args:
        name: "MODULE:NAME", or "path/to/FILE.py:NAME" relative to the current directory.
        kind: name of the setting for error messages, such as "reward".
        what: description of NAME, for error messages, such as "function".

    Raises:
        UserError: the module or file does not exist or cannot be imported, or it has no callable of that name.
    """
    source, _, attribute = name.rpartition(":")
    is_file = source.endswith(".py")
    module = _import_file(Path(source), name, kind) if is_file else _import_module(source, name, kind, what)
    named = getattr(module, attribute, None)
    if not callable(named):
        raise UserError(
            f"{kind} is {name!r} but {'file' if is_file else 'module'} {source} has no {what} {attribute!r}."
        )
    return named


def _import_module(source: str, name: str, kind: str, what: str) -> ModuleType:
    if not source or source.startswith("."):
        raise UserError(f"{kind} is {name!r}, which has no valid module; give MODULE:{what.upper()}.")
    try:
        with user_code(f"{kind} {name!r}", raises=UserError):
            return importlib.import_module(source)
    except ModuleNotFoundError as error:
        file = Path(*source.split(".")).with_suffix(".py")
        own = f"its file, '{file}:{name.rpartition(':')[2]}'" if file.is_file() else f"FILE.py:{what.upper()}"
        raise UserError(
            f"{kind} is {name!r} but there is no module {error.name!r}; is it on the Python path? If not, give {own}."
        ) from error
    except UserError:
        raise
    except Exception as error:  # user code may raise anything
        raise UserError(f"{kind} is {name!r} but {source} cannot be imported: {_cause(error)}; fix it.") from error


def _import_file(file: Path, name: str, kind: str) -> ModuleType:
    file = file.expanduser()
    path = file.resolve()
    if not path.is_file():
        raise UserError(
            f"{kind} is {name!r} but there is no file {file}; give an absolute path or one relative to {Path.cwd()}."
        )
    module_name = f"{path.stem}@{path}"  # cannot collide with an importable module
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with _on_import_path(path.parent), user_code(f"{kind} {name!r}", raises=UserError):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, Exception) and not isinstance(error, UserError):  # user code may raise anything
            raise UserError(
                f"{kind} is {name!r} but {file} cannot be imported: {_cause(error)}; fix the file."
            ) from error
        raise
    return module


@contextmanager
def _on_import_path(folder: Path) -> Generator[None]:
    """Let the file import its neighbors, as a script can."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _cause(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg}, line {error.lineno}"
    if isinstance(error, ModuleNotFoundError):
        return f"there is no module {error.name!r}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({_place(error)})"
