"""Stable Diffusion 1.x, 2.x and XL through one interface: the stock pipeline's pictures, and the loop's invariants."""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.records import Trajectories
from b2diffurl.errors import UserError
from b2diffurl.models import LoRA, Memory
from b2diffurl.models.memory import Weights
from b2diffurl.models.text_to_image import TextToImageModel, check_prompts, load_tokenizers
from b2diffurl.run.settings import Run
from b2diffurl.training.trainer import train
from tests.conftest import perturb
from tests.rounds import ratio_error, sample_all
from tests.tiny_models import BUILDERS, tiny_sd1, tiny_sdxl, tiny_tokenizer, write_checkpoint

PROMPTS = ("a bear riding a bike", "a cat playing chess")
FAMILIES = tuple(BUILDERS)
NUM_STEPS, TAU, K = 4, 3, 2
HALVES: tuple[Weights, ...] = ("bfloat16", "float16")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: build(root / family) for family, build in BUILDERS.items()}


def with_adapter(directory: Path | str, *, scale: float = 0.1, **options: Memory | str) -> TextToImageModel:
    policy = TextToImageModel.load(str(directory), **options)  # pyright: ignore[reportArgumentType]
    policy.add_lora(LoRA(rank=4), seed=0)
    perturb(policy, scale=scale)
    return policy


def bound(model: TextToImageModel, guidance_scale: float) -> DenoisingPolicy:
    chain = model.ddim(num_inference_steps=NUM_STEPS, eta=1.0)
    return DenoisingPolicy(denoiser=model, chain=chain, guidance_scale=guidance_scale)


def roll(policy: TextToImageModel, *, guidance_scale: float) -> Trajectories:
    arguments = {"interval_length": TAU, "num_branches": K, "chunk_size": 64}
    return sample_all(bound(policy, guidance_scale), PROMPTS, **arguments).trajectories


# The stock pipelines' pictures


def stock_pictures(
    directory: Path, *, guidance_scale: float, negative_prompt: str | None = None, adapter: Path | None = None
) -> Tensor:
    """What the stock pipeline draws itself, with eta 1, its noise from generators of seed 0 and 1."""
    pipe = DiffusionPipeline.from_pretrained(directory)
    config = pipe.scheduler.config  # pyright: ignore[reportAttributeAccessIssue]
    pipe.scheduler = DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)
    pipe.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipe.load_lora_weights(str(adapter))  # pyright: ignore[reportCallIssue]
    return draw(pipe, guidance_scale=guidance_scale, negative_prompt=negative_prompt)


def draw(pipe: DiffusionPipeline, *, guidance_scale: float, negative_prompt: str | None = None) -> Tensor:
    pictures = pipe(  # pyright: ignore[reportCallIssue]
        list(PROMPTS), num_inference_steps=NUM_STEPS, guidance_scale=guidance_scale, eta=1.0, output_type="pt",
        latents=first_latents(), generator=torch.Generator().manual_seed(1), return_dict=False,
        negative_prompt=None if negative_prompt is None else [negative_prompt] * len(PROMPTS),
    )[0]  # fmt: skip
    return torch.as_tensor(pictures)


def first_latents() -> Tensor:
    one = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return one.expand(len(PROMPTS), -1, -1, -1).clone()


def our_pictures(policy: TextToImageModel, *, guidance_scale: float) -> Tensor:
    """The same steps, the same noise, by what training samples with."""
    x, generator = first_latents(), torch.Generator()
    generator.manual_seed(1)
    with torch.no_grad():
        for step in range(NUM_STEPS):
            index = torch.full((len(x),), step)
            gaussian = bound(policy, guidance_scale).step(x, index, policy.encode(PROMPTS))
            x = gaussian.sample(torch.randn(x.shape, generator=generator))
    return policy.decode(x)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_equal_the_stock_pipelines(models: dict[str, Path], family: str, guidance_scale: float) -> None:
    stock = stock_pictures(models[family], guidance_scale=guidance_scale)
    ours = our_pictures(TextToImageModel.load(str(models[family])), guidance_scale=guidance_scale)
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=0)
    assert float((stock[0] - stock[1]).abs().max()) > 0.01  # same noise: the prompts make the difference


