"""Captioners: images to short descriptions by a vision-language model, in this process or over HTTP.

Both see the same JPEG, ask the same question and decode greedily, so that their captions agree. The question and the
JPEG quality are DDPO's.

Shapes: B images of 3 x H x W in [0, 1].
"""

import base64
import io
from typing import Any, Protocol, runtime_checkable

import httpx2
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.images import to_pil
from b2diffurl.rewards.bert.settings import BertSettings
from b2diffurl.rewards.http import Connection, RequestFailedError, Retry, chat_request, read_choice, read_token


@runtime_checkable
class Captioner(Protocol):
    """Describe images."""

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> list[str]:
        """Return one caption per image in the same order."""
        ...


def to_jpeg(image: Float[Tensor, "3 H W"], *, quality: int) -> bytes:
    """Compress an image; quality from 1 to 100."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


class LocalCaptioner:
    """An image-text-to-text model of transformers in this process.

    Args:
        settings: model, question, lengths and batch size.
        device: device of the model.
        dtype: precision; by default float16 on a GPU, as in the paper, and float32 elsewhere.

    Raises:
        UserError: the model cannot be loaded, does not accept images, or has no chat template.
    """

    def __init__(
        self, settings: BertSettings, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

        self.settings = settings
        device = torch.device(device)
        self.dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
        model = settings.captioner
        try:
            loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=self.dtype)
            self.processor: Any = AutoProcessor.from_pretrained(model)
            # torchvision preprocesses differently, and captions would depend on whether it is installed.
            self.processor.image_processor = AutoImageProcessor.from_pretrained(model, backend="pil")
            self.prompt = self._prompt(settings.question)
        except (OSError, ValueError) as error:
            raise UserError(f"captioner {model} could not be loaded: {str(error).splitlines()[0]}") from error
        self.model: Any = loaded.requires_grad_(False).eval().to(device)  # pyright: ignore[reportArgumentType]
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # masked out, so that any token will do

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> list[str]:
        """Caption images in batches of `settings.batch_size`."""
        return [caption for batch in images.split(self.settings.batch_size) for caption in self._caption(batch)]

    @torch.no_grad()
    def _caption(self, images: Float[Tensor, "B 3 H W"]) -> list[str]:
        inputs = self._inputs(images).to(self.model.device, self.dtype)
        greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        generated = self.model.generate(**inputs, max_new_tokens=self.settings.max_new_tokens, **greedy)
        new_tokens = generated[:, inputs["input_ids"].shape[1] :]
        return [caption.strip() for caption in self.processor.batch_decode(new_tokens, skip_special_tokens=True)]

    def _inputs(self, images: Float[Tensor, "B 3 H W"]) -> Any:
        jpegs = [[Image.open(io.BytesIO(to_jpeg(image, quality=self.settings.jpeg_quality)))] for image in images]
        # If the chat template writes the first special token, the tokenizer must not add it, as in transformers itself.
        bos = self.processor.tokenizer.bos_token
        options = {"add_special_tokens": False} if bos and self.prompt.startswith(bos) else {}
        texts = [self.prompt] * len(jpegs)
        return self.processor(text=texts, images=jpegs, padding=True, return_tensors="pt", **options)

    def _prompt(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


class ServedCaptioner:
    """A server with OpenAI's chat completions API: vLLM, SGLang, `transformers serve`, or a public one.

    Lost connections, timeouts and 5xx are retried; 4xx fails at once. Not huggingface_hub.AsyncInferenceClient: without
    a key it sends the user's Hugging Face token to the server, and it uses proxies and follows redirects.

    Args:
        settings: server, model, question, lengths and limits.
        backoff_seconds: wait before the first retry; it doubles each time, up to 30 seconds.

    Raises:
        UserError: the key is invalid; no request is sent.
    """

    def __init__(self, settings: BertSettings, *, backoff_seconds: float = 1.0) -> None:
        assert settings.base_url
        self.settings = settings
        self._connection = Connection(
            url=f"{settings.base_url.rstrip('/')}/chat/completions",
            token=read_token(settings.api_key_variable),
            retry=Retry(
                max_retries=settings.max_retries,
                timeout_seconds=settings.timeout_seconds,
                backoff_seconds=backoff_seconds,
            ),
            max_concurrency=settings.max_concurrency,
        )

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> list[str]:
        """Caption images.

        Raises:
            RewardFailed: a request failed after its retries, was rejected, or was not answered with a text.
        """
        jpegs = [to_jpeg(image, quality=self.settings.jpeg_quality) for image in images]

        async def caption(client: httpx2.AsyncClient, index: int) -> str:
            try:
                return self._read_answer(await self._connection.post(client, self._request(jpegs[index])))
            except RequestFailedError as failure:
                cause = str(failure).rstrip(".")
                raise RewardFailed(
                    f"the captioner at {self._connection.url} returned no caption: {cause}."
                ) from failure

        return self._connection.map(caption, len(jpegs))

    def _request(self, jpeg: bytes) -> bytes:
        return chat_request(
            self.settings.question,
            f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}",
            model=self.settings.captioner,
            temperature=0,
            max_tokens=self.settings.max_new_tokens,
        )

    def _read_answer(self, response: httpx2.Response) -> str:
        caption = read_choice(response, secret=self._connection.token)["message"]["content"]
        if not isinstance(caption, str):
            raise RequestFailedError("the answer has no text")
        return caption.strip()
