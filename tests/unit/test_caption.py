"""The served captioner against a real HTTP server: order, retries, errors, the key. JPEG. Settings."""

import base64
import inspect
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from b2diffurl.config import from_tables, to_tables
from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.images import to_pil
from b2diffurl.rewards.bert.captioner import Captioner, LocalCaptioner, ServedCaptioner, to_jpeg
from b2diffurl.rewards.bert.settings import BertSettings

Answer = tuple[int, str]


@dataclass
class Server:
    """The requests received, and how many were open at the same time."""

    base_url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    num_open: int = 0
    max_open: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serve(answer: Callable[[Server, dict[str, Any]], Answer]) -> Generator[Server]:
    """Run a server on a free port of the loopback interface; `answer` returns status and body."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.requests.append({"path": self.path, **request})
                server.keys.append(self.headers["Authorization"])
                server.num_open += 1
                server.max_open = max(server.max_open, server.num_open)
            status, body = answer(server, request)
            with server.lock:
                server.num_open -= 1
            self.send_response(status)
            self.end_headers()
            with suppress(BrokenPipeError):
                self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.base_url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def completion(text: str | None) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def red_of(request: dict[str, Any]) -> int:
    """Return the red value of the first pixel of a request's image."""
    image, _ = request["messages"][0]["content"]
    head, encoded = image["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    pixel = Image.open(io.BytesIO(base64.b64decode(encoded))).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel[0]


def reds(*values: int) -> Tensor:
    images = torch.zeros(len(values), 3, 8, 8)
    images[:, 0] = torch.tensor(values)[:, None, None] / 255
    return images


def captioner(base_url: str, *, backoff_seconds: float = 0.01, **changes: Any) -> ServedCaptioner:
    settings = BertSettings(base_url=base_url, captioner="a model", **changes)
    return ServedCaptioner(settings, backoff_seconds=backoff_seconds)


def test_order_is_kept_and_concurrency_limited() -> None:
    def answer(_: Server, request: dict[str, Any]) -> Answer:
        red = red_of(request)
        time.sleep((255 - red) / 2000)  # the first request is answered last
        return 200, completion(f" {red // 10}\n")

    with serve(answer) as server:
        captions = captioner(server.base_url, max_concurrency=3)(reds(*range(5, 205, 20)))
    assert captions == [str(tens) for tens in range(0, 20, 2)]
    assert server.max_open == 3


def test_request_has_the_parameters_of_the_settings() -> None:
    with serve(lambda *_: (200, completion("a cat"))) as server:
        served = captioner(f"{server.base_url}/", question="What?", max_new_tokens=7, jpeg_quality=30)
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        assert isinstance(served, Captioner)
        assert served(image) == ["a cat"]
    url = f"data:image/jpeg;base64,{base64.b64encode(to_jpeg(image[0], quality=30)).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    assert server.requests == [
        {
            "path": "/v1/chat/completions",
            "model": "a model",
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 7,
        }
    ]


def test_a_server_error_is_retried() -> None:
    def answer(server: Server, _: dict[str, Any]) -> Answer:
        return (500, "busy") if len(server.requests) < 3 else (200, completion("a cat"))

    with serve(answer) as server:
        assert captioner(server.base_url, max_retries=2)(reds(0)) == ["a cat"]
    assert len(server.requests) == 3


def test_the_last_error_is_in_the_message() -> None:
    with serve(lambda *_: (503, "loading\nthe model")) as server, pytest.raises(RewardFailed) as failure:
        captioner(server.base_url, max_retries=2)(reds(0))
    assert len(server.requests) == 3
    assert str(failure.value) == (
        f"the captioner at {server.base_url}/chat/completions returned no caption: "
        "3 attempts, the last: it answered 503: loading the model."
    )


@pytest.mark.parametrize("status", [302, 400, 404, 429])
def test_a_client_error_fails_at_once(status: int) -> None:
    with (
        serve(lambda *_: (status, "no such model")) as server,
        pytest.raises(RewardFailed, match=f"it answered {status}: no such model"),
    ):
        captioner(server.base_url, max_concurrency=1)(reds(0, 1, 2))
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", ["", "[]", '{"choices": []}', "null", completion(None)])
def test_an_answer_without_a_text_is_a_failure_and_not_a_caption(body: str) -> None:
    with serve(lambda *_: (200, body)) as server, pytest.raises(RewardFailed, match="the answer"):
        captioner(server.base_url)(reds(0))


def test_a_missing_server_is_a_failure_after_the_retries() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # in use, but not listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        started = time.monotonic()
        with pytest.raises(RewardFailed, match=r"3 attempts, the last: .*connection"):
            captioner(url, max_retries=2, backoff_seconds=0.1)(reds(0))
        assert time.monotonic() - started >= 0.3


