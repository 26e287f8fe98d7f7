"""The name of a reward: one term, or a weighted sum of terms, as in `--reward`, run.toml and `check reward`.

reward = term { " + " term | " - " term }          spaces around the sign: hub ids contain "-" and "."
term   = [ number "*" ] name
name   = KIND | KIND ":" REST                      a built-in reward (builtin.py)
       | KIND "@" REVISION                         a built-in reward whose weights have revisions on the hub
       | "MODULE:NAME" | "path/to/FILE.py:NAME"    a custom reward (custom.py)
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from b2diffurl.errors import UserError
from b2diffurl.rewards.builtin import BUILTIN_MODULES, CUSTOM, REVISED
from b2diffurl.rewards.settings import AestheticSettings, HPSv2Settings

Revised = TypeVar("Revised", AestheticSettings, HPSv2Settings)

_USER_IN_ADDRESS = re.compile(r"//[^/\s]*@")
_SIGN = re.compile(r"(?:^|\s+)([+-])(?:\s+|$)")
_TERM = re.compile(r"([+-]?)\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)\s*\*\s*)?(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One term of a reward.

    Attributes:
        weight: factor of its scores; not 0.
        name: the reward's name, such as "clip:emoji".
    """

    weight: float = 1.0
    name: str

    @property
    def kind(self) -> str:
        """The kind of a built-in reward, such as "clip", or "custom" for a custom reward."""
        kind = self.name.partition(":")[0]
        if kind.partition("@")[0] in REVISED:
            kind = kind.partition("@")[0]
        return kind if kind in BUILTIN_MODULES else CUSTOM

    @property
    def rest(self) -> str:
        """The text after the kind, such as a model, a URL or @REVISION; the whole name of a custom reward."""
        return self.name if self.kind == CUSTOM else self.name[len(self.kind) :].removeprefix(":")


def parse_reward(text: str) -> tuple[Term, ...]:
    """Split the name of a reward into terms. Nothing is imported, and the names of the terms are not checked.

    Raises:
        UserError: a term is missing or repeated, a weight is 0 or misplaced, or an address contains a user.

    >>> parse_reward("clip:emoji - 0.5*jpeg-size:compressible")[1]
    Term(weight=-0.5, name='jpeg-size:compressible')
    """
    if _USER_IN_ADDRESS.search(text):  # the text is not repeated: messages end up in logs
        raise UserError("reward contains a user or password in an address; set the token in the environment instead.")
    first, *others = _SIGN.split(text.strip())
    signs = ["+", *others[::2]]
    parts = [first, *others[1::2]]
    if others and not first:  # "- clip": the text begins with a sign
        signs = signs[1:]
        parts = parts[1:]
    terms = tuple(_parse_term(sign, part.strip(), text=text) for sign, part in zip(signs, parts, strict=True))
    names = [term.name for term in terms]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(
            f"reward is {text!r}, which contains {repeated[0]!r} more than once; write it once, with one weight."
        )
    return terms


def with_revision(term: Term, settings: Revised) -> Revised:
    """Return the settings with the revision in a term's name, KIND@REVISION, if it has one.

    Raises:
        UserError: the name is not KIND or KIND@REVISION, or the settings have another revision.
    """
    at, revision = term.rest[:1], term.rest[1:]
    if not at and ":" not in term.name:
        return settings
    if at != "@" or not re.fullmatch(r"[\w./-]+", revision):
        raise UserError(
            f"reward is {term.name!r}; give {term.kind!r} or '{term.kind}@REVISION', and its other settings in the "
            f"table [{term.kind}]."
        )
    if settings.revision not in ("", revision):
        raise UserError(
            f"reward is {term.name!r} but {term.kind}.revision is {settings.revision!r}; give the revision once."
        )
    return replace(settings, revision=revision)


def parse_watched(names: Sequence[str]) -> tuple[Term, ...]:
    """Parse the names of watched rewards, which are logged and not trained on: single terms without weights.

    Raises:
        UserError: a name is invalid as in `parse_reward`, is a weighted sum, or is repeated.
    """
    terms: list[Term] = []
    for name in names:
        term, *others = _parse_watched_name(name)
        if others or term.weight != 1:
            raise UserError(f"watched reward is {name!r}, a weighted sum; list its terms separately, without weights.")
        if term in terms:
            raise UserError(f"watched reward {name!r} is listed more than once; list it once.")
        terms.append(term)
    return tuple(terms)


def _parse_watched_name(name: str) -> tuple[Term, ...]:
    try:
        return parse_reward(name)
    except UserError as error:
        raise UserError(f"watched {error}") from error


def _parse_term(sign: str, part: str, *, text: str) -> Term:
    match = _TERM.fullmatch(part)
    assert match is not None
    own_sign, number, name = match.groups()
    if not name:
        raise UserError(f"reward is {text!r}, in which a term is missing; write for example 'clip + 0.5*FILE.py:NAME'.")
    size = 1.0 if number is None else float(number)
    if size == 0:
        raise UserError(f"reward is {text!r}, in which {name!r} has weight 0; remove it, or watch it instead.")
    if not math.isfinite(size):
        raise UserError(f"reward is {text!r}, in which the weight {number} is too large; give a finite number.")
    if "*" in name:
        raise UserError(f"reward is {name!r}; write a weight before its term, as in 'clip + 0.5*FILE.py:NAME'.")
    return Term(weight=-size if (sign == "-") != (own_sign == "-") else size, name=name)
