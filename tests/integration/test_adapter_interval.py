"""The adapter interval, from rollout to the images of a trained adapter.

Shapes: the tiny policy has 3 trunks of T - tau = 2 steps, each with 4 branches of tau = 3 steps.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import b2diffurl
from b2diffurl import UserError, emoji
from b2diffurl.algorithm.adaptive import Adaptive
from b2diffurl.algorithm.randomness import EVALUATION_STREAM, PREVIEW_STREAM, NoiseKey
from b2diffurl.algorithm.rollout import Rollout
from b2diffurl.algorithm.schedule import Backward, Full, Table
from b2diffurl.analysis.sample import Generation
from b2diffurl.cli import main
from b2diffurl.evaluation.generate import generate_images
from b2diffurl.images import to_pil
from b2diffurl.models import AdapterInterval, LoRA, read_adapter_interval
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.run.binding import bind_policy
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Logging, Run, Sampler
from b2diffurl.training.trainer import Trainer, train
from tests.conftest import perturb
from tests.reference import adapter_interval as twin
from tests.rounds import GUIDANCE, bind, move, ratio_error, sample_all
from tests.tiny import PROMPTS, TinyPolicy, chain, stable_diffusion_scheduler

TAU, T = 3, 5
PROMPT = "a bear riding a bike"
ARGUMENTS: dict[str, Any] = {"interval_length": TAU, "num_branches": 4, "chunk_size": 5}


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


# Rollout and replay


@pytest.fixture
def trained() -> TinyPolicy:
    """A policy that is far from its reference."""
    policy = TinyPolicy()
    move(policy, by=0.1)
    return policy


def test_trunks_are_the_base_models_to_the_bit_and_branches_are_not(policy: TextToImageModel) -> None:
    """On the embedded model, with an adapter that is not zero."""
    sampler = Sampler(num_inference_steps=T, guidance_scale=1.0)
    run = replace(emoji_b2_paper(), sampler=sampler, schedule=Backward(tau_first=TAU))
    bound = bind_policy(policy, run)
    prompts = (PROMPT, "a cat playing chess")
    ours = sample_all(bound.with_adapter_in(TAU), prompts, **ARGUMENTS).trajectories.latents
    everywhere = sample_all(bound, prompts, **ARGUMENTS).trajectories.latents
    with policy.reference():
        base = sample_all(bound, prompts, **ARGUMENTS).trajectories.latents
    assert torch.equal(ours[:, :, 0], base[:, :, 0])
    assert not torch.equal(ours[:, :, 0], everywhere[:, :, 0])
    for step in range(1, TAU + 1):
        assert float((ours[:, :, step] - base[:, :, step]).abs().min(dim=-1).values.max()) > 1e-4


def test_replay_equals_rollout(trained: TinyPolicy) -> None:
    """Invariant 1; the update replays with the adapter on, since it trains steps of the interval only."""
    bound = bind(trained, chain(stable_diffusion_scheduler(), num_inference_steps=T, eta=1.0))
    trajectories = sample_all(bound.with_adapter_in(TAU), PROMPTS, **ARGUMENTS).trajectories
    assert ratio_error(bound, trajectories, batch_size=12) <= 1e-6
    assert ratio_error(bound.with_adapter_in(TAU), trajectories, batch_size=12) <= 1e-6
    with trained.reference():
        assert ratio_error(bound, trajectories, batch_size=12) > 1e-3


def test_a_batch_on_both_sides_of_the_start_is_a_mistake(trained: TinyPolicy) -> None:
    bound = bind(trained, chain(stable_diffusion_scheduler(), num_inference_steps=T, eta=1.0)).with_adapter_in(TAU)
    with pytest.raises(AssertionError, match="one side"):
        bound.step(torch.zeros(2, 2, 4, 4), torch.tensor([1, 2]), trained.encode(PROMPTS[:2]))


@pytest.mark.parametrize("interval_length", range(1, T + 1))
def test_trajectories_equal_the_literal_twin(trained: TinyPolicy, interval_length: int) -> None:
    ddim = chain(stable_diffusion_scheduler(), num_inference_steps=T, eta=1.0)
    arguments = ARGUMENTS | {"interval_length": interval_length, "num_branches": 1}
    ours = sample_all(bind(trained, ddim).with_adapter_in(interval_length), PROMPTS[1:2], **arguments)
    key = NoiseKey(seed=3, stream=1)
    num_off = T - interval_length
    trunk = key.normal(trunk=0, branch=0, num=num_off + 1, shape=trained.latent_shape).double().flatten(1).tolist()
    branch = key.normal(trunk=0, branch=1, num=interval_length, shape=trained.latent_shape).double()
    adapted, base = TinyPolicy().double(), TinyPolicy().double()
    adapted.load_state_dict(trained.state_dict())

    def network(policy: TinyPolicy) -> twin.Network:
        def output(x: list[float], step: int) -> list[float]:
            latents, conditioning = torch.tensor(x).view(1, 2, 4, 4).double(), policy.encode(PROMPTS[1:2])
            with torch.no_grad():
                out = policy.predict(latents, ddim.timesteps[[step]], conditioning, guidance_scale=GUIDANCE)
            return out.flatten().tolist()

        return output

    states = twin.sample(
        trunk[0], [*trunk[1:], *branch.flatten(1).tolist()], base=network(base), adapted=network(adapted),
        interval_length=interval_length, alpha=ddim.alpha.tolist(), alpha_prev=ddim.alpha_prev.tolist(),
    )  # fmt: skip
    torch.testing.assert_close(
        ours.final_latents[0, 0].flatten().double(), torch.tensor(states[-1]).double(), atol=1e-5, rtol=1e-5
    )
    recorded = torch.tensor(states[num_off:]).double()
    kept = ours.trajectories.latents[0, 0].flatten(1).double()
    torch.testing.assert_close(kept, recorded[: len(kept)], atol=1e-5, rtol=1e-5)


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": Backward()}, "lora.interval is true but schedule backward ends at all 20 steps"),
        ({"schedule": Full()}, "lora.interval is true but schedule full ends at all 20 steps"),
        ({"schedule": Table(rows=((1, 14), (2, 20)))}, "lora.interval is true but schedule table ends at all 20 steps"),
        ({"schedule": Adaptive(tau_first=14), "num_rounds": 1}, "lora.interval is true but schedule adaptive ends at"),
        (
            {"schedule": Backward(tau_max=17), "rollout": Rollout(train_trunk=True)},
            "lora.interval and rollout.train_trunk are both true",
        ),
    ],
)
def test_an_interval_without_effect_is_refused(changes: dict[str, Any], message: str) -> None:
    run = replace(emoji_b2_paper(), **changes)
    with pytest.raises(UserError) as refused:
        replace(run, lora=LoRA(interval=True))
    assert str(refused.value).startswith(message)
    assert "; " in str(refused.value)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize("schedule", [Backward(tau_max=19), Adaptive(tau_max=19), Table(rows=((1, 20), (2, 14)))])
def test_a_schedule_that_ends_earlier_is_accepted(schedule: Backward | Adaptive | Table) -> None:
    assert replace(emoji_b2_paper(), schedule=schedule, lora=LoRA(interval=True)).lora.interval


@pytest.mark.parametrize(
    ("num_inference_steps", "num_steps"), [(20, 16), (50, 40), (10, 8), (7, 6), (4, 4), (1, 1), (1000, 800)]
)
def test_another_number_of_steps_has_the_same_share(num_inference_steps: int, num_steps: int) -> None:
    assert AdapterInterval(length=16, num_inference_steps=20).num_steps(num_inference_steps) == num_steps


# A run, and its adapter


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three rounds, whose intervals have 2, 3 and 3 of 5 steps."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text(f"{PROMPT}\na cat playing chess\n", encoding="utf-8")
    base = emoji_b2_paper()
    return replace(
        base,
        prompts=str(prompts),
        num_rounds=3,
        reward_queries_per_round=16,
        sampler=Sampler(num_inference_steps=T, guidance_scale=1.0),
        schedule=Table(rows=((1, 2), (2, TAU))),
        optimization=replace(base.optimization, learning_rate=3e-3),
        trust_region=replace(base.trust_region, max_kl=1.0),
        collapse=replace(base.collapse, max_kl=10.0, max_reward_drop=100.0),
        logging=Logging(num_samples=2, samples_every_rounds=1, num_evaluation_images=2),
        judge="reward",
        lora=LoRA(interval=True),
    )


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(run, output=tmp_path_factory.mktemp("runs") / "run", reward=brightness)


@pytest.fixture(scope="module")
def model(folder: Path) -> TextToImageModel:
    loaded = TextToImageModel.load("emoji")
    loaded.load_lora(folder / "lora")
    return loaded


GENERATION = Generation(num_inference_steps=T)


def previews(folder: Path, round_number: int) -> list[Any]:
    files = sorted((folder / "samples" / f"round_{round_number:05d}").glob("[0-9]*.png"))
    return [np.asarray(Image.open(file)) for file in files]


def test_the_adapter_stores_the_last_trained_interval(folder: Path) -> None:
    assert read_adapter_interval(folder / "lora") == AdapterInterval(length=TAU, num_inference_steps=T)


def test_previews_and_evaluation_use_the_interval_of_the_last_round(
    run: Run, folder: Path, model: TextToImageModel
) -> None:
    """To the bit; those of the adapter in all steps, or in another number, are others."""
    bound = bind_policy(model, run)
    prompts = (PROMPT, "a cat playing chess")

    def images(length: int, stream: int) -> Tensor:
        noise = NoiseKey(seed=run.seed, stream=stream)
        return generate_images(bound.with_adapter_in(length), prompts, num_images=2, noise=noise).images

    def equal(length: int) -> list[bool]:
        pixels = [np.asarray(to_pil(image)) for image in images(length, PREVIEW_STREAM)]
        return [np.array_equal(ours, theirs) for ours, theirs in zip(pixels, previews(folder, 3), strict=True)]

    assert equal(TAU) == [True, True]
    assert not all(equal(TAU - 1))
    assert not all(equal(T))
    scores = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["after"]
    assert scores["reward"] == pytest.approx(float(images(TAU, EVALUATION_STREAM).mean()), abs=1e-7)
    assert scores["reward"] != pytest.approx(float(images(T, EVALUATION_STREAM).mean()), abs=1e-7)


def test_sample_and_evaluate_switch_the_adapter_on_in_these_steps(
    run: Run, folder: Path, model: TextToImageModel
) -> None:
    bound, noise = bind_policy(model, run), NoiseKey(seed=0, stream=EVALUATION_STREAM)
    sampled = b2diffurl.sample("emoji", [PROMPT], lora=folder / "lora", num_images=2, generation=GENERATION).images
    expected, everywhere = (
        generate_images(bound.with_adapter_in(length), [PROMPT], num_images=2, noise=noise).images
        for length in (TAU, T)
    )
    assert torch.equal(sampled, expected)
    assert not torch.equal(sampled, everywhere)


def test_the_command_prints_the_interval_and_uses_the_same_share_of_other_steps(
    run: Run, folder: Path, model: TextToImageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", "emoji", "--lora", str(folder / "lora"), "--prompts", PROMPT, "--num-inference-steps", "10"]
    assert main([*words, "--output", str(tmp_path / "images")]) == 0
    printed = capsys.readouterr().out
    assert f"The adapter {folder / 'lora'} is on in the last 6 of 10 steps, as it was trained.\n" in printed
    bound = replace(bind_policy(model, run), chain=model.ddim(num_inference_steps=10, eta=1.0)).with_adapter_in(6)
    noise = NoiseKey(seed=0, stream=EVALUATION_STREAM)
    expected = generate_images(bound, [PROMPT], num_images=1, noise=noise).images[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "images" / "0000.png")), np.asarray(to_pil(expected)))


def test_stock_diffusers_with_a_callback_gives_the_images_of_sample(folder: Path) -> None:
    """The code of the model card and of docs/how-to-use-the-lora.md, with the noise of `sample`."""
    card = (folder / "lora" / "README.md").read_text(encoding="utf-8")
    code = card.split("In diffusers:\n\n```python\n")[1].split("\npipe.disable_lora()")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert "off in the first 2 of 5 steps" in card
    assert "from 40 %." in card

    key = NoiseKey(seed=0, stream=EVALUATION_STREAM)
    first = key.normal(trunk=0, branch=0, num=T, shape=(4, 8, 8))
    steps = iter([*first[1:], *key.normal(trunk=0, branch=1, num=1, shape=(4, 8, 8))])

    pipe = StableDiffusionPipeline.from_pretrained(emoji.model_dir())
    scheduler: Any = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    stock_step = scheduler.step

    def step(output: Tensor, timestep: int, x: Tensor, eta: float = 0.0, *, return_dict: bool = True) -> Any:
        return stock_step(output, timestep, x, eta=eta, variance_noise=next(steps)[None], return_dict=return_dict)

    scheduler.step = step
    pipe.scheduler = scheduler
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(folder / "lora"))
    pipe.disable_lora()
    images = pipe(
        PROMPT, num_inference_steps=T, guidance_scale=1.0, eta=1.0, output_type="pt", latents=first[:1],
        return_dict=False, callback_on_step_end=names["switch_on"],
    )[0]  # fmt: skip
    ours = b2diffurl.sample("emoji", [PROMPT], lora=folder / "lora", num_images=1, generation=GENERATION).images
    torch.testing.assert_close(torch.as_tensor(images), ours, atol=1e-4, rtol=0)


def test_a_resumed_run_evaluates_with_the_interval_that_it_had(run: Run, folder: Path, tmp_path: Path) -> None:
    """Its previews before it goes on are those after its last round."""
    trainer = Trainer(resolve(run, own_reward=True), directory=RunDirectory(folder), reward=brightness)
    assert trainer.rounds_done == 3
    assert trainer.evaluator.policy().adapter_start == T - TAU
    trainer.directory = RunDirectory(tmp_path / "again")
    trainer._save_previews(3)
    again = previews(tmp_path / "again", 3)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(previews(folder, 3), again, strict=True))
    assert not any(np.array_equal(*both) for both in pairwise([previews(folder, i)[0] for i in (0, 1, 2, 3)]))


# Stored intervals


def test_without_the_setting_nothing_is_stored(policy: TextToImageModel, tmp_path: Path) -> None:
    policy.save_lora(tmp_path / "lora")
    assert read_adapter_interval(tmp_path / "lora") is None
    assert read_adapter_interval(tmp_path / "missing") is None


def test_the_weights_and_the_metadata_of_diffusers_are_kept(policy: TextToImageModel, tmp_path: Path) -> None:
    perturb(policy, seed=1)
    policy.save_lora(tmp_path / "plain")
    policy.save_lora(tmp_path / "lora", interval=AdapterInterval(length=3, num_inference_steps=5))
    plain, ours = (load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("plain", "lora"))
    assert plain.keys() == ours.keys()
    assert all(torch.equal(plain[name], ours[name]) for name in ours)
    loaded = TextToImageModel.load("emoji")
    loaded.load_lora(tmp_path / "lora")
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        theirs = loaded.predict(x, t, loaded.encode([PROMPT]), guidance_scale=1.0)
        assert torch.equal(theirs, policy.predict(x, t, policy.encode([PROMPT]), guidance_scale=1.0))


@pytest.mark.parametrize(
    "text",
    ["no JSON", "[3]", "{}", '{"length": 0, "num_inference_steps": 5}', '{"length": 6, "num_inference_steps": 5}'],
)
def test_a_damaged_interval_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"weight": torch.zeros(1)}, file, metadata={"b2diffurl_adapter_interval": text})
    with pytest.raises(UserError, match="has the invalid adapter interval"):
        read_adapter_interval(tmp_path)
