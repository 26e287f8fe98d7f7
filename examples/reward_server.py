"""A reward server without b2diffurl, for a reward whose pins do not fit beside it. Copy it and change `score`.

    python reward_server.py 8009
    b2diffurl train RECIPE --reward remote:http://127.0.0.1:8009

Besides the standard library it needs Pillow, as does every reward of pictures. It listens on this machine's own
address, scores one request at a time, and asks for the token if B2DIFFURL_REWARD_TOKEN is set.
"""

import base64
import hmac
import io
import json
import math
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from PIL import Image, ImageStat

NAME = "redness"
MAX_BODY_BYTES = 64 * 2**20
Image.MAX_IMAGE_PIXELS = 2**21  # Pillow refuses twice as many
UNREADABLE = (ValueError, KeyError, TypeError, OSError, SyntaxError, Image.DecompressionBombError)


def score(images: list[Image.Image], prompts: list[str]) -> list[float]:  # noqa: ARG001
    """Your reward: one number an RGB picture, higher is better. If it raises, the client tries again, then stops."""
    means = [ImageStat.Stat(image).mean for image in images]
    return [(red - (green + blue) / 2) / 255 for red, green, blue in means]


class Handler(BaseHTTPRequestHandler):
    """The protocol: GET /health, POST /v1/score."""

    def do_GET(self) -> None:  # noqa: D102
        if self.is_for("/health"):
            self.tell(200, {"status": "ok", "reward": NAME})

    def do_POST(self) -> None:  # noqa: D102
        if self.is_for("/v1/score"):
            self.tell(*self.scored())

    def scored(self) -> tuple[int, dict[str, Any]]:
        """Read the request and score it: status and answer."""
        num_bytes = int(self.headers.get("Content-Length", 0))
        if num_bytes > MAX_BODY_BYTES:
            return 413, {"detail": f"the request has more than {MAX_BODY_BYTES} bytes; send fewer images."}
        body = self.rfile.read(num_bytes)
        try:
            asked = json.loads(body)
            files = [io.BytesIO(base64.b64decode(text, validate=True)) for text in asked["images"]]
            images = [Image.open(file, formats=("PNG", "JPEG")).convert("RGB") for file in files]
            prompts = [str(prompt) for _, prompt in zip(images, asked["prompts"], strict=True)]
        except UNREADABLE as error:
            return 422, {"detail": f"the request cannot be read: {error!r}."}
        rewards = [float(reward) for reward in score(images, prompts)]
        if len(rewards) != len(images) or not all(map(math.isfinite, rewards)):
            return 500, {"detail": f"the reward gave {rewards} for {len(images)} images."}
        return 200, {"rewards": rewards, "info": {}}

    def is_for(self, path: str) -> bool:
        """Refuse a wrong token and a wrong path."""
        token, given = os.environ.get("B2DIFFURL_REWARD_TOKEN"), self.headers.get("Authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            self.tell(401, {"detail": "the token is missing or wrong."})
        elif self.path != path:
            self.tell(404, {"detail": f"there is no {self.path}."})
        else:
            return True
        return False

    def tell(self, status: int, content: dict[str, Any]) -> None:
        """Answer with JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(f"{NAME} at http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201
    server.serve_forever()