@pytest.mark.parametrize("family", FAMILIES)
def test_negative_prompt_is_the_stock_pipelines(models: dict[str, Path], family: str) -> None:
    stock = stock_pictures(models[family], guidance_scale=3.0, negative_prompt="a cow washing dishes")
    policy = TextToImageModel.load(str(models[family]), negative_prompt="a cow washing dishes")
    torch.testing.assert_close(our_pictures(policy, guidance_scale=3.0), stock, atol=1e-4, rtol=0)
    without = our_pictures(TextToImageModel.load(str(models[family])), guidance_scale=3.0)
    assert float((without - stock).abs().max()) > 0.01


def test_xl_without_zeros_for_the_empty_prompt(tmp_path: Path) -> None:
    directory = tiny_sdxl(tmp_path / "xl", force_zeros_for_empty_prompt=False)
    stock = stock_pictures(directory, guidance_scale=3.0)
    torch.testing.assert_close(
        our_pictures(TextToImageModel.load(str(directory)), guidance_scale=3.0), stock, atol=1e-4, rtol=0
    )


def test_negative_prompt_follows_a_ragged_batch(models: dict[str, Path]) -> None:
    policy = with_adapter(models["sdxl"], negative_prompt="a cow washing dishes")
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([900, 500, 20])
    prompts = (*PROMPTS, PROMPTS[0])
    with torch.no_grad():
        whole = policy.predict(x, t, policy.encode(prompts), guidance_scale=3.0)
        for part in (slice(0, 1), slice(1, 3)):
            alone = policy.predict(x[part], t[part], policy.encode(prompts[part]), guidance_scale=3.0)
            torch.testing.assert_close(alone, whole[part], atol=1e-4, rtol=1e-4)


# The invariants


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_replay_equals_rollout(models: dict[str, Path], family: str, guidance_scale: float) -> None:
    policy = with_adapter(models[family])
    trajectories = roll(policy, guidance_scale=guidance_scale)
    error = ratio_error(bound(policy, guidance_scale), trajectories, batch_size=len(PROMPTS) * K)
    assert error <= 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_branches_share_their_trunk(models: dict[str, Path], family: str) -> None:
    policy = with_adapter(models[family])
    grouped = roll(policy, guidance_scale=1.0).latents
    assert torch.equal(grouped[:, 0, 0], grouped[:, 1, 0])
    assert all(not torch.equal(grouped[:, 0, step], grouped[:, 1, step]) for step in range(1, TAU + 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_equals_the_stock_schedulers(models: dict[str, Path], family: str) -> None:
    policy = TextToImageModel.load(str(models[family]))
    ddim = policy.ddim(num_inference_steps=NUM_STEPS, eta=1.0)
    config = DiffusionPipeline.from_pretrained(models[family]).scheduler.config  # pyright: ignore[reportAttributeAccessIssue]
    stock = DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)
    assert isinstance(stock, DDIMScheduler)
    stock.set_timesteps(NUM_STEPS)
    output, x, noise = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for step, t in enumerate(stock.timesteps):
        theirs = stock.step(output, int(t), x, eta=1.0, variance_noise=noise, return_dict=False)[0]
        ours = ddim.transition(output, x, torch.tensor([step])).sample(noise)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_round_trains(
    models: dict[str, Path], family: str, tmp_path: Path, small_run: Callable[..., Run], prompts_file: Path
) -> None:
    """The loop runs on every family; after it, adapter off is the base model to the bit, and the adapter is not."""
    run = small_run(model=str(models[family]), prompts=str(prompts_file), num_rounds=1)
    run = replace(run, sampler=replace(run.sampler, guidance_scale=2.0, num_inference_steps=NUM_STEPS))
    run = replace(run, optimization=replace(run.optimization, learning_rate=1e-5))

    def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG001
        return images.mean(dim=(1, 2, 3))

    folder = train(run, output=tmp_path / "run", reward=brightness)
    metrics = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8"))
    assert metrics["update/num_optimizer_steps"] >= 1
    assert metrics["policy/ratio_max_error"] <= 1e-5
    trained, fresh = TextToImageModel.load(str(models[family])), TextToImageModel.load(str(models[family]))
    trained.load_lora(folder / "lora")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500, 20])
    with torch.no_grad():
        base = fresh.predict(x, t, fresh.encode(PROMPTS), guidance_scale=2.0)
        assert not torch.equal(base, trained.predict(x, t, trained.encode(PROMPTS), guidance_scale=2.0))
        with trained.reference():
            assert torch.equal(base, trained.predict(x, t, trained.encode(PROMPTS), guidance_scale=2.0))


