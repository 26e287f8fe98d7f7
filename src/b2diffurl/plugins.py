"""What the user brings by name: "module:Name", or "path/to/file.py:Name"."""

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
    """Import what the user has named.

    Args:
        name: "MODULE:NAME", or "path/to/FILE.py:NAME" relative to the current directory.
        kind: of setting, for messages, such as "reward".
        what: it should be, for messages, such as "function".

    Raises:
        UserError: there is no such module or file, it cannot be imported, or it holds nothing callable of that name.
    """
    where, _, attribute = name.rpartition(":")
    is_file = where.endswith(".py")
    module = _module_of_file(Path(where), name, kind) if is_file else _module(where, name, kind, what)
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UserError(
            f"{kind} is {name!r} but {'file' if is_file else 'module'} {where} has no {what} {attribute!r}."
        )
    return found


def _module(where: str, name: str, kind: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        file = Path(*where.split(".")).with_suffix(".py")
        own = f"its file, '{file}:{name.rpartition(':')[2]}'" if file.is_file() else f"FILE.py:{what.upper()}"
        raise UserError(
            f"{kind} is {name!r} but there is no module {error.name!r}; is it on the Python path? If not, give {own}."
        ) from error
    except (TypeError, ValueError) as error:  # a relative or an empty name
        raise UserError(f"{kind} is {name!r}, which names no module; give MODULE:{what.upper()}.") from error


def _module_of_file(file: Path, name: str, kind: str) -> ModuleType:
    file = file.expanduser()
    path = file.resolve()
    if not path.is_file():
        raise UserError(
            f"{kind} is {name!r} but there is no file {file}; give a path relative to {Path.cwd()}, or a whole one."
        )
    known = f"{path.stem}@{path}"  # no name that an import statement could mean
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    try:
        with _beside(path.parent):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[known]
        if isinstance(error, (ModuleNotFoundError, SyntaxError)):
            raise UserError(f"{kind} is {name!r} but {file} cannot be imported: {_cause(error)}; mend it.") from error
        raise
    return module


@contextmanager
def _beside(folder: Path) -> Generator[None]:
    """The file may import what lies beside it, as a script may."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _cause(error: ModuleNotFoundError | SyntaxError) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg}, line {error.lineno}"
    return f"there is no module {error.name!r}"
