"""What the HTTP clients of rewards share: concurrent requests with retries, tokens, addresses, images, error texts.

Lost connections, timeouts and answers of 500 and above are retried with exponential backoff. Any other answer is
returned at once, errors of 400 to 499 and redirects included.
"""

import base64
import ipaddress
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.from_thread
import httpx2
from jaxtyping import Float
from torch import Tensor

from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.images import to_pil

T = TypeVar("T")

_MAX_BACKOFF_SECONDS = 30.0
_MAX_TEXT_LENGTH = 200
_FAST_COMPRESSION = 1


class RequestFailedError(Exception):
    """A request that failed after its retries; the message is the cause, without a period."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """When a request is retried.

    Attributes:
        max_retries: retries after the first attempt.
        timeout_seconds: limit for one attempt, sending and waiting included.
        backoff_seconds: wait before the first retry; it doubles each time, up to 30 seconds.
    """

    max_retries: int
    timeout_seconds: float
    backoff_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """A server and how requests are sent to it.

    Attributes:
        url: address of the endpoint.
        token: bearer token, or None; never shown.
        retry: when a request is retried.
        max_concurrency: requests in flight at the same time.
    """

    url: str
    token: str | None = field(repr=False)
    retry: Retry
    max_concurrency: int

    @property
    def headers(self) -> dict[str, str]:
        """The Authorization header, if there is a token."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    @property
    def trust_env(self) -> bool:
        """Whether proxies of the environment are used: never for this machine, whether or not no_proxy lists it."""
        return not is_loopback(urlsplit(self.url).hostname or "")

    def map(self, work: Callable[[httpx2.AsyncClient, int], Awaitable[T]], num: int) -> list[T]:
        """Call `work` with a client and each index below `num`, concurrently.

        Returns:
            The results in order.

        Raises:
            RewardFailed: raised by a call; the others are canceled.
        """
        # An event loop in a thread of its own works inside a notebook, and Ctrl-C cancels the requests in flight.
        with anyio.from_thread.start_blocking_portal() as portal:
            return portal.call(self._map, work, num)

    async def _map(self, work: Callable[[httpx2.AsyncClient, int], Awaitable[T]], num: int) -> list[T]:
        results: dict[int, T] = {}
        failures: list[RewardFailed] = []
        slots = anyio.Semaphore(self.max_concurrency)

        async def run(index: int) -> None:
            async with slots:
                try:
                    results[index] = await work(client, index)
                except RewardFailed as failure:
                    failures.append(failure)
                    group.cancel_scope.cancel()

        async with (
            httpx2.AsyncClient(headers=self.headers, timeout=None, trust_env=self.trust_env) as client,
            anyio.create_task_group() as group,
        ):
            for index in range(num):
                group.start_soon(run, index)
        if failures:
            raise failures[0]
        return [results[index] for index in range(num)]

    async def post(self, client: httpx2.AsyncClient, body: bytes) -> httpx2.Response:
        """Post a JSON body until there is an answer below 500.

        Raises:
            RequestFailedError: there was none after all retries, or the request cannot be sent.
        """
        cause = ""
        for attempt in range(1 + self.retry.max_retries):
            if attempt:
                await anyio.sleep(min(self.retry.backoff_seconds * 2.0 ** (attempt - 1), _MAX_BACKOFF_SECONDS))
            try:
                with anyio.fail_after(self.retry.timeout_seconds):
                    response = await client.post(self.url, content=body, headers={"Content-Type": "application/json"})
            except TimeoutError:
                cause = f"no answer within {self.retry.timeout_seconds:g} seconds"
            except httpx2.TransportError as error:
                cause = describe_error(error)
            except httpx2.RequestError as error:
                raise RequestFailedError(describe_error(error)) from error
            else:
                if response.status_code < 500:
                    return response
                cause = describe_answer(response, secret=self.token)
        raise RequestFailedError(f"{1 + self.retry.max_retries} attempts, the last: {cause}")


def png_base64(image: Float[Tensor, "3 H W"]) -> str:
    """Encode an image as a PNG in base64, rounded to 8 bits as everywhere else."""
    file = BytesIO()
    to_pil(image).save(file, format="PNG", compress_level=_FAST_COMPRESSION)
    return base64.b64encode(file.getvalue()).decode()


def chat_request(question: str, image_url: str, **options: Any) -> bytes:
    """Write the request of a chat completion about one image, for servers with OpenAI's API.

    Args:
        question: text after the image.
        image_url: the image as a data URL.
        options: other fields of the request, such as model and max_tokens.
    """
    content = [{"type": "image_url", "image_url": {"url": image_url}}, {"type": "text", "text": question}]
    return json.dumps({"messages": [{"role": "user", "content": content}], **options}).encode()


def read_choice(response: httpx2.Response, *, secret: str | None) -> dict[str, Any]:
    """Return the first choice of a chat completion.

    Args:
        response: the answer.
        secret: replaced in the message if the server repeats it.

    Raises:
        RequestFailedError: the answer is an error, or not a chat completion.
    """
    if response.status_code != 200:
        raise RequestFailedError(describe_answer(response, secret=secret))
    try:
        choice = response.json()["choices"][0]
        _ = choice["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise RequestFailedError("the answer is not a chat completion") from error
    return choice


def read_object(response: httpx2.Response) -> dict[str, Any]:
    """Return the JSON object of an answer; an empty one if it is anything else."""
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def describe_answer(response: httpx2.Response, *, secret: str | None = None) -> str:
    """Describe an error answer on one line: its status, and the server's `detail` or text.

    Args:
        response: the answer.
        secret: replaced by "..." if the server repeats it.
    """
    detail = read_object(response).get("detail")
    text = detail if isinstance(detail, str) else response.text
    text = " ".join((text.replace(secret, "...") if secret else text).split())
    text = text if isinstance(detail, str) else text[:_MAX_TEXT_LENGTH]
    return f"it answered {response.status_code}: {text or response.reason_phrase}"


def describe_error(error: Exception) -> str:
    """Return the message of an error, or its type if it has none."""
    return str(error) or type(error).__name__


def read_token(variable: str) -> str | None:
    """Read a bearer token from an environment variable; None if it is unset or empty.

    Raises:
        UserError: the token cannot be sent in a header. The message does not contain it.
    """
    token = os.environ.get(variable) or None
    if token is not None:
        check_token(token, variable)
    return token


def check_token(token: str, name: str) -> None:
    """Check that a token can be sent in a header.

    Args:
        token: the token, which the message does not contain.
        name: variable or argument that has the token, for the message.

    Raises:
        UserError: the token is empty, or contains spaces, line breaks or characters outside ASCII.
    """
    if not token or not all("!" <= character <= "~" for character in token):
        raise UserError(f"{name} is not a valid token; use printable ASCII characters without spaces.")


def check_address(url: str, *, name: str, example: str) -> None:
    """Check the address of a server.

    Args:
        url: an http or https address without query or user.
        name: name of the setting, for the message.
        example: a valid address, for the message.

    Raises:
        UserError: the address is invalid. A user or password in it is not repeated.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL) as error:
        raise UserError(f"{name} is not a valid address ({error}); give one such as {example}.") from error
    if parts.username is not None or parts.password is not None:
        raise UserError(f"{name} contains a user; set the token in the environment instead.")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UserError(f"{name} is {url!r}; give one such as {example}.")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's loopback interface.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
