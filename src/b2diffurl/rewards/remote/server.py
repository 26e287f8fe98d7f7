"""A reward over HTTP, for runs elsewhere: the server of what `rewards/remote.py` asks (the extra "serve").

It believes nothing it is sent: the token first, then bytes, numbers, and pixels within limits, PNG or JPEG by content.
What it cannot score it says in a sentence, `{"detail": ...}`: 401 the token, 413 too much, 422 a bad request, 500 a
reward that broke or gave anything else than one finite number a picture. One request is scored at a time.

Shapes: B pictures of 3 x H x W in [0, 1].
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import inspect
import logging
import math
import socket
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import torch
import tyro
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from b2diffurl.config import settings
from b2diffurl.errors import UserError
from b2diffurl.images import from_pil
from b2diffurl.rewards.custom import OwnReward
from b2diffurl.rewards.info import picture_info
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.load import check_reward, load_reward
from b2diffurl.rewards.remote.client import TOKEN_VARIABLE, check_token, is_loopback, read_token

try:
    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request
    from fastapi.concurrency import run_in_threadpool
except ModuleNotFoundError as error:
    raise UserError(
        f"serving a reward needs {error.name}, which is not installed; do: pip install 'b2diffurl[serve]'"
    ) from error

_FORMATS = ("PNG", "JPEG")
_MODES = ("RGB", "L")
_PNG_BIT_DEPTH = 24  # position in the file; Pillow cuts 16 bits to 8 without a word
# What Pillow raises for broken pictures, besides OSError and its subclasses.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)
_LOGGER = logging.getLogger(__name__)


@settings
class ServerLimits:
    """What one request may bring (ours).

    Attributes:
        max_body_bytes: of the request, base64 included; more is not kept in memory.
        max_images: pictures.
        max_pixels: pixels of one picture, counted before it is decompressed.
    """

    max_body_bytes: int = 128 * 2**20
    max_images: int = 32
    max_pixels: int = 2**22

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_images", "max_pixels"):
            if getattr(self, name) < 1:
                raise UserError(f"limits.{name} is {getattr(self, name)}; give 1 or more.")


@settings
class _Asked:
    images: list[str]
    prompts: list[str]
    metadata: list[dict[str, Any]] | None = None


_ASKED: TypeAdapter[_Asked] = TypeAdapter(_Asked)


@dataclass(frozen=True, kw_only=True)
class ServeReward:
    """Serve a reward over HTTP, for runs elsewhere; a token in B2DIFFURL_REWARD_TOKEN is asked of every client.

    Attributes:
        name: the reward, as in `b2diffurl train --reward`.
        host: address to listen at; any but this machine's own needs a token.
        port: to listen at; 0 for any that is free.
        limits: what one request may bring.
        device: where the reward's model runs, such as cpu or cuda.
    """

    name: tyro.conf.Positional[str]
    host: str = "127.0.0.1"
    port: int = 8009
    limits: ServerLimits = field(default_factory=ServerLimits)
    device: str = "cpu"


def run(asked: ServeReward) -> int:
    """Serve until interrupted.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such reward, or the address cannot be listened at.
    """
    token = read_token()
    check_host(asked.host, token=token)
    check_reward(asked.name)
    reward = load_reward(asked.name, device=asked.device)
    serve_reward(reward, name=asked.name, host=asked.host, port=asked.port, token=token, limits=asked.limits)
    return 0


def serve_reward(
    reward: Reward,
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8009,
    token: str | None = None,
    limits: ServerLimits = ServerLimits(),  # noqa: B008 - frozen
) -> None:
    """Serve a reward until interrupted.

    Raises:
        UserError: the address is not this machine's own and there is no token, or it cannot be listened at.
    """
    check_host(host, token=token)
    app = reward_app(reward, name=name, token=token, limits=limits)
    with _listen(host, port) as listening, contextlib.suppress(KeyboardInterrupt):
        config = uvicorn.Config(app, log_level="info", access_log=False)
        shown = f"[{host}]" if ":" in host else host
        logging.getLogger("uvicorn.error").info("%s at http://%s:%d", name, shown, listening.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listening])


def reward_app(
    reward: Reward,
    *,
    name: str,
    token: str | None = None,
    limits: ServerLimits = ServerLimits(),  # noqa: B008 - frozen
) -> FastAPI:
    """Make the application that serves a reward.

    Args:
        reward: (images, prompts) -> scores; one with a parameter `metadata` is given the request's, too.
        name: told by /health.
        token: asked of every client; None for none.
        limits: what one request may bring.

    Raises:
        UserError: the token cannot be one.
    """
    if token is not None:
        check_token(token, "token")
    server = _Server(reward, name=name, token=token, limits=limits)
    # No pages of documentation: they would answer without the token.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(server.authorise)])
    app.add_api_route("/health", server.health, methods=["GET"], response_model=None)
    app.add_api_route("/v1/score", server.score, methods=["POST"], response_model=None)
    return app


def check_host(host: str, *, token: str | None) -> None:
    """Refuse to be reached from elsewhere without a token.

    Raises:
        UserError: the host is not this machine's own and there is no token.
    """
    if token is None and not is_loopback(host):
        raise UserError(
            f"host is {host!r}, which others can reach, and there is no token; set {TOKEN_VARIABLE} or give 127.0.0.1."
        )


class _Server:
    def __init__(self, reward: Reward, *, name: str, token: str | None, limits: ServerLimits) -> None:
        self.name, self.limits = name, limits
        self.reward: Callable[..., Any] = reward
        self.takes_metadata = _takes_metadata(reward)
        self.expected = None if token is None else f"Bearer {token}".encode()
        self.turn = asyncio.Lock()

    async def authorise(self, request: Request) -> None:
        given = request.headers.get("Authorization", "").encode("utf-8", errors="replace")
        if self.expected is not None and not hmac.compare_digest(given, self.expected):
            raise HTTPException(
                401,
                f"the token is missing or wrong; the client takes it from {TOKEN_VARIABLE}.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def health(self) -> dict[str, str]:
        return {"status": "ok", "reward": self.name}

    async def score(self, request: Request) -> dict[str, Any]:
        body = await self._body(request)
        asked = self._asked(body)
        async with self.turn:
            if await request.is_disconnected():
                raise HTTPException(408, "the client has left.")  # nobody reads it; the next in line is served
            started = time.perf_counter()
            rewards = await run_in_threadpool(self._score, asked)
            told = picture_info(self.reward, len(rewards))
        seconds = time.perf_counter() - started
        return {"rewards": rewards, "info": {"reward": self.name, "seconds": seconds, "pictures": told}}

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            if len(body) + len(chunk) > self.limits.max_body_bytes:
                raise HTTPException(
                    413, f"the request has more than {self.limits.max_body_bytes} bytes; send fewer images."
                )
            body += chunk
        return bytes(body)

    def _asked(self, body: bytes) -> _Asked:
        try:
            asked = _ASKED.validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(key) for key in first["loc"])
            raise HTTPException(
                422, f"the request {'is' if not field else 'has in ' + field}: {first['msg']}."
            ) from error
        num = len(asked.images)
        if num == 0:
            raise HTTPException(422, "images is empty; send one or more.")
        if num > self.limits.max_images:
            raise HTTPException(413, f"the request has {num} images; send at most {self.limits.max_images}.")
        for name, found in (("prompts", asked.prompts), ("metadata", asked.metadata)):
            if found is not None and len(found) != num:
                raise HTTPException(422, f"the request has {num} images but {len(found)} {name}; send one an image.")
        if any(asked.metadata or ()) and not self.takes_metadata:
            raise HTTPException(422, f"the reward {self.name} takes no metadata; send empty objects.")
        return asked

    def _score(self, asked: _Asked) -> list[float]:
        images = self._decode(asked.images)
        more: dict[str, Any] = {}
        if self.takes_metadata:
            more["metadata"] = asked.metadata or [{} for _ in images]
        try:
            rewards = torch.as_tensor(self.reward(images, asked.prompts, **more)).double()
        except Exception as error:  # somebody's function may raise anything, and the client is to know
            _LOGGER.exception("the reward %s raised", self.name)
            told = " ".join(str(error).split())[:200]
            raise HTTPException(500, f"the reward {self.name} raised {type(error).__name__}: {told}.") from error
        if tuple(rewards.shape) != (len(images),):
            raise HTTPException(
                500, f"the reward {self.name} gave shape {tuple(rewards.shape)} for {len(images)} images."
            )
        found = [float(reward) for reward in rewards]
        for index, reward in enumerate(found):
            if not math.isfinite(reward):
                raise HTTPException(500, f"the reward {self.name} gave {reward} for image {index}.")
        return found

    def _decode(self, texts: list[str]) -> Tensor:
        images = [self._decode_one(text, index) for index, text in enumerate(texts)]
        for index, image in enumerate(images):
            if image.size != images[0].size:
                raise HTTPException(
                    422, f"image {index} is {_size(image)}, image 0 is {_size(images[0])}; send one size."
                )
        return torch.stack([from_pil(image) for image in images])

    def _decode_one(self, text: str, index: int) -> Image.Image:
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise HTTPException(422, f"image {index} is no base64.") from error
        try:
            image = Image.open(BytesIO(content), formats=_FORMATS)
        except Image.DecompressionBombError as error:
            raise HTTPException(413, self._too_large(index)) from error
        except _BROKEN as error:
            raise HTTPException(422, f"image {index} is neither PNG nor JPEG.") from error
        if image.width * image.height > self.limits.max_pixels:
            raise HTTPException(413, self._too_large(index))
        if image.mode not in _MODES or (image.format == "PNG" and content[_PNG_BIT_DEPTH] > 8):
            raise HTTPException(422, f"image {index} is not RGB of 8 bits; convert it.")
        try:
            image.load()
        except _BROKEN as error:
            raise HTTPException(422, f"image {index} is damaged.") from error
        return image

    def _too_large(self, index: int) -> str:
        return f"image {index} has more than {self.limits.max_pixels} pixels; send smaller ones."


def _takes_metadata(reward: Callable[..., Any]) -> bool:
    function = reward.function if isinstance(reward, OwnReward) else reward
    try:
        return "metadata" in inspect.signature(function).parameters
    except ValueError:  # a function written in C has no signature to read
        return False


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height} pixels"


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise UserError(f"port is {port}; give 0 to 65535.")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"{host} port {port} cannot be listened at ({error.strerror}); give another host or port."
        ) from error