@pytest.mark.parametrize("weights", ["float32", *HALVES])
def test_pretrained_weights_never_change(models: dict[str, Path], weights: Weights) -> None:
    memory = Memory(base_dtype=weights)
    policy, fresh = with_adapter(models["sd2"], memory=memory), TextToImageModel.load(str(models["sd2"]), memory=memory)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500, 20])
    optimizer = torch.optim.AdamW(policy.trainable_parameters().values(), lr=1e-2)
    with torch.no_grad():
        untrained = policy.predict(x, t, policy.encode(PROMPTS), guidance_scale=2.0)
    policy.predict(x, t, policy.encode(PROMPTS), guidance_scale=2.0).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        assert not torch.equal(untrained, policy.predict(x, t, policy.encode(PROMPTS), guidance_scale=2.0))
        with policy.reference():
            without = policy.predict(x, t, policy.encode(PROMPTS), guidance_scale=2.0)
        assert torch.equal(fresh.predict(x, t, fresh.encode(PROMPTS), guidance_scale=2.0), without)


# Memory


@pytest.mark.parametrize(("family", "weights"), [("sd1", "bfloat16"), ("sd1", "float16"), ("sdxl", "bfloat16")])
def test_half_precision_is_of_the_base_alone(models: dict[str, Path], family: str, weights: Weights) -> None:
    """Base in half; adapter, latents, log-probs, output and decoding in float32."""
    whole, half = with_adapter(models[family]), with_adapter(models[family], memory=Memory(base_dtype=weights))
    ours, theirs = half.adapter_state(), whole.adapter_state()
    for name in theirs:  # the adapter is drawn in the base's format
        torch.testing.assert_close(ours[name], theirs[name], atol=2**-8, rtol=2**-8)
    half.load_adapter_state(theirs)
    of_base = {p.dtype for name, p in half.unet.named_parameters() if ".lora_" not in name}
    assert of_base == {getattr(torch, weights)}
    assert half.encode(PROMPTS).tokens.dtype == getattr(torch, weights)
    assert {p.dtype for p in half.vae.parameters()} == {torch.float32}
    trajectories = roll(half, guidance_scale=2.0)
    assert trajectories.latents.dtype == trajectories.log_probs.dtype == torch.float32
    assert half.decode(trajectories.latents[:, 0, -1]).dtype == torch.float32
    error = ratio_error(bound(half, 2.0), trajectories, batch_size=len(PROMPTS) * K)
    assert error <= 1e-6  # in the batch shape that sampled, also in half precision
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([700, 20])
    with torch.no_grad():
        exact = whole.predict(x, t, whole.encode(PROMPTS), guidance_scale=2.0)
        rounded = half.predict(x, t, half.encode(PROMPTS), guidance_scale=2.0)
    assert rounded.dtype == torch.float32
    assert float((exact - rounded).norm() / exact.norm()) < {"bfloat16": 0.05, "float16": 0.005}[weights]


