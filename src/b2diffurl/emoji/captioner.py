"""The captioner of an embedded world: a small network that names what an image shows, and the text that says so.

It stands in for LLaVA in the rewards `bert:emoji` and `bert:emoji-objects`. It shares neither architecture nor weights
with the scene oracle, nor weights with the CLIP (`tools/emoji_model`), and it makes mistakes of its own.

Shapes: B images of 3x32x32 floats in [0, 1].
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from b2diffurl.emoji import captioner_dir
from b2diffurl.emoji.world import Content, World

WEIGHTS_FILE = "captioner.safetensors"
_WIDTHS = (24, 48, 96)
_NUM_GROUPS = 8
_NUM_SUMMARY = 32
_NUM_HIDDEN = 96
_CHUNK_SIZE = 256


class _Residual(nn.Module):
    """Two 3x3 convolutions around a skip connection; the width and the number of pixels stay."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(_NUM_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.GroupNorm(_NUM_GROUPS // 2, width // 2),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, padding=1),
        )

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return x + self.inner(x)


class SceneCaptioner(nn.Module):
    """Residual network with one head per part of a world, whose answers it writes as text.

    Args:
        world: the world whose images it describes.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        stages: list[nn.Module] = [nn.Conv2d(3, _WIDTHS[0], 4, stride=2, padding=1)]
        for width, following in zip(_WIDTHS, (*_WIDTHS[1:], 0), strict=True):
            stages.append(_Residual(width))
            if following:
                stages.append(nn.Conv2d(width, following, 3, stride=2, padding=1))
        stages += [nn.GroupNorm(_NUM_GROUPS, _WIDTHS[-1]), nn.SiLU(), nn.Conv2d(_WIDTHS[-1], _NUM_SUMMARY, 1)]
        self.body = nn.Sequential(*stages)  # to 4x4: places matter
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(_NUM_SUMMARY * 16, _NUM_HIDDEN), nn.SiLU())
        self.heads = nn.ModuleList(nn.Linear(_NUM_HIDDEN, len(part.names) + 1) for part in world.parts)

    def forward(self, images: Float[Tensor, "B 3 32 32"]) -> list[Tensor]:
        """Compute the logits of every part, B x classes; the last class is "absent"."""
        hidden = self.hidden(self.body(images * 2 - 1))
        return [head(hidden) for head in self.heads]

    @torch.no_grad()
    def look(self, images: Float[Tensor, "B 3 32 32"]) -> list[Content]:
        """Return what each image shows: the most probable name of every part, None for an absent one."""
        pixels = images.float().to(next(self.parameters()).device)
        classes = [torch.stack([logits.argmax(-1) for logits in self(chunk)], 1) for chunk in pixels.split(_CHUNK_SIZE)]
        return [self.world.content(row) for row in torch.cat(classes).tolist()]


def load_captioner(world: World, directory: Path | None = None) -> SceneCaptioner:
    """Load the captioner's weights of a world, by default the packaged ones."""
    captioner = SceneCaptioner(world)
    weights = load_file((directory or captioner_dir(world.name)) / WEIGHTS_FILE)
    captioner.load_state_dict({name: value.float() for name, value in weights.items()})
    return captioner.eval().requires_grad_(False)
