"""The words of everything a person reads: plain technical English, American spelling, the field's terms.

Each pattern has the wording to use instead. An exception goes into `ALLOWED`, with its reason.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = (
    "src/**/*.py", "src/**/*.html", "src/**/*.j2", "src/**/*.md", "docs/**/*.md", "tools/**/*.py", "examples/**/*.py",
    "benchmarks/**/*.py", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "NOTICE", "Makefile", "pyproject.toml",
)  # fmt: skip

_COUNTED = (
    r"(?:element|card|step|image|prompt|round|process|rank|latent|branch|trajectory|pair|group|family|reward|token)"
)
_THING = r"(?!(?:of|in|on|with|for|at|from|to|by|is|as|than|under|into|and|or|like|not) )\w+"
_UNIT = r"(?:one|once|two|twice|three|nats|numbers?|bytes|kept|seconds|[KMG]i?B|a (?:file|class|row|line|page|process))"
_IZE = "normal|minim|maxim|optim|initial|serial|summar|recogn|organ|general|real|util|penal|quant|token"
_BRITISH = "licence|centre[sd]?|learnt|grey|artefacts?|catalogue|analyse[ds]?|modelling|labelled|cancelled"

# Pattern -> what to write instead. Identifiers count too: "_" separates words.
BANNED = {
    r"(?<![a-z])pictures?(?![a-z])": "image",
    r"(?<![a-z])(?:draw|draws|drawn|drew|drawing|drawings)(?![a-z])": "generate, sample, or plot",
    r"(?<![a-z])(?:told|tells|foretells?)(?![a-z])": "conditioning, message, reports, ...",
    r"\bnumber formats?\b": "dtype, precision",
    r"\bnumber of processes\b|\bprocess (?:number|0)\b": "world size, rank",
    rf"\b{_UNIT} (?:{_THING} )?an? {_COUNTED}s?\b": "per",
    r"\b(?:nats|bits|loss|score|number) an element\b|\ban? \w+ each\b": "per, one per",
    r"(?<!there )\b(?:is|are|was|were) no (?!longer|more|fewer|less|smaller|larger|greater|better|worse)": (
        "is not a valid, invalid, unknown"
    ),
    r"\b(?:say|says|said|saying) of\b|\bis said\b|\bsaid so\b": "describes, reports",
    r"\bwhat(?:ever)? (?:became|becomes|has become) of\b|\bwhatever became\b": "outcome, result",
    r"\b(?:look|looks|looked|looking) at\b": "inspects, uses",
    r"\b(?:see|sees|seen) to it\b": "makes sure, checks",
    r"\b(?:user's|users'|your) mistakes?\b": "invalid setting, user error",
    r"\bin words\b": "as text",
    r"\bsomebody\b|\bgood-bye\b|\bfor people\b|\bwho talks\b": "the field's term",
    r"\brooms\b|\b(?:this|the|a|only|each|one) room\b": "package, module",
    r"^\s{4,}\w+: (?:of|for|that|where|whose|to|besides) ": "a phrase with a noun: 'AdamW betas.'",
    rf"(?<![a-z])(?:{_IZE})is(?:e|es|ed|er|ers|ing|ation)\b": "-ize",
    r"(?<![a-z])(?:colour|behaviour|neighbour|favour|honour)": "-or",
    rf"(?<![a-z])(?:{_BRITISH})(?![a-z])": (
        "American spelling"
    ),
    r"^\s*(?:found|asked|made|told)\b(?: *[-+|]?=(?!=)|\.|\[|: [a-z])|\breturn (?:found|asked|made|told)\b": (
        "a variable name that is a noun"
    ),
}  # fmt: skip

# (path, text of the line, reason)
ALLOWED: tuple[tuple[str, str, str], ...] = (
    ("tools/emoji_model/render.py", "ImageDraw", "a class of Pillow"),
    ("CONTRIBUTING.md", "tests/unit/test_language.py", "names this test"),
    ("src/b2diffurl/cli/train.py", "in words else", "a variable"),
    ("src/b2diffurl/prompts/lists.py", "for word in words", "a variable"),
)


def text_files() -> list[Path]:
    """The files that are checked."""
    return sorted({path for place in PLACES for path in ROOT.glob(place)})


def hits(path: str, text: str) -> Iterator[str]:
    """Give "path:line: 'word': what to write instead" for each banned word."""
    for number, line in enumerate(text.splitlines(), start=1):
        if any(path == place and part in line for place, part, _ in ALLOWED):
            continue
        for pattern, instead in BANNED.items():
            for match in re.finditer(pattern, line, re.IGNORECASE):
                yield f"{path}:{number}: {match.group().strip()!r}: {instead}"


def test_texts_use_the_terms_of_the_field() -> None:
    lines = [line for path in text_files() for line in hits(str(path.relative_to(ROOT)), path.read_text("utf-8"))]
    assert not lines, f"{len(lines)} places:\n" + "\n".join(lines)


@pytest.mark.parametrize(
    "line",
    [
        "One score a picture.",
        "num_pictures = 3",
        "def draw_curves() -> None:",
        "what the UNet is told of prompts",
        "KL in nats an element",
        "one loss a step",
        "one process a card, a card each",
        "x is no setting",
        "what the reward says of it",
        "a test sees to it",
        "        betas: of AdamW.",
        "normalised rewards",
        "the colour of a line",
        "under the same licence",
        "    found = 3",
        "    return found",
        "asked.output",
    ],
)
def test_banned_wordings_are_found(line: str) -> None:
    assert list(hits("src/b2diffurl/x.py", line))


@pytest.mark.parametrize(
    "line",
    [
        "One score per image.",
        "depicture = withdraws - drawback",
        "There is no checkpoint, and the run is no longer valid.",
        "one of a pair, two in a group",
        "    betas: AdamW betas.",
        "the file was not found: give another",
        "def f(value: torch.Tensor) -> None:",
        "normalize, color, license, center, precise, promise, otherwise",
        "a made-up name",
    ],
)
def test_plain_wordings_pass(line: str) -> None:
    assert not list(hits("src/b2diffurl/x.py", line))
