"""The device and the dtype that a run gets without being asked for them."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

import b2diffurl
from b2diffurl.analysis.sample import Generation
from b2diffurl.cli import _COMMANDS, main
from b2diffurl.cli.cost_lines import cpu_warning
from b2diffurl.config import to_toml
from b2diffurl.distributed import AUTO, choose_device, describe_device
from b2diffurl.errors import UserError
from b2diffurl.models import Memory, ModelSource
from b2diffurl.models.memory import Weights
from b2diffurl.models.pipeline import choose_dtype
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.recipes import RECIPES, recipe
from b2diffurl.run.resolve import resolve
from b2diffurl.training.notes import opening_notes, with_dtype


@pytest.fixture
def unet(tmp_path: Path) -> Path:
    """A model directory, as far as it is read before loading; returns the config of its UNet."""
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    (tmp_path / "unet").mkdir()
    config = tmp_path / "unet" / "config.json"
    config.write_text("{}", encoding="utf-8")
    return config


@pytest.mark.parametrize(
    ("has", "chosen"),
    [
        ({"cuda": True, "mps": True}, "cuda"),
        ({"cuda": False, "mps": True}, "mps"),
        ({"cuda": False, "mps": False}, "cpu"),
    ],
)
def test_auto_is_the_first_device_that_there_is(
    has: Mapping[str, bool], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has["mps"])
    assert choose_device(AUTO) == chosen


def test_a_device_that_is_named_is_kept_or_refused() -> None:
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == "cpu"
    with pytest.raises(
        UserError, match=r"^device is 'cuda' but PyTorch finds 0 CUDA devices here; give auto or cpu\.$"
    ):
        choose_device("cuda")


def test_a_gpu_that_cannot_be_used_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch says that there is a GPU, and then fails to initialize it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"^device is 'cuda', which cannot be used \(.*\); give cpu\.$"):
        describe_device("cuda")
    assert main(["sample", "emoji", "--prompts", "a cat", "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("b2diffurl: device is 'cuda', which cannot be used (")


def test_a_gpu_out_of_memory_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: list[str]) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr("b2diffurl.cli.show.show", full)
    assert main(["show"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("b2diffurl: the memory of the GPU is full (CUDA out of memory")
    assert err.count("\n") == 1


def test_a_cpu_is_described_with_its_memory() -> None:
    assert describe_device("cpu").startswith("cpu: ")
    assert describe_device("cpu").endswith(" GiB")


def test_every_command_takes_auto_by_default() -> None:
    defaults = {Generation().device}
    for module, _ in _COMMANDS.values():
        imported = import_module(f"b2diffurl.cli.{module}")
        for value in vars(imported).values():
            if dataclasses.is_dataclass(value) and value.__module__ == imported.__name__:
                defaults |= {field.default for field in dataclasses.fields(value) if field.name == "device"}
    assert defaults == {AUTO}


@pytest.mark.parametrize(
    ("device", "upcast", "dtype"),
    [("cpu", None, "float32"), ("mps", None, "float32"), ("cuda", None, "float16"), ("cuda:1", True, "bfloat16")],
)
def test_the_dtype_follows_device_and_model(unet: Path, device: str, upcast: bool | None, dtype: str) -> None:
    unet.write_text(json.dumps({"upcast_attention": upcast}), encoding="utf-8")
    source = ModelSource(str(unet.parents[1]))
    assert choose_dtype(source, Memory(), device=device)[0] == dtype
    assert choose_dtype(source, Memory(base_dtype="bfloat16"), device=device) == ("bfloat16", "as set")


def test_the_embedded_model_is_float32_everywhere() -> None:
    assert choose_dtype(ModelSource("emoji"), Memory(), device="cuda")[0] == "float32"


def test_every_recipe_leaves_the_dtype_to_the_device() -> None:
    assert {recipe(name).memory.base_dtype for name in RECIPES} == {"auto"}


@pytest.mark.parametrize("recorded", ["float16", "float32"])
def test_a_resumed_run_keeps_its_dtype(recorded: Weights, tmp_path: Path) -> None:
    resolved, directory = resolve(recipe("emoji-b2-paper")), RunDirectory(tmp_path)
    run = replace(resolved.run, memory=Memory(base_dtype=recorded))
    directory.run_file.write_text(to_toml(run), encoding="utf-8")
    fixed, reason = with_dtype(resolved, directory, device="cpu", resume=True)
    assert (fixed.run.memory.base_dtype, reason) == (recorded, "as the run began")
    fixed, reason = with_dtype(resolved, directory, device="cpu", resume=False)
    assert (fixed.run.memory.base_dtype, reason) == ("float32", "the embedded model is small")


def test_the_first_lines_name_device_and_dtype(unet: Path, tmp_path: Path) -> None:
    resolved = resolve(recipe("emoji-b2-paper"))
    notes = opening_notes(resolved, RunDirectory(tmp_path / "run"), device="cpu", resume=False)
    assert notes[1:] == [f"device   {describe_device('cpu')}", "dtype    float32: the embedded model is small"]
    other = replace(
        resolved, model=ModelSource(str(unet.parents[1])), run=replace(resolved.run, model=str(unet.parents[1]))
    )
    notes = opening_notes(other, RunDirectory(tmp_path / "run"), device="cpu", resume=False)
    assert "begin with recipe sd15 or sdxl" in notes[-1]


def test_a_real_model_on_a_cpu_warns_with_hours() -> None:
    run = replace(recipe("sd15"), prompts="template1-train", reward="clip")
    warning = cpu_warning(run, device="cpu")
    assert "Stable Diffusion 1.x on a CPU takes about" in warning
    assert "hours" in warning
    assert cpu_warning(run, device="cuda") == cpu_warning(recipe("emoji-b2-paper"), device="cpu") == ""


def test_python_warns_with_hours_before_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    messages: list[str] = []
    run = replace(recipe("sd15"), prompts="template1-train")
    with pytest.raises(UserError):  # nothing is downloaded here
        b2diffurl.train(
            run, reward=lambda images, _: images.mean((1, 2, 3)), output=tmp_path / "run", device="cpu",
            progress="none", on_message=messages.append,
        )  # fmt: skip
    assert any("on a CPU takes about" in message for message in messages)
