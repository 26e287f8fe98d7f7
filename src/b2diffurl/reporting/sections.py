"""What the sections of the report show, from the files of a run; each is empty while its files do not exist."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

from PIL import ImageChops, ImageStat

from b2diffurl.reporting.headline import Change
from b2diffurl.reporting.metric_docs import METRIC_NOTES, SCORES, note_of
from b2diffurl.reporting.text import format_change, format_number
from b2diffurl.reporting.thumbnails import Frame, frame
from b2diffurl.run.gallery import BranchGroup, Gallery, tiles
from b2diffurl.run.records import RunRecord, read_image

MAX_PAIRS, MAX_FIRST_PAIRS = 48, 12
MAX_STRIPS = 4
MAX_FRAMES = 9
MAX_PROMPT_ROWS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Images that belong together, and their caption.

    Attributes:
        caption: the prompt.
        frames: the images.
        change: the change of the reward, with its direction; None without scores.
    """

    caption: str
    frames: list[Frame]
    change: Change | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupTable:
    """Branch groups of one round.

    Attributes:
        title: which round.
        figures: one per branch group.
    """

    title: str
    figures: list[Figure]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRow:
    """The rewards of one prompt.

    Attributes:
        prompt: the prompt.
        num_images: images scored.
        change: mean reward in the first and in the last third of the rounds.
    """

    prompt: str
    num_images: int
    change: Change


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRow:
    """A logged metric: its name, first and last value, and meaning."""

    name: str
    first: str
    last: str
    note: str


def pairs(run: RunRecord, gallery: Gallery) -> list[Figure]:
    """List each prompt's image before training beside its latest one, those that changed most first.

    With scores, by what the judge decides, then by the change of the reward; otherwise by the change of the pixels.
    """
    if not run.images:
        return []
    first, last = min(run.images), max(run.images)
    indices = sorted({index for files in run.images.values() for index in files})
    if first == last:
        return [Figure(caption=prompt_of(run, index), frames=[_sample(run, gallery, first, index)])
                for index in indices[:MAX_PAIRS]]  # fmt: skip
    order = sorted(indices, key=lambda index: _amount(run, gallery, index, first=first, last=last), reverse=True)
    return [
        Figure(
            caption=prompt_of(run, index),
            frames=[_sample(run, gallery, number, index) for number in (first, last)],
            change=_pair_change(gallery, index, first=first, last=last),
        )
        for index in order[:MAX_PAIRS]
    ]


def _sample(run: RunRecord, gallery: Gallery, round_number: int, index: int) -> Frame:
    label = "before" if round_number == 0 else f"round {round_number:,}"
    reward = _reward(gallery, round_number, index)
    return frame(
        run.images[round_number].get(index),
        label=label,
        alt=f"{prompt_of(run, index)} ({label})",
        reward="" if math.isnan(reward) else format_number(reward),
        is_right=_is_right(gallery, round_number, index),
    )


def prompt_of(run: RunRecord, index: int) -> str:
    """Return the prompt of a sample image."""
    return run.prompts[index] if index < len(run.prompts) else f"image {index}"


def _reward(gallery: Gallery, round_number: int, index: int) -> float:
    scores = gallery.scores.get(round_number)
    return scores.rewards[index] if scores and index < len(scores.rewards) else math.nan


def _is_right(gallery: Gallery, round_number: int, index: int) -> bool | None:
    """Return what the judge decides on an image; None if no metric of it is a decision per image."""
    scores = gallery.scores.get(round_number)
    for name, values in scores.judged.items() if scores else ():
        if name in SCORES and SCORES[name].is_fraction and index < len(values):
            return values[index] > 0.5
    return None


def _amount(run: RunRecord, gallery: Gallery, index: int, *, first: int, last: int) -> tuple[float, float]:
    """Return how much a pair changed: whether the judge's decision did, then the reward or the pixels."""
    decisions = [_is_right(gallery, number, index) for number in (first, last)]
    difference = _reward(gallery, last, index) - _reward(gallery, first, index)
    if math.isnan(difference):
        difference = _pixel_difference(*(run.images[number].get(index) for number in (first, last)))
    return float(decisions[0] != decisions[1]), abs(difference)


def _pixel_difference(before: Path | None, after: Path | None) -> float:
    if before is None or after is None:
        return 0.0
    images = [read_image(path) for path in (before, after)]
    return sum(ImageStat.Stat(ImageChops.difference(*images)).mean)


def _pair_change(gallery: Gallery, index: int, *, first: int, last: int) -> Change | None:
    before, after = (_reward(gallery, number, index) for number in (first, last))
    return None if math.isnan(after - before) else change_of(before, after)


def change_of(before: float, after: float) -> Change:
    """Describe the change of a reward; one of less than 2 % of the larger value has no color."""
    largest = max(abs(before), abs(after))
    is_small = abs(after - before) < 0.02 * largest
    return Change(
        label="reward",
        before=format_number(before),
        after=format_number(after),
        change=format_change(after - before, decimals=3 if largest < 10 else 1),
        style="" if is_small else "good" if after > before else "bad",
    )


