"""A reward in another process or on another machine, over HTTP; so a reward keeps an environment of its own.

    POST /v1/score  {"images": [base64 PNG], "prompts": [...], "metadata": [{}, ...]}
                    -> {"rewards": [...], "info": {"pictures": {"caption": [...], ...}, ...}}
    GET  /health    -> {"status": "ok", "reward": NAME}

What info.pictures says, one entry a picture, is kept for people to read; the rest of info is not read here. Both take
`Authorization: Bearer TOKEN` where the server has a token. Pictures travel as PNG, rounded to 8 bits as everywhere
else. A failure is told and never becomes a number.

Shapes: B pictures of 3 x H x W in [0, 1].
"""

import base64
import ipaddress
import json
import math
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx2
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from b2diffurl.config import settings
from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.images import to_pil
from b2diffurl.rewards.info import Info, as_info

TOKEN_VARIABLE = "B2DIFFURL_REWARD_TOKEN"
_MAX_BACKOFF_SECONDS = 30.0
_HEALTH_SECONDS = 10.0
_FAST_COMPRESSION = 1


@settings
class RemoteSettings:
    """How a reward server is asked (ours).

    Attributes:
        timeout_seconds: for one request, sending and waiting included.
        max_retries: further tries of one request after a lost connection, a timeout or an answer of 500 and above.
        backoff_seconds: wait before the first retry; it doubles each time, up to 30 seconds.
        batch_size: pictures a request.
        max_concurrency: requests on their way at the same time.
        token_variable: environment variable that has the server's token; unset or empty is no token.
    """

    timeout_seconds: float = 300.0
    max_retries: int = 5
    backoff_seconds: float = 1.0
    batch_size: int = 16
    max_concurrency: int = 2
    token_variable: str = TOKEN_VARIABLE

    def __post_init__(self) -> None:
        for name in ("timeout_seconds", "backoff_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"remote.{name} is {getattr(self, name)}; give seconds above 0.")
        for name, least in (("max_retries", 0), ("batch_size", 1), ("max_concurrency", 1)):
            if getattr(self, name) < least:
                raise UserError(f"remote.{name} is {getattr(self, name)}; give {least} or more.")
        if not self.token_variable:
            raise UserError("remote.token_variable is empty; give the name of an environment variable.")


class RemoteReward:
    """A reward server as a reward.

    Args:
        url: where it is, such as "http://127.0.0.1:8009"; https and a path before /v1/score are allowed.
        settings: how it is asked.

    Attributes:
        info: what the server said of each picture of the last call.

    Raises:
        UserError: the address or the token cannot be one; nothing is sent yet.
    """

    def __init__(self, url: str, settings: RemoteSettings = RemoteSettings()) -> None:  # noqa: B008 - frozen
        host = _check_url(url)
        self.url = url.rstrip("/")
        self.settings = settings
        self.info: Info = {}
        token = read_token(settings.token_variable)
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        # A proxy of the environment is for other machines, whether or not no_proxy says so.
        self._trust_env = not is_loopback(host)

    def check(self) -> str:
        """Ask the server whether it is there; give its reward's name.

        Raises:
            UserError: it cannot be reached, refuses the token, or is no reward server.
        """
        timeout = min(_HEALTH_SECONDS, self.settings.timeout_seconds)
        try:
            response = httpx2.get(
                f"{self.url}/health", headers=self._headers, timeout=timeout, trust_env=self._trust_env
            )
        except httpx2.RequestError as error:
            raise UserError(
                f"no reward server answers at {self.url} ({_in_words(error)}); start it, for example with "
                "`b2diffurl serve-reward NAME`, or correct the address."
            ) from error
        if response.status_code in (401, 403):
            raise UserError(
                f"the reward server at {self.url} refuses the token; set the environment variable "
                f"{self.settings.token_variable} to the token it was started with."
            )
        answer = _object(response)
        if response.status_code != 200 or answer.get("status") != "ok" or not isinstance(answer.get("reward"), str):
            raise UserError(
                f"{self.url}/health gave {response.status_code} and no reward's name; is it a reward server's address?"
            )
        return answer["reward"]

    def __call__(
        self,
        images: Float[Tensor, "B 3 H W"],
        prompts: Sequence[str],
        *,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> Float64[Tensor, " B"]:
        """Score pictures, order kept; `metadata` is for a reward that wants more than the prompt, one object a picture.

        Raises:
            RewardFailed: a request failed after its retries, was refused, or was answered with anything else than one
                finite number a picture.
        """
        metadata = [{}] * len(prompts) if metadata is None else metadata
        assert len(images) == len(prompts) == len(metadata)
        # An event loop in a thread of its own works within a notebook's, and Ctrl-C cuts off what is on its way.
        with anyio.from_thread.start_blocking_portal() as portal:
            scored = portal.call(self._score_all, images, prompts, metadata)
        names = set[str].intersection(*(set(info) for _, info in scored)) if scored else set[str]()
        self.info = {name: [entry for _, info in scored for entry in info[name]] for name in sorted(names)}
        return torch.tensor([score for scores, _ in scored for score in scores], dtype=torch.float64)

    async def _score_all(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> list[tuple[list[float], Info]]:
        size = self.settings.batch_size
        batches = [slice(first, min(first + size, len(images))) for first in range(0, len(images), size)]
        found: dict[int, tuple[list[float], Info]] = {}
        failed: list[RewardFailed] = []
        turn = anyio.Semaphore(self.settings.max_concurrency)

        async def score(batch: slice) -> None:
            async with turn:
                body = await anyio.to_thread.run_sync(_body, images[batch], prompts[batch], metadata[batch])
                which = f"pictures {batch.start} to {batch.stop - 1} of {len(images)}"
                try:
                    response = await self._post(client, body, which=which)
                    found[batch.start] = self._read(response, num=batch.stop - batch.start, which=which)
                except RewardFailed as error:
                    failed.append(error)
                    group.cancel_scope.cancel()

        async with (
            httpx2.AsyncClient(headers=self._headers, timeout=None, trust_env=self._trust_env) as client,
            anyio.create_task_group() as group,
        ):
            for batch in batches:
                group.start_soon(score, batch)
        if failed:
            raise failed[0]
        return [found[batch.start] for batch in batches]

    async def _post(self, client: httpx2.AsyncClient, body: bytes, *, which: str) -> httpx2.Response:
        """Send until there is an answer below 500."""
        cause = ""
        for retry in range(1 + self.settings.max_retries):
            if retry:
                await anyio.sleep(min(self.settings.backoff_seconds * 2.0 ** (retry - 1), _MAX_BACKOFF_SECONDS))
            try:
                with anyio.fail_after(self.settings.timeout_seconds):
                    response = await client.post(f"{self.url}/v1/score", content=body)
            except TimeoutError:
                cause = f"no answer within {self.settings.timeout_seconds:g} seconds"
            except httpx2.TransportError as error:
                cause = _in_words(error)
            except httpx2.RequestError as error:
                raise self._failed(which, _in_words(error)) from error
            else:
                if response.status_code < 500:
                    return response
                cause = _refusal(response)
        raise self._failed(which, f"{1 + self.settings.max_retries} tries, the last: {cause}")

    def _read(self, response: httpx2.Response, *, num: int, which: str) -> tuple[list[float], Info]:
        if response.status_code != 200:
            raise self._failed(which, _refusal(response))
        answer = _object(response)
        rewards, info = answer.get("rewards"), answer.get("info")
        if not isinstance(rewards, list):
            raise self._failed(which, "the answer has no list of rewards")
        if len(rewards) != num:
            raise self._failed(which, f"{len(rewards)} rewards came for {num} pictures")
        for index, reward in enumerate(rewards):
            if isinstance(reward, bool) or not isinstance(reward, int | float) or not _is_finite(reward):
                raise self._failed(which, f"the reward of picture {index} of these is {str(reward)[:40]}")
        told = info.get("pictures") if isinstance(info, dict) else None
        return [float(reward) for reward in rewards], as_info(told, num)

    def _failed(self, which: str, cause: str) -> RewardFailed:
        return RewardFailed(f"the reward server at {self.url} did not score {which}: {cause.rstrip('.')}.")


def read_token(variable: str = TOKEN_VARIABLE) -> str | None:
    """Give the bearer token that an environment variable has, or None if it is unset or empty.

    Raises:
        UserError: it is none that a header can carry; the token is not repeated.
    """
    token = os.environ.get(variable) or None
    if token is not None:
        check_token(token, variable)
    return token


def check_token(token: str, name: str) -> None:
    """Refuse a token that a header cannot carry, without repeating it.

    Raises:
        UserError: it is empty or has spaces, line ends or characters outside ASCII.
    """
    if not token or not all("!" <= character <= "~" for character in token):
        raise UserError(
            f"{name} is no token: it may have printable ASCII characters without spaces only, at least one."
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's own loopback.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_url(url: str) -> str:
    """Give the host; an address with a user or password in it is refused without being repeated."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"the reward server's address is no address ({error}); give http://HOST:PORT.") from error
    if parts.username is not None or parts.password is not None:
        raise UserError(f"the reward server's address has a user in it; give the token in {TOKEN_VARIABLE} instead.")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UserError(f"the reward server's address is {url!r}; give http://HOST:PORT or https://HOST.")
    return host


def _body(images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> bytes:
    asked = {"images": [_png(image) for image in images], "prompts": list(prompts), "metadata": list(metadata)}
    return json.dumps(asked).encode()


def _png(image: Float[Tensor, "3 H W"]) -> str:
    file = BytesIO()
    to_pil(image).save(file, format="PNG", compress_level=_FAST_COMPRESSION)
    return base64.b64encode(file.getvalue()).decode()


def _object(response: httpx2.Response) -> dict[str, Any]:
    """Read an answer; anything but a JSON object has nothing in it."""
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _refusal(response: httpx2.Response) -> str:
    """The server's own sentence, or what there is instead."""
    detail = _object(response).get("detail")
    told = detail if isinstance(detail, str) else response.text[:200]
    return f"it answered {response.status_code}: {' '.join(told.split()) or response.reason_phrase}"


def _in_words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the largest float
        return False
