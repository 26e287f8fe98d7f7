"""Settings: frozen dataclasses, read strictly from TOML and written back completely.

A settings class is the component it configures (`DDPO(clip_range=0.1).loss(...)`); no option is written twice. An
unknown key, a wrong type or a value out of range raises UserError with one sentence, on every nested class. A range is
part of the type, `Annotated[int, Ge(1)]`, and is checked wherever the object is created: from TOML, flags or Python.
"""

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_args, get_origin, get_type_hints, overload

import tomli_w
from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from b2diffurl.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finite:
    """The range of a float that may be neither infinite nor NaN."""


PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0), Finite()]
NonNegativeFloat = Annotated[float, Ge(0), Finite()]


@overload
def settings(cls: type[T]) -> type[T]: ...


@overload
def settings(*, table: str) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T] | None = None, *, table: str = "") -> type[T] | Callable[[type[T]], type[T]]:
    """Make a class a frozen, keyword-only dataclass that pydantic reads strictly and whose ranges are checked.

    Args:
        cls: the class.
        table: name of its TOML table, which error messages put before the field's name.
    """
    if cls is None:
        return lambda cls: _make_settings(cls, table)
    return _make_settings(cls, table)


def _make_settings(cls: type[T], table: str) -> type[T]:
    own_check: Callable[[T], None] | None = getattr(cls, "__post_init__", None)  # its own or inherited

    def check(self: T) -> None:
        for name, ranges in _ranges_by_field(settings_class).items():
            check_range(f"{table}.{name}" if table else name, getattr(self, name), ranges)
        if own_check is not None:
            own_check(self)

    cls.__post_init__ = check  # pyright: ignore[reportAttributeAccessIssue]
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # pyright: ignore[reportAttributeAccessIssue]
    settings_class = dataclass(frozen=True, kw_only=True, slots=True)(cls)
    return settings_class


def check_range(path: str, value: Any, ranges: Sequence[Any]) -> None:
    """Check a value against the ranges of its type.

    Args:
        path: path of the setting, for the message.
        value: a number, or a tuple whose every number must be in range.
        ranges: ranges of annotated_types, and `Finite`.

    Raises:
        UserError: the value is out of range.
    """
    numbers = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
    if not all(_is_in_range(number, limit) for number in numbers for limit in ranges):
        raise UserError(f"{path} is {value}; give {describe_range(ranges, many=isinstance(value, tuple))}.")


def describe_range(ranges: Sequence[Any], *, many: bool = False) -> str:
    """Describe ranges.

    >>> describe_range([Ge(1)]), describe_range([Gt(0), Finite()]), describe_range([Ge(0), Lt(1)])
    ('1 or more', 'a finite number above 0', 'a number from 0 to below 1')
    """
    limits: dict[type, Any] = {type(limit): limit for limit in ranges}
    noun = ("finite " if Finite in limits else "") + ("numbers" if many else "number")
    noun = noun if many else f"a {noun}"
    low = f"from {limits[Ge].ge}" if Ge in limits else f"above {limits[Gt].gt}" if Gt in limits else ""
    high = f"to {limits[Le].le}" if Le in limits else f"below {limits[Lt].lt}" if Lt in limits else ""
    high = f"to {high}" if low and high.startswith("below") else high
    if Ge in limits and not high and Finite not in limits and not many:
        return f"{limits[Ge].ge} or more"
    if Ge in limits and not high:
        return f"{noun} of {limits[Ge].ge} or more"
    return " ".join(word for word in (noun, low, high) if word)


def _is_in_range(value: Any, limit: Any) -> bool:
    match limit:
        case Finite():
            return math.isfinite(value)
        case Ge(ge=bound):
            return value >= bound
        case Gt(gt=bound):
            return value > bound
        case Le(le=bound):
            return value <= bound
        case Lt(lt=bound):
            return value < bound
        case _:
            raise AssertionError(limit)


@cache
def _ranges_by_field(cls: type) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(cls, include_extras=True)
    ranges_by_field = {field.name: tuple(_ranges(hints[field.name])) for field in fields(cast("Any", cls))}
    return {name: ranges for name, ranges in ranges_by_field.items() if ranges}


def _ranges(hint: Any) -> Iterator[Any]:
    """Ranges of a type: its own, or those of the items of a tuple."""
    if get_origin(hint) is tuple:
        yield from _ranges(get_args(hint)[0])
    if get_origin(hint) is Annotated:
        for extra in get_args(hint)[1:]:
            if isinstance(extra, Interval):
                yield from extra
            elif isinstance(extra, Ge | Gt | Le | Lt | Finite):
                yield extra


def read_toml(path: Path, cls: type[T]) -> T:
    """Read settings from a TOML file.

    Raises:
        UserError: the file is missing or not valid TOML, a key is unknown, a type is wrong, or a value is invalid.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from error
    try:
        return from_tables(tables, cls)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def from_tables(tables: dict[str, Any], cls: type[T]) -> T:
    """Make settings from nested tables.

    A table with `use = "module:Class"` may have the options of the class beside it; see `expand_custom`.

    Raises:
        UserError: as `read_toml`.
    """
    tables = {key: expand_custom(value) for key, value in tables.items()}
    try:
        # TOML's dates and times become strings in JSON, which no setting of another type accepts.
        return _adapter(cls).validate_json(json.dumps(tables, default=str))
    except ValidationError as error:
        raise UserError(_one_sentence(error, tables)) from error


def expand_custom(table: Any) -> Any:
    """Expand the short form of a table that names user code; give other values as they are.

    >>> expand_custom({"use": "my_schedules.py:Sawtooth", "length": 3})
    {'use': 'custom', 'name': 'my_schedules.py:Sawtooth', 'options': {'length': 3}}
    """
    if not isinstance(table, dict):
        return table
    options = dict(cast("dict[str, Any]", table))
    if ":" not in str(options.get("use", "")):
        return options
    return {"use": "custom", "name": options.pop("use"), "options": options}


def to_tables(value: Any) -> dict[str, Any]:
    """Give settings as nested tables, complete."""
    assert is_dataclass(value)
    assert not isinstance(value, type)
    return asdict(value)


def flat_settings(value: Any) -> dict[str, Any]:
    """Give settings as one dict, with dots in the names of those in nested tables.

    Args:
        value: settings, or their tables.
    """
    tables: dict[str, Any] = value if isinstance(value, dict) else to_tables(value)  # pyright: ignore[reportUnknownVariableType]
    flat: dict[str, Any] = {}
    for name, entry in tables.items():
        if isinstance(entry, dict):
            flat |= {f"{name}.{inner}": setting for inner, setting in flat_settings(entry).items()}
        else:
            flat[name] = entry
    return flat


def to_toml(value: Any) -> str:
    """Write settings as TOML, complete: `read_toml` gives the same back."""
    return tomli_w.dumps(to_tables(value))


_LIMITS: dict[str, Callable[..., Any]] = {
    "greater_than_equal": Ge, "greater_than": Gt, "less_than_equal": Le, "less_than": Lt,
}  # fmt: skip


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
        return f"{field} is not a setting; remove it or look up its name with `b2diffurl show`."
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{field} is missing; `b2diffurl show` prints a complete run."
    if kind == "union_tag_not_found":
        return f'{field}.use is missing; write for example use = "...", as `b2diffurl show` prints it.'
    if kind in _LIMITS:
        limit = _LIMITS[kind](*first.get("ctx", {}).values())
        return f"{field} is {first['input']}; give {describe_range([limit])}."
    return f"{field} is {first['input']!r}: {first['msg']}."
