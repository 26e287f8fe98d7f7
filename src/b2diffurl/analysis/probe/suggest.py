"""From a probe to tau_first and the number of branches, with the reason (ours).

tau_first is the shortest measured interval that still decides half of what the whole chain decides: its reward spread
within branch groups is at least half of the whole chain's. Shorter ones have little to contrast; longer ones let the
contrast run over style and everything else as well. The number of branches is the one with the most pairs per
evaluation of the network, trunk included.
"""

from dataclasses import dataclass

from b2diffurl.analysis.probe.measure import Probe, Row

_HALF = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """Where to begin.

    Attributes:
        tau_first: length of the first interval.
        num_branches: K.
        reasons: one sentence per suggestion.
    """

    tau_first: int
    num_branches: int
    reasons: tuple[str, ...]


def pairs_per_evaluation(row: Row, num_branches: int, *, num_inference_steps: int) -> float:
    """Pairs a branch group gives, per evaluation of the network that its trunk and branches cost."""
    evaluations = num_inference_steps - row.interval_length + num_branches * row.interval_length
    return row.pair_fraction[num_branches] / evaluations


def suggest(probe: Probe) -> Suggestion | None:
    """Say where to begin, or None where the reward hardly differs whatever is branched.

    Args:
        probe: with the whole chain as its last row.
    """
    whole = probe.rows[-1]
    if not whole.std_within > 0 or not whole.pair_fraction[probe.num_branches] > 0:
        return None
    first = next(row for row in probe.rows if row.std_within >= _HALF * whole.std_within)
    num_branches = max(
        first.pair_fraction,
        key=lambda num: pairs_per_evaluation(first, num, num_inference_steps=probe.num_inference_steps),
    )
    rate = pairs_per_evaluation(first, num_branches, num_inference_steps=probe.num_inference_steps)
    return Suggestion(
        tau_first=first.interval_length,
        num_branches=num_branches,
        reasons=(
            f"tau_first {first.interval_length}: the shortest measured interval whose branches still spread the "
            f"reward by "
            f"{first.std_within:.3g} within groups, half or more of the whole chain's {whole.std_within:.3g}.",
            f"num_branches {num_branches}: {first.pair_fraction[num_branches]:.0%} of such groups give a pair, "
            f"{1000 * rate:.2g} pairs per 1,000 evaluations of the network, the most of 2 to {probe.num_branches}.",
        ),
    )
