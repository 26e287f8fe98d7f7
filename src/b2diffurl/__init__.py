"""b2diffurl: fine-tune text-to-image diffusion models by reinforcement learning when the reward comes only at the end.

B²-DiffuRL (Hu et al., CVPR 2025, arXiv 2503.11240): backward progressive training and branch-based sampling, under
DDPO and other objectives. Importing the package is cheap; the heavy libraries are loaded when a model is.

    import b2diffurl

    run = b2diffurl.run.recipes.emoji_quickstart()
    b2diffurl.train(run, output="runs/first")
"""

from typing import TYPE_CHECKING, Any

from b2diffurl.errors import RunStopped, UserError

if TYPE_CHECKING:
    from b2diffurl.run import recipes
    from b2diffurl.run.settings import Run
    from b2diffurl.training.trainer import train

__all__ = ["Run", "RunStopped", "UserError", "__version__", "recipes", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `recipes`, `Run` and `train` on first use."""
    import importlib

    homes = {"recipes": "b2diffurl.run.recipes", "Run": "b2diffurl.run.settings", "train": "b2diffurl.training.trainer"}
    if name not in homes:
        raise AttributeError(f"module 'b2diffurl' has no attribute {name!r}")
    module = importlib.import_module(homes[name])
    return module if name == "recipes" else getattr(module, name)
