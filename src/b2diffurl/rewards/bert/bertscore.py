"""BERTScore over DeBERTa, as in DDPO's code: no idf, no baseline rescaling; matching.py compares the tokens.

[CLS] and [SEP] can be matched, but are excluded from the means. For each pair this equals the package bert-score within
1e-7; as there, texts are stripped first.
"""

from collections.abc import Sequence

import torch
from transformers import AutoModel, AutoTokenizer, DebertaModel

from b2diffurl.errors import UserError
from b2diffurl.rewards.bert.matching import EmbeddedText, TextMatch, match_texts

DEBERTA_XLARGE_MNLI = "microsoft/deberta-xlarge-mnli"
_MAX_LENGTH = 512
_CHUNK_SIZE = 32


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
        candidates, references = ([text.strip() for text in texts] for texts in (candidates, references))
        return match_texts(self._embed({*candidates, *references}), candidates, references)

    @torch.no_grad()
    def _embed(self, texts: set[str]) -> dict[str, EmbeddedText]:
        """Embed texts in batches of similar length, which need little padding."""
        embedded: dict[str, EmbeddedText] = {}
        max_length = min(_MAX_LENGTH, self.tokenizer.model_max_length)
        ordered = sorted(texts, key=lambda text: (len(text), text))
        for start in range(0, len(ordered), _CHUNK_SIZE):
            chunk = ordered[start : start + _CHUNK_SIZE]
            inputs = self.tokenizer(chunk, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            states = self.encoder(**inputs.to(self.encoder.device)).last_hidden_state.cpu()
            ids, is_token = inputs["input_ids"].cpu(), inputs["attention_mask"].cpu().bool()
            counts = (ids != self.tokenizer.cls_token_id) & (ids != self.tokenizer.sep_token_id)
            for text, state, count, real in zip(chunk, states, counts, is_token, strict=True):
                embedded[text] = EmbeddedText.of(state[real], counts=count[real])
        return embedded
