"""b2diffurl: fine-tune text-to-image diffusion models by reinforcement learning from sparse rewards.

B²-DiffuRL (Hu et al., CVPR 2025, arXiv 2503.11240): backward progressive training and branch-based sampling, under
DDPO and other objectives. Importing the package is cheap; heavy libraries are imported on first use.

    import b2diffurl

    result = b2diffurl.train("emoji-quickstart", output="runs/first")
    b2diffurl.sample("emoji", ["a bear riding a bike"], lora=result)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from b2diffurl.errors import RunStopped, UserError

if TYPE_CHECKING:
    from b2diffurl.algorithm.interfaces import Objective
    from b2diffurl.analysis.compare import compare
    from b2diffurl.cli.api import evaluate, sample, train
    from b2diffurl.rewards.interface import Reward
    from b2diffurl.run import recipes
    from b2diffurl.run.settings import Run
    from b2diffurl.training.result import Result

__all__ = [
    "Objective",
    "Result",
    "Reward",
    "Run",
    "RunStopped",
    "UserError",
    "__version__",
    "compare",
    "evaluate",
    "recipes",
    "sample",
    "train",
]
__version__ = "0.1.0"

_API = "b2diffurl.cli.api"
_LAZY = {
    "Objective": "b2diffurl.algorithm.interfaces",
    "Result": "b2diffurl.training.result",
    "Reward": "b2diffurl.rewards.interface",
    "Run": "b2diffurl.run.settings",
    "compare": "b2diffurl.analysis.compare",
    "evaluate": _API,
    "recipes": "b2diffurl.run",
    "sample": _API,
    "train": _API,
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'b2diffurl' has no attribute {name!r}")
    if name == "recipes":
        return import_module("b2diffurl.run.recipes")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
