"""The scene oracle: classifies the content of an image. It is never a reward, so it detects reward hacking.

A small convolutional network, trained only on images with true labels (`tools/emoji_model`). It shares neither
architecture nor loss nor weights with the CLIP reward.

Shapes: B images of 3x32x32 floats in [0, 1].
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from b2diffurl.emoji import oracle_dir
from b2diffurl.emoji.world import ACTIVITIES, ANIMALS, STYLES

WEIGHTS_FILE = "oracle.safetensors"
NUM_FEATURES = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Predictions of the oracle for B images.

    Attributes:
        animal: index into `ANIMALS`, or `len(ANIMALS)` for "no animal".
        activity: index into `ACTIVITIES`, or `len(ACTIVITIES)` for "no activity".
        style: probabilities of `STYLES`.
        features: activations of the last hidden layer, the input of the Inception Score.
    """

    animal: Int[Tensor, " B"]
    activity: Int[Tensor, " B"]
    style: Float[Tensor, "B 4"]
    features: Float[Tensor, "B 128"]


class SceneOracle(nn.Module):
    """Convolutional classifier with three heads: animal or none, activity or none, style."""

    def __init__(self) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for width in (inputs, outputs):
                layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            return [*layers, nn.MaxPool2d(2)]

        self.body = nn.Sequential(*stage(3, 24), *stage(24, 48), *stage(48, 96), nn.Flatten())
        self.hidden = nn.Linear(96 * 4 * 4, NUM_FEATURES)
        self.animal = nn.Linear(NUM_FEATURES, len(ANIMALS) + 1)
        self.activity = nn.Linear(NUM_FEATURES, len(ACTIVITIES) + 1)
        self.style = nn.Linear(NUM_FEATURES, len(STYLES))

    def forward(self, images: Float[Tensor, "B 3 32 32"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the logits of animal, activity and style, and the features."""
        features = self.hidden(self.body(images * 2 - 1))
        active = torch.relu(features)
        return self.animal(active), self.activity(active), self.style(active), features

    @torch.no_grad()
    def judge(self, images: Float[Tensor, "B 3 32 32"]) -> Verdict:
        """Classify images."""
        animal, activity, style, features = self(images.float())
        return Verdict(
            animal=animal.argmax(-1), activity=activity.argmax(-1), style=style.softmax(-1), features=features
        )


def load_oracle(directory: Path | None = None) -> SceneOracle:
    """Load the oracle's weights, by default the packaged ones."""
    oracle = SceneOracle()
    weights = load_file((directory or oracle_dir()) / WEIGHTS_FILE)
    oracle.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    )
    return oracle.eval().requires_grad_(False)
