"""Reward variance that each denoising step decides, from nested branches (ours).

Trunks are branched at several interval lengths. By the law of total variance, what the last tau steps decide is the
mean variance within branch groups, W(tau) = E[Var(r | x_tau)], which never falls with tau. The step before them decides
W(tau + 1) - W(tau), and all steps together W(T); x_T and the prompt decide the rest.

The estimate of W is the monotone one that is closest in squares: isotonic regression (Ayer et al. 1955) of the mean
unbiased variance within groups. Standard errors come from resampling trunks with all of their branches.

Shapes: L interval lengths, G trunks, T denoising steps from the noisiest, N bootstrap samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

NUM_BOOTSTRAP = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class DecidedVariance:
    """Reward variance decided by each step, in squared units of the reward.

    Attributes:
        per_step: variance decided by each of T steps, from the noisiest; steps between two measured interval lengths
            share equally.
        per_step_error: its standard errors.
        share_of_last: fraction of the whole chain's variance that the last n steps decide, for n from 0 to T; 0 where
            no step decides any.
        share_of_last_error: its standard errors.
    """

    per_step: tuple[float, ...]
    per_step_error: tuple[float, ...]
    share_of_last: tuple[float, ...]
    share_of_last_error: tuple[float, ...]

    @property
    def smoothed(self) -> tuple[float, ...]:
        """`per_step` averaged over neighbors with weights 1, 2, 1; the sum stays the same.

        The monotone estimate is flat in places, and what a step decides is then 0 and its neighbor's too large.
        """
        padded = np.pad(np.asarray(self.per_step), 1, mode="edge")
        return tuple(((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4).tolist())


def decided_variance(
    within: Float[np.ndarray, "L G"], lengths: Sequence[int], *, num_bootstrap: int = NUM_BOOTSTRAP
) -> DecidedVariance:
    """Estimate the variance that each step decides.

    Args:
        within: unbiased variance of the reward within the branch group of each trunk, for each interval length.
        lengths: the interval lengths in ascending order; the last one is T.
        num_bootstrap: N, number of resampled sets of trunks.
    """
    num_trunks = within.shape[1]
    samples = np.random.default_rng(0).integers(num_trunks, size=(num_bootstrap, num_trunks))
    means = [within.mean(axis=1), *(within[:, sample].mean(axis=1) for sample in samples)]
    per_step = np.stack([_per_step(isotonic(mean), lengths) for mean in means])
    cumulative = np.cumsum(per_step[:, ::-1], axis=1)
    total = cumulative[:, -1:]
    shares = np.divide(cumulative, total, out=np.zeros_like(cumulative), where=total > 0)
    shares = np.concatenate([np.zeros_like(total), shares], axis=1)
    return DecidedVariance(
        per_step=tuple(per_step[0].tolist()),
        per_step_error=tuple(per_step[1:].std(axis=0).tolist()),
        share_of_last=tuple(shares[0].tolist()),
        share_of_last_error=tuple(shares[1:].std(axis=0).tolist()),
    )


def isotonic(values: Float[np.ndarray, " L"]) -> Float[np.ndarray, " L"]:
    """Return the non-decreasing sequence with the least squared distance, by pooling adjacent violators.

    >>> isotonic(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    blocks: list[tuple[float, int]] = []
    for value in values.tolist():
        mean, size = value, 1
        while blocks and blocks[-1][0] >= mean:
            other, num = blocks.pop()
            mean, size = (mean * size + other * num) / (size + num), size + num
        blocks.append((mean, size))
    return np.concatenate([np.full(size, mean) for mean, size in blocks])


def _per_step(within: Float[np.ndarray, " L"], lengths: Sequence[int]) -> Float[np.ndarray, " T"]:
    """Return the increments of W, each shared by the steps between two interval lengths, the noisiest step first."""
    widths = np.diff([0, *lengths])
    increments = np.diff(within, prepend=0.0) / widths
    return np.repeat(increments, widths)[::-1]
