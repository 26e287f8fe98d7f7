"""A reward over HTTP: client and server on the loopback interface, and runs whose server stops."""

import base64
import importlib
import io
import json
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
import uvicorn
from fastapi import HTTPException
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from b2diffurl import RunStopped, UserError
from b2diffurl.cli.serve_reward import ServeReward, run
from b2diffurl.errors import RewardFailed
from b2diffurl.images import to_pil
from b2diffurl.rewards import score_images
from b2diffurl.rewards.clip import CLIPScore
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.remote.client import RemoteReward
from b2diffurl.rewards.remote.server import decode_image, reward_app, serve_reward
from b2diffurl.rewards.remote.settings import TOKEN_VARIABLE, RemoteSettings, ServerLimits
from b2diffurl.run.settings import Run
from b2diffurl.training.callbacks import Metrics
from b2diffurl.training.trainer import train

ROOT = Path(__file__).parents[2]
QUICK = RemoteSettings(timeout_seconds=20.0, max_retries=2, backoff_seconds=0.01, batch_size=4, max_concurrency=3)
TOKEN = "a-token-of-tests"


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """A reward that needs no network."""
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


def noise(num: int, *, size: int = 16) -> Tensor:
    """Create random images that 8 bits represent exactly."""
    generator = torch.Generator().manual_seed(num)
    return torch.randint(0, 256, (num, 3, size, size), generator=generator) / 255


def png(image: Image.Image | None = None) -> str:
    file = io.BytesIO()
    (image or Image.new("RGB", (8, 8), "red")).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def request(*images: str, **changes: Any) -> dict[str, Any]:
    return {"images": images, "prompts": ["a"] * len(images), "metadata": [{}] * len(images)} | changes


