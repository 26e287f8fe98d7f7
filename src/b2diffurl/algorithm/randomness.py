"""Every random stream of a run, by name.

Each is keyed by the run's seed and by what it is for, and nothing else: a resumed run needs no saved generator state,
and neither the chunk size nor the number of ranks changes what is sampled.

    prompts of a round          (seed, round, 0)
    minibatches of a round      (seed, round, 1)
    held-out prompts            (seed, 2)
    noise of a trajectory       (seed, stream, trunk, branch); the stream is the round, or one of `EVALUATION_STREAM`,
                                `PREVIEW_STREAM`, `PROBE_STREAM`; branch 0 is the trunk
    initial adapter weights     the seed itself

Shapes: C H W of a latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Noise streams that no round has, so that evaluation never sees the noise of training.
EVALUATION_STREAM = 2**32
PREVIEW_STREAM = 2**32 + 1
PROBE_STREAM = 2**32 + 2


def prompt_rng(seed: int, round_number: int) -> np.random.Generator:
    """Return the generator that chooses the prompts of a round."""
    return np.random.default_rng((seed, round_number, 0))


def minibatch_rng(seed: int, round_number: int) -> np.random.Generator:
    """Return the generator that shuffles the training examples of a round."""
    return np.random.default_rng((seed, round_number, 1))


def held_out_rng(seed: int) -> np.random.Generator:
    """Return the generator that chooses the held-out prompts of a run."""
    return np.random.default_rng((seed, 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseKey:
    """What the noise of a batch of trunks depends on, besides trunk and branch.

    Attributes:
        seed: the run's seed.
        stream: the round number, or one of the streams above.
        first_trunk: number of the batch's first trunk within the stream.
    """

    seed: int
    stream: int
    first_trunk: int = 0

    def shifted(self, num_trunks: int) -> "NoiseKey":
        """Return the key of the batch that starts `num_trunks` trunks later."""
        return replace(self, first_trunk=self.first_trunk + num_trunks)

    def normal(self, *, trunk: int, branch: int, num: int, shape: Sequence[int]) -> Float[Tensor, "num C H W"]:
        """Sample standard normal noise of one branch on the CPU in float32; branch 0 is the trunk itself."""
        entropy = np.random.SeedSequence((self.seed, self.stream, self.first_trunk + trunk, branch))
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        return torch.randn((num, *shape), generator=generator, dtype=torch.float32)
