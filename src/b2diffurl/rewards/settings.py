"""Settings of the rewards "aesthetic", "hpsv2", "vlm" and "ocr"; bert/ and remote/ have their own."""

from typing import Annotated, Literal

from annotated_types import Ge, Le

from b2diffurl.config import NonNegativeInt, PositiveFloat, PositiveInt, settings
from b2diffurl.errors import UserError
from b2diffurl.rewards.http import check_address

AESTHETIC_WEIGHTS = "trl-lib/ddpo-aesthetic-predictor"
# The commit in which the file has its present name, from the hub's list of commits.
_AESTHETIC_REVISION = "7f639699bec8126062148a47ecb1a4312d8e6688"


@settings(table="aesthetic")
class AestheticSettings:
    """The LAION aesthetic predictor: a small network on embeddings of a CLIP model. Defaults are TRL's weights.

    Attributes:
        weights: weights of the small network: a .safetensors, .pth or .pt file, or a hub id.
        file: the file in the hub repository.
        revision: commit, tag or branch of the hub repository; needed for any repository but the default.
        clip: the CLIP model, ViT-L/14 of OpenAI for the published weights: a local directory or a hub id.
    """

    weights: str = AESTHETIC_WEIGHTS
    file: str = "aesthetic-model.pth"
    revision: str = ""
    clip: str = "openai/clip-vit-large-patch14"

    def __post_init__(self) -> None:
        _check_not_empty("aesthetic", weights=self.weights, file=self.file, clip=self.clip)

    @property
    def pinned_revision(self) -> str:
        """The revision, by default that of the default weights; empty if it is missing."""
        return self.revision or (_AESTHETIC_REVISION if self.weights == AESTHETIC_WEIGHTS else "")


@settings(table="hpsv2")
class HPSv2Settings:
    """HPSv2 as a `CLIPModel` of transformers.

    Attributes:
        model: a local directory or a hub id.
        revision: commit, tag or branch of the hub repository; needed for a hub id.
        processor: source of image processor and tokenizer, a local directory or a hub id; empty for that of the
            default model's card, openai/clip-vit-base-patch32, or the local directory's own.
    """

    model: str = "adams-story/HPSv2-hf"
    revision: str = ""
    processor: str = ""

    def __post_init__(self) -> None:
        _check_not_empty("hpsv2", model=self.model)


@settings(table="vlm")
class VLMSettings:
    """A vision-language model on a server with OpenAI's chat completions API and log-probs (ours).

    Attributes:
        base_url: address of the server, such as http://127.0.0.1:8000/v1; needed.
        model: name of the model on the server; needed.
        top_logprobs: tokens per answer whose log-probs are requested, 1 to 20; OpenAI's and vLLM's limit is 20.
        max_concurrency: requests in flight at the same time.
        max_retries: retries of one request after a lost connection, a timeout or an answer of 500 and above.
        timeout_seconds: limit for one request, sending and waiting included.
        api_key_variable: environment variable with the server's key; unset or empty means no key.
    """

    base_url: str = ""
    model: str = ""
    top_logprobs: Annotated[int, Ge(1), Le(20)] = 20
    max_concurrency: PositiveInt = 8
    max_retries: NonNegativeInt = 3
    timeout_seconds: PositiveFloat = 60.0
    api_key_variable: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        _check_not_empty("vlm", api_key_variable=self.api_key_variable)
        if self.base_url:
            check_address(self.base_url, name="vlm.base_url", example="http://127.0.0.1:8000/v1")


@settings(table="ocr")
class OCRSettings:
    """Which package reads text in images.

    Attributes:
        engine: "easyocr", or "pytesseract", which needs the program tesseract.
        language: language of the text in the engine's own codes; empty for English.
    """

    engine: Literal["easyocr", "pytesseract"] = "easyocr"
    language: str = ""


def _check_not_empty(table: str, **values: str) -> None:
    for name, value in values.items():
        if not value.strip():
            raise UserError(f"{table}.{name} is empty; leave it out for the default.")
