"""The worlds of the embedded models, for the three prompt templates of the paper (arXiv 2503.11240, Appendix H).

`emoji` has template 1, "a [animal] [activity]"; `emoji-objects` has template 2, "[color] [fruit/vegetable]", and
template 3, "[object 1] [predicate] [object 2]".
"""

from collections.abc import Iterator, Sequence

from b2diffurl.emoji import EMOJI, EMOJI_OBJECTS
from b2diffurl.emoji.world import Content, Part, World

ANIMALS = (
    "cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep", "deer", "cow", "goat", "lion",
    "tiger", "bear", "raccoon", "fox", "wolf", "lizard", "beetle", "ant", "butterfly", "fish", "shark", "whale",
    "dolphin", "squirrel", "mouse", "rat", "snake", "turtle", "frog", "chicken", "duck", "goose", "bee", "pig",
    "turkey", "fly", "llama", "camel", "bat", "gorilla", "hedgehog", "kangaroo",
)  # fmt: skip
ACTIVITIES = ("riding a bike", "playing chess", "washing dishes")
COLORS = ("red", "green", "yellow", "brown", "orange", "purple", "blue", "pink", "white", "black")
FRUITS = (  # and vegetables
    "apple", "banana", "orange", "strawberry", "grape", "watermelon", "kiwi", "mango", "pear", "pineapple", "peach",
    "blueberry", "lemon", "lime", "avocado", "cherry", "carrot", "broccoli", "tomato", "cucumber", "lettuce",
    "bell pepper", "sweet potato", "onion", "garlic", "eggplant", "peas", "corn",
)  # fmt: skip
OBJECTS = (
    "chair", "umbrella", "car", "street", "wheel", "train", "airplane", "bag", "dog", "boat", "cup", "shirt", "person",
    "sofa", "glasses", "face", "vase", "suitcase", "kite", "ball", "bowl", "plate", "building", "truck", "bottle",
    "bear", "watch", "jacket", "motorcycle", "tower", "cat", "trash can", "cabinet", "phone", "monitor", "bus",
)  # fmt: skip
PREDICATES = ("on", "on the left of", "in the front of")
# "boat under dog" asks for the same image as "dog on boat", so these are stored with the objects exchanged.
CONVERSES = {"under": "on", "on the right of": "on the left of", "behind": "in the front of"}


def colored(color: str | None, fruit: str | None) -> Content:
    """Return the content of a template-2 image."""
    return fruit, color, None, None


def related(subject: str, predicate: str, other: str) -> Content:
    """Return the content of a template-3 image: the subject is the upper, the left or the front object.

    >>> related("boat", "under", "dog")
    ('dog', None, 'on', 'boat')
    """
    if predicate in CONVERSES:
        return other, None, CONVERSES[predicate], subject
    return subject, None, predicate, other


def describe_animal(content: Content) -> tuple[str, ...]:
    """Return the caption of a template-1 image.

    >>> describe_animal(("bear", "riding a bike")), describe_animal(("bear", None)), describe_animal((None, None))
    (('a bear riding a bike',), ('a bear',), ('',))
    """
    animal, activity = content
    return (" ".join(text for text in (animal and f"a {animal}", activity) if text),)


def describe_objects(content: Content) -> tuple[str, ...]:
    """Return the caption of a template-2 image, or the two of a template-3 image.

    >>> describe_objects(colored("red", "apple")), describe_objects(related("boat", "under", "dog"))
    (('red apple',), ('dog on boat', 'boat under dog'))
    """
    fruit, color, predicate, second = content
    # "orange" alone is the fruit.
    subject = " ".join(text for text in (color, fruit) if text) if fruit else color and f"{color} color"
    if subject and predicate and second:
        converse = next(text for text, name in CONVERSES.items() if name == predicate)
        return f"{subject} {predicate} {second}", f"{second} {converse} {subject}"
    return (" ".join(text for text in (subject, second) if text),)


def _objects_contents() -> Iterator[tuple[str, Content]]:
    for color in COLORS:
        yield from ((f"{color} {fruit}", colored(color, fruit)) for fruit in FRUITS)
    for predicate in (*PREDICATES, *CONVERSES):
        for subject in OBJECTS:
            yield from ((f"{subject} {predicate} {other}", related(subject, predicate, other)) for other in OBJECTS)


ANIMALS_WORLD = World(
    name=EMOJI,
    parts=(Part(name="animal", names=ANIMALS), Part(name="activity", names=ACTIVITIES)),
    contents={f"a {animal} {activity}": (animal, activity) for animal in ANIMALS for activity in ACTIVITIES},
    describe=describe_animal,
)
OBJECTS_WORLD = World(
    name=EMOJI_OBJECTS,
    parts=(
        Part(name="subject", names=(*FRUITS, *OBJECTS)),
        Part(name="color", names=COLORS),
        Part(name="predicate", names=PREDICATES),
        Part(name="object", names=OBJECTS),
    ),
    contents=dict(_objects_contents()),
    describe=describe_objects,
)
WORLDS = {world.name: world for world in (ANIMALS_WORLD, OBJECTS_WORLD)}


def world_of(prompts: Sequence[str]) -> World | None:
    """Return the world that knows all prompts; None if there is none."""
    return next((world for world in WORLDS.values() if world.knows(prompts)), None)
