"""How a round's training examples are cut. Pure index functions.

A training example is one selected trajectory (m = 1), or a (better, worse) pair (m = 2) for an objective that needs
pairs. Each optimizer step sees all trained steps of the examples of one minibatch, a micro-batch at a time.

Shapes: S trajectories, U examples of m trajectories, M single steps of u examples.
"""

# Tensor.split and Tensor.unflatten have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def minibatches(
    examples: Int[Tensor, "U m"],
    *,
    num_epochs: int,
    num_minibatches: int,
    rng: np.random.Generator,
    earlier: Int[Tensor, "V 1"] | None = None,
) -> Iterator[Int[Tensor, "u m"]]:
    """Shuffle the examples in every epoch and split them; at most one minibatch per example.

    Args:
        examples: examples of this round; without any there is no minibatch.
        num_epochs: passes over all examples.
        num_minibatches: minibatches per epoch.
        rng: the order of the examples.
        earlier: examples of earlier rounds, split evenly over the same minibatches, after the examples of this round.
    """
    for _ in range(num_epochs if len(examples) else 0):
        parts = _shuffled(examples, rng).tensor_split(min(num_minibatches, len(examples)))
        if earlier is not None and len(earlier):
            others = _shuffled(earlier, rng).tensor_split(len(parts))
            parts = [torch.cat(both) for both in zip(parts, others, strict=True)]
        yield from parts


def _shuffled(examples: Int[Tensor, "U m"], rng: np.random.Generator) -> Int[Tensor, "U m"]:
    return examples[torch.from_numpy(rng.permutation(len(examples)))]


def micro_batches(
    minibatch: Int[Tensor, "u m"], *, spans: Int[Tensor, "S 2"], size: int
) -> Iterator[tuple[Int[Tensor, " M"], Int[Tensor, " M"]]]:
    """Yield single steps (trajectory, step) of a minibatch, at most `size` at a time, first members first.

    Args:
        minibatch: examples, the members of each with the same steps.
        spans: first step of each trajectory, and the step after its last one.
        size: most single steps at a time.
    """
    if not len(minibatch):  # the other ranks have all of it
        return
    num_examples, num_members = minibatch.shape
    own_spans = spans[minibatch[:, 0]]
    example = torch.arange(num_examples).repeat_interleave(own_spans[:, 1] - own_spans[:, 0])
    step = torch.cat([torch.arange(int(first), int(end)) for first, end in own_spans])
    size = max(1, size // num_members)
    for examples, steps in zip(example.split(size), step.split(size), strict=True):
        yield minibatch[examples].T.flatten(), steps.repeat(num_members)
