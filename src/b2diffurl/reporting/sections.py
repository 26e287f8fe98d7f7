"""The sections of the report between its header and the run settings; each is "" while its files do not exist.

Everything that comes from the run is escaped by `html.escape`.
"""

import math
from collections.abc import Sequence
from html import escape

from b2diffurl.reporting.metric_docs import METRIC_NOTES, SCORES, Score, note_of, score_of
from b2diffurl.reporting.plots import Chart, large_charts, score_charts, small_charts, term_charts
from b2diffurl.reporting.text import MISSING, count, format_change, format_number
from b2diffurl.reporting.thumbnails import image_html
from b2diffurl.run.records import Evaluation, RunRecord

MAX_PAIRS = 48
MAX_STRIPS = 4
MAX_FRAMES = 9
CHANGE_WORDS = {"alignment": ("worse", "better"), "diversity": ("less diverse", "more diverse")}


def scores_section(evaluation: Evaluation | None) -> str:
    """Show each evaluation score before and after training, its change, and what it means."""
    if evaluation is None:
        return ""
    reported = dict.fromkeys([*evaluation.before, *evaluation.after])
    names = [name for name in SCORES if name in reported] + [name for name in reported if name not in SCORES]
    if not names:
        return ""
    tiles = "".join(_tile(name, evaluation) for name in names)
    lead = "Before and after training" if evaluation.after else "Before training only"
    if evaluation.num_images:
        lead += f", {count(evaluation.num_images, 'image')}"
    if evaluation.prompts:
        lead += f", prompts <b>{escape(evaluation.prompts)}</b>"
    if evaluation.num_images and "scene_accuracy" in reported:
        points = 50 / math.sqrt(evaluation.num_images)
        lead += f". The standard error of a percentage is at most ±{points:.1f} points"
    return _section("Alignment and diversity", f"{lead}.", f'<div class="tiles">{tiles}</div>')


def _section(title: str, lead: str, content: str) -> str:
    return f'<section><h2>{title}</h2><p class="lead">{lead}</p>{content}</section>'


def _tile(name: str, evaluation: Evaluation) -> str:
    score = score_of(name) or Score(label=name, topic="other")
    scale, unit = (100, " %") if score.is_fraction else (1, "")

    def value_text(value: float) -> str:
        return MISSING if math.isnan(value) else f"{scale * value:.{score.decimals}f}{unit}".replace("-", "−")

    before, after = evaluation.before.get(name, math.nan), evaluation.after.get(name, math.nan)
    values = value_text(before)
    if name in evaluation.after:
        values = f'<span class="from">{values} →</span> {value_text(after)}'
    note = note_of(name) or "No description of this metric; see the evaluation that reports it."
    return (
        f'<article class="tile"><p class="topic">{score.topic}</p><h3>{escape(score.label)}</h3>'
        f'<p class="value">{values}</p>{_change(scale * (after - before), score)}'
        f'<p class="note">{escape(note)}</p></article>'
    )


def _change(change: float, score: Score) -> str:
    """Show a signed change, with a word beside the color, since not everyone can distinguish colors."""
    if math.isnan(change):
        return ""
    text = format_change(change, decimals=score.decimals) + (" points" if score.is_fraction else "")
    if text.startswith("±"):
        return f'<p class="change">{text} <span>unchanged</span></p>'
    if score.topic not in CHANGE_WORDS:
        return f'<p class="change">{text}</p>'
    style, arrow = ("good", "▲") if change > 0 else ("bad", "▼")
    return f'<p class="change {style}">{arrow} {text} <span>{CHANGE_WORDS[score.topic][change > 0]}</span></p>'


def curves_section(run: RunRecord) -> str:
    """Show the charts of the logged metrics."""
    rows = _chart_row("charts-large", large_charts(run)) + _chart_row("charts-small", small_charts(run))
    rows += _chart_row("charts-small", score_charts(run)) + _chart_row("charts-small", term_charts(run))
    return f"<section><h2>Training</h2>{rows}</section>" if rows else ""


def _chart_row(style: str, charts: Sequence[Chart]) -> str:
    cards = "".join(_chart_card(chart) for chart in charts)
    return f'<div class="{style}">{cards}</div>' if cards else ""


