"""The aesthetic predictor of improved-aesthetic-predictor, written out: one layer after the other on a unit vector."""

import math
from collections.abc import Mapping, Sequence


def score(embedding: Sequence[float], tensors: Mapping[str, Sequence[object]]) -> float:
    """Score one CLIP embedding of any length with the published file's tensors, as lists."""
    norm = math.sqrt(sum(value * value for value in embedding))
    x = [value / norm for value in embedding]
    for layer in ("layers.0", "layers.2", "layers.4", "layers.6", "layers.7"):
        weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
        x = [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]  # pyright: ignore
    assert len(x) == 1
    return x[0]
