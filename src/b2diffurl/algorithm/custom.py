"""Components from user code, named "module:Class" or "file.py:Class" where a built-in component has its name.

In TOML, `use = "my_schedules.py:Sawtooth"` with the arguments of the class beside it; as a flag,
`schedule:my_schedules.py:Sawtooth`. The class need not inherit from anything; it must have the methods of the
component's interface.
"""

import abc
from collections.abc import Callable
from dataclasses import field
from functools import cache, partial
from typing import Any, ClassVar, Literal, TypeVar

from b2diffurl.algorithm.interfaces import Normalizer, Objective, Schedule, Selector
from b2diffurl.config import settings
from b2diffurl.errors import UserError
from b2diffurl.plugins import find_named

Option = bool | int | float | str
C = TypeVar("C", bound="type[Custom]")
# The interface has a default for these.
_OPTIONAL = (
    "can_change_num_rounds",
    "check",
    "clip",
    "max_selected",
    "metrics",
    "needs",
    "normalize_trunks",
    "num_past_rounds",
    "tau_last",
    "trained_steps",
)


@settings
class Custom:
    """A component from user code; it delegates all members of its interface to an instance of the user's class.

    The instance is shared by all components with the same name and options, so its methods must not keep state.

    Attributes:
        use: "custom".
        name: "module:Class" or "file.py:Class".
        options: keyword arguments of the class.
    """

    kind: ClassVar[str] = ""
    interface: ClassVar[type] = object

    use: Literal["custom"] = "custom"
    name: str
    options: dict[str, Option] = field(default_factory=dict[str, Option])

    def __post_init__(self) -> None:
        self.instance()

    def instance(self) -> Any:
        """Return the instance of the user's class.

        Raises:
            UserError: the class cannot be imported, does not accept the options, or lacks a method.
        """
        options = tuple((key, value, type(value)) for key, value in sorted(self.options.items()))
        return _make(type(self), self.name, options)


def _base(interface: type) -> Any:
    """Return the interface, with a type that does not require its methods, since they are generated."""
    return interface


def _delegating(cls: C) -> C:
    """Give a class all members of its interface, each of which uses the instance of the user's class.

    An optional member that the user's class lacks is the interface's.
    """
    for name in _members(cls.interface):
        member = vars(cls.interface)[name]
        make = _delegating_method if callable(member) else _delegating_property
        setattr(cls, name, make(name, member))
    abc.update_abstractmethods(cls)
    return cls


def _delegating_method(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Custom, *arguments: Any, **options: Any) -> Any:
        own = getattr(self.instance(), name, partial(default, self))
        return own(*arguments, **options)

    method.__name__ = name
    method.__doc__ = default.__doc__
    return method


def _delegating_property(name: str, default: Any) -> property:
    def get(self: Custom) -> Any:
        instance = self.instance()
        if hasattr(instance, name):
            return getattr(instance, name)
        return default.__get__(self) if isinstance(default, property) else default

    return property(get, doc=default.__doc__)


def _members(interface: type) -> list[str]:
    """Public members of an interface."""
    return [name for name in vars(interface) if not name.startswith("_")]


@_delegating
@settings(table="objective")
class CustomObjective(Custom, _base(Objective)):
    """An objective from user code."""

    kind = "objective"
    interface = Objective


@_delegating
@settings(table="schedule")
class CustomSchedule(Custom, _base(Schedule)):
    """A schedule from user code."""

    kind = "schedule"
    interface = Schedule


@_delegating
@settings(table="selection")
class CustomSelection(Custom, _base(Selector)):
    """A selection rule from user code."""

    kind = "selection"
    interface = Selector


@_delegating
@settings(table="advantage")
class CustomAdvantage(Custom, _base(Normalizer)):
    """An advantage rule from user code."""

    kind = "advantage"
    interface = Normalizer


@cache
def _make(custom: type[Custom], name: str, options: tuple[tuple[str, Option, type], ...]) -> Any:
    kind, interface = custom.kind, custom.interface
    if not all(name.rpartition(":")):
        raise UserError(f"{kind}.name is {name!r}; give module:Class or file.py:Class.")
    cls = find_named(name, kind=kind, what="class")
    arguments = {key: value for key, value, _ in options}
    try:
        instance = cls(**arguments)
    except TypeError as error:
        raise UserError(f"{kind} {name!r} does not accept the options {arguments}: {error}.") from error
    missing = [member for member in _members(interface) if _is_missing(instance, member, interface)]
    if missing:
        raise UserError(
            f"{kind} {name!r} lacks {', '.join(missing)}; let the class inherit from "
            f"{interface.__module__}.{interface.__name__} and define its methods."
        )
    return instance


def _is_missing(instance: object, member: str, interface: type) -> bool:
    """Whether a required member is absent, or only the empty one of the interface."""
    if member in _OPTIONAL:
        return False
    return not hasattr(instance, member) or getattr(type(instance), member, None) is vars(interface)[member]
