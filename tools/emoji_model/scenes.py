"""Scenes: what an image shows, and how the training data of a world samples and renders them.

Images are float32 tensors in [-1, 1], shape (B, 3, 32, 32).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.emoji.world import STYLES, Content, World

TRUE_CAPTION_FRACTION = 0.55
# The hidden bias behind the paper's diversity argument: an image with a true caption is more often a cartoon.
_STYLE_GIVEN_TRUE = (0.46, 0.18, 0.18, 0.18)
_STYLE_GIVEN_FALSE = (0.16, 0.28, 0.28, 0.28)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What one image shows.

    Attributes:
        content: one name per part of the world, None for a part that is absent.
        style: one of `STYLES`; never part of a caption.
    """

    content: Content
    style: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes of a world's networks and of their training.

    Attributes:
        unet_widths: channels of the UNet's two resolutions.
        autoencoder_steps: optimizer steps of `autoencoder_batch_size` images.
        autoencoder_batch_size: images per step of the autoencoder.
        oracle_steps: optimizer steps of 96 images.
        clip_steps: optimizer steps of 96 images.
        captioner_steps: optimizer steps of 64 images.
        denoiser_steps: optimizer steps of `denoiser_batch_size` images.
        denoiser_batch_size: images per step of the denoiser.
        denoiser_images: captioned images in the training data of the denoiser.
    """

    unet_widths: tuple[int, int]
    autoencoder_steps: int
    autoencoder_batch_size: int
    oracle_steps: int
    clip_steps: int
    captioner_steps: int
    denoiser_steps: int
    denoiser_batch_size: int
    denoiser_images: int


class SceneSource(ABC):
    """Samples and renders the scenes of a world.

    Attributes:
        world: the vocabulary.
        prompts: captions of the model's training data.
        measured: prompts by their name in the model card, each measured alone.
        sizes: sizes of the networks and of their training.
        varies_places: whether sprites vary in place and size in the model's own training data; the judges' always do.
        template: the form of the prompts, for the model card.
        false_captions: how a false caption differs from its image, for the model card.
        history: how the training of the packaged weights differed from one run, for the model card.
    """

    world: World
    prompts: tuple[str, ...]
    measured: Mapping[str, tuple[str, ...]]
    sizes: Sizes
    varies_places: bool
    template: str
    false_captions: str
    history: str

    @abstractmethod
    def any_content(self, rng: np.random.Generator, *, partial_fraction: float) -> Content:
        """Sample any content; a fraction of the contents lack a part."""

    @abstractmethod
    def false_content(self, content: Content, rng: np.random.Generator) -> Content:
        """Sample the content of an image whose caption is that of `content`, and false."""

    @abstractmethod
    def contrasting_contents(self, rng: np.random.Generator) -> Sequence[Content]:
        """Sample one content and three that differ from it in one part: the hard negatives of CLIP."""

    @abstractmethod
    def captions(self, contents: Sequence[Content], rng: np.random.Generator) -> Mapping[str, Content]:
        """Return the captions that CLIP compares images with: a true one of each of `contents`, and others."""

    @abstractmethod
    def render(self, scene: Scene, rng: np.random.Generator, *, varies_places: bool = True) -> np.ndarray:
        """Render a scene with a random background; random places and sizes of its sprites can be switched off.

        Returns:
            uint8 image, shape (32, 32, 3).
        """


def choice(rng: np.random.Generator, names: Sequence[str]) -> str:
    """Choose one name, all equally likely."""
    return names[int(rng.integers(len(names)))]


def other(rng: np.random.Generator, names: Sequence[str], name: str | None) -> str:
    """Choose another name, all equally likely."""
    return choice(rng, tuple(each for each in names if each != name))


def any_scene(source: SceneSource, rng: np.random.Generator, *, partial_fraction: float = 0.25) -> Scene:
    """Sample a scene of any content and style; a fraction of the scenes lack a part."""
    return Scene(content=source.any_content(rng, partial_fraction=partial_fraction), style=choice(rng, STYLES))


def captioned_scene(source: SceneSource, rng: np.random.Generator) -> tuple[str, Scene]:
    """Sample a caption and a scene, as noisy as web data: true with probability `TRUE_CAPTION_FRACTION`."""
    caption = choice(rng, source.prompts)
    content = source.world.parse(caption)
    assert content is not None
    is_true = rng.random() < TRUE_CAPTION_FRACTION
    style = str(rng.choice(STYLES, p=_STYLE_GIVEN_TRUE if is_true else _STYLE_GIVEN_FALSE))
    return caption, Scene(content=content if is_true else source.false_content(content, rng), style=style)


def render_scenes(
    source: SceneSource, scenes: Sequence[Scene], rng: np.random.Generator, *, varies_places: bool = True
) -> Float[Tensor, "B 3 32 32"]:
    """Render scenes."""
    stacked = np.stack([source.render(scene, rng, varies_places=varies_places) for scene in scenes])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
