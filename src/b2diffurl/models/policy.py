"""A Stable Diffusion pipeline as a policy: adapter on it is p_theta, adapter off it is the pretrained p_pre.

Base weights, text encoder and autoencoder are frozen; the LoRA alone is trained. Dropout is off everywhere.

Shapes: B latents of C x H x W, L text tokens of D channels, pictures of 3 x H' x W' in [0, 1].
"""

# diffusers types its configs as dicts, its outputs as tuples, and its tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from jaxtyping import Float, Int
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from b2diffurl.diffusion.ddim import DDIM
from b2diffurl.errors import UserError
from b2diffurl.models.lora import LoRA
from b2diffurl.models.source import check_lora, resolve_model

_ADAPTER = "default"


class Policy:
    """A text-to-image model that can be sampled, replayed and trained.

    Make one with `Policy.load`. It caches the embedding of every prompt it has seen.
    """

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: DDIMScheduler,
    ) -> None:
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        self._scheduler = scheduler
        self._embeddings: dict[str, Tensor] = {}
        for module in (unet, vae, text_encoder):
            module.requires_grad_(False).eval()
        for module in (unet, vae):
            module.to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, model: str, *, device: torch.device | str = "cpu") -> "Policy":
        """Load a model in float32, without its safety checker.

        Args:
            model: "emoji", a local diffusers directory, or a hub id.
            device: where it runs.

        Raises:
            UserError: the model cannot be found or is not supported.
        """
        source = resolve_model(model)
        try:
            pipe = StableDiffusionPipeline.from_pretrained(
                source, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
            )
        except OSError as error:
            raise UserError(f"model {model!r} could not be loaded: {str(error).splitlines()[0]}") from error
        pipe.to(device)
        # clip_sample is no key of many schedulers' configs and DDIM's default of it would change the chain.
        scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **_unless_set(pipe.scheduler.config))
        if scheduler.config.clip_sample or scheduler.config.thresholding:
            raise UserError(
                f"model {model!r} clips or thresholds its samples, which has no exact log-prob; use another."
            )
        return cls(
            unet=pipe.unet, vae=pipe.vae, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer, scheduler=scheduler
        )

    @property
    def device(self) -> torch.device:
        """Where the UNet lives."""
        return self.unet.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, size, size)

    def ddim(self, *, num_inference_steps: int, eta: float) -> DDIM:
        """The model's denoising chain, its timesteps taken from the scheduler's own schedule."""
        self._scheduler.set_timesteps(num_inference_steps)
        timesteps = self._scheduler.timesteps.clone().cpu()
        alpha = self._scheduler.alphas_cumprod.double()[timesteps]
        last = torch.as_tensor(self._scheduler.final_alpha_cumprod, dtype=torch.float64).reshape(1)
        return DDIM(
            timesteps=timesteps,
            alpha=alpha,
            alpha_prev=torch.cat([alpha[1:], last]),
            eta=eta,
            prediction_type=self._scheduler.config.prediction_type,
        )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "B L D"]:
        """Embed prompts; "" is the unconditional embedding."""
        new = sorted(set(prompts) - self._embeddings.keys())
        if new:
            check_prompts(self.tokenizer, new)
            tokens = self.tokenizer(new, padding="max_length", return_tensors="pt")
            embedded = self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
            self._embeddings.update(zip(new, embedded, strict=True))
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

    def predict(
        self,
        x: Float[Tensor, "B C H W"],
        timestep: Int[Tensor, " B"],
        prompts: Sequence[str],
        *,
        guidance_scale: float,
    ) -> Float[Tensor, "B C H W"]:
        """The network's output under classifier-free guidance (arXiv 2207.12598), which is part of the policy.

        Gradient flows through both halves. At guidance 1 the unconditional half has no weight and is not computed.
        """
        text = self.encode(prompts)
        if guidance_scale == 1.0:
            return self.unet(x, timestep, encoder_hidden_states=text, return_dict=False)[0]
        without = self.encode([""]).expand_as(text)
        both = self.unet(
            torch.cat([x, x]),
            torch.cat([timestep, timestep]),
            encoder_hidden_states=torch.cat([without, text]),
            return_dict=False,
        )[0]
        unconditional, conditional = both.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C H W"], *, chunk_size: int = 64) -> Float[Tensor, "B 3 H2 W2"]:
        """Pictures in [0, 1], float32, on the CPU."""
        pictures = [
            (self.vae.decode(chunk / self.vae.config.scaling_factor, return_dict=False)[0] / 2 + 0.5).clamp(0, 1).cpu()
            for chunk in latents.to(self.device).split(chunk_size)
        ]
        return torch.cat(pictures)

    # The adapter

    def add_lora(self, lora: LoRA, *, seed: int) -> None:
        """Put a new adapter on the UNet's attention; it changes nothing until it is trained.

        Raises:
            UserError: no layer has one of the target names.
        """
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
                raise UserError(f"lora.target_modules is {lora.target_modules}: {error}") from error
        self.unet.eval()

    @contextmanager
    def reference(self) -> Generator[None]:
        """Within this context the policy is the pretrained model: the adapter is off."""
        self.unet.disable_adapters()
        try:
            yield
        finally:
            self.unet.enable_adapters()

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters by name, always in the same order."""
        return {name: p for name, p in sorted(self.unet.named_parameters()) if p.requires_grad}

    def adapter_state(self) -> dict[str, Tensor]:
        """A copy of the adapter's weights."""
        return {name: p.detach().clone() for name, p in self.trainable_parameters().items()}

    @torch.no_grad()
    def load_adapter_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `adapter_state` gave."""
        parameters = self.trainable_parameters()
        assert parameters.keys() == state.keys(), "the state is of another adapter"
        for name, parameter in parameters.items():
            parameter.copy_(state[name])

    def save_lora(self, directory: Path) -> None:
        """Write the adapter so that `pipe.load_lora_weights(directory)` of stock diffusers loads it."""
        config = self.unet.peft_config[_ADAPTER].to_dict()
        metadata = {key: value for key, value in config.items() if key in ("r", "lora_alpha", "lora_dropout", "bias")}
        metadata["target_modules"] = sorted(config["target_modules"])
        StableDiffusionPipeline.save_lora_weights(
            directory,
            unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(self.unet)),
            unet_lora_adapter_metadata=metadata,
        )

    def load_lora(self, directory: Path) -> None:
        """Load an adapter that `save_lora`, or any trainer for diffusers, has written.

        Raises:
            UserError: there is none in the directory.
        """
        check_lora(directory)
        try:
            found = StableDiffusionPipeline.lora_state_dict(directory, local_files_only=True, return_lora_metadata=True)
            state, alphas, metadata = found[0], found[1], found[-1]
            StableDiffusionPipeline.load_lora_into_unet(
                state, network_alphas=alphas, unet=self.unet, adapter_name=_ADAPTER, metadata=metadata
            )
        except (OSError, ValueError) as error:
            raise UserError(f"lora directory {directory} holds no adapter for this model: {error}") from error
        self.unet.requires_grad_(False).eval()


def check_prompts(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> None:
    """Refuse prompts that a tokenizer would cut.

    Raises:
        UserError: names the prompt and the part that would be lost.
    """
    limit = tokenizer.model_max_length
    for prompt in prompts:
        ids = tokenizer(prompt, verbose=False).input_ids
        if len(ids) > limit:
            lost = tokenizer.decode(ids[limit - 1 : -1])
            raise UserError(
                f"prompt {prompt!r} is {len(ids)} tokens long and the model reads {limit}: "
                f"{lost!r} would be cut; shorten it."
            )


def load_tokenizer(model: str) -> CLIPTokenizer:
    """Load a model's tokenizer alone, to check prompts before anything heavy is loaded.

    Raises:
        UserError: the model cannot be found or is not supported.
    """
    try:
        return CLIPTokenizer.from_pretrained(resolve_model(model), subfolder="tokenizer")
    except OSError as error:
        raise UserError(f"model {model!r} could not be loaded: {str(error).splitlines()[0]}") from error


def _unless_set(config: dict[str, object]) -> dict[str, bool]:
    """Stable Diffusion's values for keys that a scheduler's config leaves out."""
    return {key: False for key in ("clip_sample", "set_alpha_to_one") if key not in config}
