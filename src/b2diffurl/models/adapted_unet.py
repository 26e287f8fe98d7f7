"""A UNet with a trainable LoRA: with the adapter on it is the policy, with the adapter off the reference."""

# diffusers types its configs as dicts, its outputs as tuples, and its tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import convert_unet_state_dict_to_peft
from peft import LoraConfig
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from b2diffurl.errors import UserError
from b2diffurl.models.adapter_files import PEFT_CONFIG, AdapterFile
from b2diffurl.models.adapter_interval import AdapterInterval
from b2diffurl.models.export import save_adapter
from b2diffurl.models.lora import LoRA
from b2diffurl.models.merged_lora import merge_in_forward
from b2diffurl.models.model_files import first_lines, loading
from b2diffurl.models.model_source import check_lora, public_name
from b2diffurl.models.pipeline import StockPipeline

_ADAPTER = "default"


class AdaptedUNet:
    """The UNet of a model and its adapter. The base weights are frozen.

    Args:
        unet: the network, in its base dtype.
        pipeline: stock pipeline class of the model, which reads and writes adapters.
        name: the model's name.
        prediction_type: what the network predicts, which is stored with adapters.
    """

    def __init__(
        self, unet: UNet2DConditionModel, *, pipeline: type[StockPipeline], name: str, prediction_type: str = "epsilon"
    ) -> None:
        self.unet = unet
        self.name = name
        self._prediction_type = prediction_type
        self._initial: dict[str, Tensor] | None = None
        self._pipeline_class = pipeline
        self._base_dtype: torch.dtype = unet.dtype

    def add_lora(self, lora: LoRA, *, seed: int, source: AdapterFile | None = None) -> None:
        """Add a new adapter to the UNet's attention; it changes nothing until it is trained.

        Args:
            lora: its settings.
            seed: seed of its initial weights.
            source: an adapter that it starts from, as `start_from`; None to start from the pretrained model.

        Raises:
            UserError: a target name matches no layer, or the source does not fit.
        """
        check_targets(self.unet, lora)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=list(lora.target_modules),
            lora_dropout=0.0,
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self.unet.add_adapter(config, adapter_name=_ADAPTER)
            except ValueError as error:
                raise UserError(f"lora.target_modules is {lora.target_modules}: {first_lines(error)}.") from error
        self._lift_adapter()
        merge_in_forward(self.unet)
        self.unet.eval()
        if source is not None:
            self.start_from(source)

    @torch.no_grad()
    def start_from(self, source: AdapterFile) -> None:
        """Copy the weights of an adapter into the new one; the reference stays the pretrained model.

        Args:
            source: an adapter of the same rank and alpha.

        Raises:
            UserError: it has other layers, or its weights are not finite.
        """
        state = _peft_state(source, self._pipeline_class, self.unet)
        parameters = {name.replace(f".{_ADAPTER}.", "."): p for name, p in self.trainable_parameters().items()}
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        others = shapes.items() ^ {(name, tuple(value.shape)) for name, value in state.items()}
        if others:
            raise UserError(
                f"lora.init {source.file} has other layers than this run's adapter, {min(others)[0]} for one; use an "
                "adapter of the same model with the same lora.target_modules."
            )
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
        self._initial = self.adapter_state()

    @contextmanager
    def initial(self) -> Generator[None]:
        """Return a context within which the model is that before training: pretrained, or as `start_from` left it."""
        if self._initial is None:
            with self.reference():
                yield
            return
        trained = self.adapter_state()
        self.load_adapter_state(self._initial)
        try:
            yield
        finally:
            self.load_adapter_state(trained)

    def _lift_adapter(self) -> None:
        """Make the adapter float32: PEFT creates it in the dtype of the layer it wraps."""
        for name, parameter in self.unet.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()

    @contextmanager
    def reference(self) -> Generator[None]:
        """Return a context within which the model is the pretrained one: the adapter is off."""
        self.unet.disable_adapters()
        try:
            yield
        finally:
            self.unet.enable_adapters()

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the adapter's parameters by name, always in the same order."""
        return {name: p for name, p in sorted(self.unet.named_parameters()) if p.requires_grad}

    def adapter_state(self) -> dict[str, Tensor]:
        """Return a copy of the adapter's weights."""
        return {name: p.detach().clone() for name, p in self.trainable_parameters().items()}

    @torch.no_grad()
    def load_adapter_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `adapter_state` returned."""
        parameters = self.trainable_parameters()
        assert parameters.keys() == state.keys(), "the state belongs to another adapter"
        for name, parameter in parameters.items():
            parameter.copy_(state[name])

    def save_lora(self, directory: Path, *, interval: AdapterInterval | None = None) -> None:
        """Write the adapter in three forms: for stock diffusers, for PEFT in `peft/`, and with kohya's names.

        Args:
            directory: output folder; created if missing.
            interval: the steps in which the adapter has to be on, stored with it; None for all.
        """
        save_adapter(
            self.unet,
            directory,
            adapter=_ADAPTER,
            pipeline=self._pipeline_class,
            model=public_name(self.name),
            prediction_type=self._prediction_type,
            interval=interval,
        )

    def remove_lora(self) -> None:
        """Remove the adapter, if there is one: the model is the pretrained one again."""
        if _ADAPTER in getattr(self.unet, "peft_config", {}):
            self.unet.delete_adapters(_ADAPTER)

    def scale_lora(self, scale: float) -> None:
        """Multiply what the loaded adapter adds to its layers: 1 as trained, 0 the pretrained model."""
        self.unet.set_adapters(_ADAPTER, scale)
        self.unet.requires_grad_(False)

    def load_lora(self, directory: Path) -> None:
        """Load an adapter written by `save_lora` or by any trainer for diffusers; it replaces the one before.

        Raises:
            UserError: the directory has no adapter, or one of another model.
        """
        check_lora(directory)
        self.remove_lora()
        try:
            loaded = self._pipeline_class.lora_state_dict(
                directory, local_files_only=True, return_lora_metadata=True, unet_config=self.unet.config
            )
            state, alphas, metadata = loaded[0], loaded[1], loaded[-1]
            _check_keys(state, directory)
            self._pipeline_class.load_lora_into_unet(
                state, network_alphas=alphas, unet=self.unet, adapter_name=_ADAPTER, metadata=metadata
            )
        except UserError:
            raise
        except Exception as error:  # a damaged file may raise anything
            raise UserError(
                f"lora directory {directory} holds no adapter for this model: {first_lines(error)}."
            ) from error
        if self._base_dtype != torch.float32:
            self._lift_adapter()
            set_peft_model_state_dict(self.unet, _of_unet(state), _ADAPTER)
        merge_in_forward(self.unet)
        self.unet.requires_grad_(False).eval()


def adapted_layers(unet: torch.nn.Module, lora: LoRA) -> dict[str, list[torch.nn.Module]]:
    """Return the layers of a UNet by the target name that PEFT matches with the end of theirs."""
    layers: dict[str, list[torch.nn.Module]] = {target: [] for target in lora.target_modules}
    for name, layer in unet.named_modules():
        for target in layers:
            if name == target or name.endswith(f".{target}"):
                layers[target].append(layer)
    return layers


def check_targets(unet: torch.nn.Module, lora: LoRA) -> None:
    """Refuse an adapter of which a target name matches no layer, or one that LoRA cannot adapt.

    Raises:
        UserError: which name.
    """
    for target, layers in adapted_layers(unet, lora).items():
        others = [layer for layer in layers if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
        if layers and not others:
            continue
        match = "no layer of this UNet"
        if others:
            match = f"a {type(others[0]).__name__} of this UNet, which is neither linear nor a convolution"
        raise UserError(
            f"lora.target_modules has {target!r}, which matches {match}; give names such as to_q, to_k, to_v and "
            "to_out.0."
        )


def _peft_state(source: AdapterFile, pipeline: type[StockPipeline], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Read the weights of an adapter, with PEFT's names."""
    with loading(f"lora.init {source.file}"):
        weights = load_file(source.file)
        if source.form == "peft":
            weights = {f"unet.{name.removeprefix('base_model.model.')}": value for name, value in weights.items()}
        else:
            weights = pipeline.lora_state_dict(weights, unet_config=unet.config)[0]
    _check_keys(weights, source.file.parent)
    return _of_unet(weights)


