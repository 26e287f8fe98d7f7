"""The BERT reward: a captioner says what a picture shows, and BERTScore compares that with its prompt.

The paper's BERTScore reward, as DDPO (arXiv 2305.13301) has it in its code: the recall of the caption against "The
image contains PROMPT". Even a picture of noise scores about 0.8, so what tells is the normalisation per prompt.

Shapes: B pictures of 3 x H x W in [0, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import fields

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.config import settings
from b2diffurl.errors import UserError
from b2diffurl.rewards.bert.captioner import QUESTION, Captioner, LocalCaptioner, ServedCaptioner, check_base_url
from b2diffurl.rewards.info import Info

_PROMPT = "{prompt}"
_LOCAL_ALONE = ("batch_size",)
_SERVED_ALONE = ("max_concurrency", "max_retries", "timeout_seconds", "api_key_variable")


@settings
class BertSettings:
    """How pictures are captioned and captions compared; DDPO's, but for what says "ours".

    Attributes:
        captioner: an image-text-to-text model: a directory or hub id, or the name that the server knows it by.
        base_url: a server that speaks OpenAI's chat completions, such as http://127.0.0.1:8000/v1; empty captions in
            this process.
        encoder: a DeBERTa (v1) model that compares texts.
        num_layers: the encoder layer that is taken.
        question: what is asked of each picture.
        reference: what a caption is compared with; {prompt} is the picture's prompt.
        max_new_tokens: where a caption is cut.
        jpeg_quality: of the JPEG that the captioner sees, 1 to 100.
        batch_size: pictures at a time, in this process (ours).
        max_concurrency: requests on their way at the same time, to a server (ours).
        max_retries: further tries of one request after a lost connection, a timeout or an answer of 500 and above
            (ours).
        timeout_seconds: for one request, sending and waiting included (ours).
        api_key_variable: environment variable that has the server's key; unset or empty is no key.
    """

    captioner: str = "llava-hf/llava-1.5-7b-hf"
    base_url: str = ""
    encoder: str = "microsoft/deberta-xlarge-mnli"
    num_layers: int = 40
    question: str = QUESTION
    reference: str = "The image contains {prompt}"
    max_new_tokens: int = 64
    jpeg_quality: int = 80
    batch_size: int = 16
    max_concurrency: int = 8
    max_retries: int = 3
    timeout_seconds: float = 60.0
    api_key_variable: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        for name in ("captioner", "encoder", "question", "api_key_variable"):
            if not getattr(self, name).strip():
                raise UserError(f"bert.{name} is empty; leave it out for the default, {self._default(name)!r}.")
        for name in ("num_layers", "max_new_tokens", "batch_size", "max_concurrency"):
            if getattr(self, name) < 1:
                raise UserError(f"bert.{name} is {getattr(self, name)}; give 1 or more.")
        if self.max_retries < 0:
            raise UserError(f"bert.max_retries is {self.max_retries}; give 0 or more.")
        if not 1 <= self.jpeg_quality <= 100:
            raise UserError(f"bert.jpeg_quality is {self.jpeg_quality}; give 1 to 100.")
        if not 0 < self.timeout_seconds < math.inf:
            raise UserError(f"bert.timeout_seconds is {self.timeout_seconds}; give seconds above 0.")
        if _PROMPT not in self.reference:
            raise UserError(f"bert.reference is {self.reference!r}; write {_PROMPT} where the prompt belongs.")
        self._check_place()

    def _check_place(self) -> None:
        """Refuse settings of a server without one, and the other way round."""
        if self.base_url:
            try:
                check_base_url(self.base_url)
            except UserError as error:
                raise UserError(f"bert.{error}") from error
        for name in _LOCAL_ALONE if self.base_url else _SERVED_ALONE:
            if getattr(self, name) != self._default(name):
                place = "but base_url names a server" if self.base_url else "but without base_url there is no server"
                raise UserError(f"bert.{name} is {getattr(self, name)!r} {place}, so it has no effect; leave it out.")

    def _default(self, name: str) -> object:
        return next(field.default for field in fields(self) if field.name == name)


class BertReward:
    """Recall of a picture's caption against its prompt.

    Args:
        settings: how pictures are captioned and captions compared.
        device: where the models run; with a server, only the encoder.

    Attributes:
        info: caption, precision and F1 of each picture of the last call; empty before the first.

    Raises:
        UserError: a model cannot be loaded, or the server's key cannot be one.
    """

    def __init__(self, settings: BertSettings, *, device: torch.device | str = "cpu") -> None:
        from b2diffurl.rewards.bert.bertscore import BERTScore

        self.settings = settings
        self.info: Info = {}
        self.score = BERTScore(settings.encoder, num_layers=settings.num_layers, device=device)
        self.captioner = _load_captioner(settings, device=device)

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Score pictures; higher is better, 1 is a caption that says the reference.

        Raises:
            RewardFailed: the server gave no caption.
        """
        captions = self.captioner(images)
        match = self.score(captions, [self.settings.reference.replace(_PROMPT, prompt) for prompt in prompts])
        self.info = {"caption": list(captions), "precision": match.precision.tolist(), "f1": match.f1.tolist()}
        return match.recall


def _load_captioner(settings: BertSettings, *, device: torch.device | str) -> Captioner:
    if not settings.base_url:
        return LocalCaptioner(
            settings.captioner,
            device=device,
            question=settings.question,
            max_new_tokens=settings.max_new_tokens,
            jpeg_quality=settings.jpeg_quality,
            batch_size=settings.batch_size,
        )
    return ServedCaptioner(
        settings.base_url,
        settings.captioner,
        question=settings.question,
        max_new_tokens=settings.max_new_tokens,
        jpeg_quality=settings.jpeg_quality,
        max_concurrency=settings.max_concurrency,
        max_retries=settings.max_retries,
        timeout_seconds=settings.timeout_seconds,
        api_key_variable=settings.api_key_variable,
    )
