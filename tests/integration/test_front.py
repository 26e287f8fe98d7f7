"""The front door: every model that diffusers saves can be used, and what cannot is refused in one sentence."""

# diffusers types its configs as dicts.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from b2diffurl.algorithm.advantage import Batch, RewardHistory
from b2diffurl.algorithm.collapse import Collapse, CollapseMonitor
from b2diffurl.algorithm.objectives import DDPO
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.round import LatentScorer, RoundResult, RoundState, Strategy, run_round
from b2diffurl.algorithm.schedule import Table
from b2diffurl.algorithm.selection import All
from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.algorithm.update import Optimization, Update, UpdateSettings
from b2diffurl.analysis.sample import Generation, sample
from b2diffurl.cli import main
from b2diffurl.distributed import check_device
from b2diffurl.errors import UserError
from b2diffurl.evaluation.evaluator import Evaluator
from b2diffurl.evaluation.judges import RewardJudge
from b2diffurl.models import LoRA, ModelSource
from b2diffurl.models.scheduler import ddim_chain, ddim_scheduler
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.run.disk import needed_bytes
from b2diffurl.run.recipes import recipe
from b2diffurl.run.resolve import resolve
from tests.conftest import perturb
from tests.marks import slow_except
from tests.tiny_models import tiny_sd1

