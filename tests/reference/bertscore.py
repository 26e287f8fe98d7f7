"""BERTScore of one pair of texts (arXiv 1904.09675, section 3), one token after the other, in float64.

A token is its embedding, as a list of floats, and whether it is [CLS] or [SEP].
"""

import math
from collections.abc import Sequence

Token = tuple[Sequence[float], bool]


def cosine(x: Sequence[float], y: Sequence[float]) -> float:
    """Dot product over lengths, x . y / (|x| |y|)."""
    dot = math.fsum(a * b for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(math.fsum(a * a for a in x)) / math.sqrt(math.fsum(b * b for b in y))


def mean_best_match(tokens: Sequence[Token], others: Sequence[Token]) -> float:
    """1 / |x| sum over x_i of max over y_j of cos(x_i, y_j): [CLS] and [SEP] among the y_j, not among the x_i."""
    best = [max(cosine(token, other) for other, _ in others) for token, is_special in tokens if not is_special]
    return math.fsum(best) / len(best)


def bertscore(candidate: Sequence[Token], reference: Sequence[Token]) -> tuple[float, float, float]:
    """Precision, recall and F1; all 0 where a text has nothing but [CLS] and [SEP]."""
    for text in (candidate, reference):
        if all(is_special for _, is_special in text):
            return 0.0, 0.0, 0.0
    precision = mean_best_match(candidate, reference)
    recall = mean_best_match(reference, candidate)
    return precision, recall, 2 * precision * recall / (precision + recall)
