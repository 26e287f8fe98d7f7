"""The first screen of the report: did it get better, at what price, can it be trusted."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from b2diffurl.reporting.metric_docs import HELD_OUT, SCORES, Score, note_of, score_of
from b2diffurl.reporting.text import MISSING, count, format_change, format_duration, format_number
from b2diffurl.run.records import Evaluation, RunRecord

TIME_METRICS = ("time/rollout_s", "time/reward_s", "time/update_s")
_WORDS = {"alignment": ("worse", "better"), "diversity": ("less diverse", "more diverse")}
_WATCHED_TOLERANCE = 0.05  # ours: a watched reward fell if it lost more than this fraction of its first value
_DIVERSITY_TOLERANCE = 0.05  # ours, likewise
_HELD_OUT_SHARE = 0.5  # ours: less of the training prompts' gain than this is not called general
_OFTEN = 0.25  # ours: fraction of rounds above which shrunk steps or rounds without an update are worth a change
_SMALL_STEP = 0.8  # ours: a step of which less is kept on average is too large


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A number before and after training.

    Attributes:
        label: display name.
        topic: the property that it measures.
        before: the first value as text, or "".
        after: the last value as text, or "".
        change: the signed change as text, or "".
        word: its direction as text, since not everyone can distinguish colors; or "".
        style: "good", "bad" or "".
        note: its meaning.
    """

    label: str
    topic: str = "other"
    before: str = ""
    after: str = ""
    change: str = ""
    word: str = ""
    style: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """One sentence about whether the result can be trusted.

    Attributes:
        level: "good", "warn" or "info".
        text: what was measured.
        advice: what it means and what to do; or "".
    """

    level: str
    text: str
    advice: str = ""


