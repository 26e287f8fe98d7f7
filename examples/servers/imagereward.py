# /// script
# requires-python = ">=3.10"
# dependencies = ["image-reward==1.5", "transformers<4.56", "clip @ git+https://github.com/openai/CLIP.git"]
# ///
"""A server of ImageReward (package image-reward 1.5, Apache-2.0; arXiv 2304.05977), which needs an older transformers.

    uv run examples/servers/imagereward.py 8009    # or: pip install the dependencies above, and python
    b2diffurl train RECIPE --reward remote:http://127.0.0.1:8009

The weights, THUDM/ImageReward on the Hugging Face Hub (1.79 GB, Apache-2.0), are downloaded on the first start. CLIP is
imported by image-reward, which does not declare it. Written from the source code of the package; not run with its
weights.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1]))


def main(port: int, device: str) -> None:
    """Load the model, and serve it."""
    model: Any = import_module("ImageReward").load("ImageReward-v1.0", device=device)

    @torch.no_grad()
    def score(images: list[Image.Image], prompts: list[str]) -> list[float]:
        return [float(model.score(prompt, image)) for prompt, image in zip(prompts, images, strict=True)]

    import_module("reward_server").serve(score, name="imagereward", port=port)


if __name__ == "__main__":
    main(int(sys.argv[1]), *(sys.argv[2:] or ["cuda"]))