def test_a_silent_server_is_a_failure_after_the_retries() -> None:
    wake = threading.Event()

    def answer(*_: object) -> Answer:
        wake.wait(10)
        return 200, completion("too late")

    with serve(answer) as server:
        with pytest.raises(RewardFailed, match=r"2 attempts, the last: no answer within 0\.1 seconds"):
            captioner(server.base_url, max_retries=1, timeout_seconds=0.1)(reds(0))
        wake.set()
    assert len(server.requests) == 2


def test_key_is_read_from_the_environment_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("OTHER_KEY", "sk-secret")
    with serve(lambda server, _: (200 if len(server.keys) < 3 else 401, completion(server.keys[-1] or ""))) as server:
        assert captioner(server.base_url)(reds(0)) == [""]
        assert captioner(server.base_url, api_key_variable="OTHER_KEY")(reds(0)) == ["Bearer sk-secret"]
        with pytest.raises(RewardFailed, match="401") as failure:
            captioner(server.base_url, api_key_variable="OTHER_KEY")(reds(0))
    assert server.keys == [None, "Bearer sk-secret", "Bearer sk-secret"]
    assert "secret" not in str(failure.value)


def test_an_invalid_key_is_rejected_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    with pytest.raises(UserError, match="OPENAI_API_KEY") as error:
        captioner("http://127.0.0.1:1/v1")
    assert "secret" not in str(error.value)


def test_jpeg_is_that_of_pillow_for_the_rounded_image() -> None:
    image = torch.rand(3, 20, 12, generator=torch.Generator().manual_seed(0))
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="JPEG", quality=80)
    assert to_jpeg(image, quality=80) == buffer.getvalue()
    assert Image.open(io.BytesIO(to_jpeg(image, quality=80))).size == (12, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captioner": " "}, "bert.captioner is empty"),
        ({"question": ""}, "bert.question is empty"),
        ({"base_url": "127.0.0.1:8000"}, "bert.base_url is"),
        ({"base_url": "ftp://host/v1"}, "bert.base_url is 'ftp://host/v1'"),
        ({"base_url": "http://host:port/v1"}, "bert.base_url is not a valid address"),
        ({"base_url": "http://me:secret@host/v1"}, "bert.base_url contains a user"),
        ({"num_layers": 0}, "bert.num_layers is 0"),
        ({"max_new_tokens": 0}, "bert.max_new_tokens is 0"),
        ({"batch_size": 0}, "bert.batch_size is 0"),
        ({"max_concurrency": 0}, "bert.max_concurrency is 0"),
        ({"max_retries": -1}, "bert.max_retries is -1"),
        ({"jpeg_quality": 0}, "bert.jpeg_quality is 0"),
        ({"jpeg_quality": 101}, "bert.jpeg_quality is 101"),
        ({"timeout_seconds": float("inf")}, "bert.timeout_seconds is inf"),
        ({"timeout_seconds": float("nan")}, "bert.timeout_seconds is nan"),
        ({"reference": "The image contains"}, "bert.reference is 'The image contains'; write {prompt}"),
        ({"max_retries": 5}, "bert.max_retries is 5 but without base_url there is no server"),
        ({"batch_size": 4, "base_url": "http://host/v1"}, "bert.batch_size is 4 but base_url names a server"),
    ],
)
def test_invalid_settings_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        BertSettings(**changes)
    assert str(error.value).startswith(message)
    assert "secret" not in str(error.value)


def test_settings_of_a_server_survive_toml() -> None:
    served = BertSettings(base_url="https://host:1/v1", max_retries=0, max_concurrency=64, timeout_seconds=0.5)
    assert from_tables(to_tables(served), BertSettings) == served
    assert from_tables({}, BertSettings) == BertSettings()


@pytest.mark.parametrize("kind", [LocalCaptioner, ServedCaptioner])
def test_captioners_have_no_options_beside_the_settings(kind: type) -> None:
    """A default that is written twice could differ."""
    settings = {setting.name for setting in fields(BertSettings)}
    parameters = set(inspect.signature(kind).parameters)
    assert "settings" in parameters
    assert parameters & settings == set()


def test_without_a_key_no_token_of_hugging_face_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub's clients send it to any server."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serve(lambda *_: (200, completion("a cat"))) as server:
        assert captioner(server.base_url)(reds(0)) == ["a cat"]
    assert server.keys == [None]


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with serve(lambda *_: (200, completion("a cat"))) as server:
        assert captioner(server.base_url)(reds(0)) == ["a cat"]


def test_a_failure_ends_the_other_requests() -> None:
    def answer(_: Server, request: dict[str, Any]) -> Answer:
        if red_of(request) < 10:
            return 400, "no"
        time.sleep(3)
        return 200, completion("too late")

    started = time.monotonic()
    with serve(answer) as server:
        with pytest.raises(RewardFailed, match="it answered 400: no"):
            captioner(server.base_url)(reds(0, 100, 200))
        assert time.monotonic() - started < 2
