"""The scene sources by the name of their model."""

from b2diffurl.emoji import EMOJI, EMOJI_OBJECTS
from tools.emoji_model.animal_scenes import AnimalScenes
from tools.emoji_model.object_scenes import ObjectScenes
from tools.emoji_model.scenes import SceneSource

SOURCES: dict[str, SceneSource] = {EMOJI: AnimalScenes(), EMOJI_OBJECTS: ObjectScenes()}
