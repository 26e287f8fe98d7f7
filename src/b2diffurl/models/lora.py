"""Settings of the trained low-rank adapter (arXiv 2106.09685)."""

from b2diffurl.config import PositiveFloat, PositiveInt, settings
from b2diffurl.errors import UserError


@settings(table="lora")
class LoRA:
    """Low-rank adapter on the UNet's attention.

    Attributes:
        rank: rank of the update matrices.
        alpha: numerator of the scale alpha / rank.
        target_modules: names of the linear layers that get an adapter.
        interval: adapter interval: whether the adapter is on in the interval only, so that the trunk is always sampled
            by the pretrained model; in evaluation, in the last trained interval only. By default it is on in all steps,
            as in the paper (ours).
        init: adapter that training starts from: a run or its lora folder, of the same model, rank, alpha and layers;
            "" for a new one. The reference of the KL stays the pretrained model without any adapter; what is evaluated
            and sampled before training is the model with this adapter (ours).
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat = 8.0
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    interval: bool = False
    init: str = ""

    def __post_init__(self) -> None:
        if not self.target_modules:
            raise UserError("lora.target_modules is empty; name at least one layer, such as to_q.")