def _of_unet(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of the UNet with PEFT's names."""
    of_unet = {name.removeprefix("unet."): value for name, value in state.items() if name.startswith("unet.")}
    return of_unet if any("lora_A" in name for name in of_unet) else convert_unet_state_dict_to_peft(of_unet)


def _check_keys(state: Mapping[str, Any], directory: Path) -> None:
    """Refuse an adapter without weights for the UNet: the loader would ignore it."""
    halves = [key for key in state if "lora_A" in key or "lora.down" in key]
    broken = [
        key for key, value in state.items() if isinstance(value, Tensor) and not bool(torch.isfinite(value).all())
    ]
    if broken:
        raise UserError(
            f"lora directory {directory} has a weight that is not finite, {broken[0]}; use another adapter."
        )
    others = {key.replace("lora_A", "lora_B").replace("lora.down", "lora.up") for key in halves}
    if others - state.keys():
        raise UserError(f"lora directory {directory} lacks the weight {min(others - state.keys())}; save it anew.")
    if any(key.startswith("unet.") for key in state):
        return
    hint = "give a lora folder of this library, or one for diffusers"
    if (directory / PEFT_CONFIG).is_file():
        hint = f"it has PEFT's format; give its parent folder {directory.resolve().parent}"
    raise UserError(f"lora directory {directory} holds no weights for the UNet; {hint}.")
