"""BERTScore's greedy matching (arXiv 1904.09675, section 3), of texts that are already embedded.

Every token of one text is matched with the most similar token of the other, by the cosine of their contextual
embeddings. Recall is the mean over the reference's tokens, precision over the candidate's. Special tokens can be
matched like any other, but are excluded from the means. A text without other tokens scores 0. There is neither idf nor
baseline rescaling.

Shapes: B pairs of texts; L tokens per text, special ones included; D dimensions of an embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TextMatch:
    """Similarity of candidates to their references, on the CPU; higher is better, equal texts have 1."""

    precision: Float[Tensor, " B"]
    recall: Float[Tensor, " B"]
    f1: Float[Tensor, " B"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedText:
    """A text's tokens.

    Attributes:
        tokens: embeddings, normalized to unit length.
        counts: which of them count in the means.
    """

    tokens: Float[Tensor, "L D"]
    counts: Bool[Tensor, " L"]

    @classmethod
    def of(cls, states: Float[Tensor, "L D"], *, counts: Bool[Tensor, " L"]) -> "EmbeddedText":
        """Normalize the states of an encoder to unit length."""
        return cls(tokens=states / states.norm(dim=-1, keepdim=True), counts=counts)


def match_texts(
    embedded: Mapping[str, EmbeddedText], candidates: Sequence[str], references: Sequence[str]
) -> TextMatch:
    """Compare each candidate with its own reference, in order.

    Args:
        embedded: every text.
        candidates: one text per pair.
        references: as many texts.
    """
    pairs = zip(candidates, references, strict=True)
    scores = [_match(embedded[candidate], embedded[reference]) for candidate, reference in pairs]
    precision, recall = torch.tensor(scores).reshape(-1, 2).unbind(1)
    # Both are 0 where a text is empty, and so is F1.
    f1 = torch.nan_to_num(2 * precision * recall / (precision + recall), nan=0.0)
    return TextMatch(precision=precision, recall=recall, f1=f1)


def _match(candidate: EmbeddedText, reference: EmbeddedText) -> tuple[float, float]:
    """Return precision and recall of one pair."""
    if not (candidate.counts.any() and reference.counts.any()):
        return 0.0, 0.0
    cosine = candidate.tokens @ reference.tokens.T
    precision = cosine.amax(dim=1)[candidate.counts].mean()
    recall = cosine.amax(dim=0)[reference.counts].mean()
    return precision.item(), recall.item()
