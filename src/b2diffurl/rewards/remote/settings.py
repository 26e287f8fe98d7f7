"""Settings of the rewards "remote:URL", and of their server."""

from b2diffurl.config import NonNegativeInt, PositiveFloat, PositiveInt, settings
from b2diffurl.errors import UserError

TOKEN_VARIABLE = "B2DIFFURL_REWARD_TOKEN"


@settings(table="remote")
class RemoteSettings:
    """How requests are sent to a reward server (ours).

    Attributes:
        timeout_seconds: limit for one request, sending and waiting included.
        max_retries: retries of one request after a lost connection, a timeout or an answer of 500 and above.
        backoff_seconds: wait before the first retry; it doubles each time, up to 30 seconds.
        batch_size: images per request.
        max_concurrency: requests in flight at the same time.
        token_variable: environment variable with the server's token; unset or empty means no token.
    """

    timeout_seconds: PositiveFloat = 300.0
    max_retries: NonNegativeInt = 5
    backoff_seconds: PositiveFloat = 1.0
    batch_size: PositiveInt = 16
    max_concurrency: PositiveInt = 2
    token_variable: str = TOKEN_VARIABLE

    def __post_init__(self) -> None:
        if not self.token_variable:
            raise UserError("remote.token_variable is empty; give the name of an environment variable.")


@settings(table="limits")
class ServerLimits:
    """Limits of one request (ours).

    Attributes:
        max_body_bytes: bytes of the request, base64 included; more are not kept in memory.
        max_images: number of images.
        max_pixels: pixels of one image, counted before it is decompressed.
    """

    max_body_bytes: PositiveInt = 128 * 2**20
    max_images: PositiveInt = 32
    max_pixels: PositiveInt = 2**22
