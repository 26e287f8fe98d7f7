"""Generate images with a model and, optionally, an adapter: the function behind `b2diffurl sample`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import EVALUATION_STREAM, NoiseKey
from b2diffurl.config import PositiveInt, settings
from b2diffurl.distributed import AUTO, choose_device
from b2diffurl.emoji import is_embedded
from b2diffurl.errors import UserError
from b2diffurl.evaluation.generate import GeneratedImages, generate_images
from b2diffurl.models import Memory, ModelSource, check_lora, read_adapter_interval
from b2diffurl.models.text import check_prompts
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.prompts.lists import read_prompts
from b2diffurl.run.recipes import EMOJI_GUIDANCE_SCALE
from b2diffurl.run.settings import Sampler


@settings
class Generation:
    """How `sample` and `evaluate` generate images.

    Attributes:
        num_inference_steps: number of denoising steps.
        eta: weight of the noise of each DDIM step, above 0 and at most 1.
        guidance_scale: scale of classifier-free guidance; by default that of the recipes, 1 for the embedded
            models and 5 for others.
        negative_prompt: prompt of the unconditional half of guidance; "" for none.
        memory: precision, as in training.
        device: device of the model, such as cpu or cuda; "auto" is the first of cuda, mps and cpu that there is.
    """

    num_inference_steps: PositiveInt = 20
    eta: float = 1.0
    guidance_scale: float | None = None
    negative_prompt: str = ""
    memory: Memory = Memory()
    device: str = AUTO

    def sampler(self, model: str) -> Sampler:
        """Give the sampler settings for a model.

        Raises:
            UserError: a value is out of range, or a negative prompt is given at guidance scale 1.
        """
        default = EMOJI_GUIDANCE_SCALE if is_embedded(model) else Sampler().guidance_scale
        return Sampler(
            num_inference_steps=self.num_inference_steps,
            eta=self.eta,
            guidance_scale=default if self.guidance_scale is None else self.guidance_scale,
            negative_prompt=self.negative_prompt,
        )


def sample(
    model: str,
    prompts: str | Sequence[str],
    *,
    lora: Path | str | None = None,
    num_images: int | None = None,
    seed: int = 0,
    generation: Generation = Generation(),  # noqa: B008 - frozen
    on_progress: Callable[[int], None] = lambda _: None,
) -> GeneratedImages:
    """Generate images.

    Args:
        model: "emoji", "emoji-objects", a local diffusers directory, a .safetensors checkpoint file, or a hub id.
        prompts: prompts, or the name of a list or the path of a prompts file.
        lora: adapter directory of a run; one that was trained with `lora.interval` is on only in these steps.
        num_images: number of images, with the prompts in turn; by default one per prompt.
        seed: seed of the noise.
        generation: sampler, precision and device.
        on_progress: called with the number of images that have been completed since the last call.

    Returns:
        The images, B x 3 x H x W in [0, 1], with their prompts.

    Raises:
        UserError: an argument is invalid, or the model, the adapter or the prompts cannot be found, or the
            images are not finite.
    """
    adapters = () if lora is None else (Path(lora),)
    generator = ImageGenerator.load(
        model, prompts, loras=adapters, num_images=num_images, seed=seed, generation=generation
    )
    return generator.generate(lora=adapters[0] if adapters else None, on_progress=on_progress)


@dataclass(frozen=True, kw_only=True)
class ImageGenerator:
    """A loaded model that generates images of the same prompts from the same noise with any adapter.

    Attributes:
        model: the model.
        policy: the model, its chain and guidance.
        prompts: the prompts, in turn.
        num_images: number of images.
        seed: seed of the noise.
    """

    model: TextToImageModel
    policy: DenoisingPolicy
    prompts: tuple[str, ...]
    num_images: int
    seed: int

    @classmethod
    def load(
        cls,
        model: str,
        prompts: str | Sequence[str],
        *,
        loras: Sequence[Path] = (),
        num_images: int | None = None,
        seed: int = 0,
        generation: Generation = Generation(),  # noqa: B008 - frozen
    ) -> "ImageGenerator":
        """Check all arguments, then load the model; see `sample`.

        Args:
            model: as for `sample`.
            prompts: as for `sample`.
            loras: adapter directories that `generate` will be called with.
            num_images: as for `sample`.
            seed: as for `sample`.
            generation: as for `sample`.

        Raises:
            UserError: as for `sample`.
        """
        texts = read_prompts([prompts] if isinstance(prompts, str) else prompts)
        sampler = generation.sampler(model)
        total = len(texts) if num_images is None else num_images
        if total < 1:
            raise UserError(f"num_images is {total}; give 1 or more.")
        device = choose_device(generation.device)
        source = ModelSource(model)
        source.check(num_inference_steps=sampler.num_inference_steps, eta=sampler.eta)
        for lora in loras:
            check_lora(lora)
        check_prompts(source.tokenizers, texts)
        loaded = TextToImageModel.load(
            source, device=device, memory=generation.memory, negative_prompt=sampler.negative_prompt
        )
        for lora in loras if len(loras) > 1 else ():  # refuse the last one now, not after the images of the others
            loaded.load_lora(lora)
        policy = DenoisingPolicy(
            denoiser=loaded,
            chain=loaded.ddim(num_inference_steps=sampler.num_inference_steps, eta=sampler.eta),
            guidance_scale=sampler.guidance_scale,
        )
        return cls(model=loaded, policy=policy, prompts=texts, num_images=total, seed=seed)

    def generate(
        self, *, lora: Path | None = None, scale: float = 1.0, on_progress: Callable[[int], None] = lambda _: None
    ) -> GeneratedImages:
        """Generate the images with an adapter, or without one.

        Args:
            lora: adapter directory; None for the pretrained model.
            scale: factor of what the adapter adds to its layers.
            on_progress: called with the number of images that have been completed since the last call.

        Raises:
            UserError: the adapter does not fit the model, or the images are not finite.
        """
        policy = self.policy
        if lora is None:
            self.model.remove_lora()
        else:
            self.model.load_lora(lora)
            if scale != 1:
                self.model.scale_lora(scale)
            interval = read_adapter_interval(lora)
            if interval is not None:
                policy = policy.with_adapter_in(interval.num_steps(policy.chain.num_steps))
        noise = NoiseKey(seed=self.seed, stream=EVALUATION_STREAM)
        return generate_images(policy, self.prompts, num_images=self.num_images, noise=noise, on_progress=on_progress)
