"""CLIPScore: the raw cosine between picture and prompt (no factor, no clamp), over any `CLIPModel`, in float32.

The paper's is ViT-H-14 trained on LAION-2B, laion/CLIP-ViT-H-14-laion2B-s32B-b79K. Preprocessing is pinned to PIL,
which equals open_clip's to the bit; torchvision's differs, and scores would depend on what is installed.

Shapes: B pictures of 3 x H x W in [0, 1]; D dimensions of the shared space.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from b2diffurl import emoji
from b2diffurl.errors import UserError
from b2diffurl.images import to_pil

VIT_H_14 = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_EMOJI = "emoji"
_CHUNK_SIZE = 64
# Each byte has two tokens, within a word and at its end. Without files, transformers makes up a tokenizer of 2.
_MIN_TOKENS = 512


class CLIPScore:
    """A `CLIPModel` as a reward.

    Args:
        model: "emoji", a local directory in transformers format, or a hub id.
        device: where it runs.
        processor: where image processor and tokenizer come from, if not from the model.
        name: of the reward, for messages, if it is not clip:MODEL.

    Attributes:
        name: of the reward.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(
        self, model: str, *, device: torch.device | str = "cpu", processor: str | None = None, name: str | None = None
    ) -> None:
        name = self.name = name or f"clip:{model}"
        source, of_processor = _source(model), _source(processor or model)
        try:
            self.clip: CLIPModel = CLIPModel.from_pretrained(source, dtype=torch.float32)
            self.processor = CLIPImageProcessorPil.from_pretrained(of_processor)
            self.tokenizer = CLIPTokenizer.from_pretrained(of_processor)
        except (OSError, ValueError) as error:
            raise UserError(f"reward {name} could not be loaded: {str(error).splitlines()[0]}") from error
        if len(self.tokenizer) < _MIN_TOKENS:
            raise UserError(f"reward {name} could not be loaded: {of_processor} has no tokenizer; save it there.")
        self.clip.requires_grad_(False).eval()
        self.clip.to(torch.device(device))  # pyright: ignore[reportArgumentType]

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Cosine of each picture with its own prompt, -1 to 1."""
        text = self.embed_texts(prompts)
        return (self.embed_images(images) * text).sum(-1).cpu()

    @torch.no_grad()
    def embed_images(self, images: Float[Tensor, "B 3 H W"], *, unit: bool = True) -> Float[Tensor, "B D"]:
        """Embed pictures; at unit length, or as the projection gives them."""
        parts = []
        for chunk in images.split(_CHUNK_SIZE):
            pixels = self.processor([to_pil(image) for image in chunk], return_tensors="pt").pixel_values
            parts.append(self._project_images(pixels.to(self.clip.device)))
        embedded = torch.cat(parts)
        return _unit(embedded) if unit else embedded

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embed texts at unit length; each different text once."""
        unique = sorted(set(texts))
        tokens = self.tokenizer(unique, padding=True, truncation=True, return_tensors="pt").to(self.clip.device)
        pooled = self.clip.text_model(**tokens).pooler_output
        embedded = dict(zip(unique, _unit(self.clip.text_projection(pooled)), strict=True))
        return torch.stack([embedded[text] for text in texts])

    def _project_images(self, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)


def _source(model: str) -> str:
    return str(emoji.clip_dir()) if model == _EMOJI else model


def _unit(x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    return x / x.norm(dim=-1, keepdim=True)