def grids(run: RunRecord, gallery: Gallery) -> list[Figure]:
    """Show the n x n grids of the first prompt."""
    side = isqrt(_num_in_grid(run))
    if not side:
        return []
    figures: list[Figure] = []
    for number in sorted(gallery.grids):
        label = "before training" if number == 0 else f"after round {number:,}"
        images = tiles(read_image(gallery.grids[number]), num_columns=side, num_rows=side)
        frames = [frame(image, label="", alt=f"{label}, image {index + 1}") for index, image in enumerate(images)]
        figures.append(Figure(caption=label, frames=frames))
    return figures


def _num_in_grid(run: RunRecord) -> int:
    side = run.settings.get("logging", {}).get("grid_side", 0)
    return side**2 if isinstance(side, int) else 0


def group_tables(gallery: Gallery) -> list[GroupTable]:
    """Show the branch groups of the first and of the last stored round, with the best and the worst branch marked."""
    shown = [number for number in (min(gallery.groups, default=0), max(gallery.groups, default=0)) if number]
    tables: list[GroupTable] = []
    for number in dict.fromkeys(shown):
        path, groups = gallery.groups[number]
        num_branches = len(groups[0].rewards) if groups else 0
        if not num_branches:
            continue
        images = tiles(read_image(path), num_columns=num_branches, num_rows=len(groups))
        figures = [
            Figure(caption=group.prompt, frames=_branches(group, images[row * num_branches : (row + 1) * num_branches]))
            for row, group in enumerate(groups)
        ]
        tables.append(GroupTable(title=f"Round {number:,}", figures=figures))
    return tables


def _branches(group: BranchGroup, images: Sequence[object]) -> list[Frame]:
    best, worst = max(group.rewards), min(group.rewards)
    frames: list[Frame] = []
    for branch, (image, reward) in enumerate(zip(images, group.rewards, strict=True)):
        is_selected = branch in group.selected
        is_end = best != worst and reward in (best, worst)
        mark = ("best" if reward == best else "worst" if is_end else "trained") if is_selected else ""
        label = f"{mark}, trained" if mark in ("best", "worst") else mark or "not trained"
        alt = f"{group.prompt}, branch {branch + 1}"
        frames.append(frame(image, label=label, alt=alt, reward=format_number(reward), mark=mark))  # pyright: ignore[reportArgumentType]
    return frames


def strips(run: RunRecord) -> list[Figure]:
    """Show the first prompts' images during training, if images of intermediate rounds exist."""
    sampled = list(run.images)
    if len(sampled) < 3:
        return []
    shown = spread(sampled, limit=MAX_FRAMES)
    indices = sorted({index for files in run.images.values() for index in files})[:MAX_STRIPS]
    return [
        Figure(caption=prompt_of(run, index), frames=[_sample(run, Gallery(), number, index) for number in shown])
        for index in indices
    ]


def spread(items: Sequence[int], *, limit: int) -> list[int]:
    """Return at most `limit` evenly spaced items, including the first and the last.

    >>> spread(range(0, 101, 10), limit=3)
    [0, 50, 100]
    """
    if len(items) <= limit:
        return list(items)
    return [items[round(place * (len(items) - 1) / (limit - 1))] for place in range(limit)]


def prompt_rows(rewards: Sequence[tuple[int, str, float]]) -> list[PromptRow]:
    """List the mean reward of each prompt in the first and in the last third of the rounds, falls first.

    Args:
        rewards: round, prompt and reward of each image.
    """
    rounds = sorted({number for number, _, _ in rewards})
    if len(rounds) < 2:
        return []
    third = max(1, len(rounds) // 3)
    early, late = set(rounds[:third]), set(rounds[-third:])
    by_prompt: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, prompt, reward in rewards:
        by_prompt[prompt].append((number, reward))
    rows: list[tuple[float, PromptRow]] = []
    for prompt, entries in by_prompt.items():
        before = _mean([reward for number, reward in entries if number in early])
        after = _mean([reward for number, reward in entries if number in late])
        change = change_of(before, after) if math.isfinite(after - before) else _without_change(before, after)
        difference = after - before if math.isfinite(after - before) else math.inf
        rows.append((difference, PromptRow(prompt=prompt, num_images=len(entries), change=change)))
    return [row for _, row in sorted(rows, key=lambda item: item[0])][:MAX_PROMPT_ROWS]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _without_change(before: float, after: float) -> Change:
    return Change(label="reward", before=format_number(before), after=format_number(after))


def metric_rows(run: RunRecord) -> list[MetricRow]:
    """Describe every logged metric, with its first and last value."""
    logged = run.metric_names()
    names = [name for name in METRIC_NOTES if name in logged] + [name for name in logged if name not in METRIC_NOTES]
    rows: list[MetricRow] = []
    for name in names:
        values = run.series(name)
        note = note_of(name) or "No description of this metric."
        rows.append(MetricRow(name=name, first=format_number(values[0]), last=format_number(values[-1]), note=note))
    return rows
