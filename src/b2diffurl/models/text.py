"""Text encoders: from prompts to the UNet's conditioning, one class per model family, as in the stock pipelines.

Prompts are encoded one at a time, so that an embedding does not depend on what else is encoded with it.

Shapes: B prompts of L tokens of D channels, P channels of a pooled text.
"""

# diffusers types its configs as dicts.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from b2diffurl.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConditioning:
    """Text conditioning of B prompts.

    Attributes:
        tokens: token embeddings, for cross-attention.
        pooled: Stable Diffusion XL only: one embedding of the whole text.
        size: Stable Diffusion XL only: original height and width, top and left of the crop, target height and width,
            in pixels.
    """

    tokens: Float[Tensor, "B L D"]
    pooled: Float[Tensor, "B P"] | None = None
    size: Float[Tensor, "B 6"] | None = None

    def __getitem__(self, index: Tensor, /) -> "TextConditioning":
        """Return the rows of an index tensor."""
        return TextConditioning(
            tokens=self.tokens[index],
            pooled=None if self.pooled is None else self.pooled[index],
            size=None if self.size is None else self.size[index],
        )

    @classmethod
    def join(cls, parts: Sequence["TextConditioning"]) -> "TextConditioning":
        """Concatenate several batches."""

        def joined(tensors: Iterable[Tensor | None]) -> Tensor | None:
            given = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(given) if given else None

        tokens = torch.cat([part.tokens for part in parts])
        return cls(tokens=tokens, pooled=joined(p.pooled for p in parts), size=joined(p.size for p in parts))

    @property
    def unet_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `UNet2DConditionModel.forward`."""
        added = None if self.pooled is None else {"text_embeds": self.pooled, "time_ids": self.size}
        return {"encoder_hidden_states": self.tokens, "added_cond_kwargs": added}


@runtime_checkable
class TextEncoder(Protocol):
    """The text encoders of a model family."""

    @property
    def tokenizers(self) -> tuple[CLIPTokenizer, ...]:
        """One per text model."""
        ...

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """The networks, all frozen."""
        ...

    def encode(self, prompt: str) -> TextConditioning:
        """Encode one prompt, B = 1."""
        ...

    def encode_negative(self, prompt: str) -> TextConditioning:
        """Encode the prompt of the unconditional half, "" for none, B = 1."""
        ...


class StableDiffusionText:
    """Stable Diffusion 1.x and 2.x: the last hidden state of one CLIP text model."""

    def __init__(self, *, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        self.tokenizers = (tokenizer,)
        self.text_encoder = text_encoder

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """The text model."""
        return (self.text_encoder,)

    def encode(self, prompt: str) -> TextConditioning:
        """Encode one prompt."""
        tokens = self.tokenizers[0]([prompt], padding="max_length", return_tensors="pt").to(self.text_encoder.device)
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask if masked else None
        return TextConditioning(tokens=self.text_encoder(tokens.input_ids, attention_mask=mask).last_hidden_state)

    def encode_negative(self, prompt: str) -> TextConditioning:
        """Encode a negative prompt like any other."""
        return self.encode(prompt)


class StableDiffusionXLText:
    """Stable Diffusion XL (arXiv 2307.01952): the last hidden state but one of two text models, concatenated.

    Args:
        tokenizers: tokenizers of the two text models.
        text_encoders: the two text models; the second gives the pooled embedding.
        image_size: height and width in pixels, passed to the UNet as original and target size without a crop.
        zeros_for_empty: whether an empty negative prompt is encoded as zeros instead of as "".
    """

    def __init__(
        self,
        *,
        tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
        text_encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection],
        image_size: tuple[int, int],
        zeros_for_empty: bool,
    ) -> None:
        self.tokenizers = tokenizers
        self.text_encoders = text_encoders
        self.image_size = image_size
        self.zeros_for_empty = zeros_for_empty

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """The two text models."""
        return self.text_encoders

    def encode(self, prompt: str) -> TextConditioning:
        """Encode one prompt."""
        states: list[Tensor] = []
        pooled = None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            tokens = tokenizer([prompt], padding="max_length", return_tensors="pt")
            output = encoder(tokens.input_ids.to(encoder.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = output[0]
        assert pooled is not None
        size = torch.tensor([[*self.image_size, 0, 0, *self.image_size]], dtype=torch.float32)
        return TextConditioning(tokens=torch.cat(states, dim=-1), pooled=pooled, size=size.to(pooled.device))

    def encode_negative(self, prompt: str) -> TextConditioning:
        """Encode a negative prompt; "" gives zeros where the pipeline's config asks for them."""
        encoded = self.encode(prompt)
        if prompt or not self.zeros_for_empty:
            return encoded
        assert encoded.pooled is not None
        return TextConditioning(
            tokens=torch.zeros_like(encoded.tokens), pooled=torch.zeros_like(encoded.pooled), size=encoded.size
        )


def check_prompts(tokenizers: CLIPTokenizer | Sequence[CLIPTokenizer], prompts: Sequence[str]) -> None:
    """Check that no tokenizer truncates a prompt.

    Args:
        tokenizers: one tokenizer, or all of a model.
        prompts: the prompts to check.

    Raises:
        UserError: a prompt is too long; the message names the prompt and the part that would be cut.
    """
    for tokenizer in [tokenizers] if isinstance(tokenizers, CLIPTokenizer) else tokenizers:
        limit = tokenizer.model_max_length
        for prompt in prompts:
            ids = tokenizer(prompt, verbose=False).input_ids
            if len(ids) > limit:
                lost = tokenizer.decode(ids[limit - 1 : -1])
                raise UserError(
                    f"prompt {prompt!r} is {len(ids)} tokens long and the model reads {limit}: "
                    f"{lost!r} would be cut; shorten it."
                )
