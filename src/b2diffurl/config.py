"""Settings: frozen dataclasses, read from TOML strictly and written back whole.

A settings class is the part it configures (`DDPO(clip_range=0.1).loss(...)`); no option is written twice. An unknown
key, a wrong type or a value out of range is an error on every nested class, told in one sentence.
"""

import json
import tomllib
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from b2diffurl.errors import UserError

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only dataclass that pydantic reads strictly."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # pyright: ignore[reportAttributeAccessIssue]
    return dataclass(frozen=True, kw_only=True, slots=True)(cls)


def read_toml(path: Path, cls: type[T]) -> T:
    """Read settings from a TOML file.

    Raises:
        UserError: the file is missing or no TOML, a key is unknown, a type is wrong, or a value is refused.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid TOML: {error}.") from error
    try:
        return from_tables(tables, cls)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def from_tables(tables: dict[str, Any], cls: type[T]) -> T:
    """Make settings from nested tables.

    Raises:
        UserError: as `read_toml`.
    """
    try:
        # TOML's dates and times become text, which no setting is, and so are refused by name.
        return _adapter(cls).validate_json(json.dumps(tables, default=str))
    except ValidationError as error:
        raise UserError(_one_sentence(error, tables)) from error


def to_tables(value: Any) -> dict[str, Any]:
    """Give settings as nested tables, complete."""
    assert is_dataclass(value)
    assert not isinstance(value, type)
    return asdict(value)


def to_toml(value: Any) -> str:
    """Write settings as TOML, complete: `read_toml` gives the same back."""
    return tomli_w.dumps(to_tables(value))


def _path(keys: tuple[int | str, ...], tables: Any) -> str:
    """The keys as the user wrote them: without the `use` that pydantic puts between those of a union."""
    written: list[str] = []
    for key in keys:
        is_dict = isinstance(tables, dict)
        if is_dict and key not in tables and tables.get("use") == key:
            continue
        written.append(str(key))
        tables = tables.get(key) if is_dict else None
    return ".".join(written)


@cache
def _adapter(cls: type[T]) -> Any:
    return TypeAdapter(cls)


def _one_sentence(error: ValidationError, tables: dict[str, Any]) -> str:
    first = error.errors()[0]
    field = _path(first["loc"], tables)
    kind = first["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{field} is no setting; remove it or look up its name with `b2diffurl show`."
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{field} is missing; `b2diffurl show` prints a complete run."
    if kind == "union_tag_not_found":
        return f'{field}.use is missing; write for example use = "...", as `b2diffurl show` prints it.'
    return f"{field} is {first['input']!r}: {first['msg']}."