@pytest.mark.parametrize("weights", HALVES)
def test_small_gradients_survive_half_precision(models: dict[str, Path], weights: Weights) -> None:
    """A loss of 1e-8's size, which float16 cannot hold, has float32's gradient but for rounding."""
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([700, 20])

    def gradient(policy: TextToImageModel) -> Tensor:
        (1e-8 * policy.predict(x, t, policy.encode(PROMPTS), guidance_scale=2.0).square().mean()).backward()
        return torch.cat([p.grad.flatten() for p in policy.trainable_parameters().values() if p.grad is not None])

    whole, half = with_adapter(models["sd1"]), with_adapter(models["sd1"], memory=Memory(base_dtype=weights))
    half.load_adapter_state(whole.adapter_state())
    exact, rounded = gradient(whole), gradient(half)
    assert rounded.dtype == torch.float32
    assert float((exact - rounded).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize(("family", "weights"), [("sd1", "float32"), ("sd1", "float16"), ("sdxl", "float32")])
def test_gradient_checkpointing_changes_no_result(models: dict[str, Path], family: str, weights: Weights) -> None:
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([700, 20])
    found: list[tuple[float, dict[str, Tensor]]] = []
    saved: list[int] = []
    for checkpointing in (False, True):
        memory = Memory(base_dtype=weights, gradient_checkpointing=checkpointing)
        policy = with_adapter(models[family], memory=memory)
        num_saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal num_saved
            num_saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = policy.predict(x, t, policy.encode(PROMPTS), guidance_scale=2.0).square().mean()
        saved.append(num_saved)
        loss.backward()
        grads = {name: p.grad.clone() for name, p in policy.trainable_parameters().items() if p.grad is not None}
        found.append((float(loss.detach()), grads))
    (loss, grads), (checkpointed_loss, checkpointed_grads) = found
    assert loss == checkpointed_loss
    assert grads.keys() == checkpointed_grads.keys()
    assert len(grads) > 0
    assert all(torch.equal(grads[name], checkpointed_grads[name]) for name in grads)
    assert saved[1] < saved[0] / 2


# The adapter elsewhere


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_loads_in_stock_diffusers_and_in_peft(models: dict[str, Path], family: str, tmp_path: Path) -> None:
    policy = with_adapter(models[family])
    policy.save_lora(tmp_path / "lora")
    (tmp_path / "lora" / "README.md").write_text("# Adapter\n", encoding="utf-8")
    pipe = DiffusionPipeline.from_pretrained(models[family])
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config,  # pyright: ignore[reportAttributeAccessIssue]
        clip_sample=False,
        set_alpha_to_one=False,
    )
    pipe.set_progress_bar_config(disable=True)
    before = draw(pipe, guidance_scale=2.0)
    pipe.load_lora_weights(str(tmp_path / "lora"))  # pyright: ignore[reportCallIssue]
    after = draw(pipe, guidance_scale=2.0)
    torch.testing.assert_close(after, our_pictures(policy, guidance_scale=2.0), atol=1e-4, rtol=0)
    assert float((before - after).abs().max()) > 0.01
    pipe.disable_lora()  # pyright: ignore[reportCallIssue]
    assert torch.equal(before, draw(pipe, guidance_scale=2.0))

    unet = UNet2DConditionModel.from_pretrained(models[family], subfolder="unet")
    in_peft = PeftModel.from_pretrained(unet, str(tmp_path / "lora" / "peft"))  # pyright: ignore[reportArgumentType]
    x, t, told = torch.randn(2, 4, 8, 8), torch.tensor([500, 20]), policy.encode(PROMPTS)
    with torch.no_grad():
        theirs = in_peft(x, t, **told.unet_arguments, return_dict=False)[0]
        torch.testing.assert_close(
            theirs, policy.predict(x, t, policy.encode(PROMPTS), guidance_scale=1.0), atol=1e-5, rtol=1e-5
        )
    assert in_peft.peft_config["default"].base_model_name_or_path == family


def test_an_adapter_of_another_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with_adapter(models["sd1"]).save_lora(tmp_path / "lora")
    with pytest.raises(UserError, match="holds no adapter for this model"):
        TextToImageModel.load(str(models["sdxl"])).load_lora(tmp_path / "lora")


@pytest.mark.parametrize("weights", HALVES)
def test_a_loaded_adapter_keeps_float32(models: dict[str, Path], tmp_path: Path, weights: Weights) -> None:
    memory = Memory(base_dtype=weights)
    policy = with_adapter(models["sd1"], memory=memory)
    policy.save_lora(tmp_path / "lora")
    loaded = TextToImageModel.load(str(models["sd1"]), memory=memory)
    loaded.load_lora(tmp_path / "lora")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500, 20])
    with torch.no_grad():
        ours = policy.predict(x, t, policy.encode(PROMPTS), guidance_scale=2.0)
        assert torch.equal(ours, loaded.predict(x, t, loaded.encode(PROMPTS), guidance_scale=2.0))


# What is loaded, and what is refused


def test_a_checkpoint_file_is_the_model_it_was_made_of(models: dict[str, Path], tmp_path: Path) -> None:
    """Original layout, configuration beside the file, prediction and pictures to the bit."""
    file = write_checkpoint(models["sd1"], tmp_path / "model.safetensors", with_config=True)
    from_file, from_directory = TextToImageModel.load(str(file)), TextToImageModel.load(str(models["sd1"]))
    assert not from_file.has_safety_checker
    ours, theirs = (our_pictures(policy, guidance_scale=3.0) for policy in (from_file, from_directory))
    assert torch.equal(ours, theirs)
    half = TextToImageModel.load(str(file), memory=Memory(base_dtype="bfloat16"))
    assert half.unet.dtype == half.encode(PROMPTS).tokens.dtype == torch.bfloat16
    assert len(load_tokenizers(str(file))) == 1


