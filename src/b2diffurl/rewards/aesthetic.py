"""The LAION aesthetic predictor, version 2: how much people like an image, whatever its prompt; about 1 to 10.

The public model (christophschuhmann/improved-aesthetic-predictor, `sac+logos+ava1-l14-linearMSE.pth`), which DDPO and
TRL use: linear layers of 768-1024-128-64-16-1 units on the unit-length image embedding of CLIP ViT-L/14. There is no
activation between them, and dropout acts in training only, so that the score is linear in the embedding.

Shapes: B images of 3 x H x W in [0, 1].
"""

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from b2diffurl.errors import UserError
from b2diffurl.rewards.builtin import RewardKind, RewardSettings
from b2diffurl.rewards.clip import HUB_ID, CLIPScore
from b2diffurl.rewards.facts import GIB_PER_GB, RewardFacts
from b2diffurl.rewards.settings import AESTHETIC_WEIGHTS, AestheticSettings
from b2diffurl.rewards.spec import Term, with_revision

_HIDDEN = (1024, 128, 64, 16)
_POSITIONS = (0, 2, 4, 6, 7)  # of the linear layers in the published network; dropout is between the first four


class Aesthetic:
    """The aesthetic predictor as a reward; prompts are ignored.

    Args:
        settings: sources of the weights.
        device: device of the CLIP model and the network.

    Raises:
        UserError: weights or CLIP model cannot be loaded, or do not match.
    """

    def __init__(self, settings: AestheticSettings, *, device: torch.device | str = "cpu") -> None:
        file = _weights_file(settings)
        self._clip = CLIPScore(settings.clip, device=device, name="aesthetic")
        self._head = load_head(file, width=self._clip.clip.visual_projection.out_features).to(device)

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Return the aesthetic score of each image."""
        del prompts
        return self._head(self._clip.embed_images(images)).squeeze(1).cpu()


def load_head(file: Path, *, width: int) -> nn.Sequential:
    """Load the network on top of CLIP.

    Args:
        file: a .safetensors file, or a file of torch.save, which is read without running code; its tensors have the
            names of the published file, layers.0.weight to layers.7.bias, with or without "layers.".
        width: dimensions of the embedding, 768 for ViT-L/14.

    Raises:
        UserError: the file cannot be read, or has other tensors.
    """
    expected = _build(width)
    try:
        tensors = _read(file)
    except Exception as error:  # a broken file raises anything; torch's text recommends to run the code in it
        raise UserError(
            f"the aesthetic predictor's weights {file} could not be read ({type(error).__name__}); give a .safetensors "
            "file, or a torch file with a mapping of names to tensors and nothing else."
        ) from error
    tensors = {name.removeprefix("layers."): value for name, value in tensors.items()}
    shapes = {name: tuple(value.shape) for name, value in expected.state_dict().items()}
    if {name: tuple(value.shape) for name, value in tensors.items()} != shapes:
        raise UserError(
            f"the aesthetic predictor's weights {file} do not have layers of {width}-1024-128-64-16-1 units; give "
            "those of version 2, and the CLIP model that they belong to as aesthetic.clip."
        )
    expected.load_state_dict(tensors)
    return expected.requires_grad_(False).eval()


def _build(width: int) -> nn.Sequential:
    """Build the linear layers, named by their position in the published network."""
    sizes = (width, *_HIDDEN, 1)
    network = nn.Sequential()
    for position, num_in, num_out in zip(_POSITIONS, sizes, sizes[1:], strict=False):
        network.add_module(str(position), nn.Linear(num_in, num_out))
    return network


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise TypeError(f"{type(tensors).__name__} is not a mapping of names to tensors")
    return {str(name): value.float() for name, value in tensors.items()}


def _weights_file(settings: AestheticSettings) -> Path:
    path = Path(settings.weights).expanduser()
    if path.is_file():
        return path
    hub = import_module("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(settings.weights, settings.file, revision=settings.pinned_revision))
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise UserError(
            f"{settings.file} of {settings.weights} at revision {settings.pinned_revision} could not be downloaded: "
            f"{cause.rstrip('.')}; check the connection, or give a local file as aesthetic.weights."
        ) from error


def _check(term: Term, settings: RewardSettings) -> None:
    own = with_revision(term, settings.aesthetic)
    path = Path(own.weights).expanduser()
    if path.is_file():
        if own.revision:
            raise UserError(
                f"aesthetic.revision is {own.revision!r} but aesthetic.weights is a local file, which has none; "
                "leave it out."
            )
    elif not HUB_ID.fullmatch(own.weights) or re.search(r"\.(pth?|safetensors)$", own.weights):
        raise UserError(f"aesthetic.weights is {own.weights!r}, which is not a file; give a file or a hub id.")
    elif not own.pinned_revision:
        raise UserError(
            f"aesthetic.weights is {own.weights!r}, whose revision is missing; give aesthetic.revision, a commit of "
            "that repository, or name the reward aesthetic@REVISION."
        )


def _load(term: Term, settings: RewardSettings, device: torch.device | str) -> Aesthetic:
    return Aesthetic(with_revision(term, settings.aesthetic), device=device)


REWARD = RewardKind(
    forms="'aesthetic'",
    check=_check,
    load=_load,
    facts=RewardFacts(
        summary="aesthetics of the image alone",
        source="christophschuhmann/improved-aesthetic-predictor (sac+logos+ava1-l14-linearMSE)",
        weights=f"{AESTHETIC_WEIGHTS}: aesthetic-model.pth, 0.004 GB; openai/clip-vit-large-patch14, 1.71 GB",
        download_gb=1.71,
        memory_gib=1.71 * GIB_PER_GB,
        table="aesthetic",
        note="aesthetic, or aesthetic@REVISION; a local file as aesthetic.weights",
    ),
)
