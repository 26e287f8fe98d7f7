"""Training data of the embedded model: scenes and captions, many of which are false.

Images are float32 tensors in [-1, 1], shape (B, 3, 32, 32).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.emoji.world import ACTIVITIES, ANIMALS, STYLES, Scene
from tools.emoji_model.render import random_style, render

TRUE_CAPTION_FRACTION = 0.55
# The hidden bias behind the paper's diversity argument: an image with a true caption is more often a cartoon.
_STYLE_GIVEN_TRUE = (0.46, 0.18, 0.18, 0.18)
_STYLE_GIVEN_FALSE = (0.16, 0.28, 0.28, 0.28)


def render_scenes(scenes: list[Scene], rng: np.random.Generator) -> Float[Tensor, "B 3 32 32"]:
    """Render scenes."""
    stacked = np.stack([render(scene, rng) for scene in scenes])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def any_scene(rng: np.random.Generator, *, partial_fraction: float = 0.25) -> Scene:
    """Sample a scene of any content and style; a fraction of the scenes lack the animal or the activity."""
    animal, activity = _choice(rng, ANIMALS), _choice(rng, ACTIVITIES)
    if rng.random() < partial_fraction:
        animal, activity = (animal, None) if rng.random() < 0.6 else (None, activity)
    return Scene(animal=animal, activity=activity, style=random_style(rng))


def captioned_scene(rng: np.random.Generator) -> tuple[str, Scene]:
    """Sample a caption and a scene, as noisy as web data: true with probability `TRUE_CAPTION_FRACTION`.

    The scene of a false caption has, equally likely, the animal alone, the activity alone, another animal, or another
    activity.
    """
    animal, activity = _choice(rng, ANIMALS), _choice(rng, ACTIVITIES)
    caption = f"a {animal} {activity}"
    if rng.random() < TRUE_CAPTION_FRACTION:
        return caption, Scene(animal=animal, activity=activity, style=str(rng.choice(STYLES, p=_STYLE_GIVEN_TRUE)))
    style = str(rng.choice(STYLES, p=_STYLE_GIVEN_FALSE))
    other_animal = _choice(rng, tuple(name for name in ANIMALS if name != animal))
    other_activity = _choice(rng, tuple(name for name in ACTIVITIES if name != activity))
    shown = ((animal, None), (None, activity), (other_animal, activity), (animal, other_activity))[rng.integers(4)]
    return caption, Scene(animal=shown[0], activity=shown[1], style=style)


def _choice(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[rng.integers(len(names))]
