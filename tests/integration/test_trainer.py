"""Whole runs on the embedded model, small: the run folder, resume, and everything that must stop a run."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from b2diffurl import RunStopped, UserError, emoji
from b2diffurl.algorithm.advantage import PromptHistory
from b2diffurl.algorithm.collapse import Collapse
from b2diffurl.algorithm.rollout import Rollout
from b2diffurl.algorithm.schedule import Full
from b2diffurl.algorithm.selection import All
from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.algorithm.update import Optimization
from b2diffurl.config import read_toml
from b2diffurl.models import LoRA
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.reporting import note_of
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Logging, Run
from b2diffurl.training.callbacks import Metrics
from b2diffurl.training.trainer import Trainer, train

MakeRun = Callable[..., Run]


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """A reward that needs no network."""
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


def metrics_of(folder: Path) -> list[Metrics]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def adapter_of(folder: Path) -> dict[str, Tensor]:
    newest = sorted((folder / "checkpoints").glob("round_*"))[-1]
    return load_file(newest / "adapter.safetensors")


def test_a_run_fills_its_folder(tmp_path: Path, small_run: MakeRun, prompts_file: Path) -> None:
    run = small_run(prompts=str(prompts_file))
    run = replace(run, logging=replace(run.logging, num_evaluation_images=4))
    folder = train(run, output=tmp_path / "run")
    assert {path.name for path in folder.iterdir()} == {
        "run.toml", "env.json", "metrics.jsonl", "scores.jsonl", "samples", "checkpoints", "lora", "report.html",
        "evaluation.json", "run.log",
    }  # fmt: skip
    lines = metrics_of(folder)
    assert [line["round"] for line in lines] == [1, 2]
    assert [line["reward_queries"] for line in lines] == [16, 32]
    assert [line["interval/length"] for line in lines] == [3, 5]
    assert all(line["policy/ratio_max_error"] is None or line["policy/ratio_max_error"] <= 1e-6 for line in lines)
    assert all(note_of(name) for line in lines for name in line)
    judged = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert judged["before"].keys() == judged["after"].keys() == {
        "clip_score", "scene_accuracy", "style_entropy", "inception_score",
    }  # fmt: skip


def test_scores_jsonl_tells_of_every_picture(tmp_path: Path, small_run: MakeRun) -> None:
    def describes(images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, list[str]]]:
        return brightness(images, prompts), {"caption": [f"not {prompt}" for prompt in prompts]}

    run = small_run(watch=("jpeg-size:compressible",))
    folder = train(run, output=tmp_path / "run", reward=describes)
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["round"] for line in lines] == [1] * 16 + [2] * 16
    num_branches = run.rollout.num_branches
    assert [line["group"] for line in lines] == 2 * [index // num_branches for index in range(16)]
    assert all(line["info"] == {"caption": f"not {line['prompt']}"} for line in lines)
    for metrics, of_round in zip(metrics_of(folder), (lines[:16], lines[16:]), strict=True):
        for name, mean in (
            ("reward", metrics["reward/mean"]),
            ("terms", metrics["reward/jpeg-size:compressible/mean"]),
        ):
            numbers = [line[name]["jpeg-size:compressible"] if name == "terms" else line[name] for line in of_round]
            assert sum(numbers) / 16 == pytest.approx(mean, rel=1e-6)


def test_plain_ddpo_trains_every_trajectory_on_all_steps(tmp_path: Path, small_run: MakeRun) -> None:
    run = small_run(rollout=Rollout(num_branches=1), schedule=Full(), selection=All(), num_rounds=1)
    line = metrics_of(train(run, output=tmp_path / "run", reward=brightness))[0]
    assert line["selection/num_trajectories"] == 16
    assert line["interval/length"] == 6


def brightness_of_one(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return brightness(images[:1], prompts[:1]).expand(len(images))


@pytest.mark.slow
def test_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, small_run: MakeRun, prompts_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(prompts=str(prompts_file), num_rounds=3)
    whole = train(run, output=tmp_path / "whole", reward=brightness)

    class KilledError(BaseException):
        """Killed in the middle of round 3."""

    calls, original = 0, brightness

    def killed(images: Tensor, prompts: Sequence[str]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KilledError
        return original(images, prompts)

    killed.__name__ = "brightness"
    monkeypatch.setattr(sys.modules[__name__], "brightness", killed)  # run.toml names a function that can be imported
    with pytest.raises(KilledError):
        train(run, output=tmp_path / "parts", reward=killed)
    monkeypatch.undo()
    assert read_toml(tmp_path / "parts" / "run.toml", Run).reward == f"{__name__}:brightness"
    with pytest.raises(UserError, match="holds a run with other settings"):
        train(run, output=tmp_path / "parts", reward=brightness_of_one, resume=True)
    assert len(metrics_of(tmp_path / "parts")) == 2
    parts = train(run, output=tmp_path / "parts", reward=brightness, resume=True)
    assert metrics_of(whole) == metrics_of(parts)
    ours, theirs = adapter_of(whole), adapter_of(parts)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_adapter_loads_in_stock_diffusers_and_changes_the_pictures(
    tmp_path: Path, small_run: MakeRun, prompts_file: Path
) -> None:
    run = small_run(prompts=str(prompts_file), lora=LoRA(rank=4, alpha=16.0))
    folder = train(run, output=tmp_path / "run", reward=brightness)
    pipe = StableDiffusionPipeline.from_pretrained(emoji.model_dir())
    pipe.set_progress_bar_config(disable=True)

    def draw() -> Tensor:
        images = pipe(
            "a bear riding a bike", num_inference_steps=5, guidance_scale=1.0, eta=1.0, output_type="pt",
            generator=torch.Generator().manual_seed(0),
            return_dict=False,
        )[0]  # fmt: skip
        return torch.as_tensor(images)

    before = draw()
    pipe.load_lora_weights(str(folder / "lora"))
    after = draw()
    assert not torch.equal(before, after)
    ours = TextToImageModel.load("emoji")
    ours.load_lora(folder / "lora")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500, 20])
    text = ours.encode(["a bear riding a bike", "a cat playing chess"]).tokens
    with torch.no_grad():
        stock = pipe.unet(x, t, encoder_hidden_states=text).sample
        loaded = ours.unet(x, t, encoder_hidden_states=text).sample
    torch.testing.assert_close(stock, loaded, atol=1e-5, rtol=1e-5)
    pipe.disable_lora()
    assert torch.equal(before, draw())


def test_pretrained_weights_never_change(policy: TextToImageModel) -> None:
    """Adapter off is the base model, to the bit, after optimizer steps on the adapter."""
    fresh = TextToImageModel.load("emoji")
    x, t, prompts = torch.randn(2, 4, 8, 8), torch.tensor([500, 20]), ("a bear riding a bike", "a cat playing chess")
    optimizer = torch.optim.AdamW(policy.trainable_parameters().values(), lr=1e-2)
    for _ in range(2):
        policy.predict(x, t, policy.encode(prompts), guidance_scale=2.0).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        base = fresh.predict(x, t, fresh.encode(prompts), guidance_scale=1.0)
        trained = policy.predict(x, t, policy.encode(prompts), guidance_scale=1.0)
        with policy.reference():
            reference = policy.predict(x, t, policy.encode(prompts), guidance_scale=1.0)
    assert torch.equal(reference, base)
    assert not torch.equal(trained, base)


def test_a_new_adapter_changes_nothing() -> None:
    fresh = TextToImageModel.load("emoji")
    x, t, prompts = torch.randn(1, 4, 8, 8), torch.tensor([500]), ("a bear riding a bike",)
    with torch.no_grad():
        base = fresh.predict(x, t, fresh.encode(prompts), guidance_scale=1.0)
        fresh.add_lora(LoRA(), seed=0)
        assert torch.equal(fresh.predict(x, t, fresh.encode(prompts), guidance_scale=1.0), base)


def test_a_round_without_selection_is_a_round_without_an_update(tmp_path: Path, small_run: MakeRun) -> None:
    def same(images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG001
        return torch.ones(len(images))

    lines = metrics_of(train(small_run(), output=tmp_path / "run", reward=same))
    assert [line["selection/num_trajectories"] for line in lines] == [0, 0]
    assert [line["update/num_optimizer_steps"] for line in lines] == [0, 0]
    assert all(line["objective/loss"] is None for line in lines)
    assert all(not value.any() for name, value in adapter_of(tmp_path / "run").items() if "lora_B" in name)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_stops_the_run(tmp_path: Path, small_run: MakeRun, bad: float) -> None:
    calls = 0

    def sick(images: Tensor, prompts: Sequence[str]) -> Tensor:
        nonlocal calls
        calls += 1
        rewards = brightness(images, prompts)
        if calls == 2:
            rewards[5] = bad
        return rewards

    with pytest.raises(RunStopped, match=r"round 2: the reward failed: the reward of image 5 is"):
        train(small_run(), output=tmp_path / "run", reward=sick)
    assert json.loads((tmp_path / "run" / "stopped.json").read_text())["round"] == 2
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["round_00001"]
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_reward_of_the_wrong_shape_stops_the_run(tmp_path: Path, small_run: MakeRun) -> None:
    with pytest.raises(RunStopped, match="shape"):
        train(small_run(), output=tmp_path / "run", reward=lambda images, prompts: brightness(images, prompts)[:3])


def wild(small_run: MakeRun, prompts_file: Path, trust_region: TrustRegion, **collapse: int) -> Run:
    return small_run(
        prompts=str(prompts_file),
        num_rounds=12,
        advantage=PromptHistory(num_rounds=2),
        optimization=Optimization(learning_rate=0.3, num_minibatches=4, num_inner_epochs=2),
        trust_region=trust_region,
        collapse=Collapse(**collapse),
    )


def test_the_trust_region_holds_a_policy_that_would_run_away(
    tmp_path: Path, small_run: MakeRun, prompts_file: Path
) -> None:
    run = wild(small_run, prompts_file, TrustRegion(max_kl=0.5, on_exceed="revert"))
    with pytest.raises(RunStopped, match="left the trust region"):
        train(run, output=tmp_path / "run", reward=brightness)
    kls = [line["policy/kl_to_old"] for line in metrics_of(tmp_path / "run")]
    assert all(kl is None or kl <= 0.5 for kl in kls)


@pytest.mark.slow
def test_steps_that_would_run_away_are_shrunk_and_the_run_goes_on(
    tmp_path: Path, small_run: MakeRun, prompts_file: Path
) -> None:
    run = wild(small_run, prompts_file, TrustRegion(max_kl=1e-3))
    lines = metrics_of(train(run, output=tmp_path / "run", reward=brightness))
    updated = [line for line in lines if line["policy/kl_to_old"] is not None]
    assert len(lines) == 12
    assert len(updated) > 6
    assert all((line["policy/kl_to_old"] or 0) <= 1e-3 for line in updated)
    assert all((line["update/step_scale"] or 0) < 0.1 for line in updated)
    assert sum(line["update/step_reverted"] or 0 for line in updated) == 0


def test_without_the_trust_region_the_collapse_is_caught(
    tmp_path: Path, small_run: MakeRun, prompts_file: Path
) -> None:
    with pytest.raises(RunStopped, match=r"nats per element|mean reward fell|contrast went|not finite|is nan|is inf"):
        train(
            wild(small_run, prompts_file, TrustRegion(max_kl=float("inf"))), output=tmp_path / "run", reward=brightness
        )
    assert (tmp_path / "run" / "stopped.json").is_file()


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path: Path, small_run: MakeRun) -> None:
    train(small_run(num_rounds=1), output=tmp_path / "run", reward=brightness)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="already holds a run"):
        train(small_run(num_rounds=1), output=tmp_path / "run", reward=brightness)
    with pytest.raises(UserError, match="the intervals of schedule backward depend on it"):
        train(small_run(num_rounds=2), output=tmp_path / "run", reward=brightness, resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_collapsed_policy_leaves_no_checkpoint(tmp_path: Path, small_run: MakeRun, prompts_file: Path) -> None:
    """Rewards that fall off in round 4 are the doing of round 3's update: round 2 is the last good checkpoint."""
    calls = 0

    def falls(images: Tensor, prompts: Sequence[str]) -> Tensor:
        nonlocal calls
        calls += 1
        return brightness(images, prompts) - (100 if calls == 4 else 0)

    run = small_run(prompts=str(prompts_file), num_rounds=6)
    with pytest.raises(RunStopped, match="round 4: the mean reward fell"):
        train(run, output=tmp_path / "run", reward=falls)
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["round_00002"]


