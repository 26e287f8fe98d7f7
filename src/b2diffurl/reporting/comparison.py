"""What the page that compares runs shows: final metrics, curves in one chart, images of the same prompts and noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from b2diffurl.errors import UserError
from b2diffurl.reporting import headline
from b2diffurl.reporting.headline import Change
from b2diffurl.reporting.plots import Chart, overlay_chart, reward_curve
from b2diffurl.reporting.sections import Figure, prompt_of
from b2diffurl.reporting.thumbnails import Frame, frame
from b2diffurl.run.records import RunRecord

MAX_RUNS = 6
MAX_FIGURES = 16
_SAME_NOISE = ("model", "seed", "sampler")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One run of the final table.

    Attributes:
        name: the folder.
        reward_name: what it was trained on.
        cells: one change per column of the table; None where the run has no such number.
        price: what it has cost.
    """

    name: str
    reward_name: str
    cells: list[Change | None]
    price: list[tuple[str, str]]


def compare_records(runs: Sequence[RunRecord], *, names: Sequence[str]) -> dict[str, Any]:
    """Return what the template comparison.html shows.

    Args:
        runs: two to six runs.
        names: their display names.

    Raises:
        UserError: there are fewer or more runs, or one is given twice.
    """
    if not 2 <= len(runs) <= MAX_RUNS:
        raise UserError(f"report compares {len(runs)} runs; give 2 to {MAX_RUNS} run folders.")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(f"report has the run {repeated[0]} more than once; give each once.")
    changes = [_changes(run) for run in runs]
    columns = list(dict.fromkeys(label for each in changes for label in each))
    rows = [
        RunRow(
            name=name,
            reward_name=str(run.settings.get("reward", "")),
            cells=[each.get(column) for column in columns],
            price=headline.price(run),
        )
        for run, name, each in zip(runs, names, changes, strict=True)
    ]
    return {
        "title": f"{len(runs)} runs compared",
        "refresh_seconds": 0,
        "columns": columns,
        "rows": rows,
        "charts": _charts(runs, names),
        "figures": _figures(runs, names),
        "caveats": _caveats(runs),
    }


def _changes(run: RunRecord) -> dict[str, Change]:
    reward = headline.reward_change(run)
    every = [*([reward] if reward else []), *headline.evaluation_changes(run.evaluation)]
    return {("Training reward" if change is reward else change.label): change for change in every}


def _charts(runs: Sequence[RunRecord], names: Sequence[str]) -> list[Chart]:
    curves = [(name, *reward_curve(run)) for run, name in zip(runs, names, strict=True)]
    shown = [curve for curve in curves if curve[1]]
    caption = "Mean training reward of each round, by images scored."
    return [overlay_chart("Reward", shown, caption=caption)] if shown else []


def _figures(runs: Sequence[RunRecord], names: Sequence[str]) -> list[Figure]:
    """Show the images of each prompt that all runs have: before training of the first run, and the latest of each."""
    if not all(run.images for run in runs):
        return []
    prompts = [prompt for prompt in runs[0].prompts if all(prompt in run.prompts for run in runs)]
    return [Figure(caption=prompt, frames=_frames(runs, names, prompt)) for prompt in prompts[:MAX_FIGURES]]


def _frames(runs: Sequence[RunRecord], names: Sequence[str], prompt: str) -> list[Frame]:
    first = min(runs[0].images)
    frames = [frame(_image(runs[0], first, prompt), label="before", alt=f"{prompt} (before)")] if first == 0 else []
    for run, name in zip(runs, names, strict=True):
        number = max(run.images)
        label = f"{Path(name).name}, round {number:,}"
        frames.append(frame(_image(run, number, prompt), label=label, alt=f"{prompt} ({label})"))
    return frames


def _image(run: RunRecord, round_number: int, prompt: str) -> Path | None:
    index = next(index for index in range(len(run.prompts)) if prompt_of(run, index) == prompt)
    return run.images[round_number].get(index)


def _caveats(runs: Sequence[RunRecord]) -> list[str]:
    """List what makes the comparison less than exact."""
    first, caveats = runs[0].settings, list[str]()
    same = "Images start from the same noise."
    different = [name for name in _SAME_NOISE if any(run.settings.get(name) != first.get(name) for run in runs)]
    places = [[run.prompts.index(prompt) for prompt in runs[0].prompts if prompt in run.prompts] for run in runs]
    if different:
        caveats.append(f"The runs differ in {', '.join(different)}: images of a prompt start from other noise.")
    elif any(place != places[0] for place in places):
        caveats.append("The lists of sample prompts differ: images of a prompt start from other noise.")
    else:
        caveats.append(same)
    for name, meaning in (
        ("reward", "their rewards are not comparable"),
        ("prompts", "their metrics are not comparable"),
    ):
        if any(run.settings.get(name) != first.get(name) for run in runs):
            caveats.append(f"The runs differ in {name}: {meaning}.")
    caveats.append("One run per method shows no difference between methods; b2diffurl study repeats runs over seeds.")
    return caveats
