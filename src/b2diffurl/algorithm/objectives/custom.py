"""The user's own objective, named "module:Class" or "file.py:Class"."""

from dataclasses import field
from functools import cache
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.interfaces import Needs, Objective
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.config import settings
from b2diffurl.errors import UserError
from b2diffurl.plugins import find_named

Option = bool | int | float | str


@settings
class Own(Objective):
    """An objective of the user's: `use = "module:Class"`, and its arguments beside it.

    Attributes:
        use: the objective's name.
        name: "module:Class" or "file.py:Class", of a class with `loss` that subclasses
            `b2diffurl.algorithm.interfaces.Objective` or looks like it.
        options: keyword arguments of the class.
    """

    use: Literal["own"] = "own"
    name: str
    options: dict[str, Option] = field(default_factory=dict[str, Option])

    def __post_init__(self) -> None:
        self._objective()

    @property
    def needs(self) -> Needs:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The class's."""
        return self._objective().needs

    def loss(self, batch: StepBatch) -> Float[Tensor, " U"]:
        """The class's."""
        return self._objective().loss(batch)

    def metrics(self, batch: StepBatch) -> dict[str, Tensor]:
        """The class's."""
        return self._objective().metrics(batch)

    def _objective(self) -> Objective:
        return _make(self.name, tuple(sorted(self.options.items())))


@cache
def _make(name: str, options: tuple[tuple[str, Option], ...]) -> Objective:
    if not all(name.rpartition(":")):
        raise UserError(f"objective.name is {name!r}; give module:Class or file.py:Class.")
    found = find_named(name, kind="objective", what="class")
    try:
        made = found(**dict(options))
    except TypeError as error:
        raise UserError(f"objective {name!r} does not take the options {dict(options)}: {error}.") from error
    if not isinstance(made, Objective) or getattr(type(made), "loss", None) is Objective.loss:
        raise UserError(
            f"objective {name!r} lacks loss, metrics or needs; "
            "let the class inherit from b2diffurl.algorithm.interfaces.Objective, which brings all but loss."
        )
    return made
