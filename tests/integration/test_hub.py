"""The upload of an adapter, against a hub on loopback."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from b2diffurl.errors import UserError
from b2diffurl.models.hub import push_to_hub
from b2diffurl.reporting.model_card import write_card
from b2diffurl.run.recipes import recipe
from b2diffurl.run.records import Evaluation, RunRecord

TOKEN = "hf_of_this_test"


class Hub(ThreadingHTTPServer):
    """Enough of the hub's protocol to accept a commit of small files; records requests and files."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: list[dict[str, object]] = []
        self.files: dict[str, bytes] = {}
        self.authorizations: set[str | None] = set()
        self.forbidden = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if "missing" in self.path:
            self._answer({"error": "Repository not found"}, status=404, error_code="RepoNotFound")
            return
        self._answer({"id": "me/adapter", "siblings": [], "sha": "0" * 40})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        self.server.authorizations.add(self.headers.get("Authorization"))
        if self.server.forbidden:
            self._answer({"error": "You have no right to write here"}, status=403)
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._answer({"url": f"{self.server.url}/me/adapter", "name": "me/adapter"})
        elif "/preupload/" in self.path:
            requested = json.loads(body)["files"]
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in requested]
            self._answer({"files": files, "commitOid": "0" * 40})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {"commitUrl": f"{self.server.url}/me/adapter/commit/1", "commitOid": "1" * 40, "success": True}
            self._answer(commit)
        else:
            self._answer({"errors": [], "warnings": []})

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while self.headers.get("Transfer-Encoding") == "chunked":
            size = int(self.rfile.readline(), 16)
            parts.append(self.rfile.read(size))
            self.rfile.readline()
            if size == 0:
                break
        return b"".join(parts)

    def _answer(self, answer: Mapping[str, object], *, status: int = 200, error_code: str = "") -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        if error_code:
            self.send_header("X-Error-Code", error_code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    directory = tmp_path / "lora"
    (directory / "peft").mkdir(parents=True)
    (directory / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    (directory / "peft" / "adapter_model.safetensors").write_bytes(b"the same weights")
    evaluation = Evaluation(before={"clip_score": 0.5}, after={"clip_score": 0.75}, num_images=8)
    record = RunRecord(
        name="run", settings_text="", settings={}, environment={},
        rounds=({"reward_queries": 8, "reward/mean": 0.5},), evaluation=evaluation, prompts=(), images={}, stop=None,
    )  # fmt: skip
    write_card(directory, recipe("emoji-b2-paper"), record)
    return directory


def push(directory: Path, endpoint: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Push in a separate process: the hub's client reads its address from the environment when it is imported."""
    arguments = "".join(f", {name}={value!r}" for name, value in options.items())
    code = (
        "from pathlib import Path\n"
        "from b2diffurl.errors import UserError\n"
        "from b2diffurl.models.hub import push_to_hub\n"
        f"try:\n    print(push_to_hub(Path({str(directory)!r}){arguments}))\n"
        "except UserError as error:\n    raise SystemExit(str(error))\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


def test_the_whole_folder_arrives_with_the_token_of_the_environment(adapter: Path, hub: Hub) -> None:
    done = push(adapter, hub.url, repo_id="me/adapter", private=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/me/adapter"
    assert [(repo["name"], repo["organization"]) for repo in hub.created] == [("adapter", "me")]
    assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
    assert hub.authorizations == {f"Bearer {TOKEN}"}
    there = {str(path.relative_to(adapter)): path.read_bytes() for path in adapter.rglob("*") if path.is_file()}
    assert hub.files == there
    assert {"README.md", "reward.png"} < set(there)


def test_no_access_and_no_connection_give_one_sentence(adapter: Path, hub: Hub) -> None:
    hub.forbidden = True
    done = push(adapter, hub.url, repo_id="me/adapter")
    assert done.returncode == 1
    assert "repo_id 'me/adapter' could not be written" in done.stderr
    assert "hf auth login" in done.stderr
    assert "Traceback" not in done.stderr
    hub.shutdown()
    hub.server_close()
    done = push(adapter, hub.url, repo_id="me/adapter")
    assert "repo_id 'me/adapter' could not be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_user_errors_are_raised_before_anything_is_sent(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the lora folder of a run"):
        push_to_hub(tmp_path, repo_id="me/adapter")
    with pytest.raises(UserError, match="give user/name"):
        push_to_hub(adapter, repo_id="me/my adapter")


@pytest.mark.slow
def test_a_model_that_cannot_be_downloaded_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    """At once, and without the libraries' repeated requests."""
    command = [sys.executable, "-m", "b2diffurl.cli", "sample", "org/missing", "--output", str(tmp_path / "images")]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    sentences = {
        True: "the Hugging Face Hub has no such model, or it is private",
        False: "it is not in the local cache and the Hugging Face Hub cannot be reached",
    }
    for is_up, sentence in sentences.items():
        if not is_up:
            hub.shutdown()
            hub.server_close()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 2
        assert done.stderr.startswith(f"b2diffurl: model 'org/missing' could not be loaded: {sentence}")
        assert done.stderr.count("\n") == 1
