"""Linear LoRA layers with merged weights: PEFT's own forward pass is the slow twin."""

# PEFT and diffusers type their layers loosely.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Conv2d, Linear
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from b2diffurl.models import LoRA, Memory
from b2diffurl.models.memory import Weights
from b2diffurl.models.merged_lora import MergedLinear, merge_in_forward
from b2diffurl.models.text_to_image import TextToImageModel
from tests.conftest import perturb

SHAPES = [(5, 6), (2, 3, 6), (1, 2, 2, 6), (6,)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
OUT, IN, RANK = 4, 6, 3


def layer_of(dtype: torch.dtype = torch.float64, *, bias: bool = True, **config: Any) -> MergedLinear:
    """Make a layer with frozen base weights and an adapter that does something."""
    torch.manual_seed(0)
    linear = nn.Linear(IN, OUT, bias=bias, dtype=dtype).requires_grad_(False)
    layer = Linear(linear, "default", LoraConfig(**config), r=RANK, lora_alpha=6)
    fill(layer, dtype)
    merge_in_forward(layer)
    assert isinstance(layer, MergedLinear)
    return layer


def fill(layer: Linear, dtype: torch.dtype = torch.float64) -> None:
    """Draw the weights of all adapters."""
    for name, parameter in layer.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            parameter.data = torch.randn(parameter.shape, dtype=dtype)


def factors(layer: MergedLinear) -> tuple[nn.Parameter, nn.Parameter]:
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert isinstance(a, nn.Parameter)
    assert isinstance(b, nn.Parameter)
    return a, b


def normal(*shape: int, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(requires_grad)


def twin(layer: MergedLinear, x: Tensor) -> Tensor:
    """Return what PEFT's own forward pass gives."""
    return Linear.forward(layer, x)


def assert_as_twin(layer: MergedLinear, x: Tensor) -> None:
    torch.testing.assert_close(layer(x), twin(layer, x), rtol=1e-12, atol=1e-12)


# Values and gradients


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_peft(dtype: torch.dtype, shape: tuple[int, ...], bias: bool) -> None:
    layer, x = layer_of(dtype, bias=bias), normal(*shape, dtype=dtype, requires_grad=True)
    weight = normal(*shape[:-1], OUT, dtype=dtype)
    inputs = (x, *factors(layer))
    output, expected = layer(x), twin(layer, x)
    assert layer._merged is not None
    found = torch.autograd.grad((output * weight).sum(), inputs)
    by_peft = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip((output, *found), (expected, *by_peft), strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_the_gradients_are_the_numerical_ones() -> None:
    layer = layer_of()

    def output(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        # gradcheck changes its inputs behind the versions' back, so the layer gets a product of its own.
        weights = {"lora_A.default.weight": 1 * a, "lora_B.default.weight": 1 * b}
        result = functional_call(layer, weights, x)
        assert layer._merged is not None
        return result

    inputs = (normal(2, 3, IN), *(factor.detach().clone() for factor in factors(layer)))
    assert torch.autograd.gradcheck(output, tuple(tensor.requires_grad_() for tensor in inputs))


@pytest.mark.parametrize("wanted", range(3))
def test_only_the_gradients_that_are_wanted_are_computed(wanted: int) -> None:
    layer = layer_of()
    tensors = (normal(2, 3, IN), *factors(layer))
    for index, tensor in enumerate(tensors):
        tensor.requires_grad_(index == wanted)
    layer(tensors[0]).sum().backward()
    assert [tensor.grad is not None for tensor in tensors] == [index == wanted for index in range(3)]
    (expected,) = torch.autograd.grad(twin(layer, tensors[0]).sum(), tensors[wanted])
    torch.testing.assert_close(tensors[wanted].grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(use_reentrant: bool) -> None:
    layer, x = layer_of(), normal(2, 3, IN, requires_grad=True)
    inputs = (x, *factors(layer))
    whole = torch.autograd.grad(layer(x).square().sum(), inputs)
    checkpoint(layer, x, use_reentrant=use_reentrant).square().sum().backward()
    for tensor, expected in zip(inputs, whole, strict=True):
        assert tensor.grad is not None
        assert torch.equal(tensor.grad, expected)


def test_a_change_before_the_backward_pass_is_an_error() -> None:
    layer = layer_of()
    loss = layer(normal(2, IN)).sum()
    with torch.no_grad():
        factors(layer)[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_sampling_and_training_give_the_same_output_to_the_bit() -> None:
    layer, x = layer_of(torch.float32), normal(7, 5, IN, dtype=torch.float32)
    with torch.no_grad():
        sampled = layer(x)
    with torch.inference_mode():
        inferred = layer(x)
    replayed = layer(x)
    assert replayed.requires_grad
    assert torch.equal(sampled, replayed)
    assert torch.equal(inferred, replayed)


# The cache


def optimizer_step(layer: MergedLinear, *, foreach: bool = False, fused: bool = False) -> None:
    optimizer = torch.optim.AdamW(factors(layer), lr=0.1, foreach=foreach, fused=fused)
    layer(normal(2, IN)).square().sum().backward()
    optimizer.step()


@torch.no_grad()
def change_in_place(layer: MergedLinear, *, factor: int) -> None:
    factors(layer)[factor].mul_(2)


@torch.inference_mode()
def change_in_inference_mode(layer: MergedLinear) -> None:
    factors(layer)[1].mul_(2)


def new_data(layer: MergedLinear) -> None:
    factors(layer)[1].data = 2 * factors(layer)[1].data


def new_parameter(layer: MergedLinear) -> None:
    layer.lora_B["default"].weight = nn.Parameter(2 * factors(layer)[1].detach())


@torch.no_grad()
def change_base(layer: MergedLinear) -> None:
    base = layer.base_layer.weight
    assert isinstance(base, Tensor)
    base.mul_(2)


def merge_elsewhere(layer: MergedLinear) -> None:
    """Leave the base weight changed, as PEFT does by rounding, without a new version."""
    layer.merge()
    layer(normal(2, IN))
    layer.base_layer.weight.data.mul_(2)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    layer.unmerge()


CHANGES: dict[str, Callable[[MergedLinear], None]] = {
    "optimizer step, foreach": partial(optimizer_step, foreach=True),
    "optimizer step, fused": partial(optimizer_step, fused=True),
    "optimizer step, plain": optimizer_step,
    "A in place": partial(change_in_place, factor=0),
    "B in place": partial(change_in_place, factor=1),
    "in inference mode": change_in_inference_mode,
    "other data": new_data,
    "other parameter": new_parameter,
    "base weight": change_base,
    "scale": lambda layer: layer.set_scale("default", 0.5),
    "merge and unmerge": merge_elsewhere,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_the_merged_weight_follows_a_change(change: Callable[[MergedLinear], None]) -> None:
    layer, x = layer_of(), normal(2, 3, IN)
    before = layer(x).detach()
    change(layer)
    assert not torch.allclose(layer(x), before)
    assert_as_twin(layer, x)
    assert layer._merged is not None


def test_the_merged_weight_is_made_once_per_change_and_backward_pass() -> None:
    layer, x = layer_of(), normal(2, 3, IN)
    with torch.no_grad():
        layer(x)
    merged = layer._merged
    assert merged is not None
    layer(x)
    output = layer(2 * x)
    assert layer._merged is merged
    output.sum().backward()
    assert layer._merged is None
    layer(x)
    merged = layer._merged
    change_in_place(layer, factor=0)
    layer(x)
    assert layer._merged is not merged


def test_data_at_the_address_of_data_before_is_no_match() -> None:
    layer, x = layer_of(), normal(2, 3, IN)
    for scale in range(1, 9):
        new = torch.full((OUT, RANK), float(scale), dtype=torch.float64)
        factors(layer)[1].data = new
        del new
        assert_as_twin(layer, x)


def test_another_parameter_of_the_same_memory_is_no_match() -> None:
    layer, x = layer_of(), normal(2, 3, IN)
    change_in_place(layer, factor=1)
    layer(x)
    old = factors(layer)[1]
    layer.lora_B["default"].weight = nn.Parameter(old.data)
    while factors(layer)[1]._version < old._version:
        change_in_place(layer, factor=1)
    assert_as_twin(layer, x)


def test_a_layer_without_memory_has_a_merged_weight_too() -> None:
    layer = layer_of().to("meta")
    assert layer(normal(2, 3, IN).to("meta")).shape == (2, 3, OUT)
    assert layer._merged is not None


def test_the_merged_weight_holds_no_graph() -> None:
    layer = layer_of()
    layer(normal(2, IN))
    assert layer._merged is not None
    held = (layer._merged.value, *layer._merged.data)
    assert not any(tensor.requires_grad or tensor.grad_fn is not None for tensor in held)
    assert layer._merged.value.untyped_storage().nbytes() == 8 * OUT * IN


def test_a_merged_weight_of_inference_mode_can_be_trained_with() -> None:
    layer, x = layer_of(), normal(2, 3, IN, requires_grad=True)
    with torch.inference_mode():
        layer(normal(2, 3, IN))
    layer(x).sum().backward()
    assert x.grad is not None


def test_the_adapter_off_is_the_base_layer_to_the_bit_and_on_again_the_adapter() -> None:
    layer, x = layer_of(torch.float32), normal(2, 3, IN, dtype=torch.float32)
    on = layer(x)
    layer.enable_adapters(enabled=False)
    assert torch.equal(layer(x), layer.base_layer(x))
    layer.enable_adapters(enabled=True)
    assert torch.equal(layer(x), on)


def test_a_copy_is_a_layer_of_its_own() -> None:
    layer, x = layer_of(), normal(2, 3, IN)
    before = layer(x).detach()
    copied = copy.deepcopy(layer)
    change_in_place(copied, factor=1)
    assert_as_twin(copied, x)
    assert not torch.equal(copied(x), before)
    assert torch.equal(layer(x), before)


def test_a_deleted_adapter_leaves_the_base_layer_and_no_merged_weight() -> None:
    layer, x = layer_of(), normal(2, 3, IN)
    layer(x)
    layer.delete_adapter("default")
    assert layer._merged is None
    assert torch.equal(layer(x), layer.base_layer(x))


# What stays with PEFT


def with_second_adapter() -> MergedLinear:
    layer = layer_of()
    layer.update_layer("other", RANK, 6, LoraConfig())
    fill(layer)
    layer.set_adapter(["default", "other"])
    return layer


def with_trained_base() -> MergedLinear:
    layer = layer_of()
    layer.base_layer.requires_grad_(True)  # pyright: ignore[reportCallIssue]
    return layer


def with_other_base_class() -> MergedLinear:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    layer = layer_of()
    layer.base_layer.__class__ = Doubled
    return layer


def merged_by_peft() -> MergedLinear:
    layer = layer_of()
    layer.merge()
    return layer


OTHERS: dict[str, Callable[[], MergedLinear]] = {
    "dropout": lambda: layer_of(lora_dropout=0.5).eval(),
    "DoRA": lambda: layer_of(use_dora=True),
    "bias of the adapter": lambda: layer_of(lora_bias=True),
    "two adapters": with_second_adapter,
    "trained base weights": with_trained_base,
    "another base class": with_other_base_class,
    "merged by PEFT": merged_by_peft,
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=list(OTHERS))
def test_other_layers_stay_with_peft(make: Callable[[], MergedLinear]) -> None:
    layer, x = make(), normal(2, 3, IN)
    assert torch.equal(layer(x), twin(layer, x))
    assert layer._merged is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of_adapter", ["float32", "same"])
def test_half_precision_stays_with_peft(dtype: torch.dtype, of_adapter: str) -> None:
    layer, x = layer_of(dtype), normal(2, 3, IN, dtype=dtype)
    if of_adapter == "float32":
        fill(layer, torch.float32)
    assert torch.equal(layer(x), twin(layer, x))
    assert layer._merged is None


def test_an_adapter_in_half_precision_stays_with_peft() -> None:
    layer, x = layer_of(torch.float32), normal(2, 3, IN, dtype=torch.float32)
    fill(layer, torch.float16)
    assert torch.equal(layer(x), twin(layer, x))
    assert layer._merged is None


def test_autocast_stays_with_peft() -> None:
    layer, x = layer_of(torch.float32), normal(2, 3, IN, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), twin(layer, x))
    assert layer._merged is None


def test_weights_made_in_inference_mode_stay_with_peft() -> None:
    with torch.inference_mode():
        layer = layer_of()
        x = normal(2, IN)
        assert torch.equal(layer(x), twin(layer, x))
    assert layer._merged is None


def test_a_convolution_stays_with_peft() -> None:
    convolution = Conv2d(nn.Conv2d(2, 3, 1), "default", LoraConfig(), r=2, lora_alpha=2)
    merge_in_forward(convolution)
    assert type(convolution) is Conv2d


# The network


def layers(policy: TextToImageModel) -> list[MergedLinear]:
    """Return the linear LoRA layers of a UNet, all of which are merged ones."""
    found = [module for module in policy.unet.modules() if isinstance(module, Linear)]
    merged = [module for module in found if isinstance(module, MergedLinear)]
    assert found
    assert len(merged) == len(found)
    return merged


def with_peft_layers(policy: TextToImageModel) -> None:
    """Give the linear LoRA layers of a UNet PEFT's own class again."""
    found = [module for module in policy.unet.modules() if isinstance(module, Linear)]
    for module in found:
        module.__class__ = Linear


@torch.no_grad()
def predict(policy: TextToImageModel) -> Tensor:
    x = normal(2, *policy.latent_shape, dtype=torch.float32)
    conditioning = policy.encode(["a cat riding a bike", "a bear playing chess"])
    return policy.predict(x, torch.tensor([500, 100]), conditioning, guidance_scale=1.0)


def predict_by_peft(policy: TextToImageModel) -> Tensor:
    with_peft_layers(policy)
    output = predict(policy)
    merge_in_forward(policy.unet)
    return output


def assert_as_peft(policy: TextToImageModel) -> None:
    output = predict(policy)
    assert all(layer._merged is not None for layer in layers(policy))
    torch.testing.assert_close(output, predict_by_peft(policy), rtol=1e-5, atol=1e-5)


def test_the_network_follows_its_adapter(policy: TextToImageModel) -> None:
    state, before = policy.adapter_state(), predict(policy)
    assert_as_peft(policy)
    perturb(policy, scale=0.1, seed=1)
    assert not torch.allclose(predict(policy), before)
    assert_as_peft(policy)
    policy.load_adapter_state(state)
    assert torch.equal(predict(policy), before)
    with policy.reference():
        off = predict(policy)
    assert torch.equal(predict(policy), before)
    policy.scale_lora(0.5)
    assert_as_peft(policy)
    assert not torch.allclose(predict(policy), before)
    policy.scale_lora(0.0)
    assert torch.equal(predict(policy), off)


def test_the_network_follows_adapters_that_are_loaded_and_removed(policy: TextToImageModel, tmp_path: Path) -> None:
    trained = predict(policy)
    policy.save_lora(tmp_path)
    perturb(policy, scale=0.1, seed=1)
    policy.load_lora(tmp_path)
    assert_as_peft(policy)
    assert torch.equal(predict(policy), trained)
    policy.remove_lora()
    other = TextToImageModel.load("emoji")
    assert torch.equal(predict(policy), predict(other))
    for model in (policy, other):
        model.load_lora(tmp_path)
        assert_as_peft(model)
        assert torch.equal(predict(model), trained)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_network_in_half_precision_stays_with_peft(dtype: Weights) -> None:
    policy = TextToImageModel.load("emoji", memory=Memory(base_dtype=dtype))
    policy.add_lora(LoRA(rank=4), seed=0)
    perturb(policy)
    assert torch.equal(predict(policy), predict_by_peft(policy))
    assert all(layer._merged is None for layer in layers(policy))


def content(file: Path) -> tuple[object, bytes]:
    """Return the header of a safetensors file, whose order changes from one writing to the next, and the rest."""
    raw = file.read_bytes()
    if file.suffix != ".safetensors":
        return None, raw
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def test_the_saved_files_are_those_of_peft(policy: TextToImageModel, tmp_path: Path) -> None:
    predict(policy)
    policy.save_lora(tmp_path / "new")
    with_peft_layers(policy)
    policy.save_lora(tmp_path / "old")
    new, old = ({p.relative_to(d): content(p) for p in d.rglob("*.*")} for d in (tmp_path / "new", tmp_path / "old"))
    assert len(old) >= 4
    assert new == old
