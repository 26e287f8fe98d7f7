"""The BERT reward: a captioner describes the image, and BERTScore compares the description with the prompt.

The paper's BERTScore reward, as in the code of DDPO (arXiv 2305.13301): the recall of the caption against "The image
contains PROMPT". Even an image of noise scores about 0.8, so only the normalization per prompt makes it a signal.

Shapes: B images of 3 x H x W in [0, 1].
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.emoji import is_embedded
from b2diffurl.errors import UserError
from b2diffurl.rewards.bert.captioner import LocalCaptioner, ServedCaptioner
from b2diffurl.rewards.bert.settings import PROMPT, BertSettings
from b2diffurl.rewards.builtin import RewardKind, RewardSettings
from b2diffurl.rewards.facts import GIB_PER_GB, RewardFacts
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.scores import Info
from b2diffurl.rewards.spec import Term


class BertReward:
    """Recall of an image's caption against its prompt.

    Args:
        settings: how images are captioned and captions compared.
        device: device of the models; with a server, only the encoder.

    Raises:
        UserError: a model cannot be loaded, or the server's key is invalid.
    """

    def __init__(self, settings: BertSettings, *, device: torch.device | str = "cpu") -> None:
        from b2diffurl.rewards.bert.bertscore import BERTScore

        self.settings = settings
        self.score = BERTScore(settings.encoder, num_layers=settings.num_layers, device=device)
        self.captioner = ServedCaptioner(settings) if settings.base_url else LocalCaptioner(settings, device=device)

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> tuple[Float[Tensor, " B"], Info]:
        """Score images.

        Returns:
            Recalls, at most 1, higher is better; and the caption, precision and F1 of each image.

        Raises:
            RewardFailed: the server returned no caption.
        """
        captions = self.captioner(images)
        match = self.score(captions, [self.settings.reference.replace(PROMPT, prompt) for prompt in prompts])
        return match.recall, {"caption": captions, "precision": match.precision.tolist(), "f1": match.f1.tolist()}


def _check(term: Term, settings: RewardSettings) -> None:
    if term.name == "bert":
        return
    if not is_embedded(term.rest):
        raise UserError(
            f"reward is {term.name!r}; give 'bert', and its model in the settings [bert], or 'bert:emoji' or "
            "'bert:emoji-objects'."
        )
    if settings.bert != BertSettings():
        raise UserError(f"reward is {term.name!r}, on which the settings [bert] have no effect; leave them out.")


def _load(term: Term, settings: RewardSettings, device: torch.device | str) -> Reward:
    if term.name == "bert":
        return BertReward(settings.bert, device=device)
    from b2diffurl.rewards.bert.emoji import EmojiBertReward

    return EmojiBertReward.load(term.rest, device=device)


REWARD = RewardKind(
    forms="'bert', 'bert:emoji', 'bert:emoji-objects'",
    check=_check,
    load=_load,
    facts=RewardFacts(
        summary="BERTScore of caption and prompt",
        source="arXiv 2305.13301 and 1904.09675",
        weights="llava-hf/llava-1.5-7b-hf, 14.13 GB in float16; microsoft/deberta-xlarge-mnli, 3.04 GB; bert:emoji and "
        "bert:emoji-objects are in this package",
        license="unknown (LLaVA); MIT (DeBERTa)",
        download_gb=17.17,
        memory_gib=17.17 * GIB_PER_GB,
        table="bert",
        note="bert, bert:emoji or bert:emoji-objects; with bert.base_url the captioner of bert runs on a server",
    ),
)
