"""Information per reward query: the squared signal-to-noise ratio of a gradient along a direction (ours).

The sum h of credit x d log p / d epsilon over the steps of a branch group of K is what the group adds to the slope of
the objective along a direction. Its information per query is mean(h)^2 / (K var(h)): the squared signal-to-noise ratio
that a round of one query would have; n queries have n times as much. It carries the sign of the mean, so that the noise
of a rule without signal scatters around 0; the estimate of a rule with signal is 1 / (K U) too high on average.

Standard errors and intervals come from resampling units. Rules of the same units share the resamples, so the interval
of a difference is that of paired values.

Shapes: U units, R rules, N bootstrap samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from torch import Tensor

from b2diffurl.analysis.probe.rules import CreditedSteps

NUM_BOOTSTRAP = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledInformation:
    """Information per query of several rules, and of the same on resampled units.

    Attributes:
        value: signed information per query.
        samples: the same for each resample.
    """

    value: Float[np.ndarray, " R"]
    samples: Float[np.ndarray, "N R"]

    @property
    def std_error(self) -> Float[np.ndarray, " R"]:
        """Standard error of each value."""
        return self.samples.std(axis=0)


def information(
    signals: Float[np.ndarray, "U R"], *, num_queries: int, seed: int = 0, num_bootstrap: int = NUM_BOOTSTRAP
) -> SampledInformation:
    """Return the signed information per query.

    Args:
        signals: h of every unit under every rule.
        num_queries: K, reward queries per unit.
        seed: seed of the resampling.
        num_bootstrap: N.
    """
    num_units = len(signals)
    scale = np.abs(signals).max(axis=0)
    scaled = signals / np.where(scale > 0, scale, 1)

    def of(weights: Float[np.ndarray, "M U"]) -> Float[np.ndarray, "M R"]:
        mean, square = weights @ scaled, weights @ scaled**2
        var = square - mean**2
        return np.sign(mean) * np.divide(mean**2, num_queries * var, out=np.zeros_like(mean), where=var > 0)

    return SampledInformation(
        value=of(np.full((1, num_units), 1 / num_units))[0], samples=of(_resamples(num_units, num_bootstrap, seed))
    )


@lru_cache(maxsize=2)
def _resamples(num_units: int, num_bootstrap: int, seed: int) -> Float[np.ndarray, "N U"]:
    """Return the weight of each unit in each resample; the same for all rules."""
    counts = np.random.default_rng(seed).multinomial(num_units, np.full(num_units, 1 / num_units), size=num_bootstrap)
    return counts / num_units


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Difference of the information of two rules.

    Attributes:
        more: name of the rule that is expected to have more.
        less: name of the other rule.
        step_weights: step weights of both.
        difference: information of `more` minus that of `less`.
        low: lower end of the 95 % interval of the difference.
        high: its upper end.
        ratio: information of `more` over that of `less`; None if the latter is not above 0.
    """

    more: str
    less: str
    step_weights: str
    difference: float
    low: float
    high: float
    ratio: float | None

    @property
    def is_decided(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleInformation:
    """Information per query of one rule.

    Attributes:
        rule: display name.
        step_weights: "equal", "even" or "probe".
        num_trained_steps: number of steps that are trained.
        value: information per query, with the sign of the mean.
        std_error: its standard error.
    """

    rule: str
    step_weights: str
    num_trained_steps: int
    value: float
    std_error: float


class InformationTable:
    """Information of rules with several kinds of step weights, and comparisons of them.

    Args:
        rules: samples of units, each with its rules; rules of one sample are compared in pairs.
        kinds: weight of each denoising step, by name.
    """

    def __init__(self, rules: Sequence[Sequence[CreditedSteps]], kinds: dict[str, Tensor]) -> None:
        self.rules = [rule for sample in rules for rule in sample]
        self.kinds = tuple(kinds)
        self._sampled: dict[tuple[str, str], tuple[float, Float[np.ndarray, " N"]]] = {}
        for seed, sample in enumerate(rules):
            for kind, weights in kinds.items():
                signals = np.stack([rule.signal(weights).numpy() for rule in sample], axis=1)
                sampled = information(signals, num_queries=sample[0].num_queries, seed=seed)
                for i, rule in enumerate(sample):
                    self._sampled[rule.name, kind] = float(sampled.value[i]), sampled.samples[:, i]

    def rows(self) -> tuple[RuleInformation, ...]:
        """Return every rule with every kind of step weights."""
        rows: list[RuleInformation] = []
        for kind in self.kinds:
            for rule in self.rules:
                value, samples = self._sampled[rule.name, kind]
                rows.append(
                    RuleInformation(
                        rule=rule.name,
                        step_weights=kind,
                        num_trained_steps=int(rule.trained.sum()),
                        value=value,
                        std_error=float(samples.std()),
                    )
                )
        return tuple(rows)

    def compare(self, more: CreditedSteps, less: CreditedSteps, kind: str) -> Comparison:
        """Return the difference of two rules."""
        (value, samples), (other, others) = self._sampled[more.name, kind], self._sampled[less.name, kind]
        low, high = np.quantile(samples - others, (0.025, 0.975))
        return Comparison(
            more=more.name,
            less=less.name,
            step_weights=kind,
            difference=value - other,
            low=float(low),
            high=float(high),
            ratio=value / other if other > 0 else None,
        )
