"""The rewards `bert:emoji` and `bert:emoji-objects`: the BERT reward of an embedded world, without a download.

The world's captioner stands in for LLaVA, and the text encoder of the world's CLIP for DeBERTa. The matching and the
score, recall, are those of the reward `bert`; the reference is the prompt alone, since the encoder knows no other
words. Of a relation's two captions, "dog on boat" and "boat under dog", the one that is more similar to the prompt
counts, as bert-score does with several references.

Shapes: B images of 3 x H x W in [0, 1].
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.emoji.captioner import SceneCaptioner, load_captioner
from b2diffurl.emoji.worlds import WORLDS
from b2diffurl.images import from_pil, to_pil
from b2diffurl.rewards.bert.matching import EmbeddedText, TextMatch, match_texts
from b2diffurl.rewards.clip import CLIPScore
from b2diffurl.rewards.scores import Info

# Of the text encoder's three hidden states: the embeddings of tokens and places, and the outputs of the first layer,
# whose cosines are averaged (ours). In the second alone, of a causal encoder, the first word would count most. CLIP is
# trained on the end token only, so that the other tokens' outputs of the last layer reach no loss.
_LAYERS = (0, 1)
_SIZE = (32, 32)


class CLIPTextMatcher:
    """BERTScore over the token states of a CLIP's text encoder; its start and end tokens are excluded from the means.

    Args:
        clip: a loaded CLIP.
    """

    def __init__(self, clip: CLIPScore) -> None:
        self.encoder = clip.clip.text_model
        self.tokenizer = clip.tokenizer

    @torch.no_grad()
    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> TextMatch:
        """Compare each candidate with its own reference, in order."""
        texts = sorted({*candidates, *references})
        inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        layers = self.encoder(**inputs.to(self.encoder.device), output_hidden_states=True).hidden_states
        states = torch.cat([layers[layer] / layers[layer].norm(dim=-1, keepdim=True) for layer in _LAYERS], dim=-1)
        ids, is_token = inputs["input_ids"].cpu(), inputs["attention_mask"].cpu().bool()
        counts = (ids != self.tokenizer.bos_token_id) & (ids != self.tokenizer.eos_token_id)
        embedded = {
            text: EmbeddedText.of(state[real], counts=count[real])
            for text, state, count, real in zip(texts, states.cpu(), counts, is_token, strict=True)
        }
        return match_texts(embedded, candidates, references)


class EmojiBertReward:
    """Recall of an image's caption against its prompt, in the words of an embedded world.

    Args:
        captioner: the captioner of the world.
        clip: the CLIP of the same world, whose text encoder compares captions and prompts.
    """

    def __init__(self, captioner: SceneCaptioner, clip: CLIPScore) -> None:
        self.captioner = captioner
        self.match = CLIPTextMatcher(clip)

    @classmethod
    def load(cls, model: str, *, device: torch.device | str = "cpu") -> "EmojiBertReward":
        """Load the packaged networks of an embedded model."""
        return cls(load_captioner(WORLDS[model]).to(torch.device(device)), CLIPScore(model, device=device))

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> tuple[Float[Tensor, " B"], Info]:
        """Score images; those of another size than 32x32 are resized.

        Returns:
            Recalls, at most 1, higher is better, 0 for an image in which the captioner recognizes nothing; and the
            caption, precision and F1 of each image.
        """
        captions = [self.captioner.world.describe(content) for content in self.captioner.look(_to_pixels(images))]
        references = [prompt for prompt, own in zip(prompts, captions, strict=True) for _ in own]
        candidates = [caption for own in captions for caption in own]
        match = self.match(candidates, references)
        spans = pairwise(accumulate(map(len, captions), initial=0))
        best = [start + int(match.recall[start:end].argmax()) for start, end in spans]
        info = {
            "caption": [candidates[index] for index in best],
            "precision": match.precision[best].tolist(),
            "f1": match.f1[best].tolist(),
        }
        return match.recall[best], info


def _to_pixels(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 32 32"]:
    """Round images to 8 bits, as a JPEG or PNG of them, and resize them by PIL."""
    rounded = [to_pil(image) for image in images]
    return torch.stack([from_pil(each if each.size == _SIZE else each.resize(_SIZE)) for each in rounded])
