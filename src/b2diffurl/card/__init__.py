"""The model card that goes with an adapter."""

from b2diffurl.card.page import write_card

__all__ = ["write_card"]
