"""Invalid and unusual input: exit 0, exit 2 with one sentence, or a run that is stopped with one; never a traceback.

The examples of a batch run in one forked process, one after another; their strategies are in fuzz_inputs.py.
"""

import asyncio
import io
import json
import resource
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
import tomli_w
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from torch import Tensor

from b2diffurl.cli import main
from b2diffurl.config import read_toml, to_tables
from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.rewards.remote.server import ServerLimits, reward_app
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Run
from b2diffurl.training.scorer import Scoring
from tools.torture import fuzz_inputs as inputs
from tools.torture.cases import Case, Result
from tools.torture.processes import Outcome, fork, is_sentence, without_device
from tools.torture.runs import Runs

Judge = Callable[[Any], str]
Prepared = tuple[st.SearchStrategy[Any], Judge]
# Kind of input: number of batches, examples per batch.
SIZES = {
    "run.toml": (40, 100), "flags": (20, 50), "prompt files": (20, 100), "reward outputs": (20, 100),
    "server requests": (20, 100), "model folders": (20, 10), "one-round runs": (60, 10),
}  # fmt: skip
SHORT_SIZES = {
    "run.toml": (1, 100), "flags": (1, 20), "prompt files": (1, 100), "reward outputs": (1, 50),
    "server requests": (1, 100), "model folders": (1, 8), "one-round runs": (1, 8),
}  # fmt: skip
_DRY_RUN_EVERY = 10  # a dry run takes twenty times as long as `show`
_MAX_CPU_SECONDS, _MAX_MEMORY_BYTES = 30, 12 * 2**30
_TOKEN = "secret"
_STATUS_CODES = (200, 401, 404, 405, 408, 413, 422, 500)


def cases(runs: Runs, *, short: bool) -> Iterator[Case]:
    """Give the cases, one per batch."""
    for kind, (num_batches, size) in (SHORT_SIZES if short else SIZES).items():
        for index in range(num_batches):
            run = partial(_batch, runs, kind, index, size)
            yield Case(campaign=f"fuzz, {kind}", name=f"batch {index} of {size}", run=run)


def _batch(runs: Runs, kind: str, index: int, size: int) -> Result:
    seed = Random(f"{runs.world.seed} {kind} {index}").getrandbits(32)
    assert runs.whole.is_dir()  # made before the fork
    with runs.copy(None) as folder:
        folder.mkdir()
        file = folder / "result.json"

        def work() -> int:
            strategy, judge = _PREPARE[kind](_Batch(runs, folder))
            outcomes, faults = explore(strategy, judge, num=size, seed=seed)
            file.write_text(json.dumps([outcomes, faults]), encoding="utf-8")
            return 0

        ended = fork(work, before=_limit_memory).wait()
        if not file.is_file():
            return Result(outcomes={"fault": size}, faults=(f"batch: {ended.describe()}",))
        outcomes, faults = json.loads(file.read_text(encoding="utf-8"))
    return Result(outcomes=outcomes, faults=tuple(faults))