PROMPT = "a bear riding a bike"
QUICK = "emoji-b2-paper"
SPACINGS = ("leading", "trailing", "linspace")
NAMES = (
    "PNDMScheduler", "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)  # fmt: skip
FAST = ("DDIMScheduler", "EulerDiscreteScheduler")  # the others are slow tests
WITH_FINAL = ("PNDMScheduler", "DDIMScheduler")  # these have set_alpha_to_one
V_ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
SAVED: list[tuple[str, dict[str, Any]]] = [
    *[
        (name, {"timestep_spacing": spacing} | ({} if final is None else {"set_alpha_to_one": final}))
        for name in NAMES
        for spacing in SPACINGS
        for final in ((True, False) if name in WITH_FINAL else (None,))
    ],
    # PNDM has no zero SNR.
    *[(name, {"timestep_spacing": spacing} | V_ZERO_SNR) for name in NAMES[1:] for spacing in SPACINGS],
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd1(tmp_path_factory.mktemp("front") / "sd1")


def with_scheduler(tiny: Path, directory: Path, name: str, **changed: Any) -> Path:
    shutil.copytree(tiny, directory)
    save_scheduler(directory, name, **changed)
    return directory


def save_scheduler(directory: Path, name: str, **changed: Any) -> None:
    """Save a model's scheduler as another class, with the noise schedule of Stable Diffusion."""
    config = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1).config
    getattr(diffusers, name).from_config(config, **changed).save_pretrained(directory / "scheduler")
    index = json.loads((directory / "model_index.json").read_text())
    (directory / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", name]}))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(words) == 2
    output = re.sub(r"^device .*\n", "", capsys.readouterr().err).strip()  # the device is announced before loading
    assert output.startswith("b2diffurl: ")
    assert "\n" not in output
    assert output.endswith(".")
    return output


def train_words(model: Path, output: Path, tau: int, num_steps: int = 3) -> list[str]:
    sizes = f"--num-rounds 1 --reward-queries-per-round 8 --sampler.num-inference-steps {num_steps}"
    return [
        "train", QUICK, "--model", str(model), *sizes.split(), "--logging.num-samples", "1",
        "--schedule.tau-first", str(tau), "--output", str(output),
        "--reward", "jpeg-size:compressible", "--judge", "reward", "--logging.num-evaluation-images", "2",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def shared(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy of the model, whose scheduler is changed in place."""
    return Path(shutil.copytree(tiny, tmp_path_factory.mktemp("shared") / "model"))


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> TextToImageModel:
    """The model without its scheduler's chain, with an adapter."""
    model = TextToImageModel.load(str(tiny))
    model.add_lora(LoRA(rank=2), seed=0)
    return model


@pytest.mark.parametrize(("name", "changed"), slow_except(FAST, SAVED))
def test_a_model_saved_with_any_scheduler_can_be_sampled_trained_and_evaluated(
    shared: Path, loaded: TextToImageModel, name: str, changed: dict[str, Any]
) -> None:
    """One model in memory with the chain of each saved scheduler."""
    save_scheduler(shared, name, **changed)
    source = ModelSource(str(shared))
    source.check(num_inference_steps=3, eta=1.0, interval_length=2, lora=LoRA(rank=2))
    assert (name in source.chain_note) == (name != "DDIMScheduler")
    config = json.loads((shared / "scheduler" / "scheduler_config.json").read_text())
    config |= {"clip_sample": False}  # as the stock pipeline does when it is loaded
    scheduler = ddim_scheduler(config, class_name=name, model=str(shared))
    policy = DenoisingPolicy(
        denoiser=loaded, chain=ddim_chain(scheduler, num_inference_steps=3, eta=1.0), guidance_scale=1.0
    )
    evaluator = Evaluator(
        policy=lambda: policy, load_judge=lambda: RewardJudge(brightness), prompts=[PROMPT], held_out=(),
        num_images=2, seed=0, chunk_size=2,
    )  # fmt: skip
    before = evaluator.evaluate("before")
    assert math.isfinite(before["reward"])
    result = train_a_round(policy, loaded)
    assert result.update.num_optimizer_steps == 1
    assert (result.update.ratio_max_error or 0) <= 1e-3
    assert math.isfinite(evaluator.evaluate("after")["reward"])
    if not policy.chain.is_action(2):
        with pytest.raises(UserError, match="add no noise"):
            source.check(num_inference_steps=3, eta=1.0, interval_length=1)


def brightness(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


def train_a_round(policy: DenoisingPolicy, model: TextToImageModel) -> RoundResult:
    """One round of two trunks of two branches, at a learning rate that changes little for the next chain."""
    optimizer = torch.optim.AdamW(model.trainable_parameters().values(), lr=1e-6)
    config = Optimization(num_inner_epochs=1, num_minibatches=1)
    return run_round(
        policy,
        Update(policy, optimizer, DDPO(), UpdateSettings(optimization=config, trust_region=TrustRegion(max_kl=1.0))),
        RoundState(history=RewardHistory(normalizer=Batch()), monitor=CollapseMonitor(config=Collapse())),
        Strategy(schedule=Table(rows=((1, 2),)), selector=All(), num_branches=2, num_rounds=1, chunk_size=4, seed=0),
        round_number=1,
        prompts=[PROMPT] * 2,
        scorer=LatentScorer(lambda latents, _: latents.mean(dim=(1, 2, 3))),
    )


@pytest.mark.parametrize("name", slow_except(FAST, NAMES))
def test_a_model_saved_with_any_scheduler_goes_through_the_commands(
    shared: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_scheduler(shared, name, timestep_spacing="linspace")
    assert main(train_words(shared, tmp_path / "run", 2)) == 0  # it also evaluates before and after
    assert (f"The model was saved with {name}; DDIM " in capsys.readouterr().out) == (name != "DDIMScheduler")
    assert f"saved with {name}; DDIM" in (tmp_path / "run" / "run.log").read_text() or name == "DDIMScheduler"
    images = sample(str(shared), [PROMPT], generation=Generation(num_inference_steps=3, guidance_scale=1.0)).images
    assert torch.isfinite(images).all()


def test_distilled_schedulers_are_refused(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = with_scheduler(tiny, tmp_path / "model", "LCMScheduler")
    assert "LCMScheduler" in refused(capsys, *train_words(model, tmp_path / "run", 2), "--dry-run")
    with pytest.raises(UserError, match="LCMScheduler"):
        TextToImageModel.load(str(model))


def test_an_unknown_prediction_type_is_refused(tiny: Path, tmp_path: Path) -> None:
    model = with_scheduler(tiny, tmp_path / "model", "PNDMScheduler", prediction_type="banana")
    with pytest.raises(UserError, match="prediction_type 'banana'; supported is one of: epsilon"):
        TextToImageModel.load(str(model))


@pytest.mark.parametrize("num", [1000, 1001, 10**9])
def test_more_steps_than_timesteps_are_refused_before_loading(
    tiny: Path, tmp_path: Path, num: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train_words(tiny, tmp_path / "run", 2, num)
    assert f"num_inference_steps is {num}" in refused(capsys, *words, "--dry-run")
    with pytest.raises(UserError, match=f"num_inference_steps is {num}"):
        sample(str(tiny), [PROMPT], generation=Generation(num_inference_steps=num))


# Adapters


@pytest.fixture(scope="module")
def lora(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = TextToImageModel.load(str(tiny))
    model.add_lora(LoRA(rank=2), seed=0)
    perturb(model, scale=0.1)
    directory = tmp_path_factory.mktemp("lora") / "lora"
    model.save_lora(directory)
    return directory


def test_an_adapter_in_the_format_of_peft_is_refused(tiny: Path, lora: Path) -> None:
    with pytest.raises(UserError, match=f"PEFT's format; give its parent folder {lora}\\.$"):
        sample(str(tiny), [PROMPT], lora=lora / "peft", generation=Generation(num_inference_steps=2))


def empty(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tensors.items() if not key}


def of_text_encoder(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace("unet.", "text_encoder."): value for key, value in tensors.items()}


def only_down(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tensors.items() if "lora_A" in key or "down" in key}


@pytest.mark.parametrize("change", [empty, of_text_encoder, only_down])
def test_an_adapter_that_would_do_nothing_is_refused(
    tiny: Path, lora: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    file = "pytorch_lora_weights.safetensors"
    save_file(change(load_file(lora / file)), tmp_path / file)
    with pytest.raises(UserError, match=r"^lora directory .*\.$"):
        TextToImageModel.load(str(tiny)).load_lora(tmp_path)


# Damaged models


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop(min(tensors))
    save_file(tensors, file)


def a_list(file: Path) -> None:
    file.write_text("[1]")


def no_json(file: Path) -> None:
    file.write_bytes(b"{\xff")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("text_encoder/model.safetensors", cut),
        ("unet/diffusion_pytorch_model.safetensors", cut),
        ("unet/diffusion_pytorch_model.safetensors", without_a_tensor),
        ("vae/diffusion_pytorch_model.safetensors", without_a_tensor),
        ("vae/diffusion_pytorch_model.safetensors", Path.unlink),
        ("unet/config.json", a_list),
        ("vae/config.json", a_list),
        ("text_encoder/config.json", a_list),
        ("model_index.json", a_list),
        ("model_index.json", no_json),
        ("scheduler/scheduler_config.json", a_list),
        ("tokenizer/tokenizer.json", a_list),
    ],
)
def test_a_damaged_model_is_refused_in_one_sentence(
    tiny: Path, tmp_path: Path, file: str, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    damage(model / file)
    message = refused(capsys, "sample", str(model), "--prompts", PROMPT, "--output", str(tmp_path / "out"))
    assert str(model) in message
    assert "huggingface.co" not in message


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "has a weight that is not finite, unet.conv_out.bias"), (3e38, "generated images with NaN")],
)
def test_weights_and_images_that_are_not_finite_are_refused(
    tiny: Path, tmp_path: Path, value: float, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.bias"].fill_(value)
    save_file(tensors, file)
    for words in (["sample", "--output", str(tmp_path / "out")], ["evaluate", "--judge", "clip:emoji"]):
        assert message in refused(
            capsys, words[0], str(model), "--prompts", PROMPT, "--num-images", "1", *words[1:],
            "--num-inference-steps", "2",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_an_adapter_with_nan_is_refused(tiny: Path, lora: Path, tmp_path: Path) -> None:
    file = "pytorch_lora_weights.safetensors"
    tensors = load_file(lora / file)
    tensors[min(tensors)].fill_(float("nan"))
    save_file(tensors, tmp_path / file)
    with pytest.raises(UserError, match=r"has a weight that is not finite, .*\.$"):
        TextToImageModel.load(str(tiny)).load_lora(tmp_path)


# Before anything is loaded


@pytest.mark.parametrize("command", ["train", "plan"])
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("to_x", "matches no layer of this UNet"),
        ("1", "matches a Dropout of this UNet, which is neither linear nor a convolution"),
    ],
)
def test_layers_that_an_adapter_cannot_adapt_are_refused_before_loading(
    tmp_path: Path, command: str, name: str, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dry-run", "--output", str(tmp_path / "run")] if command == "train" else []
    message = refused(capsys, command, QUICK, "--lora.target-modules", "to_q", name, *words)
    assert f"lora.target_modules has {name!r}, which {match}; give" in message


@pytest.mark.parametrize("command", ["train", "plan"])
def test_prompts_that_are_too_long_are_refused_before_loading(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "long.txt"
    file.write_text("a bear riding a bike " * 9, encoding="utf-8")
    words = ["--dry-run", "--output", str(tmp_path / "run")] if command == "train" else []
    assert "tokens long and the model reads" in refused(capsys, command, QUICK, "--prompts", str(file), *words)


def test_a_disk_without_space_for_the_checkpoints_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ranks and numbers that no disk has space for; the size is that of the adapter's layers."""
    words = ["train", QUICK, "--dry-run", "--output", str(tmp_path / "run"), "--logging.num-checkpoints", str(10**12)]
    assert "MiB of free disk space but checkpoints and adapter need about" in refused(capsys, *words)
    resolved = resolve(recipe(QUICK))
    model = TextToImageModel.load("emoji")
    model.add_lora(resolved.run.lora, seed=0)
    size = 4 * sum(parameter.numel() for parameter in model.trainable_parameters().values())
    assert needed_bytes(resolved) == size * (3 * 3 + 2) + 20 * 2**20


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", "meta", "cpu:x"])
def test_devices_that_are_not_there_are_refused(device: str) -> None:
    with pytest.raises(UserError, match=r"^device is .*; give .*\.$"):
        check_device(device)


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "probe", "check", "serve-reward"])
def test_every_command_checks_its_device_before_loading(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "train": ["train", QUICK, "--dry-run", "--output", str(tmp_path / "o")],
        "sample": ["sample", "emoji", "--output", str(tmp_path / "o")],
        "evaluate": ["evaluate", "emoji"],
        "probe": ["probe", QUICK],
        "check": ["check", "reward", "jpeg-size:compressible"],
        "serve-reward": ["serve-reward", "jpeg-size:compressible"],
    }[command]
    assert "device is 'cuda:99'" in refused(capsys, *words, "--device", "cuda:99")


@pytest.mark.parametrize("command", ["train", "sample", "probe", "study"])
@pytest.mark.parametrize("where", ["file", "long", "proc"])
def test_outputs_that_cannot_be_created_are_refused(
    tmp_path: Path, command: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    output = {"file": tmp_path / "file" / "sub", "long": tmp_path / ("x" * 300), "proc": Path("/proc/x")}[where]
    words = {
        "train": ["train", QUICK, "--dry-run"], "sample": ["sample", "emoji"], "probe": ["probe", QUICK],
        "study": ["study", "quickstart"],
    }[command]  # fmt: skip
    assert "which cannot be written" in refused(capsys, *words, "--output", str(output))


def test_a_check_of_the_output_leaves_nothing(tmp_path: Path) -> None:
    assert main(["train", QUICK, "--dry-run", "--output", str(tmp_path / "a" / "b")]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_json_file_that_is_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "json is" in refused(capsys, "evaluate", "emoji", "--json", str(tmp_path))


def test_trackers_are_needed_before_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    output = str(tmp_path / "run")
    words = ("train", QUICK, "--output", output)
    assert "b2diffurl[tensorboard]" in refused(capsys, *words, "--track", "tensorboard")
    assert "give a tracker" in refused(capsys, *words, "--track-name", "mine")
    assert not (tmp_path / "run").exists()


def test_the_name_of_a_repository_is_checked_before_training(tmp_path: Path, capsys: Any) -> None:
    output = str(tmp_path / "run")
    message = refused(capsys, "train", QUICK, "--push-to-hub", "not a/repo name/x", "--output", output, "--dry-run")
    assert "give user/name" in message


def test_a_token_is_needed_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    words = ["train", QUICK, "--push-to-hub", "me/adapter", "--output", str(tmp_path / "run"), "--dry-run"]
    assert "push_to_hub is 'me/adapter' but there is no token" in refused(capsys, *words)
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    assert main(words) == 0


def test_help_of_check_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    assert "check reward" in capsys.readouterr().out


def test_only_a_file_named_run_toml_stands_for_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", QUICK]) == 0
    (tmp_path / "my-run.toml").write_text(capsys.readouterr().out, encoding="utf-8-sig")  # and with a byte order mark
    assert "runs/emoji-b2-paper-seed0 holds no run" in refused(capsys, "train", "my-run.toml", "--resume")
