"""The emoji worlds: small text-to-image models and their judges, included in the package.

Each model is a `StableDiffusionPipeline` directory, its CLIP a `CLIPModel` directory; any diffusers or transformers
code loads them. The oracle and the captioner are networks of this package. MODEL_CARD.md beside the weights describes
their training and lists their scores.
"""

from pathlib import Path

EMOJI = "emoji"  # "a bear riding a bike": the paper's template 1
EMOJI_OBJECTS = "emoji-objects"  # "red apple" and "dog on boat": the paper's templates 2 and 3
_WEIGHTS = {EMOJI: "weights", EMOJI_OBJECTS: "weights-objects"}
EMBEDDED = tuple(_WEIGHTS)


def is_embedded(model: str) -> bool:
    """Whether a model is in the package.

    >>> is_embedded("emoji-objects"), is_embedded("CompVis/stable-diffusion-v1-4")
    (True, False)
    """
    return model in _WEIGHTS


def weights_dir(model: str = EMOJI) -> Path:
    """Directory with the weights of an embedded model and of its judges, and with their model card."""
    return Path(__file__).parent / _WEIGHTS[model]


def model_dir(model: str = EMOJI) -> Path:
    """Directory of an embedded model's pipeline, in diffusers format."""
    return weights_dir(model) / "model"


def clip_dir(model: str = EMOJI) -> Path:
    """Directory of the `CLIPModel` of the rewards, and of its processor, in transformers format."""
    return weights_dir(model) / "clip"


def oracle_dir(model: str = EMOJI) -> Path:
    """Directory of the scene oracle: the independent judge, never a reward."""
    return weights_dir(model) / "oracle"


def captioner_dir(model: str = EMOJI) -> Path:
    """Directory of the captioner of the reward `bert:MODEL`."""
    return weights_dir(model) / "captioner"
