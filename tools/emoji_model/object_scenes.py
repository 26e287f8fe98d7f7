"""Scenes of the world `emoji-objects`: one fruit in a color, or two objects in a relation."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from b2diffurl.emoji.world import Content
from b2diffurl.emoji.worlds import COLORS, FRUITS, OBJECTS, OBJECTS_WORLD, PREDICATES, colored, related
from b2diffurl.prompts.lists import load_prompts
from tools.emoji_model import render
from tools.emoji_model.scenes import Scene, SceneSource, Sizes, choice, other

_EMOJI = render.emoji_of(
    (FRUITS, "🍎 🍌 🍊 🍓 🍇 🍉 🥝 🥭 🍐 🍍 🍑 🫐 🍋 🍋‍🟩 🥑 🍒 🥕 🥦 🍅 🥒 🥬 🫑 🍠 🧅 🧄 🍆 🫛 🌽"),
    (
        OBJECTS,
        "🪑 ☂ 🚗 🛣 🛞 🚆 ✈ 👜 🐶 ⛵ ☕ 👕 🧍 🛋 👓 🙂 🏺 🧳 🪁 ⚽ 🥣 🍽 🏢 🚚 🍾 🐻 ⌚ 🧥 🏍 🗼 🐱 🗑 🗄 📱 🖥 🚌",
    ),
)
# Colors of the shadows, the middle and the lights of a sprite. Without a color, a sprite is gray.
_SHADES: dict[str | None, tuple[float, float, float]] = {
    "red": (0.85, 0.1, 0.1), "green": (0.2, 0.65, 0.2), "yellow": (0.98, 0.85, 0.1), "brown": (0.5, 0.3, 0.12),
    "orange": (0.98, 0.52, 0.05), "purple": (0.5, 0.2, 0.65), "blue": (0.15, 0.35, 0.9), "pink": (0.98, 0.55, 0.75),
    "white": (0.93, 0.93, 0.93), "black": (0.12, 0.12, 0.12), None: (0.5, 0.5, 0.5),
}  # fmt: skip
_SHADOW, _LIGHT = 0.45, 0.5
_FRUIT_PIXELS = (24, 25, 26)
_DISC_PIXELS = 20
_OBJECT_PIXELS = {"on": (15, 16), "on the left of": (15, 16), "in the front of": (17, 18)}
_ALONE_PIXELS = (17, 18, 19)
_CENTER = (16, 16)
_LISTED_FRACTION = 0.5  # of the contents are those of the prompt lists, the others any
_LISTS = {
    template: tuple(load_prompts(f"emoji-template{template}-{split}") for split in ("train", "test"))
    for template in (2, 3)
}


class ObjectScenes(SceneSource):
    """Scenes of the paper's templates 2 and 3."""

    world = OBJECTS_WORLD
    prompts = tuple(prompt for lists in _LISTS.values() for prompts in lists for prompt in prompts)
    measured: Mapping[str, tuple[str, ...]] = {
        f"template {template}, {split} prompts": prompts
        for template, lists in _LISTS.items()
        for split, prompts in zip(("training", "held-out"), lists, strict=True)
    }
    sizes = Sizes(
        unet_widths=(40, 64),
        autoencoder_steps=1200,
        autoencoder_batch_size=32,
        oracle_steps=1000,
        clip_steps=1000,
        captioner_steps=1500,
        denoiser_steps=5000,
        denoiser_batch_size=64,
        denoiser_images=25_600,
    )
    varies_places = False  # ours: it learns two objects in fewer steps
    template = '"[color] [fruit/vegetable]" and "[object 1] [predicate] [object 2]"'
    false_captions = "no color, no fruit, one object alone, another color, fruit or object, another arrangement"
    history = (
        "in several runs, the first 300 steps of the autoencoder with 64 images and the first 1,700 of the\n"
        "denoiser with places that vary"
    )

    def any_content(self, rng: np.random.Generator, *, partial_fraction: float) -> Content:
        """Sample a color and a fruit or two related objects, equally likely; or a part of them."""
        content = self._listed(rng) if rng.random() < _LISTED_FRACTION else self._any(rng)
        return self._partial(content, rng) if rng.random() < partial_fraction else content

    def false_content(self, content: Content, rng: np.random.Generator) -> Content:
        """Sample, equally likely, a content that lacks one part or the other, or one with another value of a part."""
        fruit, color, predicate, _ = content
        if predicate is None:
            contents = (
                colored(color, None), colored(None, fruit), colored(other(rng, COLORS, color), fruit),
                colored(color, other(rng, FRUITS, fruit)),
            )  # fmt: skip
        else:
            contents = (*_each_alone(content), *_other_objects(content, rng), _other_arrangement(content, rng))
        return contents[rng.integers(len(contents))]

    def contrasting_contents(self, rng: np.random.Generator) -> Sequence[Content]:
        """Sample a content, one with another color or arrangement, one with another fruit or object, and a part."""
        one = self.any_content(rng, partial_fraction=0)
        fruit, color, predicate, _ = one
        partial = self._partial(one, rng)
        if predicate is None:
            return one, colored(other(rng, COLORS, color), fruit), colored(color, other(rng, FRUITS, fruit)), partial
        return one, _other_arrangement(one, rng), _other_objects(one, rng)[rng.integers(2)], partial

    def captions(self, contents: Sequence[Content], rng: np.random.Generator) -> Mapping[str, Content]:
        """Return the prompts of the lists, and one caption of each content."""
        own = {self._caption(content, rng): content for content in contents}
        return {prompt: self.world.contents[prompt] for prompt in self.prompts} | own

    def render(self, scene: Scene, rng: np.random.Generator, *, varies_places: bool = True) -> np.ndarray:
        """Render a large fruit in its color, or two objects at the places of their relation, or one alone."""
        subject, color, predicate, second = scene.content
        places = rng if varies_places else None
        canvas = render.background(scene.style, rng)
        if color or subject in FRUITS:
            patch = _fruit(subject, color, render.choose_size(_FRUIT_PIXELS, places))
            render.paste(canvas, patch, _CENTER, places)
            return render.finish(canvas, scene.style, keep_color=True)
        assert subject
        if predicate and second:
            _paste_related(canvas, (subject, second), predicate, places)
        else:
            patch = render.sprite(_EMOJI[subject], render.choose_size(_ALONE_PIXELS, places))
            render.paste(canvas, patch, _CENTER, places)
        return render.finish(canvas, scene.style)

    def _caption(self, content: Content, rng: np.random.Generator) -> str:
        """Return a true caption, each of the two of a relation in half of the cases."""
        is_converse = rng.random() < 0.5
        captions = self.world.describe(content)
        return captions[-1] if is_converse else captions[0]

    def _listed(self, rng: np.random.Generator) -> Content:
        lists = _LISTS[2 + int(rng.integers(2))]
        return self.world.contents[choice(rng, [prompt for prompts in lists for prompt in prompts])]

    def _any(self, rng: np.random.Generator) -> Content:
        if rng.random() < 0.5:
            return colored(choice(rng, COLORS), choice(rng, FRUITS))
        return related(choice(rng, OBJECTS), choice(rng, PREDICATES), choice(rng, OBJECTS))

    def _partial(self, content: Content, rng: np.random.Generator) -> Content:
        fruit, color, predicate, _ = content
        parts = (colored(color, None), colored(None, fruit)) if predicate is None else _each_alone(content)
        return parts[rng.integers(2)]


