"""BERTScore (arXiv 1904.09675, section 3) over DeBERTa, as in DDPO's code: no idf, no baseline rescaling.

Every token of one text is matched with the most similar token of the other, by the cosine of their contextual
embeddings. Recall is the mean over the reference's tokens, precision over the candidate's. [CLS] and [SEP] can be
matched like any other token, but are excluded from the means. An empty text scores 0. For each pair this equals the
package bert-score within 1e-7; as there, texts are stripped first.

Shapes: B pairs of texts; L tokens per text, [CLS] and [SEP] included; D dimensions of an embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, DebertaModel

from b2diffurl.errors import UserError

DEBERTA_XLARGE_MNLI = "microsoft/deberta-xlarge-mnli"
_MAX_LENGTH = 512
_CHUNK_SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class TextMatch:
    """Similarity of candidates to their references, on the CPU; higher is better, equal texts have 1."""

    precision: Float[Tensor, " B"]
    recall: Float[Tensor, " B"]
    f1: Float[Tensor, " B"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Embedded:
    """Token embeddings of a text, normalized to unit length, and which of them count in the means."""

    tokens: Float[Tensor, "L D"]
    counts: Bool[Tensor, " L"]


class BERTScore:
    """BERTScore with a DeBERTa (v1) encoder, in float32.

    Args:
        model: a local directory in transformers format, or a hub id; by default DDPO's.
        num_layers: the encoder layer whose output is used, counted from 1; bert-score uses 40 for the default model.
            Later layers are removed.
        device: device of the encoder.

    Raises:
        UserError: the model cannot be loaded, is not a DeBERTa model, or has fewer layers.
    """

    def __init__(
        self, model: str = DEBERTA_XLARGE_MNLI, *, num_layers: int = 40, device: torch.device | str = "cpu"
    ) -> None:
        try:
            encoder = AutoModel.from_pretrained(model, dtype=torch.float32)
            self.tokenizer = AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise UserError(f"encoder {model} could not be loaded: {str(error).splitlines()[0]}") from error
        if not isinstance(encoder, DebertaModel):
            raise UserError(f"encoder {model} is a {type(encoder).__name__}; give a DeBERTa (v1) model.")
        layers = encoder.encoder.layer
        if not 1 <= num_layers <= len(layers):
            raise UserError(
                f"num_layers is {num_layers} but {model} has {len(layers)} layers; give 1 to {len(layers)}."
            )
        encoder.encoder.layer = layers[:num_layers]
        encoder.requires_grad_(False).eval()
        self.encoder = encoder.to(torch.device(device))  # pyright: ignore[reportArgumentType]

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> TextMatch:
        """Compare each candidate with its own reference, in order."""
        embedded = self._embed({text.strip() for text in (*candidates, *references)})
        pairs = zip(candidates, references, strict=True)
        scores = [_match(embedded[candidate.strip()], embedded[reference.strip()]) for candidate, reference in pairs]
        precision, recall = torch.tensor(scores).reshape(-1, 2).unbind(1)
        # Both are 0 where a text is empty, and so is F1.
        f1 = torch.nan_to_num(2 * precision * recall / (precision + recall), nan=0.0)
        return TextMatch(precision=precision, recall=recall, f1=f1)

    @torch.no_grad()
    def _embed(self, texts: set[str]) -> dict[str, _Embedded]:
        """Embed texts in batches of similar length, which need little padding."""
        embedded: dict[str, _Embedded] = {}
        max_length = min(_MAX_LENGTH, self.tokenizer.model_max_length)
        ordered = sorted(texts, key=lambda text: (len(text), text))
        for start in range(0, len(ordered), _CHUNK_SIZE):
            chunk = ordered[start : start + _CHUNK_SIZE]
            inputs = self.tokenizer(chunk, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            states = self.encoder(**inputs.to(self.encoder.device)).last_hidden_state.cpu()
            ids, is_token = inputs["input_ids"].cpu(), inputs["attention_mask"].cpu().bool()
            counts = (ids != self.tokenizer.cls_token_id) & (ids != self.tokenizer.sep_token_id)
            for text, state, count, real in zip(chunk, states, counts, is_token, strict=True):
                tokens = state[real]
                embedded[text] = _Embedded(tokens=tokens / tokens.norm(dim=-1, keepdim=True), counts=count[real])
        return embedded


def _match(candidate: _Embedded, reference: _Embedded) -> tuple[float, float]:
    """Return precision and recall of one pair."""
    if not (candidate.counts.any() and reference.counts.any()):
        return 0.0, 0.0
    cosine = candidate.tokens @ reference.tokens.T
    precision = cosine.amax(dim=1)[candidate.counts].mean()
    recall = cosine.amax(dim=0)[reference.counts].mean()
    return precision.item(), recall.item()
