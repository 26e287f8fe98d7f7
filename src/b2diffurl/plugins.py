"""Import user code given as "module:Name" or "path/to/file.py:Name"."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from b2diffurl.errors import UserError


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
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        file = Path(*source.split(".")).with_suffix(".py")
        own = f"its file, '{file}:{name.rpartition(':')[2]}'" if file.is_file() else f"FILE.py:{what.upper()}"
        raise UserError(
            f"{kind} is {name!r} but there is no module {error.name!r}; is it on the Python path? If not, give {own}."
        ) from error
    except (TypeError, ValueError) as error:  # a relative or an empty name
        raise UserError(f"{kind} is {name!r}, which has no valid module; give MODULE:{what.upper()}.") from error


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
        with _on_import_path(path.parent):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, (ModuleNotFoundError, SyntaxError)):
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


def _cause(error: ModuleNotFoundError | SyntaxError) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg}, line {error.lineno}"
    return f"there is no module {error.name!r}"