def test_a_checkpoint_file_without_configuration_offline(models: dict[str, Path], tmp_path: Path) -> None:
    file = write_checkpoint(models["sd1"], tmp_path / "model.safetensors", with_config=False)
    with pytest.raises(UserError, match=r"stable-diffusion-v1-5, which cannot be read.*beside the file"):
        TextToImageModel.load(str(file))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": [4]}, "holds no Stable Diffusion UNet"),
        ({"model.diffusion_model.input_blocks.0.0.weight": [8, 9, 3, 3]}, "holds a UNet of 9 channels"),
        ({"unet.down_blocks.0.attn1.to_q.lora_A.weight": [4, 4]}, "is an adapter"),
        (
            {
                "model.diffusion_model.input_blocks.0.0.weight": [8, 4, 3, 3],
                "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": [4],
            },
            "is a checkpoint of type xl_refiner",
        ),
        (
            {
                "model.diffusion_model.input_blocks.0.0.weight": [8, 4, 3, 3],
                "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": [4],
            },
            "stabilityai/stable-diffusion-xl-base-1.0, which cannot be read",
        ),
    ],
)
def test_checkpoint_files_are_told_apart_by_their_headers(
    tmp_path: Path, tensors: dict[str, list[int]], sentence: str
) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=sentence):
        TextToImageModel.load(str(tmp_path / "model.safetensors"))


def test_a_checkpoint_beside_another_familys_configuration(models: dict[str, Path], tmp_path: Path) -> None:
    write_checkpoint(models["sd1"], tmp_path / "model.safetensors", with_config=False)
    index = (models["sdxl"] / "model_index.json").read_text(encoding="utf-8")
    (tmp_path / "model_index.json").write_text(index, encoding="utf-8")
    with pytest.raises(UserError, match="beside it configures a StableDiffusionXLPipeline"):
        TextToImageModel.load(str(tmp_path / "model.safetensors"))


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2**40))
    with pytest.raises(UserError, match="is not a valid safetensors file"):
        TextToImageModel.load(str(tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match="a file that does not exist"):
        TextToImageModel.load(str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    "class_name", ["FluxPipeline", "StableDiffusion3Pipeline", "StableDiffusionXLImg2ImgPipeline", None]
)
def test_other_pipelines_are_refused_by_name(tmp_path: Path, class_name: str | None) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": class_name}), encoding="utf-8")
    with pytest.raises(UserError, match=rf"holds a {class_name}; supported is Stable Diffusion 1.x, 2.x and XL"):
        TextToImageModel.load(str(tmp_path))


@pytest.mark.parametrize(
    ("part", "changed", "sentence"),
    [
        ("scheduler", {"thresholding": True}, "clips or thresholds"),
        ("scheduler", {"_class_name": "EDMEulerScheduler"}, "noise schedule DDIM cannot use"),
    ],
)
def test_schedules_without_an_exact_log_prob_are_refused(
    tmp_path: Path, part: str, changed: dict[str, object], sentence: str
) -> None:
    directory = tiny_sd1(tmp_path / "model")
    file = directory / part / f"{part}_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | changed
    if changed.get("_class_name"):
        config = changed
        index = directory / "model_index.json"
        told = json.loads(index.read_text(encoding="utf-8")) | {part: ["diffusers", changed["_class_name"]]}
        index.write_text(json.dumps(told), encoding="utf-8")
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        TextToImageModel.load(str(directory))


def test_the_safety_checker_is_known_and_not_loaded(tmp_path: Path) -> None:
    directory = tiny_sd1(tmp_path / "model")
    assert not TextToImageModel.load(str(directory)).has_safety_checker
    index = directory / "model_index.json"
    told = json.loads(index.read_text(encoding="utf-8"))
    told |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    index.write_text(json.dumps(told), encoding="utf-8")
    assert TextToImageModel.load(str(directory)).has_safety_checker


def test_long_prompts_are_told_for_every_tokenizer(models: dict[str, Path]) -> None:
    long = " ".join(["cat"] * 20)
    for family, num_tokenizers in (("sd1", 1), ("sdxl", 2)):
        tokenizers = load_tokenizers(str(models[family]))
        assert len(tokenizers) == num_tokenizers
        with pytest.raises(UserError, match="22 tokens long and the model reads 16"):
            check_prompts(tokenizers, [long])
    short = tiny_tokenizer(model_max_length=8)
    check_prompts((tiny_tokenizer(),), ["a cat playing chess and a bear"])
    with pytest.raises(UserError, match="9 tokens long and the model reads 8"):
        check_prompts((tiny_tokenizer(), short), ["a cat a cat a cat a"])
    with pytest.raises(UserError, match="would be cut"):
        TextToImageModel.load(str(models["sdxl"]), negative_prompt=long)
