"""The displacement of adapters, on a tiny pipeline of stock diffusers."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from b2diffurl.cli import main
from b2diffurl.errors import UserError
from b2diffurl.models import LoRA, Memory
from b2diffurl.models.displacement import Displacement
from b2diffurl.models.text_to_image import TextToImageModel
from tests.tiny_models import tiny_sd1


def predicted(model: TextToImageModel) -> Tensor:
    x = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model.predict(x, torch.tensor([500, 20]), model.encode(["a cat", "a dog"]), guidance_scale=3.0)


def test_the_mean_change_of_adapters_moves_the_base_weights(tmp_path: Path) -> None:
    """Adapters of other seeds and ranks; one of them at scale 1 is that adapter, and afterwards nothing has changed."""
    source = str(tiny_sd1(tmp_path / "model"))
    folders, outputs = [], []
    for seed, rank in ((0, 4), (1, 2)):
        model = TextToImageModel.load(source)
        model.add_lora(LoRA(rank=rank, alpha=6.0), seed=seed)
        with torch.no_grad():
            for name, parameter in model.trainable_parameters().items():
                if "lora_B" in name:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        folders.append(tmp_path / f"lora{seed}")
        model.save_lora(folders[-1])
        outputs.append(predicted(model))
    model = TextToImageModel.load(source)
    base = predicted(model)
    alone = [Displacement.mean_of(model, [folder]) for folder in folders]
    for displacement, output in zip(alone, outputs, strict=True):
        with displacement.applied(1.0):
            torch.testing.assert_close(predicted(model), output, rtol=0, atol=1e-4)
        assert torch.equal(predicted(model), base)
        assert float((output - base).abs().max()) > 1e-2
    both = Displacement.mean_of(model, folders)
    assert torch.equal(predicted(model), base)
    with alone[0].applied(0.5), alone[1].applied(0.5):
        expected = predicted(model)
    with both.applied(1.0):
        torch.testing.assert_close(predicted(model), expected, rtol=0, atol=1e-4)
    with pytest.raises(ZeroDivisionError), both.applied(1.0):
        raise ZeroDivisionError
    assert torch.equal(predicted(model), base)
    assert both.norm < sum(one.norm for one in alone)
    with pytest.raises(UserError, match=r"memory\.base_dtype is torch\.bfloat16; give float32"):
        Displacement.mean_of(TextToImageModel.load(source, memory=Memory(base_dtype="bfloat16")), folders)


@pytest.mark.slow
def test_the_command_measures_information_on_the_embedded_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A short chain and a random adapter: the tables, the files and the count of evaluations."""
    model = TextToImageModel.load("emoji")
    model.add_lora(LoRA(), seed=0)
    with torch.no_grad():
        for name, parameter in model.trainable_parameters().items():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    model.save_lora(tmp_path / "lora")
    words = (
        "probe emoji-b2-paper --num-trunks 0 --sampler.num-inference-steps 4 --schedule.tau-first 3 --tau-last 1 "
        f"--num-trajectories 96 --num-groups 48 --lora {tmp_path / 'lora'} --output {tmp_path / 'out'}"
    )
    assert main(words.split()) == 0
    printed = capsys.readouterr().out
    assert "DDPO, first 3" in printed
    assert "of each step alone" in printed
    assert "equal weights" in printed
    content = json.loads((tmp_path / "out" / "information.json").read_text(encoding="utf-8"))
    assert content["cost"]["num_images"] == 96 + 48 * 4
    sampled = 96 * 4 + 48 * (1 + 1 + 4 * 2)  # branches share the evaluation of their first step
    differences = 2 * (96 * 4 + 48 * (1 + 4 * 3))
    assert content["cost"]["num_evaluations"] == sampled + differences
    assert content["settings"] == {"num_trajectories": 96, "num_groups": 48, "tau": 3, "tau_last": 1}
    assert content["norm"] > 0
    assert not (tmp_path / "out" / "probe.json").exists()
