"""Scenes of the world `emoji`: an animal with an object that stands for its activity."""

from collections.abc import Mapping, Sequence

import numpy as np

from b2diffurl.emoji.world import Content
from b2diffurl.emoji.worlds import ACTIVITIES, ANIMALS, ANIMALS_WORLD
from tools.emoji_model import render
from tools.emoji_model.scenes import Scene, SceneSource, Sizes, choice, other

_EMOJI = render.emoji_of(
    (
        ANIMALS,
        "🐱 🐶 🐴 🐵 🐰 🦓 🕷 🐦 🐑 🦌 🐮 🐐 🦁 🐯 🐻 🦝 🦊 🐺 🦎 "
        "🪲 🐜 🦋 🐟 🦈 🐳 🐬 🐿 🐭 🐀 🐍 🐢 🐸 🐔 🦆 🪿 🐝 🐷 🦃 🪰 🦙 🐫 🦇 🦍 🦔 🦘",
    ),
    (ACTIVITIES, "🚲 ♟ 🍽"),
)
_ANIMAL_PIXELS = (17, 18, 19)
_ACTIVITY_PIXELS = {"riding a bike": (16, 17, 18), "playing chess": (16, 17, 18), "washing dishes": (15, 16, 17)}
# Centers of the animal and of the activity's object, in pixels (x, y), each with a jitter of one pixel.
_PLACES = {
    "riding a bike": ((16, 10), (16, 23)),
    "playing chess": ((10, 17), (25, 17)),
    "washing dishes": ((21, 10), (10, 23)),
}
_ALONE = (16, 16)


class AnimalScenes(SceneSource):
    """Scenes of the paper's template 1."""

    world = ANIMALS_WORLD
    prompts = tuple(ANIMALS_WORLD.contents)
    measured: Mapping[str, tuple[str, ...]] = {"": prompts}
    sizes = Sizes(
        unet_widths=(64, 96),
        autoencoder_steps=2700,
        autoencoder_batch_size=64,
        oracle_steps=1800,
        clip_steps=2000,
        captioner_steps=600,
        denoiser_steps=4000,
        denoiser_batch_size=128,
        denoiser_images=122_880,
    )
    varies_places = True
    template = '"a [animal] [activity]"'
    false_captions = "animal alone, activity alone, other animal, other activity"
    history = "in several runs, with some stages stopped early"

    def any_content(self, rng: np.random.Generator, *, partial_fraction: float) -> Content:
        """Sample an animal and an activity, or one of the two."""
        animal, activity = choice(rng, ANIMALS), choice(rng, ACTIVITIES)
        if rng.random() < partial_fraction:
            return (animal, None) if rng.random() < 0.6 else (None, activity)
        return animal, activity

    def false_content(self, content: Content, rng: np.random.Generator) -> Content:
        """Sample, equally likely, the animal alone, the activity alone, another animal, or another activity."""
        animal, activity = content
        contents = (
            (animal, None), (None, activity), (other(rng, ANIMALS, animal), activity),
            (animal, other(rng, ACTIVITIES, activity)),
        )  # fmt: skip
        return contents[rng.integers(len(contents))]

    def contrasting_contents(self, rng: np.random.Generator) -> Sequence[Content]:
        """Sample a content, one with any animal, one with any activity, and one that lacks a part."""
        one, second = (self.any_content(rng, partial_fraction=0) for _ in range(2))
        partial = (one[0], None) if rng.random() < 0.7 else (None, one[1])
        return one, (second[0], one[1]), (one[0], second[1]), partial

    def captions(self, contents: Sequence[Content], rng: np.random.Generator) -> Mapping[str, Content]:
        """Return all 183 captions of the world."""
        del contents, rng
        partial = [*((animal, None) for animal in ANIMALS), *((None, name) for name in ACTIVITIES)]
        return {**self.world.contents, **{self.world.describe(content)[0]: content for content in partial}}

    def render(self, scene: Scene, rng: np.random.Generator, *, varies_places: bool = True) -> np.ndarray:
        """Render the object of the activity, then the animal at its place."""
        canvas = render.background(scene.style, rng)
        animal, activity = scene.content
        places = rng if varies_places else None
        animal_place, activity_place = _PLACES[activity] if activity else (_ALONE, _ALONE)
        if activity:
            pixels = render.choose_size(_ACTIVITY_PIXELS[activity], places)
            render.paste(canvas, render.sprite(_EMOJI[activity], pixels), activity_place, places)
        if animal:
            pixels = render.choose_size(_ANIMAL_PIXELS, places)
            render.paste(canvas, render.sprite(_EMOJI[animal], pixels), animal_place, places)
        return render.finish(canvas, scene.style)
