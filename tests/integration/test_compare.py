"""Several adapters and scales on the same prompts and noise: the function, and `b2diffurl evaluate`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import b2diffurl
from b2diffurl.analysis.evaluate import EvaluationSettings, Variant, observe, variants
from b2diffurl.analysis.sample import Generation, ImageGenerator
from b2diffurl.cli import main
from b2diffurl.errors import UserError
from b2diffurl.evaluation.judges import choose_judge, load_judge
from b2diffurl.models import LoRA
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.prompts.lists import PromptList
from b2diffurl.rewards import load_reward
from tests.conftest import perturb

PROMPTS = ("a bear riding a bike", "a cat playing chess")
QUICK = Generation(num_inference_steps=2)
FEW = EvaluationSettings(num_images=4, num_resamples=20, adapter_scales=(0.0, 0.5, 1.0), reward=("clip:emoji",))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of different rank and content."""
    folder = tmp_path_factory.mktemp("adapters")
    for name, rank in (("a", 4), ("b", 2)):
        model = TextToImageModel.load("emoji")
        model.add_lora(LoRA(rank=rank, alpha=8.0), seed=rank)
        perturb(model, scale=0.1, seed=rank)
        model.save_lora(folder / name / "lora")
    return [folder / "a" / "lora", folder / "b" / "lora"]


def test_adapters_replace_each_other_and_their_scale_ends_at_the_model_and_at_the_adapter(adapters: list[Path]) -> None:
    def fresh(lora: Path | None) -> Tensor:
        generator = ImageGenerator.load("emoji", PROMPTS, generation=QUICK)
        return generator.generate(lora=lora).images

    base, b = fresh(None), fresh(adapters[1])
    generator = ImageGenerator.load("emoji", PROMPTS, loras=adapters, generation=QUICK)
    assert torch.equal(generator.generate().images, base)
    a = generator.generate(lora=adapters[0]).images
    assert torch.equal(generator.generate(lora=adapters[1], scale=0.0).images, base)
    half = generator.generate(lora=adapters[1], scale=0.5).images
    assert torch.equal(generator.generate(lora=adapters[1]).images, b)
    assert torch.equal(generator.generate().images, base)
    assert len({images.numpy().tobytes() for images in (base, a, b, half)}) == 4
    assert not any(parameter.requires_grad for parameter in generator.model.unet.parameters())


def test_a_comparison_has_the_numbers_of_single_evaluations(adapters: list[Path]) -> None:
    finished: list[int] = []
    compared = b2diffurl.compare(
        "emoji", PROMPTS, loras=adapters[1:], evaluation=FEW, seed=3, generation=QUICK, on_progress=finished.append
    )
    assert [each.variant.label for each in compared.evaluated] == ["base", "b x 0.5", "b"]
    assert sum(finished) == 3 * 4  # the model without an adapter stands for scale 0
    alone = b2diffurl.evaluate("emoji", PROMPTS, lora=adapters[1], num_images=4, seed=3, generation=QUICK)
    assert {name: compared.evaluated[2].metrics[name].mean for name in alone} == alone
    names = ("clip_score", "scene_accuracy", "style_entropy", "inception_score")
    assert compared.metrics == (*names, "clip:emoji", "vendi_score", "pairwise_distance")
    base, last = compared.evaluated[0], compared.evaluated[-1]
    assert not base.differences
    for name in compared.metrics:
        assert last.differences[name].mean == pytest.approx(last.metrics[name].mean - base.metrics[name].mean)
    assert last.metrics["clip:emoji"].mean == pytest.approx(last.metrics["clip_score"].mean)
    values = last.by_prompt["clip_score"]
    assert sum(values.values()) / 2 == pytest.approx(last.metrics["clip_score"].mean)
    assert compared.worst("clip_score", num=1)["b"] == [min(values, key=values.__getitem__)]
    assert [point.variant.scale for point in compared.curves()["b"]] == [0, 0.5, 1]


def test_what_both_models_share_cancels_in_the_difference(adapters: list[Path]) -> None:
    """A reward that depends on the prompt alone: wide intervals, and a difference of exactly 0."""
    prompts = [f"a {animal} riding a bike" for animal in ("bear", "cat", "dog")]
    settings = EvaluationSettings(num_images=6, num_resamples=20, judge="none", reward=(f"{__file__}:prompt_number",))
    compared = b2diffurl.compare("emoji", prompts, loras=adapters[:1], evaluation=settings, generation=QUICK)
    (name,) = compared.metrics
    base, only = compared.evaluated
    assert base.metrics[name].high - base.metrics[name].low > 1
    assert (only.differences[name].low, only.differences[name].high) == (0, 0)


