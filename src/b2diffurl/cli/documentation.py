"""What settings classes say about themselves: the flags they make, and the meaning of each, from their docstrings."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

import tyro

_ATTRIBUTE = re.compile(r"(\w+): (.*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One flag of a command.

    Attributes:
        name: its name, such as --lora.rank.
        path: path of the setting, such as lora.rank.
        description: its meaning, from the docstring of its class.
        is_switch: whether it takes no value.
        is_component: whether its value is the name of a component, such as dpo for --objective.
    """

    name: str
    path: str
    description: str
    is_switch: bool = False
    is_component: bool = False


@cache
def descriptions(cls: type) -> dict[str, str]:
    """Return the meaning of each field, from the section "Attributes" of the class and its bases."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        meanings |= _attributes(inspect.cleandoc(base.__doc__ or ""))
    return meanings


def summary(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]


def component_names(hint: Any) -> tuple[str, ...]:
    """Return the names of the components of a union, without those of user code; none for another type."""
    names = [_use_of(member) for member in _members(hint)]
    return tuple(name for name in names if name and not name.startswith("custom"))


@cache
def components_of(cls: type) -> dict[str, tuple[str, ...]]:
    """Return the names of the components that each field of a settings class can name."""
    hints = get_type_hints(cls, include_extras=True)
    return {name: names for name, hint in hints.items() if (names := component_names(hint))}


def flags_of(cls: type, prefix: str = "") -> Iterator[Flag]:
    """Iterate over the flags of a dataclass; fields that are dataclasses give their own flags with a prefix.

    Args:
        cls: the dataclass.
        prefix: path of the field that has it, with a dot at its end.
    """
    hints = get_type_hints(cls, include_extras=True)
    meanings = descriptions(cls)
    for field in fields(cast("Any", cls)):
        hint, path = hints[field.name], prefix + field.name
        if _is_positional(hint) or path == "recipe" or (field.name == "use" and prefix):
            continue
        members = [member for member in _members(hint) if isinstance(member, type) and is_dataclass(member)]
        if component_names(hint):
            yield Flag(name=_flag(path), path=path, description=meanings.get(field.name, ""), is_component=True)
        nested = prefix if _is_unnamed(hint) else f"{path}."
        if members:
            seen: dict[str, Flag] = {}
            for member in members:
                seen |= {flag.name: flag for flag in flags_of(member, nested) if flag.name not in seen}
            yield from seen.values()
        else:
            is_switch = _members(hint) == (bool,) and field.default is not MISSING
            yield Flag(name=_flag(path), path=path, description=meanings.get(field.name, ""), is_switch=is_switch)


def _attributes(text: str) -> dict[str, str]:
    r"""Parse the section "Attributes" of a docstring.

    >>> _attributes("Do.\n\nAttributes:\n    a: one\n        two.\n    b: three.\n\nRaises:\n    X: no.")
    {'a': 'one two.', 'b': 'three.'}
    """
    _, _, section = text.partition("\nAttributes:\n")
    meanings: dict[str, str] = {}
    name = ""
    for line in section.split("\n"):
        if line and not line.startswith(" "):
            break
        match = _ATTRIBUTE.fullmatch(line[4:])
        if match and not line[4:].startswith(" "):
            name, meanings[match[1]] = match[1], match[2]
        elif name and line.strip():
            meanings[name] += f" {line.strip()}"
    return meanings


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself, without annotations."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _use_of(cls: Any) -> str:
    known = getattr(cls, "__dataclass_fields__", {})
    return str(known["use"].default) if "use" in known else ""


def _is_positional(hint: Any) -> bool:
    return tyro.conf.Positional in getattr(hint, "__metadata__", ()) or any(
        "Positional" in repr(extra) for extra in getattr(hint, "__metadata__", ())
    )


def _is_unnamed(hint: Any) -> bool:
    """Whether the flags of a nested dataclass have no prefix."""
    return any(getattr(extra, "name", None) == "" for extra in getattr(hint, "__metadata__", ()))


def _flag(path: str) -> str:
    return "--" + path.replace("_", "-")
