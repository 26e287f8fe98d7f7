"""How well the text in an image matches the text in double quotes in its prompt, as in flow_grpo (arXiv 2505.05470).

1 - min(distance, length) / length, with the edit distance (Levenshtein) between the recognized and the quoted text,
both in lower case without spaces, and the length of the quoted text; 1 if the recognized text contains the quoted one.
flow_grpo reads with PaddleOCR; here it is EasyOCR or Tesseract. A reading error is a failure here and never a score.

Shapes: B images of 3 x H x W in [0, 1].
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from PIL import Image
from torch import Tensor

from b2diffurl.errors import UserError
from b2diffurl.images import to_pil
from b2diffurl.rewards.builtin import RewardKind, RewardSettings
from b2diffurl.rewards.facts import RewardFacts
from b2diffurl.rewards.scores import Info
from b2diffurl.rewards.settings import OCRSettings
from b2diffurl.rewards.spec import Term

Read = Callable[[Image.Image], str]
_ENGLISH = {"easyocr": "en", "pytesseract": "eng"}


class OCRReward:
    """The match of rendered and quoted text as a reward.

    Args:
        read: recognizes the text in an RGB image; see `load_engine`.
    """

    def __init__(self, read: Read) -> None:
        self.read = read

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> tuple[Float64[Tensor, " B"], Info]:
        """Score images.

        Returns:
            The match for each image, 0 to 1; and the recognized text.

        Raises:
            UserError: a prompt has no text in double quotes.
        """
        quoted = [quoted_text(prompt) for prompt in prompts]
        texts = [self.read(to_pil(image)) for image in images]
        scores = [match(text, target) for text, target in zip(texts, quoted, strict=True)]
        return torch.tensor(scores, dtype=torch.float64), {"text": texts}


def match(text: str, target: str) -> float:
    """Return how well a recognized text matches its target, 0 to 1.

    >>> match("Hello w0rld", "hello world"), match("say HELLO", "hello"), match("", "hello")
    (0.9, 1.0, 0.0)
    """
    text, target = _plain(text), _plain(target)
    if target in text:
        return 1.0
    return 1 - min(edit_distance(text, target), len(target)) / len(target)


def edit_distance(a: str, b: str) -> int:
    """Return the Levenshtein distance: insertions, deletions and replacements that turn one text into the other.

    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(b) + 1))
    for i, char in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (char != other))
    return row[-1]


def quoted_text(prompt: str) -> str:
    """Return the first text in double quotes.

    Raises:
        UserError: there is none.
    """
    parts = prompt.split('"')
    if len(parts) < 3 or not _plain(parts[1]):
        raise UserError(
            f"reward ocr needs a text in double quotes in every prompt, but a prompt is {prompt!r}; write for example "
            'a sign with "hello" on it.'
        )
    return parts[1]


def load_engine(settings: OCRSettings, *, device: torch.device | str = "cpu") -> Read:
    """Load the engine that reads text in images.

    Args:
        settings: the engine and the language.
        device: device of EasyOCR; Tesseract runs on the CPU.

    Raises:
        UserError: the engine cannot be loaded.
    """
    engine: Any = import_module(settings.engine)
    language = settings.language or _ENGLISH[settings.engine]
    try:
        if settings.engine == "pytesseract":
            engine.get_tesseract_version()
            return lambda image: engine.image_to_string(image, lang=language)
        reader = engine.Reader([language], gpu=torch.device(device).type == "cuda", verbose=False)
    except (OSError, ValueError, SystemExit) as error:
        cause = " ".join(str(error).split())
        raise UserError(
            f"ocr.engine is {settings.engine!r}, which could not be loaded: {cause.rstrip('.')}; install what it "
            "needs, or give the other engine."
        ) from error
    return lambda image: "".join(reader.readtext(np.asarray(image), detail=0))


def _plain(text: str) -> str:
    return "".join(text.split()).lower()


def _check(term: Term, settings: RewardSettings) -> None:
    if term.name != "ocr":
        raise UserError(f"reward is {term.name!r}; give 'ocr', and its engine in the settings [ocr].")
    engine = settings.ocr.engine
    if find_spec(engine) is None:
        raise UserError(f"ocr.engine is {engine!r}, which is not installed; run pip install {engine}.")


def _check_prompts(prompts: Sequence[str]) -> None:
    for prompt in prompts:
        quoted_text(prompt)


def _load(_: Term, settings: RewardSettings, device: torch.device | str) -> OCRReward:
    return OCRReward(load_engine(settings.ocr, device=device))


REWARD = RewardKind(
    forms="'ocr'",
    check=_check,
    check_prompts=_check_prompts,
    load=_load,
    facts=RewardFacts(
        summary="rendered text against quoted text",
        source="arXiv 2505.05470; flow_grpo/ocr.py",
        weights="those that EasyOCR downloads, size unknown; Tesseract's come with the program",
        license="Apache-2.0 (packages); weights unknown",
        download_gb=None,
        memory_gib=None,
        package="easyocr or pytesseract",
        needs="a package",
        table="ocr",
        note='ocr; every prompt needs a text in double quotes, such as a sign with "hello" on it',
    ),
)