@contextmanager
def served(
    reward: Reward | Callable[..., Any],
    *,
    token: str | None = None,
    limits: ServerLimits = ServerLimits(),  # noqa: B008
    port: int = 0,
) -> Generator[str]:
    """Run the real server in a thread; yield its address."""
    app = reward_app(reward, name="tested", token=token, limits=limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", port)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def answering(answer: Callable[[dict[str, Any]], tuple[int, Any]]) -> Generator[str]:
    """Run a small server that answers with `answer`; an exception is a lost connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                status, content = answer(body)
            except ConnectionError:
                return
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with suppress(BrokenPipeError):
                self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def started(*command: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Run a server in a process of its own; yield the process and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = ""
    try:
        for line in process.stdout:
            output += line
            if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield process, match[0]
                return
        pytest.fail(f"the server did not start: {output}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def serve_command(*words: str) -> tuple[str, ...]:
    return ("-m", "b2diffurl.cli", "serve-reward", *words, "--port", "0")


# The same scores


def test_scores_equal_those_in_process() -> None:
    images, prompts = noise(10, size=64), ["a bear riding a bike", "a cat playing chess"] * 5
    clip = CLIPScore("emoji")
    with served(clip) as url:
        scores, _ = RemoteReward(url, QUICK)(images, prompts)
    assert torch.allclose(scores, clip(images, prompts).double(), rtol=0, atol=1e-6)
    assert scores.std() > 0


def test_images_arrive_exactly_and_are_rounded() -> None:
    seen: list[Tensor] = []

    def record(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.append(images)
        return torch.zeros(len(prompts))

    images = torch.cat([noise(3), torch.full((1, 3, 16, 16), 0.999), torch.full((1, 3, 16, 16), -0.5)])
    with served(record) as url:
        RemoteReward(url, replace(QUICK, batch_size=8))(images, [""] * 5)
    assert torch.equal(seen[0][:3], images[:3])
    assert seen[0][3].eq(1).all()
    assert seen[0][4].eq(0).all()


def test_scores_arrive_with_all_digits() -> None:
    exact = torch.tensor([0.1, 1 / 3, -1e-30, 123456.789], dtype=torch.float32)
    with served(lambda images, prompts: exact) as url:  # noqa: ARG005
        scores, _ = RemoteReward(url, QUICK)(noise(4), [""] * 4)
    assert torch.equal(scores, exact.double())


def test_order_is_kept_and_concurrency_limited() -> None:
    lock, now, most, arrived = threading.Lock(), 0, 0, []

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        numbers = [float(prompt) for prompt in body["prompts"]]
        time.sleep(0.05 if numbers[0] % 3 else 0.15)
        with lock:
            now -= 1
            arrived.append(numbers[0])
        return 200, {"rewards": numbers, "info": {}}

    with answering(answer) as url:
        scores, _ = RemoteReward(url, QUICK)(noise(30), [str(index) for index in range(30)])
    assert scores.tolist() == list(range(30))
    assert arrived != sorted(arrived)
    assert most == QUICK.max_concurrency


def test_no_images_send_no_request() -> None:
    assert RemoteReward("http://127.0.0.1:1", QUICK)(noise(0), [])[0].shape == (0,)


def test_metadata_reaches_only_a_reward_with_that_parameter() -> None:
    def count(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> list[float]:  # noqa: ARG001
        return [one.get("count", -1.0) for one in metadata]

    metadata = [{"count": index} for index in range(6)]
    with served(count) as url:
        assert RemoteReward(url, QUICK)(noise(6), [""] * 6, metadata=metadata)[0].tolist() == [0, 1, 2, 3, 4, 5]
        assert RemoteReward(url, QUICK)(noise(6), [""] * 6)[0].tolist() == [-1] * 6
    with served(brightness) as url, pytest.raises(RewardFailed, match="does not use metadata"):
        RemoteReward(url, QUICK)(noise(6), [""] * 6, metadata=metadata)


# What the server rejects


def test_both_endpoints_require_the_token() -> None:
    with served(brightness, token=TOKEN) as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer é"}):
            sent = [(name.encode(), value.encode()) for name, value in headers.items()]
            assert httpx2.get(f"{url}/health", headers=sent).status_code == 401
            assert httpx2.post(f"{url}/v1/score", headers=sent, json=request(png())).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx2.get(f"{url}/health", headers=right).json() == {"status": "ok", "reward": "tested"}
        assert httpx2.post(f"{url}/v1/score", headers=right, json=request(png())).json()["rewards"] == [
            pytest.approx(1 / 3)
        ]
        for page in ("/docs", "/redoc", "/openapi.json"):
            assert httpx2.get(url + page, headers=right).status_code == 404


def test_the_client_reads_the_token_from_the_environment_and_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(brightness, token=TOKEN) as url:
        monkeypatch.setenv(TOKEN_VARIABLE, "wrong-secret")
        wrong = RemoteReward(url, QUICK)
        with pytest.raises(UserError, match=f"rejects the token.*{TOKEN_VARIABLE}") as rejected:
            wrong.check()
        with pytest.raises(RewardFailed, match="401: the token is missing or wrong") as failed:
            wrong(noise(2), [""] * 2)
        assert "wrong-secret" not in str(rejected.value) + str(failed.value) + repr(wrong)
        monkeypatch.setenv("ANOTHER_VARIABLE", TOKEN)
        right = RemoteReward(url, replace(QUICK, token_variable="ANOTHER_VARIABLE"))
        assert right.check() == "tested"
        assert right(noise(2), [""] * 2)[0].shape == (2,)
    monkeypatch.setenv(TOKEN_VARIABLE, "secret\nsecond-line")
    with pytest.raises(UserError, match="is not a valid token") as error:
        RemoteReward(url, QUICK)
    assert "secret" not in str(error.value)


def with_header(width: int, height: int, *, num_bits: int = 8, pixels: bytes = b"") -> str:
    """Create an RGB PNG with this header, whatever its pixels are."""
    file = b"\x89PNG\r\n\x1a\n"
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, num_bits, 2, 0, 0, 0)),
        (b"IDAT", pixels),
        (b"IEND", b""),
    ):
        checksum = zlib.crc32(kind + content)
        file += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return base64.b64encode(file).decode()


GIF, WEBP = io.BytesIO(), io.BytesIO()
Image.new("RGB", (8, 8)).save(GIF, format="GIF")
Image.new("RGB", (8, 8)).save(WEBP, format="WEBP")
TRUNCATED = base64.b64encode(base64.b64decode(png(to_pil(noise(1, size=64)[0])))[:2000]).decode()
SIXTEEN_BITS = with_header(8, 8, num_bits=16, pixels=zlib.compress((b"\0" + bytes(48)) * 8))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the request is invalid: Invalid JSON"),
        (b"\xff\xfe", "the request is invalid: Invalid JSON"),
        (b"[" * 100_000, "the request is invalid: Invalid JSON"),
        (request(png(), more=1), "the request is invalid in more"),
        (request(png(), prompts="a"), "the request is invalid in prompts"),
        (request(png(), prompts=[1]), "the request is invalid in prompts.0"),
        (request(png(), metadata=[1]), "the request is invalid in metadata.0"),
        ({"images": [png()]}, "the request is invalid in prompts"),
        (request(), "images is empty"),
        (request(png(), prompts=["a", "b"]), "1 images but 2 prompts"),
        (request(png(), png(), metadata=[{}]), "2 images but 1 metadata"),
        (request(png(), "%%%"), "image 1 is not valid base64"),
        (request(png(), "é"), "image 1 is not valid base64"),
        (request(png(), ""), "image 1 is neither PNG nor JPEG"),
        (request(png(), base64.b64encode(b"picture.png").decode()), "image 1 is neither PNG nor JPEG"),
        (request(png(), base64.b64encode(GIF.getvalue()).decode()), "image 1 is neither PNG nor JPEG"),
        (request(png(), base64.b64encode(WEBP.getvalue()).decode()), "image 1 is neither PNG nor JPEG"),
        (request(png(), TRUNCATED), "image 1 is damaged"),
        (request(png(), png(Image.new("RGBA", (8, 8)))), "image 1 is not RGB with 8 bits"),
        (request(png(), png(Image.new("I;16", (8, 8)))), "image 1 is not RGB with 8 bits"),
        (request(png(), SIXTEEN_BITS), "image 1 is not RGB with 8 bits"),
        (request(png(), png(Image.new("RGB", (8, 9)))), "image 1 is 8 x 9 pixels, image 0 is 8 x 8 pixels"),
    ],
)
def test_an_invalid_request_is_answered_with_a_sentence(
    body: bytes | dict[str, Any], message: str, bright_url: str
) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = httpx2.post(f"{bright_url}/v1/score", content=sent)
    assert response.status_code == 422
    assert message in response.json()["detail"]
    assert len(response.json()["detail"]) < 200


@pytest.fixture(scope="module")
def bright_url() -> Iterator[str]:
    with served(brightness) as url:
        yield url


def test_jpeg_and_gray_images_are_read(bright_url: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(file, format="JPEG")
    white, gray = base64.b64encode(file.getvalue()).decode(), png(Image.new("L", (8, 8), 51))
    response = httpx2.post(f"{bright_url}/v1/score", json=request(white, gray))
    assert response.json()["rewards"] == pytest.approx([1.0, 0.2])


def test_broken_images_are_rejected_whatever_is_broken() -> None:
    generator = random.Random(0)
    image, contents = to_pil(noise(1, size=24)[0]), []
    for kind in ("PNG", "JPEG"):
        file = io.BytesIO()
        image.save(file, format=kind)
        contents.append(file.getvalue())
    codes: list[int] = []
    for content in contents * 400:
        broken = bytearray(content)
        for _ in range(generator.randint(1, 8)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        try:
            text = base64.b64encode(broken[: generator.randint(0, 2 * len(broken))]).decode()
            decode_image(text, index=0, max_pixels=ServerLimits().max_pixels)
        except HTTPException as error:
            codes.append(error.status_code)
    assert len(codes) > 400
    assert set(codes) <= {413, 422}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([png(Image.new("RGB", (33, 32)))], "image 0 has more than 1024 pixels"),
        ([png(Image.new("RGB", (5000, 5000)))], "image 0 has more than 1024 pixels"),
        ([png(), with_header(3000, 3000)], "image 1 has more than 1024 pixels"),
        ([png(), with_header(2**31 - 1, 2**31 - 1)], "image 1 has more than 1024 pixels"),
        ([png()] * 4, "4 images; send at most 3"),
        (["A" * 300_000], "more than 200000 bytes"),
    ],
)
def test_requests_above_a_limit_are_rejected(images: list[str], message: str) -> None:
    limits = ServerLimits(max_body_bytes=200_000, max_images=3, max_pixels=1024)
    with served(brightness, limits=limits) as url:
        response = httpx2.post(f"{url}/v1/score", json=request(*images))
    assert response.status_code == 413
    assert message in response.json()["detail"]


def test_a_body_is_measured_while_it_arrives() -> None:
    """Chunks without a length and without an end: the answer is sent before the end."""
    with served(brightness, limits=ServerLimits(max_body_bytes=100_000)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(3):
                connection.sendall(b"c350\r\n" + b"A" * 50_000 + b"\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 413")


# Invalid rewards


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.tensor([0.0, float("nan")]), "the reward of image 1 is nan"),
        (torch.tensor([float("inf"), 0.0]), "the reward of image 0 is inf"),
        (torch.zeros(3), r"returned shape \(3,\) for 2 images"),
        (torch.zeros(2, 1), r"returned shape \(2, 1\) for 2 images"),
        (0.0, r"returned shape \(\) for 2 images"),
        ("high", "returned a str that is not one number per image"),
        (None, "returned a NoneType that is not one number per image"),
    ],
)
def test_invalid_scores_are_an_error_and_not_a_number(output: object, message: str) -> None:
    with served(lambda images, prompts: output) as url:  # noqa: ARG005
        response = httpx2.post(f"{url}/v1/score", json=request(png(), png()))
        assert response.status_code == 500
        assert re.search(message, response.json()["detail"])
        assert "rewards" not in response.json()
        with pytest.raises(RewardFailed, match=message):
            RemoteReward(url, QUICK)(noise(2), [""] * 2)


def test_info_of_a_served_reward_reaches_the_client() -> None:
    """Through batches, and with a number that JSON does not have; each call returns only its own."""

    def describes(images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, Any]]:
        numbers = [float("inf") if prompt == "3" else float(prompt) for prompt in prompts if prompt]
        return brightness(images, prompts), {"caption": list(prompts), "number": numbers}

    with served(describes) as url:
        reward = RemoteReward(url, replace(QUICK, batch_size=2))
        _, info = reward(noise(5), ["1", "2", "3", "4", "5"])
        assert info == {"caption": ["1", "2", "3", "4", "5"], "number": [1, 2, None, 4, 5]}
        _, info = reward(noise(3), ["", "2", "3"])
        assert info == {"caption": ["", "2", "3"]}
        assert score_images(reward, noise(3), ["1", "2", "4"]).info["number"] == [1, 2, 4]
    with answering(lambda _: (200, {"rewards": [0.0] * 4, "info": {"images": {"a": [1]}}})) as url:
        assert RemoteReward(url, QUICK)(noise(4), [""] * 4)[1] == {}


def test_the_message_of_a_reward_that_raises_reaches_the_client() -> None:
    def fails(images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG001
        raise RuntimeError("out of\nmemory")

    with (
        served(fails) as url,
        pytest.raises(RewardFailed, match=r"3 attempts.*500: .* RuntimeError: out of memory"),
    ):
        RemoteReward(url, QUICK)(noise(2), [""] * 2)


def test_one_request_is_scored_at_a_time_while_health_answers() -> None:
    started_scoring, proceed, now, most = threading.Event(), threading.Event(), 0, 0

    def slow(images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG001
        nonlocal now, most
        now += 1
        most = max(most, now)
        started_scoring.set()
        assert proceed.wait(10)
        now -= 1
        return torch.zeros(len(prompts))

    with served(slow) as url:
        scores: list[Tensor] = []
        thread = threading.Thread(target=lambda: scores.append(RemoteReward(url, QUICK)(noise(12), [""] * 12)[0]))
        thread.start()
        assert started_scoring.wait(10)
        assert RemoteReward(url, QUICK).check() == "tested"
        time.sleep(0.1)
        proceed.set()
        thread.join()
    assert most == 1
    assert scores[0].shape == (12,)


# How the client reacts


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, {"rewards": [0.0] * 3, "info": {}}), "it returned 3 rewards for 4 images"),
        ((200, {"rewards": [0.0, 0.0, 0.0, float("nan")]}), "the reward of image 3 of these is nan"),
        ((200, {"rewards": [0.0, 10**400, 0.0, 0.0]}), "the reward of image 1 of these is 1000"),
        ((200, {"rewards": [0.0, None, 0.0, 0.0]}), "the reward of image 1 of these is None"),
        ((200, {"rewards": [0.0, "0", 0.0, 0.0]}), "the reward of image 1 of these is 0"),
        ((200, {"rewards": [True] * 4}), "the reward of image 0 of these is True"),
        ((200, {"rewards": 0.0}), "no list of rewards"),
        ((200, [0.0] * 4), "no list of rewards"),
        ((200, b"all fine"), "no list of rewards"),
        ((204, b""), "it answered 204"),
        ((307, b""), "it answered 307: Temporary Redirect"),
        ((400, {"detail": "send other images."}), "it answered 400: send other images.$"),
        ((404, b"nothing\nhere"), "it answered 404: nothing here"),
        ((429, b""), "it answered 429"),
    ],
)
def test_an_invalid_answer_is_a_failure_at_once(answer: tuple[int, Any], message: str) -> None:
    num_requests = 0

    def count(body: dict[str, Any]) -> tuple[int, Any]:  # noqa: ARG001
        nonlocal num_requests
        num_requests += 1
        return answer

    with answering(count) as url, pytest.raises(RewardFailed, match=message):
        RemoteReward(url, QUICK)(noise(4), [""] * 4)
    assert num_requests == 1


@pytest.mark.parametrize("problem", ["500", "503", "lost", "slow"])
def test_transient_problems_are_retried(problem: str) -> None:
    num_requests = 0

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        nonlocal num_requests
        num_requests += 1
        if num_requests <= QUICK.max_retries:
            if problem == "lost":
                raise ConnectionError
            if problem == "slow":
                time.sleep(0.5)
            else:
                return int(problem), b""
        return 200, {"rewards": [float(prompt) for prompt in body["prompts"]]}

    with answering(answer) as url:
        scores, _ = RemoteReward(url, replace(QUICK, timeout_seconds=0.25))(noise(3), ["1", "2", "3"])
    assert scores.tolist() == [1, 2, 3]
    assert num_requests == 3


@pytest.mark.parametrize(
    ("problem", "message"),
    [(500, "3 attempts, the last: it answered 500: over"), (0, "3 attempts, the last: Server disconn")],
)
def test_permanent_problems_are_a_failure_after_the_retries(problem: int, message: str) -> None:
    num_requests = 0

    def answer(body: dict[str, Any]) -> tuple[int, Any]:  # noqa: ARG001
        nonlocal num_requests
        num_requests += 1
        if problem:
            return problem, {"detail": "over."}
        raise ConnectionError

    with answering(answer) as url, pytest.raises(RewardFailed, match=f"images 0 to 3 of 4: {message}"):
        RemoteReward(url, QUICK)(noise(4), [""] * 4)
    assert num_requests == 1 + QUICK.max_retries


def test_the_first_failure_cancels_the_other_requests() -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if body["prompts"][0] == "0":
            return 400, {"detail": "no."}
        time.sleep(3)
        return 200, {"rewards": [0.0] * len(body["prompts"])}

    started_at = time.perf_counter()
    with answering(answer) as url, pytest.raises(RewardFailed, match=r"images 0 to 3 of 12.*no"):
        RemoteReward(url, QUICK)(noise(12), [str(index) for index in range(12)])
    assert time.perf_counter() - started_at < 2


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Handle Ctrl-C as in a user's process; pytest's workers ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_does_not_wait_for_the_server() -> None:
    main = threading.main_thread().ident
    assert main is not None

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
        time.sleep(5)
        return 200, {"rewards": [0.0] * len(body["prompts"])}

    started_at = time.perf_counter()
    with answering(answer) as url, pytest.raises(KeyboardInterrupt):
        RemoteReward(url, QUICK)(noise(2), [""] * 2)
    assert time.perf_counter() - started_at < 3


def test_check_reports_a_missing_server_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UserError, match=f"no reward server answers at http://127.0.0.1:{port} .*serve-reward"):
        RemoteReward(f"http://127.0.0.1:{port}", QUICK).check()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8009", "give one such as http://HOST:PORT"),
        ("ftp://host", "give one such as http://HOST:PORT"),
        ("http://", "give one such as http://HOST:PORT"),
        ("http://host:port", "is not a valid address"),
        ("http://host?token=1", "give one such as http://HOST:PORT"),
        ("http://user:hidden@host", "contains a user"),
    ],
)
def test_invalid_addresses_are_rejected(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        RemoteReward(url)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"timeout_seconds": 0.0}, {"timeout_seconds": float("nan")}, {"backoff_seconds": float("inf")},
        {"max_retries": -1}, {"batch_size": 0}, {"max_concurrency": 0}, {"token_variable": ""},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"remote.{next(iter(changes))} is"):
        RemoteSettings(**changes)


# The command


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::", ""])
def test_a_host_that_others_reach_needs_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(UserError, match=f"others can reach.*{TOKEN_VARIABLE}"):
        run(ServeReward(name="math:sqrt", host=host))
    with pytest.raises(UserError, match="others can reach"):
        serve_reward(brightness, name="", host=host)


def test_user_errors_of_serving_are_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="give another host or port"):
        serve_reward(brightness, name="", port=taken.getsockname()[1])
    with pytest.raises(UserError, match="port is 65536"):
        serve_reward(brightness, name="", port=2**16)
    with pytest.raises(UserError, match="no_such_function"):
        run(ServeReward(name="math:no_such_function", port=0))
    with pytest.raises(UserError, match="token is not a valid token"):
        reward_app(brightness, name="", token="")
    with pytest.raises(UserError, match=r"limits.max_pixels is 0"):
        ServerLimits(max_pixels=0)


def test_a_missing_extra_is_reported_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "b2diffurl.rewards.remote.server")
    with pytest.raises(UserError, match=r"needs fastapi.*pip install 'b2diffurl\[serve\]'"):
        importlib.import_module("b2diffurl.rewards.remote.server")


def redness_of(images: Tensor) -> Tensor:
    red, green, blue = images.double().mean(dim=(2, 3)).unbind(dim=1)
    return red - (green + blue) / 2


@pytest.mark.slow
def test_the_example_reward_is_served_by_the_command() -> None:
    images = noise(6)
    with started(*serve_command("examples/own_reward.py:redness")) as (process, url):
        reward = RemoteReward(url, QUICK)
        assert reward.check() == "examples/own_reward.py:redness"
        assert torch.allclose(reward(images, [""] * 6)[0], redness_of(images), atol=1e-6)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_the_example_server_needs_neither_b2diffurl_nor_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    alone = (
        "import runpy, sys; sys.modules |= dict.fromkeys(('b2diffurl', 'torch', 'numpy', 'fastapi', 'httpx2'));"
        "sys.argv = ['reward_server.py', '0']; runpy.run_path('examples/reward_server.py', run_name='__main__')"
    )
    images = noise(6)
    with started("-c", alone) as (_, url):
        reward = RemoteReward(url, QUICK)
        assert reward.check() == "redness"
        assert torch.allclose(reward(images, [""] * 6)[0], redness_of(images), atol=1e-6)
        assert httpx2.post(f"{url}/v1/score", json=request(png())).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        for bad in (request(png(), "%%%"), request(png(), prompts=[]), request(png(), TRUNCATED), {}):
            response = httpx2.post(f"{url}/v1/score", headers=right, json=bad)
            assert response.status_code == 422
            assert response.json()["detail"].startswith("the request cannot be read")


def test_a_server_killed_while_it_scores_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "def reward(images, prompts):\n"
        f"    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "    time.sleep(60)\n"
    )
    with started(*serve_command(f"{tmp_path / 'slow.py'}:reward")) as (process, url):

        def kill() -> None:
            while not (tmp_path / "begun").exists():
                time.sleep(0.02)
            process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(RewardFailed, match="3 attempts, the last: "):
            RemoteReward(url, QUICK)(noise(12), [""] * 12)
        killer.join()


# A run


class Stopper:
    """Stop the server after a round."""

    def __init__(self, servers: ExitStack, *, after_round: int) -> None:
        self.servers, self.after_round = servers, after_round

    def on_phase(self, name: str, *, total: int) -> None:
        """Do nothing."""

    def on_progress(self, num: int) -> None:
        """Do nothing."""

    def on_round(self, metrics: Metrics) -> None:
        if metrics["round"] == self.after_round:
            self.servers.close()


def metrics_of(folder: Path) -> list[Metrics]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


@pytest.mark.slow
def test_a_run_whose_server_dies_stops_and_resumes_without_a_difference(
    tmp_path: Path, small_run: Callable[..., Run], prompts_file: Path
) -> None:
    settings = small_run(prompts=str(prompts_file), num_rounds=2)
    settings = replace(settings, logging=replace(settings.logging, checkpoint_every_rounds=2))
    with served(brightness) as url:
        port = int(url.rpartition(":")[2])
        whole = train(settings, output=tmp_path / "whole", reward=RemoteReward(url, QUICK))
    reward = RemoteReward(url, QUICK)
    with ExitStack() as servers:
        servers.enter_context(served(brightness, port=port))
        stopper = Stopper(servers, after_round=1)
        with pytest.raises(RunStopped, match=r"round 2: .*3 attempts") as stopped:
            train(settings, output=tmp_path / "run", reward=reward, observers=[stopper])
    assert isinstance(stopped.value.__cause__, RewardFailed)
    assert [line["round"] for line in metrics_of(tmp_path / "run")] == [1]
    assert len(list(tmp_path.glob("run/checkpoints/round_*1"))) == 1
    with served(brightness, port=port):
        train(settings, output=tmp_path / "run", reward=reward, resume=True)
    assert metrics_of(tmp_path / "run") == metrics_of(whole)
    assert all(0 < (line["reward/mean"] or 0) < 1 for line in metrics_of(whole))
    adapters = [
        load_file(next(folder.glob("checkpoints/round_*2/adapter.safetensors"))) for folder in (tmp_path / "run", whole)
    ]
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[1])
