"""A probe as plots, an image grid and JSON files."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from b2diffurl.analysis.probe.information import Information
from b2diffurl.analysis.probe.measure import Probe
from b2diffurl.analysis.probe.setup import Cost
from b2diffurl.analysis.probe.suggest import Suggestion
from b2diffurl.images import grid, to_pil
from b2diffurl.reporting.plots import save_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST_PIXELS = 96


def write_probe(probe: Probe, suggestion: Suggestion | None, folder: Path) -> None:
    """Write probe.json, probe.png (the curves) and groups.png (branches of one trunk, one row per interval length).

    Args:
        probe: the measurement.
        suggestion: what follows from it, if anything does.
        folder: output folder, created if needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "num_inference_steps": probe.num_inference_steps,
        "num_trunks": probe.num_trunks,
        "num_branches": probe.num_branches,
        "cost": _cost(probe.cost),
        "decided_variance": asdict(probe.decided) | {"smoothed": probe.decided.smoothed},
        "predictions": [
            {"interval_length": row.interval_length, "rules": [asdict(one) for one in predictions]}
            for row, predictions in zip(probe.rows, probe.predictions, strict=True)
        ],
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


def write_information(result: Information, folder: Path) -> None:
    """Write information.json and information.png (each rule, and each step of DDPO).

    Args:
        result: the measurement.
        folder: output folder, created if needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = asdict(result) | {"cost": _cost(result.cost)}
    (folder / "information.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    panels = [partial(_plot_rules, result=result), partial(_plot_steps, result=result)]
    save_panels(panels, folder / "information.png", panel_inches=(7.5, 5.0))


def _cost(cost: Cost) -> dict[str, Any]:
    return {"num_images": cost.num_images, "num_evaluations": cost.num_evaluations, "seconds": round(cost.seconds, 1)}


def _save_plot(probe: Probe, suggestion: Suggestion | None, file: Path) -> None:
    def plot(axes: "Axes", *, panel: Callable[..., None]) -> None:
        panel(axes, probe=probe)
        for length in (suggestion.tau_last, suggestion.tau_first, suggestion.tau_max) if suggestion else ():
            axes.axvline(length, color="0.6", linewidth=1)
        axes.set_xlabel(f"last steps branched, of {probe.num_inference_steps}")
        axes.legend(fontsize=8)

    panels = [partial(plot, panel=panel) for panel in (_plot_stds, _plot_fractions)]
    save_panels([*panels, partial(_plot_decided, probe=probe)], file, panel_inches=(4.5, 3.6))


def _plot_stds(axes: "Axes", *, probe: Probe) -> None:
    lengths = [row.interval_length for row in probe.rows]
    axes.plot(lengths, [row.std_within for row in probe.rows], "o-", label="within groups (interval)")
    axes.plot(lengths, [row.std_between for row in probe.rows], "s--", label="between groups (trunk)")
    axes.set_ylabel("reward std")


def _plot_fractions(axes: "Axes", *, probe: Probe) -> None:
    lengths = [row.interval_length for row in probe.rows]
    for num in sorted({2, probe.num_branches}):
        axes.plot(lengths, [row.pair_fraction[num] for row in probe.rows], "o-", label=f"gives a pair, K={num}")
    for name in probe.rows[0].differ:
        axes.plot(lengths, [row.differ[name] for row in probe.rows], ":", label=f"differs in {name}")
    axes.set(ylabel="fraction of branch groups", ylim=(0, 1))


def _plot_decided(axes: "Axes", *, probe: Probe) -> None:
    values, errors = probe.decided.per_step, probe.decided.per_step_error
    steps = range(1, len(values) + 1)
    axes.bar(steps, values, yerr=errors, color="0.7", error_kw={"linewidth": 1})
    axes.plot(steps, probe.decided.smoothed, "-", linewidth=1, label="smoothed")
    axes.set(xlabel="denoising step, 1 is the noisiest", ylabel="reward variance decided")
    axes.legend(fontsize=8)


def _plot_rules(axes: "Axes", *, result: Information) -> None:
    rows = [row for row in result.rules if row.step_weights == result.own_weights][::-1]
    axes.barh(
        [row.rule for row in rows], [row.value for row in rows], xerr=[row.std_error for row in rows], color="0.7",
        error_kw={"linewidth": 1},
    )  # fmt: skip
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set(xlabel=f"information per reward query, step weights {rows[0].step_weights}")
    axes.tick_params(axis="y", labelsize=8)


def _plot_steps(axes: "Axes", *, result: Information) -> None:
    name, values = next(iter(result.steps.items()))
    axes.bar(range(1, len(values) + 1), values, yerr=result.steps_error[name], color="0.7", error_kw={"linewidth": 1})
    axes.axhline(0, color="0.3", linewidth=1)
    axes.set(title=name, xlabel="denoising step, 1 is the noisiest", ylabel="information per query of the step alone")
