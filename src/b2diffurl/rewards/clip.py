"""CLIPScore: the raw cosine of image and prompt (no factor, no clamp), from any `CLIPModel`, in float32.

The paper uses ViT-H-14 trained on LAION-2B, laion/CLIP-ViT-H-14-laion2B-s32B-b79K. Preprocessing is PIL's, which is
bit-identical to open_clip; torchvision differs, and scores would depend on whether it is installed.

Shapes: B images of 3 x H x W in [0, 1]; D dimensions of the shared space.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl import emoji
from b2diffurl.errors import UserError
from b2diffurl.images import to_pil
from b2diffurl.rewards.builtin import RewardKind, RewardSettings
from b2diffurl.rewards.facts import GIB_PER_GB, RewardFacts
from b2diffurl.rewards.spec import Term

VIT_H_14 = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CHUNK_SIZE = 64
# Each byte has two tokens, within a word and at its end. Without files, transformers creates a tokenizer of 2 tokens.
_MIN_TOKENS = 512


class CLIPScore:
    """A `CLIPModel` as a reward.

    Args:
        model: an embedded model such as "emoji", a local directory in transformers format, or a hub id.
        device: device of the model.
        processor: source of the image processor and tokenizer, if not the model.
        name: name of the reward for messages, if not clip:MODEL.
        revision: commit, tag or branch of the model on the hub.

    Attributes:
        name: name of the reward.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        device: torch.device | str = "cpu",
        processor: str | None = None,
        name: str | None = None,
        revision: str = "main",
    ) -> None:
        from transformers import CLIPModel, CLIPTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        self.name = name or f"clip:{model}"
        model_source = _source(model)
        processor_source = _source(processor or model)
        try:
            self.clip: CLIPModel = CLIPModel.from_pretrained(model_source, dtype=torch.float32, revision=revision)
            self.processor = CLIPImageProcessorPil.from_pretrained(processor_source)
            self.tokenizer = CLIPTokenizer.from_pretrained(processor_source)
        except (OSError, ValueError) as error:
            raise UserError(f"reward {self.name} could not be loaded: {str(error).splitlines()[0]}") from error
        if len(self.tokenizer) < _MIN_TOKENS:
            raise UserError(
                f"reward {self.name} could not be loaded: {processor_source} has no tokenizer; save it there."
            )
        self.clip.requires_grad_(False).eval()
        self.clip.to(torch.device(device))  # pyright: ignore[reportArgumentType]

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Return the cosine of each image with its own prompt, -1 to 1."""
        text = self.embed_texts(prompts)
        return (self.embed_images(images) * text).sum(-1).cpu()

    @torch.no_grad()
    def embed_images(self, images: Float[Tensor, "B 3 H W"], *, unit: bool = True) -> Float[Tensor, "B D"]:
        """Embed images: normalized to unit length, or the output of the projection."""
        embedded = []
        for chunk in images.split(_CHUNK_SIZE):
            pixels = self.processor([to_pil(image) for image in chunk], return_tensors="pt").pixel_values
            embedded.append(self._project_images(pixels.to(self.clip.device)))
        whole = torch.cat(embedded)
        return _unit(whole) if unit else whole

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embed texts, normalized to unit length; equal texts are embedded once."""
        unique = sorted(set(texts))
        tokens = self.tokenizer(unique, padding=True, truncation=True, return_tensors="pt").to(self.clip.device)
        pooled = self.clip.text_model(**tokens).pooler_output
        embedded = dict(zip(unique, _unit(self.clip.text_projection(pooled)), strict=True))
        return torch.stack([embedded[text] for text in texts])

    def _project_images(self, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)


def _source(model: str) -> str:
    return str(emoji.clip_dir(model)) if emoji.is_embedded(model) else model


def _unit(x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    return x / x.norm(dim=-1, keepdim=True)


def check_clip_term(term: Term, _: RewardSettings) -> None:
    """Check a term KIND or KIND:MODEL whose model is a `CLIPModel`.

    Raises:
        UserError: the model is missing, is not a directory in transformers format, or is not a hub id.
    """
    model = term.rest
    path = Path(model)
    if not model:
        if ":" in term.name:
            raise UserError(
                f"reward is {term.name!r}, whose model is missing; give '{term.name}MODEL', or {term.kind!r}."
            )
    elif path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"reward is {term.name!r}, but {path} has no config.json; give a directory in transformers format."
            )
    elif not emoji.is_embedded(model) and (path.exists() or model.startswith(".") or not HUB_ID.fullmatch(model)):
        raise UserError(
            f"reward is {term.name!r}, whose model is not a directory; give 'emoji', 'emoji-objects', a directory in "
            "transformers format, or a hub id, and write ' + ' between the terms of a sum."
        )


def _load(term: Term, _: RewardSettings, device: torch.device | str) -> CLIPScore:
    return CLIPScore(term.rest or VIT_H_14, device=device)


REWARD = RewardKind(
    forms="'clip:emoji', 'clip:emoji-objects', 'clip:MODEL', 'clip' (the paper's ViT-H-14)",
    check=check_clip_term,
    load=_load,
    facts=RewardFacts(
        summary="cosine of image and prompt",
        source="arXiv 2104.08718, without its factor",
        weights=f"{VIT_H_14}, 3.94 GB; clip:emoji and clip:emoji-objects are in this package",
        license="MIT",
        download_gb=3.94,
        memory_gib=3.94 * GIB_PER_GB,
        note="clip, clip:MODEL with a directory or hub id of a CLIPModel, or clip:emoji or clip:emoji-objects",
    ),
)