def test_a_reward_that_cannot_be_loaded_leaves_no_folder_behind(tmp_path: Path, small_run: MakeRun) -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        train(small_run(reward="remote:http://127.0.0.1:9"), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kl_to_reference", [False, True])
def test_network_evaluations_are_those_that_the_unet_sees(
    tmp_path: Path, small_run: MakeRun, prompts_file: Path, kl_to_reference: bool
) -> None:
    """Counted where they happen: latents in every forward pass; guidance counts twice."""
    logging = Logging(num_samples=2, grid_side=0, kl_to_reference=kl_to_reference)
    run = small_run(prompts=str(prompts_file), num_rounds=1, logging=logging)
    run = replace(run, sampler=replace(run.sampler, guidance_scale=2.0))
    directory = RunDirectory(tmp_path / "run")
    trainer = Trainer(resolve(run, own_reward=True), directory=directory, reward=brightness)
    seen = 0

    def count(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal seen
        assert module is trainer.model.unet
        seen += len(arguments[0])

    trainer.model.unet.register_forward_pre_hook(count)
    previews = 2 * run.sampler.num_inference_steps * 2 * run.logging.num_samples  # before and after; guidance
    trainer.train()
    (line,) = metrics_of(directory.path)
    counted = [line["network/rollout_evaluations"], line["network/update_evaluations"]]
    assert sum(value or 0 for value in counted) == seen - previews
