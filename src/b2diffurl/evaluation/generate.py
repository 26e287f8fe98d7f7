"""Generate images from a policy.

Shapes: B images of 3 x H x W in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.algorithm.rollout import sample_branches
from b2diffurl.errors import UserError
from b2diffurl.images import PIXEL_ART_SIDE_PX, to_data_uri, to_pil

_NUM_SHOWN = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedImages:
    """Images of a policy.

    Attributes:
        images: in [0, 1], on the CPU.
        prompts: one per image.
    """

    images: Float[Tensor, "B 3 H W"]
    prompts: tuple[str, ...]

    @property
    def pil(self) -> list[Image.Image]:
        """The images as 8-bit PIL images."""
        return [to_pil(image) for image in self.images]

    def _repr_html_(self) -> str:
        """Show the first images in a notebook, with their prompts."""
        figures = [
            f'<figure style="margin: 0; text-align: center; width: 128px"><img src="{to_data_uri(image)}" '
            f'style="width: 128px; image-rendering: {"pixelated" if max(image.size) <= PIXEL_ART_SIDE_PX else "auto"}">'
            f"<figcaption><small>{escape(prompt)}</small></figcaption></figure>"
            for image, prompt in zip(self.pil[:_NUM_SHOWN], self.prompts, strict=False)
        ]
        more = f"<p>{_NUM_SHOWN} of {len(self.prompts)} images</p>" if len(self.prompts) > _NUM_SHOWN else ""
        return f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{"".join(figures)}</div>{more}'

    @staticmethod
    def join(parts: "Sequence[GeneratedImages]") -> "GeneratedImages":
        """Concatenate the shards of several ranks."""
        return GeneratedImages(
            images=torch.cat([part.images for part in parts if len(part.prompts)]),
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
        )


def generate_images(
    policy: DenoisingPolicy,
    prompts: Sequence[str],
    *,
    num_images: int,
    noise: NoiseKey,
    shard: range | None = None,
    chunk_size: int = 64,
    on_progress: Callable[[int], None] = lambda _: None,
) -> GeneratedImages:
    """Generate `num_images` images, cycling through the prompts; image i depends on (noise, i) alone.

    Args:
        policy: its denoiser can decode latents.
        prompts: at least one.
        num_images: number of images over all ranks.
        noise: key of the noise; its first trunk is image 0's.
        shard: the images to generate; by default all.
        chunk_size: most images generated at once.
        on_progress: called with the number of images of each finished chunk.

    Raises:
        UserError: an image is not finite.
    """
    shard = range(num_images) if shard is None else shard
    chosen = tuple(prompts[i % len(prompts)] for i in shard)
    images: list[Tensor] = []
    chunks = sample_branches(
        policy, chosen, interval_length=1, num_branches=1, noise=noise.shifted(shard.start), chunk_size=chunk_size
    )
    for chunk in chunks:
        images.append(policy.denoiser.decode(chunk.final_latents.flatten(0, 1)))
        if not bool(torch.isfinite(images[-1]).all()):
            raise UserError(
                "the model generated images with NaN; check its weights and those of the adapter, or use float32."
            )
        on_progress(len(images[-1]))
    return GeneratedImages(images=torch.cat(images) if images else torch.empty(0, 3, 0, 0), prompts=chosen)
