"""The scene oracle: classifies the content of an image. It is never a reward, so it detects reward hacking.

A small convolutional network per world, trained only on images with true labels (`tools/emoji_model`). It shares
neither architecture nor loss nor weights with the CLIP reward.

Shapes: B images of 3x32x32 floats in [0, 1]; P parts of a content.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from b2diffurl.emoji import oracle_dir
from b2diffurl.emoji.world import STYLES, World

WEIGHTS_FILE = "oracle.safetensors"
NUM_FEATURES = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Predictions of the oracle for B images.

    Attributes:
        content: class index of each part of the world, in order; the last class of a part is "absent".
        style: probabilities of `STYLES`.
        features: activations of the last hidden layer, the input of the Inception Score.
    """

    content: Int[Tensor, "B P"]
    style: Float[Tensor, "B 4"]
    features: Float[Tensor, "B 128"]


class SceneOracle(nn.Module):
    """Convolutional classifier with one head per part of a world, and one for the style.

    Args:
        world: the world whose images it classifies.
    """

    def __init__(self, world: World) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for width in (inputs, outputs):
                layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            return [*layers, nn.MaxPool2d(2)]

        self.world = world
        self.body = nn.Sequential(*stage(3, 24), *stage(24, 48), *stage(48, 96), nn.Flatten())
        self.hidden = nn.Linear(96 * 4 * 4, NUM_FEATURES)
        for part in world.parts:  # the weights of a head are stored under the name of its part
            self.add_module(part.name, nn.Linear(NUM_FEATURES, len(part.names) + 1))
        self.style = nn.Linear(NUM_FEATURES, len(STYLES))

    def forward(self, images: Float[Tensor, "B 3 32 32"]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Compute the logits of every part, the logits of the style, and the features."""
        features = self.hidden(self.body(images * 2 - 1))
        active = torch.relu(features)
        return [self.get_submodule(part.name)(active) for part in self.world.parts], self.style(active), features

    @torch.no_grad()
    def judge(self, images: Float[Tensor, "B 3 32 32"]) -> Verdict:
        """Classify images."""
        parts, style, features = self(images.float())
        content = torch.stack([logits.argmax(-1) for logits in parts], dim=-1)
        return Verdict(content=content, style=style.softmax(-1), features=features)

    def scene_is_right(self, verdict: Verdict, prompts: Sequence[str]) -> Bool[Tensor, " B"]:
        """Whether each image shows every part that its prompt mentions.

        Args:
            verdict: the predictions for B images.
            prompts: one prompt of the world per image.
        """
        contents = [content for content in map(self.world.parse, prompts) if content is not None]
        wanted = torch.tensor([self.world.classes(content) for content in contents])
        mentioned = torch.tensor([[name is not None for name in content] for content in contents])
        return ((verdict.content == wanted) | ~mentioned).all(dim=1)


def load_oracle(world: World, directory: Path | None = None) -> SceneOracle:
    """Load the oracle's weights of a world, by default the packaged ones."""
    oracle = SceneOracle(world)
    weights = load_file((directory or oracle_dir(world.name)) / WEIGHTS_FILE)
    oracle.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    )
    return oracle.eval().requires_grad_(False)
