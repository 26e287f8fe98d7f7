"""During one `train`, everything that a run names is parsed once."""

import builtins
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from b2diffurl.cli import main
from b2diffurl.models import model_files
from b2diffurl.run import resolve as resolve_module
from b2diffurl.training import trainer


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


def test_a_run_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a bear riding a bike\na cat playing chess\n", encoding="utf-8")
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("a dog riding a bike\n", encoding="utf-8")
    counts: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*arguments, **options)

        return call

    real_open = io.open

    def counted_open(file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike) and Path(file) in (prompts, held_out):
            counts[Path(file).name] += 1
        return real_open(file, *arguments, **options)

    monkeypatch.setattr(io, "open", counted_open)  # Path.read_text
    monkeypatch.setattr(builtins, "open", counted_open)
    monkeypatch.setattr(model_files, "read_index", counted("index", model_files.read_index))
    monkeypatch.setattr(model_files, "read_tokenizers", counted("tokenizers", model_files.read_tokenizers))
    resolve = counted("resolve", resolve_module.resolve)
    for module in (resolve_module, trainer):
        monkeypatch.setattr(module, "resolve", resolve)
    monkeypatch.setattr("b2diffurl.cli.train.resolve", resolve)
    words = ["train", "emoji-b2-paper", "--output", str(tmp_path / "run"), "--prompts", str(prompts)]
    words += ["--held-out-prompts", str(held_out), "--reward", f"{__name__}:brightness", "--num-rounds", "1"]
    words += ["--reward-queries-per-round", "4", "--logging.num-evaluation-images", "0", "--logging.num-samples", "1"]
    words += ["--sampler.num-inference-steps", "3", "--schedule.tau-first", "2"]
    assert main(words) == 0
    assert counts == {"prompts.txt": 1, "held_out.txt": 1, "index": 1, "tokenizers": 1, "resolve": 1}
