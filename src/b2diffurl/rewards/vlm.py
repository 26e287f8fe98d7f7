"""The probability that a vision-language model answers a question with "yes": VQAScore (arXiv 2404.01291).

The model runs on any server with OpenAI's chat completions API that returns log-probs: vLLM, SGLang, a public one; not
`transformers serve` 5.23, which rejects the field. One token is generated, and the probabilities of all spellings of
"yes" among the most probable first tokens are added; as in the paper, they are not divided by those of "no".

The request has temperature 1, so that a server that applies the temperature to its log-probs returns the model's own;
the sampled token is not used, and so scores do not vary with it.

Shapes: B images of 3 x H x W in [0, 1].
"""

import math
from collections.abc import Sequence
from typing import Any

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
    chat_request,
    describe_error,
    png_base64,
    read_choice,
    read_token,
)
from b2diffurl.rewards.scores import Info
from b2diffurl.rewards.settings import VLMSettings
from b2diffurl.rewards.spec import Term

PROMPT = "{prompt}"
QUESTION = f'Does this figure show "{PROMPT}"? Please answer yes or no.'  # the paper's
_PADDING = " \t\n\u2581\u0120\".'"  # spaces, as tokenizers write them, and what may surround a word
_START_SECONDS = 10.0


class VLMReward:
    """The probability of "yes" as a reward.

    Args:
        settings: server, model and limits; base_url and model are needed.
        question: the question; {prompt} stands for the image's prompt.
        backoff_seconds: wait before the first retry; it doubles each time, up to 30 seconds.

    Raises:
        UserError: the key is invalid; no request is sent.
    """

    def __init__(self, settings: VLMSettings, question: str = QUESTION, *, backoff_seconds: float = 1.0) -> None:
        assert settings.base_url
        assert settings.model
        self.settings = settings
        self.question = question
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

    def check(self) -> None:
        """Check that a server answers; any answer will do, since not every server lists its models.

        Raises:
            UserError: the server cannot be reached, or rejects the key.
        """
        url = f"{self.settings.base_url.rstrip('/')}/models"
        connection = self._connection
        try:
            response = httpx2.get(
                url, headers=connection.headers, timeout=_START_SECONDS, trust_env=connection.trust_env
            )
        except httpx2.RequestError as error:
            raise UserError(
                f"vlm.base_url is {self.settings.base_url!r}, where no server answers ({describe_error(error)}); start "
                "it, or correct the address."
            ) from error
        if response.status_code in (401, 403):
            raise UserError(
                f"vlm.base_url is {self.settings.base_url!r}, whose server rejects the key; set the environment "
                f"variable {self.settings.api_key_variable}."
            )

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> tuple[Float64[Tensor, " B"], Info]:
        """Score images.

        Returns:
            The probability of "yes" for each image, 0 to 1; and its most probable answer and the
            probability of "no". If both probabilities are near 0, the model does not answer with yes or no.

        Raises:
            RewardFailed: a request failed after its retries, was rejected, or was answered without log-probs.
        """
        questions = [self.question.replace(PROMPT, prompt) for prompt in prompts]

        async def ask(client: httpx2.AsyncClient, index: int) -> list[tuple[str, float]]:
            try:
                response = await self._connection.post(client, self._request(images[index], questions[index]))
                return read_log_probs(read_choice(response, secret=self._connection.token))
            except RequestFailedError as failure:
                cause = str(failure).rstrip(".")
                raise RewardFailed(
                    f"the vision-language model at {self._connection.url} did not score image {index} of "
                    f"{len(images)}: {cause}."
                ) from failure

        answers = self._connection.map(ask, len(images))
        info: Info = {
            "answer": [max(answer, key=lambda entry: entry[1])[0].strip(_PADDING) for answer in answers],
            "no": [probability_of("no", answer) for answer in answers],
        }
        return torch.tensor([probability_of("yes", answer) for answer in answers], dtype=torch.float64), info

    def _request(self, image: Float[Tensor, "3 H W"], question: str) -> bytes:
        return chat_request(
            question,
            f"data:image/png;base64,{png_base64(image)}",
            model=self.settings.model,
            temperature=1,
            max_tokens=1,
            logprobs=True,
            top_logprobs=self.settings.top_logprobs,
        )


def read_log_probs(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the most probable first tokens of a choice with their log-probs.

    Raises:
        RequestFailedError: the server returned no log-probs, or invalid ones.
    """
    try:
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        entries = [(str(entry["token"]), float(entry["logprob"])) for entry in top]
    except (LookupError, TypeError, ValueError) as error:
        raise RequestFailedError(
            "the answer has no top_logprobs; use a server and a model that return log-probs, such as vLLM"
        ) from error
    if not entries or any(math.isnan(log_prob) or log_prob > 1e-3 for _, log_prob in entries):
        raise RequestFailedError("the top_logprobs of the answer are empty or invalid")
    return entries


def probability_of(word: str, entries: Sequence[tuple[str, float]]) -> float:
    """Add the probabilities of all spellings of a word, at most 1.

    >>> probability_of("yes", [("Yes", math.log(0.5)), (" yes", math.log(0.25)), ("Yesterday", math.log(0.1))])
    0.75
    """
    same = [log_prob for token, log_prob in entries if token.strip(_PADDING).lower() == word]
    return min(1.0, math.fsum(math.exp(log_prob) for log_prob in same))


def _check(term: Term, settings: RewardSettings) -> None:
    if not term.rest.strip() and ":" in term.name:
        raise UserError(f"reward is {term.name!r}, whose question is missing; give 'vlm:QUESTION', or 'vlm'.")
    for name, example in (("base_url", "http://127.0.0.1:8000/v1"), ("model", "the model's name on the server")):
        if not getattr(settings.vlm, name).strip():
            raise UserError(f"reward is {term.name!r} but vlm.{name} is empty; give {example}.")
    read_token(settings.vlm.api_key_variable)


def _load(term: Term, settings: RewardSettings, _: torch.device | str) -> VLMReward:
    reward = VLMReward(settings.vlm, term.rest or QUESTION)
    reward.check()
    return reward


REWARD = RewardKind(
    forms="'vlm:QUESTION'",
    check=_check,
    load=_load,
    facts=RewardFacts(
        summary='probability of the answer "yes"',
        source="arXiv 2404.01291 (VQAScore)",
        license="that of the server's model",
        needs="a server",
        table="vlm",
        note="vlm (the paper's question) or vlm:QUESTION with {prompt}; vlm.base_url and vlm.model are needed",
    ),
)
