"""Serve a reward over HTTP: the server of `rewards/remote/client.py` (the extra "serve").

Requests are not trusted. The token is checked first, then the number of bytes while they arrive, then the number and
pixels of images, which must be PNG or JPEG by content. Errors are answered with a sentence, `{"detail": ...}`: 401 for
the token, 413 for too much, 422 for an invalid request, 500 for a reward that raised or did not return one finite
number per image. One request is scored at a time.

FastAPI does not read the request model itself: it would read the whole body before the token and the size are checked.

Shapes: B images of 3 x H x W in [0, 1].
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
import socket
import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from b2diffurl.config import settings
from b2diffurl.errors import UserError
from b2diffurl.images import from_pil
from b2diffurl.rewards.custom import takes_metadata
from b2diffurl.rewards.http import check_token, is_loopback
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.remote.settings import TOKEN_VARIABLE, ServerLimits
from b2diffurl.rewards.scores import InvalidScoresError, ScoredImages
from b2diffurl.rewards.weighted_sum import score_images

try:
    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request
    from fastapi.concurrency import run_in_threadpool
except ModuleNotFoundError as error:
    raise UserError(
        f"serving a reward needs {error.name}, which is not installed; run pip install 'b2diffurl[serve]'."
    ) from error

_FORMATS = ("PNG", "JPEG")
_MODES = ("RGB", "L")
_PNG_BIT_DEPTH = 24  # position in the file; Pillow reduces 16 bits to 8 without a warning
# What Pillow raises for broken images, besides OSError and its subclasses.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)
_MAX_MESSAGE_LENGTH = 200
_LOGGER = logging.getLogger(__name__)


@settings
class _ScoreRequest:
    images: list[str]
    prompts: list[str]
    metadata: list[dict[str, Any]] | None = None


_SCORE_REQUEST: TypeAdapter[_ScoreRequest] = TypeAdapter(_ScoreRequest)


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

    Args:
        reward: the reward.
        name: the reward's name, returned by /health.
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        token: required of every client; None for none.
        limits: limits of one request.

    Raises:
        UserError: the host is not this machine's loopback and there is no token, or the server cannot listen on it.
    """
    check_host(host, token=token)
    app = reward_app(reward, name=name, token=token, limits=limits)
    with _listen(host, port) as listening, contextlib.suppress(KeyboardInterrupt):
        config = uvicorn.Config(app, log_level="info", access_log=False)
        address = f"[{host}]" if ":" in host else host
        logging.getLogger("uvicorn.error").info("%s at http://%s:%d", name, address, listening.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listening])


def reward_app(
    reward: Reward,
    *,
    name: str,
    token: str | None = None,
    limits: ServerLimits = ServerLimits(),  # noqa: B008 - frozen
) -> FastAPI:
    """Create the application that serves a reward.

    Args:
        reward: the reward; if it has a parameter `metadata`, it is called with the request's.
        name: the reward's name, returned by /health.
        token: required of every client; None for none.
        limits: limits of one request.

    Raises:
        UserError: the token is invalid.
    """
    if token is not None:
        check_token(token, "token")
    server = _Server(reward, name=name, token=token, limits=limits)
    # No documentation pages: they would be served without the token.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(server.authorize)])
    app.add_api_route("/health", server.health, methods=["GET"], response_model=None)
    app.add_api_route("/v1/score", server.score, methods=["POST"], response_model=None)
    return app


def check_host(host: str, *, token: str | None) -> None:
    """Check that a server that other machines can reach has a token.

    Raises:
        UserError: the host is not this machine's loopback and there is no token.
    """
    if token is None and not is_loopback(host):
        raise UserError(
            f"host is {host!r}, which others can reach, and there is no token; set {TOKEN_VARIABLE} or give 127.0.0.1."
        )


