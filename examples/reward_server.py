"""A reward server without b2diffurl, for a reward with conflicting dependencies. Copy it and change `score`.

    python reward_server.py 8009
    b2diffurl train RECIPE --reward remote:http://127.0.0.1:8009

It needs only the standard library and Pillow. It listens on the loopback interface, scores one request at a time, and
requires the token if B2DIFFURL_REWARD_TOKEN is set. examples/servers/ has servers of published rewards that use it.
"""

import base64
import hmac
import io
import json
import math
import os
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from PIL import Image, ImageStat

Score = Callable[[list[Image.Image], list[str]], list[float]]

NAME = "redness"
MAX_BODY_BYTES = 64 * 2**20
Image.MAX_IMAGE_PIXELS = 2**21  # Pillow raises above twice as many
UNREADABLE = (ValueError, KeyError, TypeError, OSError, SyntaxError, Image.DecompressionBombError)


def score(images: list[Image.Image], prompts: list[str]) -> list[float]:  # noqa: ARG001
    """Return one number per RGB image, higher is better. If this raises, the client retries and then stops."""
    means = [ImageStat.Stat(image).mean for image in images]
    return [(red - (green + blue) / 2) / 255 for red, green, blue in means]


class Handler(BaseHTTPRequestHandler):
    """The protocol: GET /health, POST /v1/score."""

    name = NAME
    reward: Score = staticmethod(score)

    def do_GET(self) -> None:  # noqa: D102
        if self.is_valid("/health"):
            self.answer(200, {"status": "ok", "reward": self.name})

    def do_POST(self) -> None:  # noqa: D102
        if self.is_valid("/v1/score"):
            self.answer(*self.score_request())

    def score_request(self) -> tuple[int, dict[str, Any]]:
        """Read the request and score it; return status and answer."""
        num_bytes = int(self.headers.get("Content-Length", 0))
        if num_bytes > MAX_BODY_BYTES:
            return 413, {"detail": f"the request has more than {MAX_BODY_BYTES} bytes; send fewer images."}
        body = self.rfile.read(num_bytes)
        try:
            request = json.loads(body)
            files = [io.BytesIO(base64.b64decode(text, validate=True)) for text in request["images"]]
            images = [Image.open(file, formats=("PNG", "JPEG")).convert("RGB") for file in files]
            prompts = [str(prompt) for _, prompt in zip(images, request["prompts"], strict=True)]
        except UNREADABLE as error:
            return 422, {"detail": f"the request cannot be read: {error!r}."}
        rewards = [float(reward) for reward in self.reward(images, prompts)]
        if len(rewards) != len(images) or not all(map(math.isfinite, rewards)):
            return 500, {"detail": f"the reward returned {rewards} for {len(images)} images."}
        return 200, {"rewards": rewards, "info": {}}

    def is_valid(self, path: str) -> bool:
        """Check token and path; answer with an error if they are wrong."""
        token = os.environ.get("B2DIFFURL_REWARD_TOKEN")
        header = self.headers.get("Authorization", "")
        if token and not hmac.compare_digest(header.encode(), f"Bearer {token}".encode()):
            self.answer(401, {"detail": "the token is missing or wrong."})
        elif self.path != path:
            self.answer(404, {"detail": f"{self.path} does not exist."})
        else:
            return True
        return False

    def answer(self, status: int, content: dict[str, Any]) -> None:
        """Answer with JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(reward: Score, *, name: str, port: int) -> None:
    """Serve a reward on this machine until interrupted; port 0 picks a free one."""
    handler = type("RewardHandler", (Handler,), {"name": name, "reward": staticmethod(reward)})
    server = HTTPServer(("127.0.0.1", port), handler)
    print(f"{name} at http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201
    server.serve_forever()


if __name__ == "__main__":
    serve(score, name=NAME, port=int(sys.argv[1]))
