"""A reward in one line: a part, or parts added with weights, as `--reward`, run.toml and `check reward` take it.

reward = part { " + " part | " - " part }          a space on either side of the sign: hub ids hold "-" and "."
part   = [ number "*" ] name
name   = "clip" | "clip:MODEL" | "pickscore" | "pickscore:MODEL"
       | "jpeg-size:compressible" | "jpeg-size:incompressible" | "bert" | "remote:URL"
       | "MODULE:NAME" | "path/to/FILE.py:NAME"
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from b2diffurl.errors import UserError

_OURS = ("clip", "pickscore", "jpeg-size", "bert", "remote")
_OWN = "own"
_AIMS = ("compressible", "incompressible")
_FORMS = (
    "'clip:emoji', 'clip:MODEL', 'clip' (the paper's ViT-H-14), 'pickscore', 'jpeg-size:compressible', 'bert', "
    "'remote:http://HOST:PORT', 'FILE.py:FUNCTION' or 'MODULE:FUNCTION'"
)
_ADDRESS = re.compile(r"https?://.")
_USER_IN_ADDRESS = re.compile(r"//[^/\s]*@")
_SIGN = re.compile(r"(?:^|\s+)([+-])(?:\s+|$)")
_PART = re.compile(r"([+-]?)\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)\s*\*\s*)?(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One part of a reward.

    Attributes:
        weight: what its scores are multiplied with; not 0.
        name: of the part, such as "clip:emoji".
    """

    weight: float = 1.0
    name: str

    @property
    def kind(self) -> str:
        """One of "clip", "pickscore", "jpeg-size", "bert", "remote" and "own"."""
        kind = self.name.partition(":")[0]
        return kind if kind in _OURS else _OWN

    @property
    def rest(self) -> str:
        """What stands after the kind: a model, an aim, a URL; of one's own reward, the whole name."""
        return self.name if self.kind == _OWN else self.name.partition(":")[2]


def parse_reward(text: str) -> tuple[Term, ...]:
    """Take a reward's name apart. Nothing is imported or looked up.

    Raises:
        UserError: a part is missing, unknown or there twice, a weight is 0, or an address has a user in it.

    >>> parse_reward("clip:emoji - 0.5*jpeg-size:compressible")[1]
    Term(weight=-0.5, name='jpeg-size:compressible')
    """
    if _USER_IN_ADDRESS.search(text):  # said without the text, which would go to logs
        raise UserError("reward has a user or password in an address; give the token in the environment instead.")
    first, *others = _SIGN.split(text.strip())
    signs, parts = ["+", *others[::2]], [first, *others[1::2]]
    if others and not first:  # "- clip": the line begins with a sign
        signs, parts = signs[1:], parts[1:]
    terms = tuple(_term(sign, part.strip(), text=text) for sign, part in zip(signs, parts, strict=True))
    names = [term.name for term in terms]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"reward is {text!r}, which has {twice[0]!r} more than once; name it once, with one weight.")
    return terms


def parse_watched(names: Sequence[str]) -> tuple[Term, ...]:
    """Read the names of rewards that are watched but not trained on: each one part, without a weight.

    Raises:
        UserError: one is no reward, is a sum or has a weight, or is there twice.
    """
    found: list[Term] = []
    for name in names:
        term, *others = _of_watched(name)
        if others or term.weight != 1:
            raise UserError(f"watched reward is {name!r}, a weighted sum; name each part on its own, without a weight.")
        if term in found:
            raise UserError(f"watched reward {name!r} is there more than once; name it once.")
        found.append(term)
    return tuple(found)


def _of_watched(name: str) -> tuple[Term, ...]:
    try:
        return parse_reward(name)
    except UserError as error:
        raise UserError(f"watched {error}") from error


def _term(sign: str, part: str, *, text: str) -> Term:
    matched = _PART.fullmatch(part)
    assert matched is not None
    own_sign, number, name = matched.groups()
    if not name:
        raise UserError(
            f"reward is {text!r}, in which a part is missing; write for example 'clip + 0.5*FILE.py:FUNCTION'."
        )
    size = 1.0 if number is None else float(number)
    if size == 0:
        raise UserError(f"reward is {text!r}, in which {name!r} has weight 0; leave it out, or watch it instead.")
    if not math.isfinite(size):
        raise UserError(f"reward is {text!r}, in which the weight {number} is too large; give a finite number.")
    if "*" in name:
        raise UserError(f"reward is {name!r}; write a weight before its part, as in 'clip + 0.5*FILE.py:FUNCTION'.")
    weight = -size if (sign == "-") != (own_sign == "-") else size
    term = Term(weight=weight, name=name)
    _check_form(term)
    return term


def _check_form(term: Term) -> None:
    name, colon, rest = term.name, ":" in term.name, term.rest
    match term.kind:
        case "clip" | "pickscore" if colon and not rest:
            raise UserError(f"reward is {name!r}, whose model is missing; give '{name}MODEL', or {term.kind!r}.")
        case "jpeg-size" if rest not in _AIMS:
            raise UserError(f"reward is {name!r}; give 'jpeg-size:{_AIMS[0]}' or 'jpeg-size:{_AIMS[1]}'.")
        case "bert" if colon:
            raise UserError(f"reward is {name!r}; give 'bert', whose settings stand apart.")
        case "remote" if not _ADDRESS.match(rest):
            raise UserError(f"reward is {name!r}, which has no address; give 'remote:http://HOST:PORT'.")
        case "own":
            _check_own(name)
        case _:
            pass


def _check_own(name: str) -> None:
    where, colon, what = name.rpartition(":")
    if name.endswith(".py"):
        raise UserError(f"reward is {name!r}; name the function in that file too: '{name}:FUNCTION'.")
    if not (colon and where and what.isidentifier()):
        raise UserError(f"reward is {name!r}; give {_FORMS}, or a sum such as 'clip + 0.5*FILE.py:FUNCTION'.")