def prompt_number(images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
    """Score a prompt by its letters, and by its metadata."""
    assert len(images) == len(prompts)
    return torch.tensor([float(sum(map(ord, p))) + m.get("n", 0) for p, m in zip(prompts, metadata, strict=True)])


def test_rewards_get_the_metadata_of_the_prompts() -> None:
    settings = EvaluationSettings(num_images=2, judge="none", reward=(f"{__file__}:prompt_number",))
    scores = [
        observe(
            "emoji", PromptList(prompts=PROMPTS, metadata=metadata), [Variant(adapter="base")], evaluation=settings,
            generation=QUICK,
        )[0].scores[settings.reward[0]]
        for metadata in ({}, {PROMPTS[1]: {"n": 7}})
    ]  # fmt: skip
    assert (scores[1] - scores[0]).tolist() == [0, 7]


def test_the_clip_of_a_reward_is_not_loaded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [load_reward("jpeg-size:compressible"), load_reward("clip:emoji")]
    monkeypatch.setattr("transformers.CLIPModel", None)
    load_judge(choose_judge("auto", model="emoji", prompts=PROMPTS, reward=""), others=others)


def test_the_command_prints_and_writes_a_comparison(
    adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "emoji", "--lora", *map(str, adapters), "--prompts", *PROMPTS, "--num-images", "4"]
    words += ["--num-inference-steps", "2", "--num-resamples", "20", "--adapter-scales", "0", "1", "--num-worst", "1"]
    words += ["--json", str(tmp_path / "numbers.json"), "--plot", str(tmp_path / "curve.png")]
    assert main([*words, "--alignment", "clip_score", "--diversity", "vendi_score"]) == 0
    printed = capsys.readouterr().out
    tables = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))
    assert [variant["label"] for variant in tables["variants"]] == ["base", "a", "b"]
    assert tables["lora"] == [str(lora) for lora in adapters]
    b = tables["variants"][2]
    assert set(b["by_prompt"]["scene_accuracy"]) == set(PROMPTS)
    value, difference = b["metrics"]["clip_score"], b["differences"]["clip_score"]
    assert value["low"] < value["mean"] < value["high"]
    section = printed[printed.index("\nclip_score") :].splitlines()
    assert section[4].split()[:2] == ["b", f"{value['mean']:.3f}"]
    assert f"{difference['mean']:+.3f}" in section[4]
    curve = printed[printed.index("\nadapter  scale") :].splitlines()
    assert curve[1].split() == ["adapter", "scale", "clip_score", "vendi_score"]
    assert [line.split()[:2] for line in curve[2:6]] == [["a", "0"], ["a", "1"], ["b", "0"], ["b", "1"]]
    assert f"{min(b['by_prompt']['clip_score'].values()):.3f}  a " in printed
    with Image.open(tmp_path / "curve.png") as plot:
        assert plot.size[0] > 400


def test_a_single_adapter_is_compared_on_request(adapters: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "emoji", "--lora", str(adapters[0]), "--prompts", PROMPTS[0], "--num-images", "2"]
    words += ["--num-inference-steps", "2", "--metrics", "clip_score", "vendi_score"]
    assert main(words) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["clip_score", "vendi_score"]
    assert main([*words, "--compare", "--num-resamples", "2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert [line[0] for line in lines[1:7]] == ["clip_score", "base", "a", "vendi_score", "base", "a"]
    assert lines[3][2] == "–"  # one prompt has no interval


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare"], "compare has no effect without an adapter"),
        (["--adapter-scales", "0.5"], "adapter_scales has no effect without an adapter"),
        (["--lora", "A", "--adapter-scales", "0.5", "0.5"], "adapter_scales holds 0.5 more than once"),
        (["--lora", "A", "--adapter-scales", "-1"], "adapter_scales is (-1.0,)"),
        (["--lora", "A", "A"], "lora holds"),
        (["--lora", "A", "nowhere"], "nowhere"),
        (["--lora", "A", "--plot", "curve.png"], "plot has no effect without a comparison"),
        (["--lora", "A", "--compare", "--plot", "curve.txt"], "curve.txt"),
        (["--lora", "A", "--compare", "--plot", "no/where.png"], "no/where.png"),
        (["--lora", "A", "--compare", "--alignment", "beauty"], "alignment holds 'beauty'"),
        (["--lora", "A", "--compare", "--num-worst", "-1"], "num_worst is -1"),
        (["--reward", "clip:emoji", "clip:emoji"], "reward holds 'clip:emoji' more than once"),
        (["--reward", "no-such-reward"], "no-such-reward"),
        (["--judge", "none"], "judge is 'none'"),
        (["--judge", "none", "--reward", "clip:emoji", "--metrics", "vendi_score"], "'vendi_score'"),
        (["--num-images", "5", "--metrics", "pairwise_distance"], "'pairwise_distance'"),
        (["--num-resamples", "1"], "num_resamples is 1"),
        (["--confidence", "95"], "confidence is 95"),
    ],
)
def test_invalid_flags_are_refused(
    words: list[str], message: str, adapters: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(adapters[0]) if word == "A" else word for word in words]
    assert main(["evaluate", "emoji", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_an_adapter_that_does_not_fit_is_refused_before_images_are_generated(
    adapters: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"no adapter")
    generated: list[int] = []
    with pytest.raises(UserError, match="holds no adapter"):
        b2diffurl.compare(
            "emoji", PROMPTS, loras=[adapters[0], tmp_path], evaluation=FEW, generation=QUICK,
            on_progress=generated.append,
        )  # fmt: skip
    assert not generated


def test_adapters_are_named_by_what_differs_in_their_paths() -> None:
    names = [variant.adapter for variant in variants([Path("x/b2/seed0/lora"), Path("x/ddpo/seed0/lora")])]
    assert names == ["base", "b2", "ddpo"]
    assert [variant.adapter for variant in variants([Path("x/lora"), Path("x/y/lora")])][1:] == ["x", "x/y"]
    assert variants([Path("base/lora")])[1].adapter == "base/lora"
    assert [variant.adapter for variant in variants([])] == ["base"]
