"""A step of one weight, shrunk until its KL is inside the trust region (ours), each try from the step's own start."""

import math
from collections.abc import Callable


def shrink(
    before: float, after: float, kl_of: Callable[[float], float], *, max_kl: float
) -> tuple[float, float, float]:
    """Return the fraction of the step that is kept, the weight and its KL; at most 3 tries."""
    scale = 1.0
    root_before = math.sqrt(kl_of(before))
    for _ in range(3):
        weight = before + scale * (after - before)
        root = math.sqrt(kl_of(weight))
        to_border = (math.sqrt(max_kl) - root_before) / (root - root_before)
        scale = scale * 0.95 * to_border
        weight = before + scale * (after - before)
        if kl_of(weight) <= max_kl:
            return scale, weight, kl_of(weight)
    return 0.0, before, kl_of(before)
