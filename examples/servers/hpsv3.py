# /// script
# requires-python = ">=3.10"
# dependencies = ["hpsv3==1.0.0", "matplotlib", "tensorboard"]
# ///
"""A server of HPSv3 (package hpsv3 1.0.0, MIT), which needs transformers 4.45.2 and so an environment of its own.

    uv run examples/servers/hpsv3.py 8009          # or: pip install the dependencies above, and python
    b2diffurl train RECIPE --reward remote:http://127.0.0.1:8009

The weights, MizzenAI/HPSv3 on the Hugging Face Hub, are downloaded on the first start. matplotlib and tensorboard are
imported by hpsv3, which does not declare them. Written from the source code of the package; not run with its weights.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image

# This file has the name of the package, which must be found first.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
sys.path.append(str(Path(__file__).resolve().parents[1]))


def main(port: int, device: str) -> None:
    """Load the model, and serve it."""
    model: Any = import_module("hpsv3").HPSv3RewardInferencer(device=device)

    @torch.no_grad()
    def score(images: list[Image.Image], prompts: list[str]) -> list[float]:
        return model.reward(image_paths=images, prompts=prompts)[:, 0].tolist()  # mean; column 1 is the deviation

    import_module("reward_server").serve(score, name="hpsv3", port=port)


if __name__ == "__main__":
    main(int(sys.argv[1]), *(sys.argv[2:] or ["cuda"]))
