"""Settings of the reward "bert"."""

from dataclasses import fields
from typing import Annotated

from annotated_types import Ge, Le

from b2diffurl.config import NonNegativeInt, PositiveFloat, PositiveInt, settings
from b2diffurl.errors import UserError
from b2diffurl.rewards.http import check_address

PROMPT = "{prompt}"
_ONLY_LOCAL = ("batch_size",)
_ONLY_SERVED = ("max_concurrency", "max_retries", "timeout_seconds", "api_key_variable")


@settings(table="bert")
class BertSettings:
    """How images are captioned and captions compared. Defaults are DDPO's, except where marked "ours".

    Attributes:
        captioner: an image-text-to-text model: a directory, a hub id, or the model's name on the server.
        base_url: a server with OpenAI's chat completions API, such as http://127.0.0.1:8000/v1; empty runs the
            captioner in this process.
        encoder: a DeBERTa (v1) model that compares texts.
        num_layers: the encoder layer whose output is used.
        question: the question about each image.
        reference: the text that a caption is compared with; {prompt} stands for the image's prompt.
        max_new_tokens: maximum length of a caption in tokens.
        jpeg_quality: quality of the JPEG that the captioner sees, 1 to 100.
        batch_size: images per batch of the captioner in this process (ours).
        max_concurrency: requests to a server in flight at the same time (ours).
        max_retries: retries of one request after a lost connection, a timeout or an answer of 500 and above (ours).
        timeout_seconds: limit for one request, sending and waiting included (ours).
        api_key_variable: environment variable with the server's key; unset or empty means no key.
    """

    captioner: str = "llava-hf/llava-1.5-7b-hf"
    base_url: str = ""
    encoder: str = "microsoft/deberta-xlarge-mnli"
    num_layers: PositiveInt = 40
    question: str = "Answer concisely: what is going on in this image?"
    reference: str = "The image contains {prompt}"
    max_new_tokens: PositiveInt = 64
    jpeg_quality: Annotated[int, Ge(1), Le(100)] = 80
    batch_size: PositiveInt = 16
    max_concurrency: PositiveInt = 8
    max_retries: NonNegativeInt = 3
    timeout_seconds: PositiveFloat = 60.0
    api_key_variable: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        for name in ("captioner", "encoder", "question", "api_key_variable"):
            if not getattr(self, name).strip():
                raise UserError(f"bert.{name} is empty; leave it out for the default, {self._default(name)!r}.")
        if PROMPT not in self.reference:
            raise UserError(f"bert.reference is {self.reference!r}; write {PROMPT} where the prompt belongs.")
        if self.base_url:
            check_address(self.base_url, name="bert.base_url", example="http://127.0.0.1:8000/v1")
        self._check_no_effect()

    def _check_no_effect(self) -> None:
        """Reject settings of a server without one, and the other way round."""
        for name in _ONLY_LOCAL if self.base_url else _ONLY_SERVED:
            if getattr(self, name) != self._default(name):
                place = "but base_url names a server" if self.base_url else "but without base_url there is no server"
                raise UserError(f"bert.{name} is {getattr(self, name)!r} {place}, so it has no effect; leave it out.")

    def _default(self, name: str) -> object:
        return next(field.default for field in fields(self) if field.name == name)
