"""The adapter in three forms: the same images in each, ComfyUI's names, merged weights, and runs that start from it."""

# diffusers types its configs as dicts, its outputs as tuples, and its tuples of any length as tuples of one.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.cli import main
from b2diffurl.errors import UserError
from b2diffurl.models import AdapterFile, AdapterInterval, LoRA, read_adapter_interval
from b2diffurl.models.kohya import kohya_layer, kohya_metadata, original_path
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.resolve import resolve
from b2diffurl.run.resume import check_directory
from b2diffurl.run.settings import Run
from b2diffurl.training.trainer import Trainer
from tests.conftest import perturb
from tests.reference.comfyui_keys import ENDINGS, SD15_DIFFUSERS, SDXL_ORIGINAL, attention_layers
from tests.tiny_models import BUILDERS

PROMPT, NUM_STEPS, GUIDANCE = "a bear riding a bike", 4, 2.0
RANK, ALPHA = 8, 32.0  # alpha is not the rank: the stock converter would write a quarter of the strength
KOHYA = "b2diffurl_kohya.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: build(root / family) for family, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def trained(models: dict[str, Path]) -> dict[str, TextToImageModel]:
    """A model of each family with an adapter that does something."""
    return {family: with_adapter(directory) for family, directory in models.items()}


@pytest.fixture(scope="module")
def loras(trained: dict[str, TextToImageModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    for family, model in trained.items():
        model.save_lora(root / family / "lora")
    return {family: root / family / "lora" for family in trained}


def with_adapter(directory: Path) -> TextToImageModel:
    model = TextToImageModel.load(str(directory))
    model.add_lora(LoRA(rank=RANK, alpha=ALPHA), seed=0)
    perturb(model, scale=0.05)
    return model


def only(source: Path, file: str, target: Path) -> Path:
    """A folder with one of the three forms."""
    target.mkdir()
    for path in source.glob("peft/*") if file == "peft" else [source / file]:
        shutil.copy(path, target)
    return target


def first_latents() -> Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def stock(directory: Path) -> Any:
    pipe: Any = DiffusionPipeline.from_pretrained(directory)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image_of(pipe: Any) -> Tensor:
    images = pipe(
        PROMPT, num_inference_steps=NUM_STEPS, guidance_scale=GUIDANCE, eta=1.0, output_type="pt",
        latents=first_latents(), generator=torch.Generator().manual_seed(1), return_dict=False,
    )[0]  # fmt: skip
    return torch.as_tensor(images)


def our_image(model: TextToImageModel) -> Tensor:
    """The image of the same noise, by what training samples with."""
    chain = model.ddim(num_inference_steps=NUM_STEPS, eta=1.0)
    policy = DenoisingPolicy(denoiser=model, chain=chain, guidance_scale=GUIDANCE)
    x, generator = first_latents(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for step in range(NUM_STEPS):
            gaussian = policy.step(x, torch.tensor([step]), model.encode([PROMPT]))
            x = gaussian.sample(torch.randn(x.shape, generator=generator))
    return model.decode(x)


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


# The same images in each form


@pytest.mark.parametrize("family", ["sd1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd2", "sdxl"))])
def test_each_form_gives_the_same_image(
    models: dict[str, Path], trained: dict[str, TextToImageModel], loras: dict[str, Path], family: str, tmp_path: Path
) -> None:
    ours = our_image(trained[family])
    pipe = stock(models[family])
    assert float((image_of(pipe) - ours).abs().max()) > 0.01
    pipe.load_lora_weights(str(loras[family]))
    torch.testing.assert_close(image_of(pipe), ours, atol=1e-5, rtol=0)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(str(loras[family]), weight_name=KOHYA)
    torch.testing.assert_close(image_of(pipe), ours, atol=1e-5, rtol=0)
    pipe.unload_lora_weights()
    pipe.unet = PeftModel.from_pretrained(pipe.unet, str(loras[family] / "peft")).merge_and_unload()
    torch.testing.assert_close(image_of(pipe), ours, atol=1e-5, rtol=0)
    again = TextToImageModel.load(str(models[family]))
    again.load_lora(only(loras[family], KOHYA, tmp_path / "kohya"))
    torch.testing.assert_close(our_image(again), ours, atol=1e-5, rtol=0)


def test_everyone_can_read_the_files(loras: dict[str, Path]) -> None:
    files = [path for path in loras["sd1"].rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"pytorch_lora_weights.safetensors", KOHYA, "adapter_model.safetensors"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}


# Names


def meta_unet(family: str) -> UNet2DConditionModel:
    """The UNet of Stable Diffusion 1.5, 2.1 or XL in its real layout, without memory for its weights."""
    config: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
    if family == "xl":
        config |= {
            "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }  # fmt: skip
    else:
        config |= {"cross_attention_dim": 768 if family == "1.5" else 1024, "attention_head_dim": 8}
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


@pytest.mark.parametrize(
    ("family", "pipeline", "blocks", "version"),
    [
        ("1.5", StableDiffusionPipeline, SD15_DIFFUSERS, "sd_v1"),
        ("xl", StableDiffusionXLPipeline, SDXL_ORIGINAL, "sdxl_base_v1-0"),
    ],
)
def test_every_layer_of_the_real_networks_has_the_name_that_comfyui_maps(
    family: str, pipeline: type, blocks: dict[str, int], version: str
) -> None:
    unet = meta_unet(family)
    adapted = [name for name, _ in unet.named_modules() if name.endswith(("to_q", "to_k", "to_v", "to_out.0"))]
    layers = [kohya_layer(name, unet=unet, pipeline=pipeline) for name in adapted]
    assert len(layers) == len(set(layers))
    assert set(layers) == attention_layers(blocks)
    metadata = kohya_metadata(rank=8, alpha=32.0, model="m", unet=unet, prediction_type="epsilon")
    assert metadata["ss_base_model_version"] == version
    assert metadata["ss_v2"] == "False"


def test_the_version_of_the_base_model_is_a_fact_or_left_out(trained: dict[str, TextToImageModel]) -> None:
    metadata = kohya_metadata(rank=8, alpha=8.0, model="m", unet=meta_unet("2.1"), prediction_type="v_prediction")
    assert (metadata["ss_base_model_version"], metadata["ss_v2"]) == ("sd_v2_v", "True")
    small = kohya_metadata(rank=8, alpha=8.0, model="m", unet=trained["sd1"].unet, prediction_type="epsilon")
    assert "ss_base_model_version" not in small


@pytest.mark.parametrize("family", BUILDERS)
def test_each_layer_has_two_matrices_and_the_alpha_of_the_run(loras: dict[str, Path], family: str) -> None:
    tensors = load_file(loras[family] / KOHYA)
    layers = {key.split(".", 1)[0] for key in tensors}
    assert set(tensors) == {layer + ending for layer in layers for ending in ENDINGS}
    assert {float(value) for key, value in tensors.items() if key.endswith(".alpha")} == {ALPHA}
    assert {len(value) for key, value in tensors.items() if key.endswith(".lora_down.weight")} == {RANK}
    with safe_open(loras[family] / KOHYA, framework="pt") as opened:
        metadata = opened.metadata()
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("8", "32.0")
    assert metadata["ss_network_module"] == "networks.lora"


@pytest.mark.parametrize(
    ("module", "original"),
    [
        ("conv_in", "input_blocks.0.0"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("down_blocks.2.resnets.1.conv_shortcut", "input_blocks.8.0.skip_connection"),
        ("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        ("up_blocks.2.resnets.0.conv2", "output_blocks.6.0.out_layers.3"),
        (
            "up_blocks.0.attentions.1.transformer_blocks.3.ff.net.0.proj",
            "output_blocks.1.1.transformer_blocks.3.ff.net.0.proj",
        ),
    ],
)
def test_paths_in_the_original_network_of_xl(module: str, original: str) -> None:
    assert original_path(module, layers_per_block=2) == original


# Merged


def test_a_merged_model_gives_the_image_of_the_adapter(
    models: dict[str, Path], trained: dict[str, TextToImageModel], loras: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "new" / "merged"
    assert main(["merge", str(models["sd1"]), "--lora", str(loras["sd1"]), "--output", str(output)]) == 0
    torch.testing.assert_close(image_of(stock(output)), our_image(trained["sd1"]), atol=1e-5, rtol=0)
    files = list(output.rglob("*.safetensors"))
    assert len(files) == 3
    assert all(path.stat().st_mode & stat.S_IROTH for path in files)
    assert not list(output.rglob("*lora*"))
    assert (output / "tokenizer").is_dir()


@pytest.mark.slow
def test_a_merge_at_another_scale(models: dict[str, Path], loras: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "half"
    words = ["merge", str(models["sdxl"]), "--lora", str(loras["sdxl"]), "--output", str(output), "--scale", "0.5"]
    assert main(words) == 0
    half = TextToImageModel.load(str(models["sdxl"]))
    half.load_lora(loras["sdxl"])
    half.scale_lora(0.5)
    torch.testing.assert_close(image_of(stock(output)), our_image(half), atol=1e-5, rtol=0)


def test_merges_that_cannot_be_are_refused(
    models: dict[str, Path], trained: dict[str, TextToImageModel], loras: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    trained["sd1"].save_lora(tmp_path / "late", interval=AdapterInterval(length=3, num_inference_steps=4))
    model, output = str(models["sd1"]), tmp_path / "out"

    def refused(lora: Path, *words: str) -> str:
        assert main(["merge", model, "--lora", str(lora), "--output", str(output), *words]) == 2
        return capsys.readouterr().err

    assert "to be on in the last 3 of 4 steps only" in refused(tmp_path / "late")
    assert "not a directory" in refused(tmp_path / "missing")
    assert "scale is nan" in refused(loras["sd1"], "--scale", "nan")
    assert "scale is 0.0" in refused(loras["sd1"], "--scale", "0")
    assert "holds no adapter for this model" in refused(loras["sdxl"])
    assert not output.exists()
    output.mkdir()
    assert "exists; give the path of a new folder" in refused(loras["sd1"])


@pytest.mark.slow
def test_the_code_of_the_page_works(policy: TextToImageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of docs/how-to-use-the-lora.md but the upload, in order, and its merge command."""
    page = (Path(__file__).parents[2] / "docs" / "how-to-use-the-lora.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        policy.save_lora(tmp_path / "runs" / name / "lora")
    blocks = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    names: dict[str, Any] = {}
    for block in blocks:
        if "push_to_hub" not in block:
            exec(block.replace("num_images=360", "num_images=2"), names)
    assert len(blocks) >= 6
    assert Path("bear.png").is_file()
    (words,) = [line.split()[1:] for line in page.splitlines() if line.startswith("    b2diffurl merge")]
    assert main(words) == 0


# Runs that start from an adapter


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_training_starts_from_each_form(
    models: dict[str, Path], trained: dict[str, TextToImageModel], loras: dict[str, Path], family: str, tmp_path: Path
) -> None:
    lora, expected = loras[family], trained[family].adapter_state()
    new = TextToImageModel.load(str(models[family]))
    new.add_lora(LoRA(rank=RANK, alpha=ALPHA), seed=7)
    kohya, peft = only(lora, KOHYA, tmp_path / "kohya"), only(lora, "peft", tmp_path / "peft")
    for folder in (lora.parent, lora, lora / "peft", kohya, peft):
        source = AdapterFile.of(folder)
        assert (source.rank, source.alpha) == (RANK, ALPHA)
        perturb(new, seed=1)
        new.start_from(source)
        assert_equal(new.adapter_state(), expected)
    perturb(new, seed=1)
    moved = new.adapter_state()
    with new.initial():
        assert_equal(new.adapter_state(), expected)
    assert_equal(new.adapter_state(), moved)


def test_rank_alpha_interval_and_layers_must_match(
    models: dict[str, Path], trained: dict[str, TextToImageModel], loras: dict[str, Path], tmp_path: Path
) -> None:
    lora = loras["sd1"]
    for changed in ({"rank": 4}, {"alpha": 8.0}):
        message = r"^lora\.init .* has rank 8 and alpha 32 but lora\.rank is \d+ and lora\.alpha is \d+; give "
        with pytest.raises(UserError, match=message):
            AdapterFile.of(lora).check(replace(LoRA(rank=RANK, alpha=ALPHA, init=str(lora)), **changed))
    with pytest.raises(
        UserError, match=r"^lora\.init is '.*', which holds no adapter; give a run or its lora folder\.$"
    ):
        AdapterFile.of(tmp_path)
    trained["sd1"].save_lora(tmp_path / "late", interval=AdapterInterval(length=3, num_inference_steps=4))
    for folder in (tmp_path / "late", tmp_path / "late" / "peft", only(tmp_path / "late", KOHYA, tmp_path / "kohya")):
        assert read_adapter_interval(folder) == AdapterInterval(length=3, num_inference_steps=4)
        with pytest.raises(UserError, match=r"give --lora\.interval"):
            AdapterFile.of(folder).check(LoRA(rank=RANK, alpha=ALPHA))
        AdapterFile.of(folder).check(LoRA(rank=RANK, alpha=ALPHA, interval=True))
    model = TextToImageModel.load(str(models["sd1"]))
    model.add_lora(LoRA(rank=RANK, alpha=ALPHA, target_modules=("to_q", "to_k")), seed=0)
    with pytest.raises(UserError, match="has other layers than this run's adapter"):
        model.start_from(AdapterFile.of(lora))
    with pytest.raises(UserError, match=r"has other layers|could not be loaded"):
        model.start_from(AdapterFile.of(loras["sdxl"]))


@pytest.mark.parametrize("damage", ["cut", "mixed", "nothing"])
def test_damaged_adapters_are_refused(loras: dict[str, Path], damage: str, tmp_path: Path) -> None:
    file = only(loras["sd1"], KOHYA, tmp_path / "lora") / KOHYA
    tensors = load_file(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "mixed":
        tensors[min(key for key in tensors if key.endswith(".alpha"))] = torch.tensor(1.0)
        save_file(tensors, file)
    else:
        save_file({"weight": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"^lora\.init .*; use (an)?other adapter\.$|^lora\.init .*wrote\.$"):
        AdapterFile.of(tmp_path / "lora")


def test_a_run_starts_from_another_and_remembers_it(
    small_run: Callable[..., Run], policy: TextToImageModel, prompts_file: Path, tmp_path: Path
) -> None:
    """The preview images before training are those of the other run's adapter, and the reference is the base model."""
    policy.save_lora(tmp_path / "a" / "lora")
    run = small_run(prompts=str(prompts_file), lora=LoRA(rank=4, alpha=8.0, init=str(tmp_path / "a")))
    resolved = resolve(run)
    trainer = Trainer(resolved, directory=RunDirectory(tmp_path / "b"))
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    ours, theirs = (m.predict(x, t, m.encode([PROMPT]), guidance_scale=1.0) for m in (trainer.model, policy))
    assert torch.equal(ours, theirs)
    with trainer.model.reference(), policy.reference():
        ours, theirs = (m.predict(x, t, m.encode([PROMPT]), guidance_scale=1.0) for m in (trainer.model, policy))
    assert torch.equal(ours, theirs)

    directory = trainer.directory
    directory.begin(run)
    trainer._save_checkpoint()
    stored = directory.load_checkpoint()
    assert stored is not None
    assert resolved.initial_adapter is not None
    assert stored.init_sha256 == resolved.initial_adapter.sha256
    directory.open_metrics(first_round=1)
    directory.open_scores(first_round=1)
    check_directory(directory, run, resume=True, init_sha256=stored.init_sha256)
    perturb(policy, seed=5)
    policy.save_lora(tmp_path / "a" / "lora")
    changed = resolve(run).initial_adapter
    assert changed is not None
    with pytest.raises(UserError, match="started from another adapter"):
        check_directory(directory, run, resume=True, init_sha256=changed.sha256)
