"""A probe as a table, a plot, a picture and a JSON file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from rich.table import Table

from b2diffurl.analysis.probe.measure import Probe
from b2diffurl.analysis.probe.suggest import Suggestion
from b2diffurl.images import grid, to_pil

_LEAST_PIXELS = 96


def table(probe: Probe) -> Table:
    """One row an interval length."""
    names = list(probe.rows[0].differ)
    heads = ["tau", "std within", "between", *(f"pairs, K={num}" for num in _shown(probe)), "distance"]
    out = Table(
        *heads,
        *(f"differ in {name}" for name in names),
        title=f"{probe.num_trunks} trunks, {probe.num_branches} branches each, over the last tau steps",
        caption="std: of the reward within and between branch groups; pairs and differ: share of groups; "
        "distance: of pictures within groups",
    )
    for row in probe.rows:
        cells = [f"{row.std_within:.3g}", f"{row.std_between:.3g}"]
        cells += [f"{row.pair_fraction[num]:.2f}" for num in _shown(probe)] + [f"{row.distance:.3f}"]
        out.add_row(str(row.interval_length), *cells, *(f"{row.differ[name]:.2f}" for name in names))
    return out


def write_probe(probe: Probe, suggestion: Suggestion | None, folder: Path) -> None:
    """Write probe.json, probe.png (the curves) and groups.png (one trunk's branches, a line an interval length)."""
    folder.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {
        "num_inference_steps": probe.num_inference_steps,
        "num_trunks": probe.num_trunks,
        "num_branches": probe.num_branches,
        "suggestion": asdict(suggestion) if suggestion else None,
        "rows": [asdict(row) for row in probe.rows],
    }
    (folder / "probe.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    _plot(probe, suggestion).savefig(folder / "probe.png", dpi=150)
    images = [_enlarged(to_pil(image)) for image in probe.example.flatten(0, 1)]
    grid(images, num_columns=probe.num_branches).save(folder / "groups.png")


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, _LEAST_PIXELS // image.width)
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def _shown(probe: Probe) -> list[int]:
    return sorted({2, min(4, probe.num_branches), probe.num_branches})


def _plot(probe: Probe, suggestion: Suggestion | None) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    spread, share = figure.subplots(1, 2)
    lengths = [row.interval_length for row in probe.rows]
    spread.plot(lengths, [row.std_within for row in probe.rows], "o-", label="within groups: what the interval decides")
    spread.plot(lengths, [row.std_between for row in probe.rows], "s--", label="between groups: what the trunk decided")
    spread.set_ylabel("reward std")
    for num in _shown(probe):
        share.plot(lengths, [row.pair_fraction[num] for row in probe.rows], "o-", label=f"gives a pair, K={num}")
    for name in probe.rows[0].differ:
        share.plot(lengths, [row.differ[name] for row in probe.rows], ":", label=f"differs in {name}")
    share.set_ylabel("share of branch groups")
    share.set_ylim(0, 1)
    for axes in (spread, share):
        if suggestion:
            axes.axvline(suggestion.tau_first, color="0.6", linewidth=1)
        axes.set_xlabel(f"last steps branched, of {probe.num_inference_steps}")
        axes.legend(fontsize=8)
    return figure
