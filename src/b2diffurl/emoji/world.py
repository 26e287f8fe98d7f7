"""A world: what the images of an embedded model can show, and the prompts that ask for it.

The content of an image is one name per part of the world, such as its animal and its activity; a part can be absent.
An image also has a hidden style, which no prompt mentions. `worlds.py` has the worlds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

STYLES = ("cartoon", "landscape", "sketch", "night")

Content = tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a content, such as the animal.

    Attributes:
        name: its name, which is that of the oracle's head too.
        names: what it can be.
    """

    name: str
    names: tuple[str, ...]

    def class_of(self, name: str | None) -> int:
        """Return the class index of one of `names`; the class of None, "absent", is the last."""
        return len(self.names) if name is None else self.names.index(name)

    def name_of(self, index: int) -> str | None:
        """Return the name of a class index; None for the last, "absent"."""
        return self.names[index] if index < len(self.names) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The vocabulary of an embedded model.

    Attributes:
        name: name of the model.
        parts: parts of a content, in order.
        contents: content by prompt, in lower case; None for a part that the prompt does not mention. Prompts that ask
            for equal images have equal contents.
        describe: gives the captions of a content, in the words of the prompts: one, or the two of a relation. A part
            that is absent is left out; the caption of nothing is empty.
    """

    name: str
    parts: tuple[Part, ...]
    contents: Mapping[str, Content]
    describe: Callable[[Content], tuple[str, ...]]

    def parse(self, prompt: str) -> Content | None:
        """Parse a prompt; upper case, repeated spaces, and "an" for "a" at its start make no difference.

        Returns:
            One name per part, None for a part that is not mentioned; None if the prompt is not one of this world's.
        """
        text = " ".join(prompt.lower().split())
        return self.contents.get("a " + text.removeprefix("an ") if text.startswith("an ") else text)

    def knows(self, prompts: Sequence[str]) -> bool:
        """Whether every prompt is one of this world's."""
        return all(self.parse(prompt) is not None for prompt in prompts)

    def classes(self, content: Content) -> list[int]:
        """Return the class index of each part."""
        return [part.class_of(name) for part, name in zip(self.parts, content, strict=True)]

    def content(self, classes: Sequence[int]) -> Content:
        """Return the content of the class indices of each part."""
        return tuple(part.name_of(index) for part, index in zip(self.parts, classes, strict=True))
