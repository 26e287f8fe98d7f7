"""A probe as a plot, an image grid and a JSON file."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from b2diffurl.analysis.probe.measure import Probe
from b2diffurl.analysis.probe.suggest import Suggestion
from b2diffurl.images import grid, to_pil
from b2diffurl.reporting.plots import save_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST_PIXELS = 96


def write_probe(probe: Probe, suggestion: Suggestion | None, folder: Path) -> None:
    """Write probe.json, probe.png (the curves) and groups.png (branches of one trunk, one row per interval length)."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "num_inference_steps": probe.num_inference_steps,
        "num_trunks": probe.num_trunks,
        "num_branches": probe.num_branches,
        "suggestion": asdict(suggestion) if suggestion else None,
        "rows": [asdict(row) for row in probe.rows],
    }
    (folder / "probe.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _save_plot(probe, suggestion, folder / "probe.png")
    images = [_enlarged(to_pil(image)) for image in probe.example.flatten(0, 1)]
    grid(images, num_columns=probe.num_branches).save(folder / "groups.png")


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, _LEAST_PIXELS // image.width)
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def shown_numbers(probe: Probe) -> list[int]:
    """Return the numbers of branches that tables and plots show."""
    return sorted({2, min(4, probe.num_branches), probe.num_branches})


def _save_plot(probe: Probe, suggestion: Suggestion | None, file: Path) -> None:
    def plot(axes: "Axes", *, panel: Callable[..., None]) -> None:
        panel(axes, probe=probe)
        if suggestion:
            axes.axvline(suggestion.tau_first, color="0.6", linewidth=1)
        axes.set_xlabel(f"interval length, of {probe.num_inference_steps} steps")
        axes.legend(fontsize=8)

    panels = [partial(plot, panel=panel) for panel in (_plot_stds, _plot_fractions)]
    save_panels(panels, file, panel_inches=(4.5, 3.6))


def _plot_stds(axes: "Axes", *, probe: Probe) -> None:
    lengths = [row.interval_length for row in probe.rows]
    axes.plot(lengths, [row.std_within for row in probe.rows], "o-", label="within groups (interval)")
    axes.plot(lengths, [row.std_between for row in probe.rows], "s--", label="between groups (trunk)")
    axes.set_ylabel("reward std")


def _plot_fractions(axes: "Axes", *, probe: Probe) -> None:
    lengths = [row.interval_length for row in probe.rows]
    for num in shown_numbers(probe):
        axes.plot(lengths, [row.pair_fraction[num] for row in probe.rows], "o-", label=f"gives a pair, K={num}")
    for name in probe.rows[0].differ:
        axes.plot(lengths, [row.differ[name] for row in probe.rows], ":", label=f"differs in {name}")
    axes.set(ylabel="fraction of branch groups", ylim=(0, 1))
