"""The vocabulary of the emoji world: animals, activities and hidden styles of a scene.

A scene is the content of an image: an animal or none, an activity or none, and a style that no prompt
mentions. The prompts are the paper's template 1, "a [animal] [activity]" (arXiv 2503.11240, Appendix H).
"""

from dataclasses import dataclass

ANIMALS = (
    "cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep", "deer", "cow", "goat", "lion",
    "tiger", "bear", "raccoon", "fox", "wolf", "lizard", "beetle", "ant", "butterfly", "fish", "shark", "whale",
    "dolphin", "squirrel", "mouse", "rat", "snake", "turtle", "frog", "chicken", "duck", "goose", "bee", "pig",
    "turkey", "fly", "llama", "camel", "bat", "gorilla", "hedgehog", "kangaroo",
)  # fmt: skip
ACTIVITIES = ("riding a bike", "playing chess", "washing dishes")
STYLES = ("cartoon", "landscape", "sketch", "night")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The content of one image.

    Attributes:
        animal: one of `ANIMALS`, or None if there is no animal.
        activity: one of `ACTIVITIES`, or None if there is no activity.
        style: one of `STYLES`; never part of a caption.
    """

    animal: str | None
    activity: str | None
    style: str

    @property
    def caption(self) -> str:
        """The true caption: "a bear riding a bike", "a bear" or "riding a bike"."""
        parts = (f"a {self.animal}" if self.animal else "", self.activity or "")
        return " ".join(part for part in parts if part)


def parse_prompt(prompt: str) -> tuple[str, str] | None:
    """Parse animal and activity from a template-1 prompt.

    Returns:
        (animal, activity), or None if the prompt is not one of the emoji world's.

    >>> parse_prompt("a bear riding a bike")
    ('bear', 'riding a bike')
    >>> parse_prompt("a red apple") is None
    True
    """
    words = prompt.strip().lower().split(maxsplit=2)
    if len(words) == 3 and words[0] in ("a", "an") and words[1] in ANIMALS and words[2] in ACTIVITIES:
        return words[1], words[2]
    return None


def all_prompts() -> list[str]:
    """All 135 prompts of the world: 45 animals times 3 activities."""
    return [f"a {animal} {activity}" for animal in ANIMALS for activity in ACTIVITIES]
