"""The emoji world: a small text-to-image model and its judges, included in the package.

The model is a `StableDiffusionPipeline` directory, the reward a `CLIPModel` directory; any diffusers or
transformers code loads them. MODEL_CARD.md beside the weights describes their training and lists their scores.
"""

from pathlib import Path

_WEIGHTS = Path(__file__).parent / "weights"


def model_dir() -> Path:
    """Directory of the pipeline, in diffusers format."""
    return _WEIGHTS / "model"


def clip_dir() -> Path:
    """Directory of the reward's `CLIPModel` and processor, in transformers format."""
    return _WEIGHTS / "clip"


def oracle_dir() -> Path:
    """Directory of the scene oracle: the independent judge, never a reward."""
    return _WEIGHTS / "oracle"