def decode_image(text: str, *, index: int, max_pixels: int) -> Image.Image:
    """Decode one base64 image of a request.

    Args:
        text: base64 of a PNG or JPEG file.
        index: index of the image, for the message.
        max_pixels: largest number of pixels.

    Raises:
        HTTPException: 413 if the image is too large, 422 if it is invalid.
    """
    too_large = f"image {index} has more than {max_pixels} pixels; send smaller ones."
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPException(422, f"image {index} is not valid base64.") from error
    try:
        image = Image.open(BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise HTTPException(413, too_large) from error
    except _BROKEN as error:
        raise HTTPException(422, f"image {index} is neither PNG nor JPEG.") from error
    if image.width * image.height > max_pixels:
        raise HTTPException(413, too_large)
    if image.mode not in _MODES or (image.format == "PNG" and content[_PNG_BIT_DEPTH] > 8):
        raise HTTPException(422, f"image {index} is not RGB with 8 bits; convert it.")
    try:
        image.load()
    except _BROKEN as error:
        raise HTTPException(422, f"image {index} is damaged.") from error
    return image


class _Server:
    def __init__(self, reward: Callable[..., Any], *, name: str, token: str | None, limits: ServerLimits) -> None:
        self.reward = reward
        self.name = name
        self.limits = limits
        self.expected = None if token is None else f"Bearer {token}".encode()
        self.lock = asyncio.Lock()

    async def authorize(self, request: Request) -> None:
        header = request.headers.get("Authorization", "").encode("utf-8", errors="replace")
        if self.expected is not None and not hmac.compare_digest(header, self.expected):
            raise HTTPException(
                401,
                f"the token is missing or wrong; the client reads it from {TOKEN_VARIABLE}.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def health(self) -> dict[str, str]:
        return {"status": "ok", "reward": self.name}

    async def score(self, request: Request) -> dict[str, Any]:
        score_request = self._parse(await self._read_body(request))
        async with self.lock:
            if await request.is_disconnected():
                raise HTTPException(408, "the client has disconnected.")  # nobody reads the answer
            started = time.perf_counter()
            scored = await run_in_threadpool(self._score, score_request)
        info = {"reward": self.name, "seconds": time.perf_counter() - started, "images": scored.info}
        return {"rewards": scored.scores.tolist(), "info": info}

    async def _read_body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            if len(body) + len(chunk) > self.limits.max_body_bytes:
                raise HTTPException(
                    413, f"the request has more than {self.limits.max_body_bytes} bytes; send fewer images."
                )
            body += chunk
        return bytes(body)

    def _parse(self, body: bytes) -> _ScoreRequest:
        try:
            request = _SCORE_REQUEST.validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(key) for key in first["loc"])
            problem = f"invalid in {where}" if where else "invalid"
            raise HTTPException(422, f"the request is {problem}: {first['msg']}.") from error
        num = len(request.images)
        if num == 0:
            raise HTTPException(422, "images is empty; send one or more.")
        if num > self.limits.max_images:
            raise HTTPException(413, f"the request has {num} images; send at most {self.limits.max_images}.")
        for name, items in (("prompts", request.prompts), ("metadata", request.metadata)):
            if items is not None and len(items) != num:
                raise HTTPException(422, f"the request has {num} images but {len(items)} {name}; send one per image.")
        if any(request.metadata or ()) and not takes_metadata(self.reward):
            raise HTTPException(422, f"the reward {self.name} does not use metadata; send empty objects.")
        return request

    def _score(self, request: _ScoreRequest) -> ScoredImages:
        images = self._decode(request.images)
        try:
            return score_images(self.reward, images, request.prompts, request.metadata, name=self.name)
        except InvalidScoresError as error:
            raise HTTPException(500, str(error)) from error
        except Exception as error:  # user code may raise anything, and the client needs the cause
            _LOGGER.exception("the reward %s raised", self.name)
            message = " ".join(str(error).split())[:_MAX_MESSAGE_LENGTH]
            raise HTTPException(500, f"the reward {self.name} raised {type(error).__name__}: {message}.") from error

    def _decode(self, texts: list[str]) -> Float[Tensor, "B 3 H W"]:
        images = [
            decode_image(text, index=index, max_pixels=self.limits.max_pixels) for index, text in enumerate(texts)
        ]
        for index, image in enumerate(images):
            if image.size != images[0].size:
                raise HTTPException(
                    422, f"image {index} is {_size(image)}, image 0 is {_size(images[0])}; send images of one size."
                )
        return torch.stack([from_pil(image) for image in images])


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height} pixels"


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise UserError(f"port is {port}; give 0 to 65535.")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"the server cannot listen on {host} port {port} ({error.strerror}); give another host or port."
        ) from error
