"""Captioners: from pictures to what a vision-language model says they show.

One runs in this process, one is asked over HTTP. Both see the same JPEG, are asked the same question and decode
greedily, so that their captions agree. The question and the JPEG's quality are DDPO's.

Shapes: B pictures of 3 x H x W in [0, 1].
"""

import base64
import io
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import anyio
import anyio.from_thread
import httpx2
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.images import to_pil
from b2diffurl.rewards.remote.client import is_loopback, read_token

QUESTION = "Answer concisely: what is going on in this image?"
_MAX_BACKOFF_SECONDS = 30.0


@runtime_checkable
class Captioner(Protocol):
    """Say what pictures show."""

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> list[str]:
        """Give one caption a picture, order kept."""
        ...


def to_jpeg(image: Float[Tensor, "3 H W"], *, quality: int) -> bytes:
    """Compress a picture; quality from 1 to 100."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


class LocalCaptioner:
    """Any image-text-to-text model of transformers, in this process.

    Args:
        model: a local directory in transformers format, or a hub id.
        device: where it runs.
        dtype: its precision; None is float16 on a GPU, as in the paper, and float32 elsewhere.
        question: what is asked of each picture.
        max_new_tokens: where a caption is cut.
        jpeg_quality: of the JPEG that the model sees.
        batch_size: pictures at a time.

    Raises:
        UserError: the model cannot be loaded, takes no pictures, or has no chat template.
    """

    def __init__(
        self,
        model: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        question: str = QUESTION,
        max_new_tokens: int = 64,
        jpeg_quality: int = 80,
        batch_size: int = 16,
    ) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

        device = torch.device(device)
        self.dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
        self.max_new_tokens = max_new_tokens
        self.jpeg_quality = jpeg_quality
        self.batch_size = batch_size
        try:
            loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=self.dtype)
            self.processor: Any = AutoProcessor.from_pretrained(model)
            # torchvision's differs, and captions would depend on what is installed.
            self.processor.image_processor = AutoImageProcessor.from_pretrained(model, backend="pil")
            self.prompt = self._prompt(question)
        except (OSError, ValueError) as error:
            raise UserError(f"captioner {model} could not be loaded: {str(error).splitlines()[0]}") from error
        self.model: Any = loaded.requires_grad_(False).eval().to(device)  # pyright: ignore[reportArgumentType]
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # masked out, so any will do

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> list[str]:
        """Caption pictures, at most `batch_size` at a time."""
        return [caption for batch in images.split(self.batch_size) for caption in self._caption(batch)]

    @torch.no_grad()
    def _caption(self, images: Float[Tensor, "B 3 H W"]) -> list[str]:
        inputs = self._inputs(images).to(self.model.device, self.dtype)
        greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        written = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, **greedy)
        new = written[:, inputs["input_ids"].shape[1] :]
        return [caption.strip() for caption in self.processor.batch_decode(new, skip_special_tokens=True)]

    def _inputs(self, images: Float[Tensor, "B 3 H W"]) -> Any:
        seen = [[Image.open(io.BytesIO(to_jpeg(image, quality=self.jpeg_quality)))] for image in images]
        # A chat template that writes the first token itself leaves none to add, as in transformers' own use of it.
        bos = self.processor.tokenizer.bos_token
        added = {"add_special_tokens": False} if bos and self.prompt.startswith(bos) else {}
        texts = [self.prompt] * len(seen)
        return self.processor(text=texts, images=seen, padding=True, return_tensors="pt", **added)

    def _prompt(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


class ServedCaptioner:
    """Any server that speaks OpenAI's chat completions: vLLM, SGLang, `transformers serve`, or one on the internet.

    Lost connections, timeouts and 5xx are retried. What the server refuses, 4xx, is told at once.

    Args:
        base_url: up to the version, such as http://127.0.0.1:8000/v1.
        model: the name that the server knows it by.
        question: what is asked of each picture.
        max_new_tokens: where a caption is cut.
        jpeg_quality: of the JPEG that is sent.
        max_concurrency: requests on their way at the same time.
        max_retries: further tries of one request.
        timeout_seconds: for one request, sending and waiting included.
        backoff_seconds: wait before the first retry; it doubles each time, up to 30 seconds.
        api_key_variable: environment variable that has the server's key; unset or empty is no key.

    Raises:
        UserError: the address or the key cannot be one; nothing is sent yet.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        question: str = QUESTION,
        max_new_tokens: int = 64,
        jpeg_quality: int = 80,
        max_concurrency: int = 8,
        max_retries: int = 3,
        timeout_seconds: float = 60.0,
        backoff_seconds: float = 1.0,
        api_key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        host = check_base_url(base_url)
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.model = model
        self.question = question
        self.max_new_tokens = max_new_tokens
        self.jpeg_quality = jpeg_quality
        self.max_concurrency = max_concurrency
        self.max_retries = max_retries
        self.timeout_seconds = timeout_seconds
        self.backoff_seconds = backoff_seconds
        key = read_token(api_key_variable)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # A proxy of the environment is for other machines, whether or not no_proxy says so.
        self._trust_env = not is_loopback(host)

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> list[str]:
        """Caption pictures.

        Raises:
            RewardFailed: a request failed after its retries, was refused, or was answered with anything but a text.
        """
        jpegs = [to_jpeg(image, quality=self.jpeg_quality) for image in images]
        # An event loop in a thread of its own works inside a notebook's too, and Ctrl-C cuts off what is under way.
        with anyio.from_thread.start_blocking_portal() as portal:
            return portal.call(self._caption_all, jpegs)

    async def _caption_all(self, jpegs: Sequence[bytes]) -> list[str]:
        captions: dict[int, str] = {}
        failed: list[RewardFailed] = []
        turn = anyio.Semaphore(self.max_concurrency)

        async def caption(index: int) -> None:
            async with turn:
                try:
                    captions[index] = self._read(await self._post(client, jpegs[index]))
                except RewardFailed as error:
                    failed.append(error)
                    group.cancel_scope.cancel()

        async with (
            httpx2.AsyncClient(headers=self._headers, timeout=None, trust_env=self._trust_env) as client,
            anyio.create_task_group() as group,
        ):
            for index in range(len(jpegs)):
                group.start_soon(caption, index)
        if failed:
            raise failed[0]
        return [captions[index] for index in range(len(jpegs))]

    async def _post(self, client: httpx2.AsyncClient, jpeg: bytes) -> httpx2.Response:
        """Send until there is an answer below 500."""
        cause = ""
        for retry in range(1 + self.max_retries):
            if retry:
                await anyio.sleep(min(self.backoff_seconds * 2.0 ** (retry - 1), _MAX_BACKOFF_SECONDS))
            try:
                with anyio.fail_after(self.timeout_seconds):
                    response = await client.post(self.url, json=self._request(jpeg))
            except TimeoutError:
                cause = f"no answer within {self.timeout_seconds:g} seconds"
            except httpx2.TransportError as error:
                cause = str(error) or type(error).__name__
            except httpx2.RequestError as error:
                raise self._failed(str(error)) from error
            else:
                if response.status_code < 500:
                    return response
                cause = _refusal(response)
        raise self._failed(f"{1 + self.max_retries} tries, the last: {cause}")

    def _request(self, jpeg: bytes) -> dict[str, Any]:
        url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.question}]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self.max_new_tokens,
        }

    def _read(self, response: httpx2.Response) -> str:
        if response.status_code != 200:
            raise self._failed(_refusal(response))
        try:
            caption = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise self._failed("the answer is no chat completion") from error
        if not isinstance(caption, str):
            raise self._failed("the answer has no text")
        return caption.strip()

    def _failed(self, cause: str) -> RewardFailed:
        return RewardFailed(f"the captioner at {self.url} gave no caption: {cause.rstrip('.')}.")


def check_base_url(base_url: str) -> str:
    """Give a server's host; an address with a user or password in it is refused without being repeated.

    Raises:
        UserError: it is no address.
    """
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL as error:
        raise UserError(f"base_url is no address ({error}); give one such as http://127.0.0.1:8000/v1.") from error
    if url.userinfo:
        raise UserError("base_url has a user in it; give a key in the environment instead.")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise UserError(f"base_url is {base_url!r}; give one such as http://127.0.0.1:8000/v1.")
    return url.host


def _refusal(response: httpx2.Response) -> str:
    """What the server says, on one line, without the key if it repeats it."""
    key = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    said = response.text.replace(key, "...") if key else response.text
    return f"it answered {response.status_code}: {' '.join(said.split())[:200] or response.reason_phrase}"