def _each_alone(content: Content) -> tuple[Content, Content]:
    return (content[0], None, None, None), (content[3], None, None, None)


def _other_objects(content: Content, rng: np.random.Generator) -> tuple[Content, Content]:
    subject, _, predicate, second = content
    return (
        (other(rng, OBJECTS, subject), None, predicate, second),
        (subject, None, predicate, other(rng, OBJECTS, second)),
    )


def _other_arrangement(content: Content, rng: np.random.Generator) -> Content:
    subject, _, _, second = content
    pairs = dict.fromkeys(((subject, second), (second, subject)))
    contents: list[Content] = [(first, None, predicate, last) for first, last in pairs for predicate in PREDICATES]
    contents.remove(content)
    return contents[rng.integers(len(contents))]


@cache
def _fruit(fruit: str | None, color: str | None, pixels: int) -> np.ndarray:
    """Make the sprite of a fruit in a color: its shading between shadow and light; a disc without a fruit."""
    middle = render.rgb(_SHADES[color])
    if fruit is None:
        y, x = np.mgrid[:_DISC_PIXELS, :_DISC_PIXELS] - (_DISC_PIXELS - 1) / 2
        alpha = np.clip(_DISC_PIXELS / 2 - np.hypot(x, y), 0, 1).astype(np.float32)
        shading = np.full_like(alpha, 0.5)
    else:
        patch = render.sprite(_EMOJI[fruit], pixels)
        alpha = patch[..., 3]
        luminance = (patch[..., :3] @ render.rgb(render.LUMINANCE)) / np.maximum(alpha, 1e-3)
        low, high = np.percentile(luminance[alpha > 0.5], (5, 95))
        shading = np.clip((luminance - low) / max(high - low, 1e-3), 0, 1)
    shadow, light = middle * _SHADOW, middle + (1 - middle) * _LIGHT
    below, above = np.clip(2 * shading, 0, 1)[..., None], np.clip(2 * shading - 1, 0, 1)[..., None]
    shaded = shadow + (middle - shadow) * below + (light - middle) * above
    return np.concatenate([shaded * alpha[..., None], alpha[..., None]], axis=-1).astype(np.float32)


def _paste_related(canvas: np.ndarray, names: tuple[str, str], predicate: str, rng: np.random.Generator | None) -> None:
    """Place two objects: the subject above and touching, left, or in front, lower and partly covering the other."""
    first, second = (render.sprite(_EMOJI[name], render.choose_size(_OBJECT_PIXELS[predicate], rng)) for name in names)
    if predicate == "on":
        top = render.SIZE - 1 - second.shape[0]
        places = (16, top + 2 - first.shape[0] // 2), (16, top + second.shape[0] // 2)
    elif predicate == "on the left of":
        places = (8, 17), (24, 17)
    else:
        side = 3 if rng is None else 3 * int(rng.choice((-1, 1)))
        places = (16 + side, 20), (16 - side, 11)
    for patch, place in ((second, places[1]), (first, places[0])):
        render.paste(canvas, patch, place, rng)
