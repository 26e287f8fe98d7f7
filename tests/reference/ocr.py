"""The OCR reward of flow_grpo, written out, with the edit distance by its recursive definition."""

from functools import cache


def distance(a: str, b: str) -> int:
    """Levenshtein distance."""

    @cache
    def of(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        if a[i - 1] == b[j - 1]:
            return of(i - 1, j - 1)
        return 1 + min(of(i - 1, j), of(i, j - 1), of(i - 1, j - 1))

    return of(len(a), len(b))


def reward(recognized: str, prompt: str) -> float:
    """Reward of one image whose text was recognized."""
    target = prompt.split('"')[1].replace(" ", "").lower()
    recognized = recognized.replace(" ", "").lower()
    edits = 0 if target in recognized else distance(recognized, target)
    return 1 - min(edits, len(target)) / len(target)
