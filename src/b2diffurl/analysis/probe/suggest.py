"""From a probe to tau_last, tau_first, tau_max, the credit rule and the number of branches, with reasons (ours).

tau_last: the most last steps that together decide at most 5 % of the reward variance of the chain. With the best
weights, the information of a set of steps is proportional to the variance that they decide, so leaving these out costs
at most that fraction; kept with the weights "even", each of them adds as much noise as any other step.

tau_first: the shortest interval that decides at least half of the variance, as much as the trunk. Shorter ones have
little to contrast; longer ones let the contrast run over style and everything else as well.

tau_max: the shortest interval that decides 80 % of the variance, or the longest in which at least a fifth of the branch
groups still have one style, where a judge labels styles and that is shorter. Longer intervals add little to contrast,
and contrast style.

Rule: most information per network evaluation, an evaluation with gradient counted as three (`predict.py`).
Branches: most information per reward query under this rule; the fewest of those within 2 % of the most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from b2diffurl.algorithm.advantage import Branch, PromptHistory
from b2diffurl.algorithm.schedule import Backward
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.algorithm.shrunk import Shrunk
from b2diffurl.analysis.probe.measure import Probe, Row
from b2diffurl.analysis.probe.predict import Prediction
from b2diffurl.run.settings import Run

_ADVANTAGES = (PromptHistory(), Branch(), Shrunk())
_SELECTIONS = (BestWorst(), All())
MAX_LOST_SHARE = 0.05
_HALF = 0.5
_ENOUGH_SHARE = 0.8
_ONE_STYLE_FRACTION = 0.2
_TOLERANCE = 0.02
_GRADIENT_COST = 3  # forward and backward pass, in forward passes


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """Settings to train with.

    Attributes:
        tau_last: last steps that are sampled but not trained.
        tau_first: length of the first interval.
        tau_max: length at which the growth stops.
        advantage: name of the advantage.
        selection: name of the selection.
        num_branches: K.
        reasons: one sentence per suggestion.
    """

    tau_last: int
    tau_first: int
    tau_max: int
    advantage: str
    selection: str
    num_branches: int
    reasons: tuple[str, ...]

    def applied_to(self, run: Run) -> Run:
        """Return a run with these settings; the number of reward queries is rounded to whole branch groups."""
        return replace(
            run,
            reward_queries_per_round=max(1, round(run.reward_queries_per_round / self.num_branches))
            * self.num_branches,
            schedule=Backward(tau_first=self.tau_first, tau_last=self.tau_last, tau_max=self.tau_max),
            advantage=next(rule for rule in _ADVANTAGES if rule.use == self.advantage),
            selection=next(rule for rule in _SELECTIONS if rule.use == self.selection),
            rollout=replace(run.rollout, num_branches=self.num_branches),
        )

    def flags(self, run: Run) -> str:
        """Return the flags of `b2diffurl train` that make the run `applied_to(run)`."""
        queries = self.applied_to(run).reward_queries_per_round
        changed = f" --reward-queries-per-round {queries}" if queries != run.reward_queries_per_round else ""
        return (
            f"schedule:backward --schedule.tau-first {self.tau_first} --schedule.tau-last {self.tau_last} "
            f"--schedule.tau-max {self.tau_max} advantage:{self.advantage} selection:{self.selection} "
            f"--rollout.num-branches {self.num_branches}{changed}"
        )


def suggest(probe: Probe, *, num_inner_epochs: int = 1) -> Suggestion | None:
    """Suggest settings, or return None where the reward hardly differs between branches of any length.

    Args:
        probe: with the whole chain as its last row.
        num_inner_epochs: passes of the update over the selected trajectories.
    """
    whole = probe.rows[-1]
    if not whole.std_within > 0 or not sum(probe.decided.per_step) > 0:
        return None
    shares = probe.decided.share_of_last
    first = next(row for row in probe.rows if shares[row.interval_length] >= _HALF)
    tau_last, why_last = _tau_last(probe, first.interval_length)
    tau_max, why_max = _tau_max(probe, first.interval_length)
    best, why_rule, why_branches = _rule(probe, first, tau_last, num_inner_epochs)
    why_first = (
        f"tau_first {first.interval_length}: the shortest measured interval that decides half of the variance or more, "
        f"{shares[first.interval_length]:.0%}; the standard deviation within groups is {first.std_within:.3g}, "
        f"of the whole chain's {whole.std_within:.3g}."
    )
    return Suggestion(
        tau_last=tau_last,
        tau_first=first.interval_length,
        tau_max=tau_max,
        advantage=best.advantage,
        selection=best.selection,
        num_branches=best.num_branches,
        reasons=(why_last, why_first, why_max, why_rule, why_branches),
    )


def _tau_last(probe: Probe, tau_first: int) -> tuple[int, str]:
    shares, errors = probe.decided.share_of_last, probe.decided.share_of_last_error
    tau_last = max(n for n in range(tau_first) if shares[n] <= MAX_LOST_SHARE)
    return tau_last, (
        f"tau_last {tau_last}: the last {tau_last} steps decide {shares[tau_last]:.1%} (standard error "
        f"{errors[tau_last]:.1%}) of the reward variance, which is at most {MAX_LOST_SHARE:.0%}; one more step would "
        f"make it {shares[tau_last + 1]:.1%}."
    )


def _tau_max(probe: Probe, tau_first: int) -> tuple[int, str]:
    shares = probe.decided.share_of_last
    rows = [row for row in probe.rows if row.interval_length >= tau_first]
    enough = next(row for row in rows if shares[row.interval_length] >= _ENOUGH_SHARE)
    reason = f"the shortest measured interval that decides {_ENOUGH_SHARE:.0%} of the variance or more"
    tau_max = enough.interval_length
    if "style" in enough.differ and 1 - enough.differ["style"] < _ONE_STYLE_FRACTION:
        one_style = [row for row in rows if 1 - row.differ["style"] >= _ONE_STYLE_FRACTION]
        tau_max = max((row.interval_length for row in one_style), default=tau_first)
        reason = f"the longest measured interval in which {_ONE_STYLE_FRACTION:.0%} of the groups have one style"
    return tau_max, f"tau_max {tau_max}: {reason} ({shares[tau_max]:.0%} of the variance)."


def _rule(probe: Probe, first: Row, tau_last: int, num_inner_epochs: int) -> tuple[Prediction, str, str]:
    """Choose the rule by its mean over all numbers of branches, then the number of branches."""
    predictions = probe.predictions[probe.rows.index(first)]
    cost = {
        id(one): one.num_branches / _evaluations(one, first.interval_length, tau_last, probe, num_inner_epochs)
        for one in predictions
    }
    rules = dict.fromkeys((one.advantage, one.selection) for one in predictions)
    rates = {
        rule: _mean([1000 * one.information * cost[id(one)] for one in predictions if _of(one) == rule])
        for rule in rules
    }
    rule = max(rates, key=lambda rule: rates[rule])
    own = [one for one in predictions if _of(one) == rule]
    most = max(one.information for one in own)
    best = next(one for one in own if one.information >= (1 - _TOLERANCE) * most)
    others = ", ".join(f"{'/'.join(other)} {rate:.2g}" for other, rate in rates.items() if other != rule)
    return (
        best,
        f"advantage {rule[0]}, selection {rule[1]}: the most predicted information per 1,000 network evaluations, "
        f"{rates[rule]:.2g} ({others}), where DDPO with a perfect baseline has "
        f"{1000 / (probe.num_inference_steps * (1 + _GRADIENT_COST * num_inner_epochs)):.2g}.",
        f"num_branches {best.num_branches}: {best.information:.2f} predicted information per reward query, the most of "
        f"2 to {probe.num_branches - 1} or within {_TOLERANCE:.0%} of it; {best.selected_fraction:.0%} of the images "
        f"are trained on.",
    )


def _of(prediction: Prediction) -> tuple[str, str]:
    return prediction.advantage, prediction.selection


def _evaluations(
    prediction: Prediction, interval_length: int, tau_last: int, probe: Probe, num_inner_epochs: int
) -> float:
    """Network evaluations of one branch group: trunk, branches, and the update in units of forward passes."""
    num_branches = prediction.num_branches
    trained = prediction.selected_fraction * num_branches * (interval_length - tau_last) * num_inner_epochs
    sampled = probe.num_inference_steps - interval_length + 1 + num_branches * (interval_length - 1)
    return sampled + _GRADIENT_COST * trained


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
