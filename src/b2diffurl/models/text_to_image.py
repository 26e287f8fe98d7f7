"""A Stable Diffusion pipeline as a denoiser: adapter on, it is p_theta; adapter off, it is the pretrained p_pre.

Base weights, text encoders and autoencoder are frozen; only the LoRA is trained. Dropout is off everywhere.

Shapes: B latents of C x H x W, images of 3 x H' x W' in [0, 1].
"""

# diffusers types its configs as dicts, its outputs as tuples, and its tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from b2diffurl.diffusion.ddim import DDIM
from b2diffurl.models.adapted_unet import AdaptedUNet
from b2diffurl.models.fp16_backward import backward_in_range
from b2diffurl.models.memory import Memory, decode_batch_size
from b2diffurl.models.model_source import ModelSource
from b2diffurl.models.pipeline import ModelComponents, latent_size, load_components, load_tokenizers, vae_scale_factor
from b2diffurl.models.scheduler import ddim_chain
from b2diffurl.models.text import TextConditioning, check_prompts

__all__ = ["SAFETY_CHECKER_NOTE", "TextToImageModel", "check_prompts", "load_tokenizers"]

SAFETY_CHECKER_NOTE = "The model's safety checker is off: rewards and samples see every image that the model generates."


class TextToImageModel(AdaptedUNet):
    """A text-to-image model that can be sampled, replayed and trained.

    Create one with `TextToImageModel.load`. It caches the encoding of every prompt.

    Args:
        parts: the model's components.
        model: the model's name.
        memory: base dtype and gradient checkpointing.
        negative_prompt: prompt of the unconditional half of guidance; "" for none.
    """

    def __init__(self, parts: ModelComponents, *, model: str, memory: Memory, negative_prompt: str) -> None:
        prediction_type: str = parts.scheduler.config.prediction_type
        super().__init__(parts.unet, pipeline=parts.pipeline, name=model, prediction_type=prediction_type)
        self.vae = parts.vae
        self.has_safety_checker = parts.has_safety_checker
        self._text = parts.text
        self._scheduler = parts.scheduler
        self._negative_prompt = negative_prompt
        self._encoded: dict[str, TextConditioning] = {}
        self._negative: TextConditioning | None = None
        check_prompts(self._text.tokenizers, [negative_prompt])
        for module in (self.unet, self.vae, *self._text.modules):
            module.requires_grad_(False).eval()
        for module in (self.unet, self.vae):
            module.to(memory_format=torch.channels_last)
        if memory.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    @classmethod
    def load(
        cls,
        model: ModelSource | str,
        *,
        device: torch.device | str = "cpu",
        memory: Memory = Memory(),  # noqa: B008 - frozen
        negative_prompt: str = "",
    ) -> "TextToImageModel":
        """Load a model, without its safety checker.

        Args:
            model: its source, or its name: "emoji", "emoji-objects", a local diffusers directory, a .safetensors
                checkpoint file, or a hub id.
            device: device of the model.
            memory: base dtype and gradient checkpointing.
            negative_prompt: prompt of the unconditional half of guidance. "" for none: the encoding of "", or zeros
                where the pipeline's config says so (XL's `force_zeros_for_empty_prompt`).

        Raises:
            UserError: the model is missing or not supported, or the negative prompt is too long for it.
        """
        source = ModelSource.of(model)
        components = load_components(source, device=device, memory=memory)
        return cls(components, model=source.name, memory=memory, negative_prompt=negative_prompt)

    @property
    def device(self) -> torch.device:
        """Device of the UNet."""
        return self.unet.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of a latent."""
        return (self.unet.config.in_channels, *latent_size(self.unet))

    def ddim(self, *, num_inference_steps: int, eta: float) -> DDIM:
        """Return the model's denoising chain, with the timesteps of the scheduler's own schedule.

        Raises:
            UserError: the model has not that many timesteps.
        """
        return ddim_chain(self._scheduler, num_inference_steps=num_inference_steps, eta=eta)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextConditioning:
        """Encode prompts, each different one once.

        Raises:
            UserError: a prompt is too long for the model.
        """
        for prompt in sorted(set(prompts) - self._encoded.keys()):
            check_prompts(self._text.tokenizers, [prompt])
            self._encoded[prompt] = self._text.encode(prompt)
        return TextConditioning.join([self._encoded[prompt] for prompt in prompts])

    @torch.no_grad()
    def _unconditional(self, num: int) -> TextConditioning:
        if self._negative is None:
            self._negative = self._text.encode_negative(self._negative_prompt)
        return TextConditioning.join([self._negative] * num)

    def predict(
        self,
        x: Float[Tensor, "B C H W"],
        timestep: Int[Tensor, " B"],
        conditioning: TextConditioning,
        *,
        guidance_scale: float,
    ) -> Float[Tensor, "B C H W"]:
        """Return the network's output under classifier-free guidance (arXiv 2207.12598).

        Gradient flows through both halves. At guidance 1 the unconditional half has no weight and is not computed.
        Latents and output are float32 whatever the base dtype.

        Args:
            x: latents.
            timestep: one per latent.
            conditioning: one row per latent, from `encode`.
            guidance_scale: guidance scale; 1 turns guidance off.
        """
        if guidance_scale == 1.0:
            return self._forward(x, timestep, conditioning)
        doubled = TextConditioning.join([self._unconditional(len(x)), conditioning])
        both = self._forward(torch.cat([x, x]), torch.cat([timestep, timestep]), doubled)
        unconditional, conditional = both.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    def _forward(self, x: Tensor, timestep: Tensor, conditioning: TextConditioning) -> Tensor:
        def output() -> Tensor:
            return self.unet(x.to(self._base_dtype), timestep, **conditioning.unet_arguments, return_dict=False)[0]

        if self._base_dtype == torch.float16 and torch.is_grad_enabled():
            return backward_in_range(output, list(self.trainable_parameters().values()))
        return output().float()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C H W"], *, chunk_size: int | None = None) -> Float[Tensor, "B 3 H2 W2"]:
        """Decode latents to images in [0, 1], float32, on the CPU.

        Args:
            latents: x_0.
            chunk_size: images decoded at once; by default as many as make a megapixel, at most 64.
        """
        if chunk_size is None:
            pixels = latents.shape[-2] * latents.shape[-1] * vae_scale_factor(self.vae) ** 2
            chunk_size = decode_batch_size(pixels)
        images = [
            (self.vae.decode(self._unscale(chunk), return_dict=False)[0] / 2 + 0.5).clamp(0, 1).cpu()
            for chunk in latents.to(self.device, torch.float32).split(chunk_size)
        ]
        return torch.cat(images)

    def _unscale(self, latents: Tensor) -> Tensor:
        """Convert latents from the UNet's scale to the autoencoder's."""
        config = self.vae.config
        mean, std = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is None or std is None:
            return latents / config.scaling_factor
        mean, std = (torch.tensor(value).view(1, -1, 1, 1).to(latents) for value in (mean, std))
        return latents * std / config.scaling_factor + mean
