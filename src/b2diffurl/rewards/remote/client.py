"""A reward in another process or on another machine, over HTTP: rewards can have their own environments.

    POST /v1/score  {"images": [base64 PNG], "prompts": [...], "metadata": [{}, ...]}
                    -> {"rewards": [...], "info": {"images": {"caption": [...], ...}, ...}}
    GET  /health    -> {"status": "ok", "reward": NAME}

info.images, one entry per image, is logged by the run; the rest of info is ignored. Both endpoints require
`Authorization: Bearer TOKEN` if the server has a token. Images are sent as PNG, rounded to 8 bits as everywhere else.
A failure raises RewardFailed and never becomes a score.

Shapes: B images of 3 x H x W in [0, 1].
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import anyio.to_thread
import httpx2
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.rewards.builtin import RewardKind, RewardSettings
from b2diffurl.rewards.facts import RewardFacts
from b2diffurl.rewards.http import (
    Connection,
    RequestFailedError,
    Retry,
    check_address,
    describe_answer,
    describe_error,
    png_base64,
    read_object,
    read_token,
)
from b2diffurl.rewards.interface import Metadata
from b2diffurl.rewards.remote.settings import RemoteSettings
from b2diffurl.rewards.scores import Info, to_info
from b2diffurl.rewards.spec import Term

_HEALTH_SECONDS = 10.0


class RemoteReward:
    """A reward server as a reward.

    Args:
        url: address of the server, such as "http://127.0.0.1:8009"; https and a path before /v1/score are allowed.
        settings: how requests are sent.

    Raises:
        UserError: the address or the token is invalid; no request is sent.
    """

    def __init__(self, url: str, settings: RemoteSettings = RemoteSettings()) -> None:  # noqa: B008 - frozen
        check_address(url, name="the reward server's address", example="http://HOST:PORT or https://HOST")
        self.url = url.rstrip("/")
        self.settings = settings
        self._connection = Connection(
            url=f"{self.url}/v1/score",
            token=read_token(settings.token_variable),
            retry=Retry(
                max_retries=settings.max_retries,
                timeout_seconds=settings.timeout_seconds,
                backoff_seconds=settings.backoff_seconds,
            ),
            max_concurrency=settings.max_concurrency,
        )

    def check(self) -> str:
        """Check that the server answers, and return the name of its reward.

        Raises:
            UserError: the server cannot be reached, rejects the token, or is not a reward server.
        """
        timeout = min(_HEALTH_SECONDS, self.settings.timeout_seconds)
        connection = self._connection
        try:
            response = httpx2.get(
                f"{self.url}/health", headers=connection.headers, timeout=timeout, trust_env=connection.trust_env
            )
        except httpx2.RequestError as error:
            raise UserError(
                f"no reward server answers at {self.url} ({describe_error(error)}); start it, for example with "
                "`b2diffurl serve-reward NAME`, or correct the address."
            ) from error
        if response.status_code in (401, 403):
            raise UserError(
                f"the reward server at {self.url} rejects the token; set the environment variable "
                f"{self.settings.token_variable} to the token it was started with."
            )
        answer = read_object(response)
        if response.status_code != 200 or answer.get("status") != "ok" or not isinstance(answer.get("reward"), str):
            raise UserError(
                f"{self.url}/health answered {response.status_code} without the name of a reward; "
                "give the address of a reward server."
            )
        return answer["reward"]

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], *, metadata: Metadata | None = None
    ) -> tuple[Float64[Tensor, " B"], Info]:
        """Score images.

        Args:
            images: in [0, 1].
            prompts: one per image.
            metadata: one mapping per image, for a reward that uses more than the prompt.

        Returns:
            Scores in the order of the images, and the server's info that all its answers contain.

        Raises:
            RewardFailed: a request failed after its retries, was rejected, or was not answered with one finite number
                per image.
        """
        metadata = [{}] * len(prompts) if metadata is None else metadata
        assert len(images) == len(prompts) == len(metadata)
        size = self.settings.batch_size
        batches = [slice(first, min(first + size, len(images))) for first in range(0, len(images), size)]

        async def score(client: httpx2.AsyncClient, index: int) -> tuple[list[float], Info]:
            batch = batches[index]
            description = f"images {batch.start} to {batch.stop - 1} of {len(images)}"
            body = await anyio.to_thread.run_sync(_encode, images[batch], prompts[batch], metadata[batch])
            try:
                response = await self._connection.post(client, body)
                return _read_answer(response, num_images=batch.stop - batch.start, secret=self._connection.token)
            except RequestFailedError as failure:
                cause = str(failure).rstrip(".")
                raise RewardFailed(
                    f"the reward server at {self.url} did not score {description}: {cause}."
                ) from failure

        scored = self._connection.map(score, len(batches))
        names = set[str].intersection(*(set(info) for _, info in scored)) if scored else set[str]()
        info = {name: [entry for _, batch_info in scored for entry in batch_info[name]] for name in sorted(names)}
        return torch.tensor([score for scores, _ in scored for score in scores], dtype=torch.float64), info


def _encode(images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> bytes:
    request = {"images": [png_base64(image) for image in images], "prompts": list(prompts), "metadata": list(metadata)}
    return json.dumps(request).encode()


def _read_answer(response: httpx2.Response, *, num_images: int, secret: str | None) -> tuple[list[float], Info]:
    """Read scores and info; JSON numbers are checked here, before they become floats."""
    if response.status_code != 200:
        raise RequestFailedError(describe_answer(response, secret=secret))
    answer = read_object(response)
    rewards = answer.get("rewards")
    info = answer.get("info")
    if not isinstance(rewards, list):
        raise RequestFailedError("the answer has no list of rewards")
    if len(rewards) != num_images:
        raise RequestFailedError(f"it returned {len(rewards)} rewards for {num_images} images")
    for index, reward in enumerate(rewards):
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not _is_finite(reward):
            raise RequestFailedError(f"the reward of image {index} of these is {str(reward)[:40]}")
    image_info = info.get("images") if isinstance(info, dict) else None
    return [float(reward) for reward in rewards], to_info(image_info, num_images)


def _is_finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the largest float
        return False


def _check(term: Term, settings: RewardSettings) -> None:
    if not term.rest.startswith(("http://", "https://")) or not term.rest.partition("//")[2]:
        raise UserError(f"reward is {term.name!r}, which has no address; give 'remote:http://HOST:PORT'.")
    RemoteReward(term.rest, settings.remote)


def _load(term: Term, settings: RewardSettings, _: torch.device | str) -> RemoteReward:
    reward = RemoteReward(term.rest, settings.remote)
    reward.check()
    return reward


REWARD = RewardKind(
    forms="'remote:http://HOST:PORT'",
    check=_check,
    load=_load,
    facts=RewardFacts(
        summary="any reward on a server",
        source="docs/how-to-reward-server.md",
        license="that of the server's reward",
        needs="a server",
        table="remote",
        note="remote:http://HOST:PORT",
    ),
)