def _chart_card(chart: Chart) -> str:
    return (
        f'<figure class="card"><figcaption><h3>{escape(chart.title)}<b title="last round">{chart.latest}</b></h3>'
        f"<p>{chart.caption}</p></figcaption>{chart.svg}</figure>"
    )


def pairs_section(run: RunRecord) -> str:
    """Show each prompt's image before training beside its latest one."""
    if not run.images:
        return ""
    sampled = list(run.images)
    is_paired = len(sampled) > 1
    shown = [sampled[0], sampled[-1]] if is_paired else sampled
    indices = _prompt_indices(run)
    pairs = "".join(
        f'<figure class="pair">{_frames(run, index, rounds=shown)}{_caption(run, index)}</figure>'
        for index in indices[:MAX_PAIRS]
    )
    title, lead, style = "Images", "Fixed prompts and seeds.", "pairs single"
    if is_paired:
        title, lead, style = "Images before and after", "Both images of a pair start from the same seed.", "pairs"
    if len(indices) > MAX_PAIRS:
        lead += f" The first {MAX_PAIRS} of {len(indices)} prompts."
    return _section(title, lead, f'<div class="{style}">{pairs}</div>')


def strips_section(run: RunRecord) -> str:
    """Show the first prompts' images during training, if images of intermediate rounds exist."""
    sampled = list(run.images)
    if len(sampled) < 3:
        return ""
    shown = _spread(sampled, limit=MAX_FRAMES)
    strips = "".join(
        f'<figure class="strip">{_caption(run, index)}{_frames(run, index, rounds=shown)}</figure>'
        for index in _prompt_indices(run)[:MAX_STRIPS]
    )
    lead = "Images from the same seed during training."
    if len(shown) < len(sampled):
        lead += f" {len(shown)} of {len(sampled)} sampled rounds."
    return _section("Round by round", lead, f'<div class="strips">{strips}</div>')


def _prompt_indices(run: RunRecord) -> list[int]:
    return sorted({index for files in run.images.values() for index in files})


def _prompt(run: RunRecord, index: int) -> str:
    return run.prompts[index] if index < len(run.prompts) else f"image {index}"


def _caption(run: RunRecord, index: int) -> str:
    return f"<figcaption>{escape(_prompt(run, index))}</figcaption>"


def _frames(run: RunRecord, index: int, *, rounds: Sequence[int]) -> str:
    """Show one prompt's images side by side, each with its round below it."""
    frames: list[str] = []
    for number in rounds:
        label = "before" if number == 0 else f"round {number:,}"
        image = image_html(run.images[number].get(index), alt=f"{_prompt(run, index)} ({label})")
        frames.append(f'<div class="frame">{image}<small>{label}</small></div>')
    return f'<div class="shots">{"".join(frames)}</div>'


def _spread(items: Sequence[int], *, limit: int) -> list[int]:
    """Return at most `limit` evenly spaced items, including the first and the last.

    >>> _spread(range(0, 101, 10), limit=3)
    [0, 50, 100]
    """
    if len(items) <= limit:
        return list(items)
    return [items[round(place * (len(items) - 1) / (limit - 1))] for place in range(limit)]


def metrics_section(run: RunRecord) -> str:
    """Describe every logged metric, with its first and last value."""
    logged = run.metric_names()
    names = [name for name in METRIC_NOTES if name in logged] + [name for name in logged if name not in METRIC_NOTES]
    if not names:
        return ""
    rows = "".join(_metric_row(run, name) for name in names)
    return (
        '<section><h2>Metrics</h2><div class="card"><table class="metrics"><thead><tr><th>metric</th>'
        '<th class="number">first</th><th class="number">last</th><th>meaning</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _metric_row(run: RunRecord, name: str) -> str:
    values = run.series(name)
    note = note_of(name) or "No description of this metric."
    return (
        f'<tr><th scope="row"><code>{escape(name)}</code></th>'
        f'<td class="number" data-label="first">{format_number(values[0])}</td>'
        f'<td class="number" data-label="last">{format_number(values[-1])}</td><td>{escape(note)}</td></tr>'
    )
