"""The low-rank adapter that is trained (arXiv 2106.09685)."""

from b2diffurl.config import settings
from b2diffurl.errors import UserError


@settings
class LoRA:
    """Low-rank adapter on the UNet's attention.

    Attributes:
        rank: of the update matrices.
        alpha: their scale is alpha / rank.
        target_modules: names of the linear layers that get an adapter.
    """

    rank: int = 8
    alpha: float = 8.0
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"lora.rank is {self.rank}; give 1 or more.")
        if not self.alpha > 0:
            raise UserError(f"lora.alpha is {self.alpha}; give a number above 0, such as the rank.")
        if not self.target_modules:
            raise UserError("lora.target_modules is empty; name at least one layer, such as to_q.")