def explore(strategy: st.SearchStrategy[Any], judge: Judge, *, num: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Judge examples.

    Args:
        strategy: the examples.
        judge: returns the outcome of one; "fault: ..." for what must not happen.
        num: number of examples; fewer if there are not as many.
        seed: seed of the examples.

    Returns:
        The number of examples per outcome, and the faults.
    """
    outcomes, faults = Counter[str](), list[str]()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=num,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @hypothesis.given(strategy)
    def each(example: Any) -> None:
        outcome = judge(example)
        if outcome.startswith("fault"):
            faults.append(f"{outcome} at {str(example)[:1000]!r}")
        outcomes[outcome.partition(":")[0]] += 1

    each()
    return outcomes, faults


def outcome_of(words: list[str]) -> Outcome:
    """Run the command line in this process; it gets at most some seconds of CPU time."""
    out, err, code = io.StringIO(), io.StringIO(), 1
    with redirect_stdout(out), redirect_stderr(err):
        try:
            with _limited():
                code = main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:  # noqa: BLE001 - what an interpreter does
            traceback.print_exc(limit=-4)
    return Outcome(code=code, stdout=out.getvalue(), stderr=without_device(err.getvalue()), cpu_seconds=0.0)


def verdict(outcome: Outcome) -> str:
    """Return the outcome of a command as text."""
    if outcome.code == 0:
        return "accepted"
    if outcome.is_refusal:
        return "refused"
    return "stopped" if outcome.is_stop else f"fault: exit {outcome.code}, {outcome.stderr[-700:]}"


@contextmanager
def _limited() -> Generator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {_MAX_CPU_SECONDS} seconds of CPU time")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _MAX_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))


# One function per kind of input: it returns the strategy and the judge.


@dataclass(frozen=True, slots=True)
class _Batch:
    """What the judges of a batch use: the runs, and a folder of their own."""

    runs: Runs
    folder: Path

    @property
    def run(self) -> Run:
        return read_toml(self.runs.whole / "run.toml", Run)


def _run_files(batch: _Batch) -> Prepared:
    file, count = batch.folder / "changed.toml", 0

    def judge(content: bytes) -> str:
        nonlocal count
        count += 1
        file.write_bytes(content)
        words = ["train", str(file), "--dry-run", "--output", str(batch.folder / "run")]
        return verdict(outcome_of(["show", str(file)] if count % _DRY_RUN_EVERY else words))

    return inputs.run_files(to_tables(batch.run)), judge


def _flags(batch: _Batch) -> Prepared:
    def judge(words: list[str]) -> str:
        return verdict(outcome_of([*batch.runs.world.train(batch.folder / "run", "--dry-run"), *words]))

    return inputs.flags(to_tables(batch.run)), judge


def _prompt_files(batch: _Batch) -> Prepared:
    run = batch.run

    def judge(example: tuple[str, bytes]) -> str:
        suffix, content = example
        file = batch.folder / f"prompts{suffix}"
        file.write_bytes(content)
        return _front_door(replace(run, prompts=str(file)))

    return inputs.prompt_files(), judge


def _front_door(run: Run) -> str:
    try:
        resolve(run).check_prompt_lengths()
    except UserError as error:
        return "refused" if is_sentence(f"b2diffurl: {error}") else f"fault: not one sentence: {error}"
    except Exception:  # noqa: BLE001 - this is what must not happen
        return f"fault: {traceback.format_exc(limit=-4)}"
    return "accepted"


def _reward_outputs(_: _Batch) -> Prepared:
    images, prompts = torch.rand(4, 3, 8, 8), ["a bear", "a cat", "a cat", "a dog"]

    def judge(output: Any) -> str:
        def reward(images: Tensor, prompts: Sequence[str]) -> Any:  # noqa: ARG001
            if isinstance(output, BaseException):
                raise output
            return output

        try:
            with Scoring(reward, watched={}, pause_seconds=0.0) as scoring:
                scoring.submit(images, prompts, [{} for _ in prompts])
                scores = scoring.result()
            json.dumps(scores.info)
        except (RewardFailed, UserError) as error:
            return "refused" if "\n" not in str(error) else f"fault: not one sentence: {error}"
        except Exception:  # noqa: BLE001 - this is what must not happen
            return f"fault: {traceback.format_exc(limit=-4)}"
        is_right = scores.rewards.shape == (4,) and bool(torch.isfinite(scores.rewards).all())
        return "accepted" if is_right else f"fault: {scores}"

    return inputs.reward_outputs(4), judge


def _server_requests(_: _Batch) -> Prepared:
    limits = ServerLimits(max_body_bytes=20_000, max_images=4, max_pixels=1024)
    app = reward_app(_mean, name="mean", token=_TOKEN, limits=limits)
    loop = asyncio.new_event_loop()

    def judge(request: tuple[str, str, list[tuple[bytes, bytes]], bytes]) -> str:
        try:
            status, body = loop.run_until_complete(_answer(app, *request))
            answer = json.loads(body)
        except Exception:  # noqa: BLE001 - this is what must not happen
            return f"fault: {traceback.format_exc(limit=-4)}"
        if status not in _STATUS_CODES or (status != 200 and not isinstance(answer.get("detail"), str)):
            return f"fault: status {status}, {body[:300]}"
        return f"status {status}"

    return inputs.requests(), judge


def _mean(images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG001
    return images.mean(dim=(1, 2, 3))


async def _answer(
    app: Any, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> tuple[int, bytes]:
    """Send one request to an ASGI application; return the status and the body of its answer."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def _model_folders(batch: _Batch) -> Prepared:
    model = batch.folder / "model"
    files = [
        (str(path.relative_to(batch.runs.world.model)), path) for path in sorted(batch.runs.world.model.rglob("*.*"))
    ]
    originals = [(name, path.read_bytes()) for name, path in files if path.is_file()]
    shutil.copytree(batch.runs.world.model, model)

    def judge(change: tuple[str, bytes]) -> str:
        name, content = change
        (model / name).write_bytes(content)
        command, _, *arguments = batch.runs.world.sample(batch.folder / "images")
        try:
            return verdict(outcome_of([command, str(model), *arguments]))
        finally:
            (model / name).write_bytes(dict(originals)[name])
            shutil.rmtree(batch.folder / "images", ignore_errors=True)

    return inputs.model_changes(originals), judge


def _one_round_runs(batch: _Batch) -> Prepared:
    count = 0

    def judge(example: tuple[inputs.Tables, str]) -> str:
        nonlocal count
        count += 1
        changed, body = example
        reward, file, output = batch.folder / f"reward{count}.py", batch.folder / "one.toml", batch.folder / "run"
        reward.write_text(inputs.REWARD_FILE.format(body=body), encoding="utf-8")
        file.write_text(tomli_w.dumps(changed | {"reward": f"{reward}:score"}), encoding="utf-8")
        ended = outcome_of(["train", str(file), "--output", str(output)])
        is_whole = all((output / name).exists() for name in ("metrics.jsonl", "lora", "report.html", "checkpoints"))
        shutil.rmtree(output, ignore_errors=True)
        if ended.code == 0 and not is_whole:
            return "fault: files are missing"
        return "trained" if ended.code == 0 else verdict(ended)

    return inputs.small_runs(to_tables(batch.run)), judge


_PREPARE: dict[str, Callable[[_Batch], Prepared]] = {
    "run.toml": _run_files,
    "flags": _flags,
    "prompt files": _prompt_files,
    "reward outputs": _reward_outputs,
    "server requests": _server_requests,
    "model folders": _model_folders,
    "one-round runs": _one_round_runs,
}