def reward_change(run: RunRecord) -> Change | None:
    """Compare the mean training reward of the first rounds with that of the last ones; None before the first round.

    A tenth of the rounds on each side, at least one. A change below two standard errors has no direction.
    """
    rewards, stds = run.series("reward/mean"), run.series("reward/std")
    usable = [index for index, value in enumerate(rewards) if math.isfinite(value)]
    if not usable:
        return None
    num = max(1, len(usable) // 10)
    sides = [usable[:num], usable[-num:]]
    before, after = (sum(rewards[index] for index in side) / num for side in sides)
    label = "Reward"
    if len(usable) == 1:
        return Change(label=label, topic="training", after=format_number(after), note="Mean of the only round so far.")
    images = _images_per_round(run)
    errors = [sum(_zero_if_nan(stds[i]) ** 2 / images[i] for i in side) / num**2 for side in sides]
    is_clear = abs(after - before) > 2 * math.sqrt(sum(errors))
    word, style = _direction(after - before, _WORDS["alignment"]) if is_clear else ("no clear change", "")
    return Change(
        label=label,
        topic="training",
        before=format_number(before),
        after=format_number(after),
        change=_signed(after - before),
        word=word,
        style=style,
        note=f"Mean over the images of the {_ends(num)}. What is trained on; no independent judge.",
    )


def _ends(num: int) -> str:
    return "first and of the last round" if num == 1 else f"first and of the last {num} rounds"


def _signed(value: float) -> str:
    text = format_number(abs(value))
    return f"±{text}" if value == 0 else f"{'+' if value > 0 else '−'}{text}"


def _direction(change: float, words: tuple[str, str]) -> tuple[str, str]:
    return (words[1], "good") if change > 0 else (words[0], "bad")


def _images_per_round(run: RunRecord) -> list[float]:
    queries = [_zero_if_nan(value) for value in run.series("reward_queries")]
    return [max(1.0, after - before) for before, after in zip([0.0, *queries], queries, strict=False)]


def _zero_if_nan(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def evaluation_changes(evaluation: Evaluation | None) -> list[Change]:
    """List each evaluation metric before and after training, known ones first."""
    if evaluation is None:
        return []
    reported = dict.fromkeys([*evaluation.before, *evaluation.after])
    known = [name for name in (*SCORES, *(f"{HELD_OUT}{name}" for name in SCORES)) if name in reported]
    return [_score_change(name, evaluation) for name in (*known, *(name for name in reported if name not in known))]


def _score_change(name: str, evaluation: Evaluation) -> Change:
    score = score_of(name) or Score(label=name, topic="other")
    scale, unit = (100, " %") if score.is_fraction else (1, "")

    def text(value: float) -> str:
        return MISSING if math.isnan(value) else f"{scale * value:.{score.decimals}f}{unit}".replace("-", "−")

    before, after = evaluation.before.get(name, math.nan), evaluation.after.get(name, math.nan)
    difference = scale * (after - before)
    change = word = style = ""
    if math.isfinite(difference):
        change = format_change(difference, decimals=score.decimals) + (" points" if score.is_fraction else "")
        if change.startswith("±"):
            word = "unchanged"
        elif score.topic in _WORDS:
            word, style = _direction(difference, _WORDS[score.topic])
    return Change(
        label=score.label,
        topic=score.topic,
        before=text(before),
        after=text(after) if name in evaluation.after else "",
        change=change,
        word=word,
        style=style,
        note=note_of(name) or "No description of this metric; see the evaluation that reports it.",
    )


def verdict(run: RunRecord) -> str:
    """Summarize the run in one sentence."""
    change = reward_change(run)
    if not run.rounds:
        return "No round has finished yet."
    if change is None:
        return f"{rounds_text(run)}."
    if not change.before:
        return f"Reward {change.after} after {rounds_text(run)}."
    return f"Reward {change.before} → {change.after} over {rounds_text(run)}: {change.word}."


def rounds_text(run: RunRecord) -> str:
    """Return the number of finished rounds, and of planned ones if some are missing."""
    done, planned = len(run.rounds), run.num_rounds()
    return count(done, "round") if planned is None or done >= planned else f"{done:,} of {count(planned, 'round')}"


def price(run: RunRecord) -> list[tuple[str, str]]:
    """List what the run has cost so far: images, network evaluations, time, machine."""
    queries = finite(run, "reward_queries")
    sampling = sum(finite(run, "network/rollout_evaluations"))
    updating = sum(finite(run, "network/update_evaluations"))
    seconds = sum(value for metric in TIME_METRICS for value in finite(run, metric))
    environment = run.environment
    machine = [environment.get("device", ""), _processes(environment), environment.get("machine", "")]
    rows = [
        ("Images scored", f"{int(queries[-1]):,}" if queries else ""),
        ("Network evaluations", f"{int(sampling):,} sampling, {int(updating):,} updating" if sampling else ""),
        ("Duration", f"{format_duration(seconds)} of sampling, scoring and updating" if seconds else ""),
        ("Machine", ", ".join(part for part in machine if part)),
        ("Started", environment.get("started", "")),
    ]
    return [(name, value) for name, value in rows if value]


def _processes(environment: Mapping[str, str]) -> str:
    """Name the processes and threads of a run, as far as its record has them.

    >>> _processes({"processes": "2", "threads": "1"}), _processes({"processes": "1", "threads": "2"}), _processes({})
    ('2 processes of 1 thread', '2 threads', '')
    """
    processes, threads = environment.get("processes", "1"), environment.get("threads", "")
    if not (processes.isdecimal() and threads.isdecimal()):
        return ""
    each = count(int(threads), "thread")
    return each if processes == "1" else f"{count(int(processes), 'process', plural='processes')} of {each}"


def finite(run: RunRecord, metric: str) -> list[float]:
    """Return the finite values of a metric by round."""
    return [value for value in run.series(metric) if math.isfinite(value)]


def findings(run: RunRecord) -> list[Remark]:
    """List what speaks for and against the result; warnings first."""
    notes = [Remark(level="warn", text=note) for note in run.notes]
    if not run.rounds:
        return notes
    every = [*_collapse(run), *_watched(run), *_judged(run), *_held_out(run), *_diversity(run), *_trust_region(run),
             *_idle(run), *notes]  # fmt: skip
    order = ("warn", "info", "good")
    return sorted(every, key=lambda finding: order.index(finding.level))


def _collapse(run: RunRecord) -> Iterator[Remark]:
    if run.stop:
        text = "The collapse watch or a failed reward ended this run early."
        yield Remark(level="warn", text=text, advice="The last good checkpoint is kept; the cause stands above.")
    else:
        text = "No collapse: rewards, contrast and the size of the updates stayed within the limits of the watch."
        yield Remark(level="good", text=text)


def _watched(run: RunRecord) -> Iterator[Remark]:
    for name in _watched_names(run):
        values = finite(run, f"reward/{name}/mean")
        if len(values) < 2:
            continue
        numbers = f"{format_number(values[0])} → {format_number(values[-1])}"
        if values[-1] < values[0] - _WATCHED_TOLERANCE * abs(values[0]):
            advice = (
                "If the reward rose meanwhile, it may be exploited: compare the images below, stop earlier, or add "
                "this reward as a term."
            )
            yield Remark(level="warn", text=f"The watched reward {name} fell: {numbers}.", advice=advice)
        else:
            yield Remark(level="good", text=f"The watched reward {name} did not fall: {numbers}.")


def _watched_names(run: RunRecord) -> Sequence[str]:
    names: Any = run.settings.get("watch", ())
    return [str(name) for name in cast("list[object]", names)] if isinstance(names, list) else []


def _judged(run: RunRecord) -> Iterator[Remark]:
    after = run.evaluation.after if run.evaluation else {}
    before = run.evaluation.before if run.evaluation else {}
    is_clip_trained_on = "clip" in str(run.settings.get("reward", "clip"))
    independent = [name for name in ("scene_accuracy", "clip_score") if name in after and name in before]
    independent = [name for name in independent if not (name == "clip_score" and is_clip_trained_on)]
    if not independent and not _watched_names(run) and not _is_unfinished(run):
        advice = "Add watched rewards (watch), or a judge that is not the reward (judge), and compare the images below."
        yield Remark(level="warn", text="Nothing independent of the reward confirms it.", advice=advice)
    for name in independent:
        score = SCORES[name]
        num_images = (run.evaluation.num_images if run.evaluation else None) or 1
        error = 0.5 / math.sqrt(num_images) if score.is_fraction else 0.0  # at most, of a fraction of the images
        change = after[name] - before[name]
        if change < -error:
            advice = "If the reward rose, the policy is exploiting it."
            yield Remark(level="warn", text=f"{score.label}, which is not trained on, fell.", advice=advice)
        elif change > error:
            yield Remark(level="good", text=f"{score.label}, which is not trained on, rose.")
        else:
            advice = "The change is within one standard error: evaluate more images (logging.num_evaluation_images)."
            yield Remark(level="info", text=f"{score.label}, which is not trained on, did not change.", advice=advice)


def _is_unfinished(run: RunRecord) -> bool:
    planned = run.num_rounds()
    return planned is not None and len(run.rounds) < planned


def _held_out(run: RunRecord) -> Iterator[Remark]:
    before, after = (run.evaluation.before, run.evaluation.after) if run.evaluation else ({}, {})
    for name, score in SCORES.items():
        other = f"{HELD_OUT}{name}"
        has_all = all(key in side for key in (name, other) for side in (before, after))
        if score.topic != "alignment" or not has_all:
            continue
        scale, unit = (100, " points") if score.is_fraction else (1, "")
        trained, held_out = (scale * (after[key] - before[key]) for key in (name, other))
        numbers = [format_change(value, decimals=score.decimals) for value in (held_out, trained)]
        text = f"{score.label} on held-out prompts {numbers[0]}{unit}, on training prompts {numbers[1]}{unit}."
        if trained > 0 and held_out < _HELD_OUT_SHARE * trained:
            advice = "Most of the gain is specific to the training prompts: train on more prompts, or for fewer rounds."
            yield Remark(level="warn", text=text, advice=advice)
        elif trained > 0:
            yield Remark(level="good", text=text)


def _diversity(run: RunRecord) -> Iterator[Remark]:
    before, after = (run.evaluation.before, run.evaluation.after) if run.evaluation else ({}, {})
    for name, score in SCORES.items():
        if score.topic != "diversity" or name not in before or name not in after:
            continue
        numbers = " → ".join(f"{value:.{score.decimals}f}" for value in (before[name], after[name]))
        if after[name] < before[name] * (1 - _DIVERSITY_TOLERANCE):
            advice = "Images of a prompt may look alike: see the grid below; train for fewer rounds, or add a KL term."
            yield Remark(level="warn", text=f"{score.label}, a measure of diversity, fell: {numbers}.", advice=advice)
        else:
            text = (
                f"{score.label}, a measure of diversity, lost less than {100 * _DIVERSITY_TOLERANCE:.0f} %: {numbers}."
            )
            yield Remark(level="good", text=text)


def _trust_region(run: RunRecord) -> Iterator[Remark]:
    reverted = finite(run, "update/step_reverted").count(1)
    scales = [scale for scale in finite(run, "update/step_scale") if 0 < scale < 1]
    num, total = len(scales) + reverted, len(run.rounds)
    if not num:
        return
    kept = f", to {100 * sum(scales) / len(scales):.0f} % on average" if scales else ""
    what = f"shrank the last optimizer step in {len(scales)} of {count(total, 'round')}{kept}" if scales else ""
    undone = f"reverted a step in {reverted} of {count(total, 'round')}" if reverted else ""
    text = f"The trust region {' and '.join(part for part in (what, undone) if part)}."
    rate = _setting(run, "optimization", "learning_rate")
    limit = _setting(run, "trust_region", "max_kl")
    safe = "The policy stayed within its limit, so the result is not in danger"
    if num <= _OFTEN * total or (not reverted and sum(scales) > _SMALL_STEP * len(scales)):
        yield Remark(level="info", text=text, advice=f"{safe}; nothing needs to be done.")
        return
    advice = (
        f"{safe}, but the learning rate{rate} proposes larger steps than trust_region.max_kl{limit} allows, and the "
        "rest of such an update is skipped. Lower optimization.learning_rate to use all of it; raise "
        "trust_region.max_kl only if images and diversity stay good."
    )
    yield Remark(level="info", text=text, advice=advice)


def _setting(run: RunRecord, table: str, name: str) -> str:
    value = run.settings.get(table, {}).get(name)
    return f" ({value:g})" if isinstance(value, int | float) else ""


def _idle(run: RunRecord) -> Iterator[Remark]:
    num_idle = finite(run, "update/num_optimizer_steps").count(0) - finite(run, "update/step_reverted").count(1)
    if num_idle > 0:
        advice = "No image differed enough in reward to learn from; run.log names the cause if it happens repeatedly."
        text = f"{count(num_idle, 'round')} of {len(run.rounds)} without an update."
        yield Remark(level="info" if num_idle <= _OFTEN * len(run.rounds) else "warn", text=text, advice=advice)
