"""`b2diffurl evaluate MODEL`: evaluate a model's images, and compare adapters."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from b2diffurl.analysis.compare import AdapterComparison, best_known, check_metric, summarize
from b2diffurl.analysis.evaluate import BASE, EvaluationSettings, Variant, observe, variants
from b2diffurl.cli.common import announce_device, check_file, parse, prepare
from b2diffurl.cli.comparison import curve_lines, metric_lines, worst_lines
from b2diffurl.cli.generation import GenerationFlags, print_adapter_intervals, print_chain_note, progress_bar
from b2diffurl.config import NonNegativeInt, settings
from b2diffurl.distributed import check_device
from b2diffurl.errors import UserError
from b2diffurl.evaluation.observations import PAIRWISE_DISTANCE, VENDI_SCORE
from b2diffurl.evaluation.statistics import Interval
from b2diffurl.prompts.lists import read_prompt_list
from b2diffurl.reporting.plots import save_trade_off
from b2diffurl.reporting.text import count
from b2diffurl.rewards import RewardSettings


@settings
class Shown:
    """What is printed and written.

    Attributes:
        metrics: metrics to print; by default all in a comparison, otherwise those of the judge and of the rewards.
        json: file to write the numbers to; a comparison's are those of every prompt too.
        plot: PNG file for the plot of alignment against diversity.
        alignment: metric of the plot and of the worst prompts; by default scene_accuracy, else clip_score, else the
            first reward.
        diversity: other metric of the plot; by default style_entropy, else inception_score.
        num_worst: number of prompts to print per adapter, those with the lowest alignment.
    """

    metrics: tuple[str, ...] = ()
    json: Path | None = None
    plot: Path | None = None
    alignment: str = ""
    diversity: str = ""
    num_worst: NonNegativeInt = 3


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(GenerationFlags):
    """Evaluate a model's images: alignment and diversity.

    One adapter, or none, is evaluated alone. Several adapters, or one at other scales, are compared with the model
    without an adapter, on the same prompts and noise: each metric with a bootstrap interval over prompts, and with its
    paired difference from the model without an adapter; "*" marks differences whose interval excludes 0.

    Attributes:
        lora: adapter folders of runs.
        compare: compare a single adapter with the model without it.
        evaluation: number of images, judge, rewards, scales of the adapters, bootstrap.
        shown: what is printed and written.
        settings: settings of the rewards, as in a run.
    """

    lora: tuple[Path, ...] = ()
    compare: bool = False
    evaluation: Annotated[EvaluationSettings, tyro.conf.arg(name="")] = EvaluationSettings()  # noqa: RUF009 - frozen
    shown: Annotated[Shown, tyro.conf.arg(name="")] = Shown()  # noqa: RUF009 - frozen
    settings: Annotated[RewardSettings, tyro.conf.arg(name="")] = field(default_factory=RewardSettings)


def evaluate(words: list[str]) -> int:
    """Evaluate a model's images."""
    flags = parse(EvaluateCommand, words, prog="b2diffurl evaluate")
    shown, evaluation = flags.shown, flags.evaluation
    prompts = read_prompt_list(flags.prompts)
    available = evaluation.metrics(model=flags.model, prompts=prompts.prompts, reward_settings=flags.settings)
    compared = _variants(flags)
    is_comparison = len(compared) > 1
    _check_shown(shown, available, is_comparison=is_comparison)
    check_device(flags.generation.device)
    prepare()
    print_chain_note(flags.model)
    print_adapter_intervals(flags.lora, flags.generation)
    generation = replace(flags.generation, device=announce_device(flags.generation.device))
    with progress_bar(evaluation.num_images * len(compared)) as advance:
        observations = observe(
            flags.model, prompts, compared, evaluation=evaluation, seed=flags.seed, generation=generation,
            reward_settings=flags.settings, on_progress=advance,
        )  # fmt: skip
    tables = _settings(flags)
    if is_comparison:
        tables |= {"judge": evaluation.judge, "confidence": evaluation.confidence}
        used = tuple(dict.fromkeys(prompts.prompts[: evaluation.num_images]))
        comparison = summarize(
            compared, observations, prompts=used, metrics=available, evaluation=evaluation, seed=flags.seed
        )
        _show(comparison, shown, flags)
        tables |= comparison.to_tables()
    else:
        names = shown.metrics or [name for name in available if name not in (VENDI_SCORE, PAIRWISE_DISTANCE)]
        metrics = {name: observations[0].metric(name) for name in names}
        for name, value in metrics.items():
            print(f"{name:<16} {value:.4f}")
        tables |= metrics
    if shown.json is not None:
        shown.json.write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")
    return 0


def _variants(flags: EvaluateCommand) -> tuple[Variant, ...]:
    """List what is evaluated: one variant, or several to compare."""
    scales = flags.evaluation.adapter_scales
    if not scales:
        raise UserError("adapter_scales is empty; give one or more factors, such as 0 0.5 1.")
    if not flags.lora:
        for setting, is_given in (("compare", flags.compare), ("adapter_scales", scales != (1.0,))):
            if is_given:
                raise UserError(f"{setting} has no effect without an adapter; give lora.")
    compared = variants(flags.lora, scales=scales)
    is_alone = len(flags.lora) == 1 and scales == (1.0,) and not flags.compare
    return compared[1:] if is_alone else compared


def _check_shown(shown: Shown, available: tuple[str, ...], *, is_comparison: bool) -> None:
    """Check metrics and files before anything is generated."""
    named = [("metrics", name) for name in shown.metrics]
    named += [(setting, name) for setting in ("alignment", "diversity") if (name := getattr(shown, setting))]
    for setting, name in named:
        check_metric(name, available, setting=setting)
    if not is_comparison:
        for setting in ("plot", "alignment", "diversity"):
            if getattr(shown, setting):
                raise UserError(f"{setting} has no effect without a comparison; give several adapters, or compare.")
    if shown.plot is not None and not _axis(shown.diversity, available, "diversity"):
        raise UserError("plot needs a metric of diversity, which this judge has not; give diversity.")
    for file, setting in ((shown.json, "json"), (shown.plot, "plot")):
        if file is not None and not file.parent.is_dir():
            raise UserError(f"{setting} is {file}, whose folder does not exist; create it first.")
        if file is not None:
            check_file(file, setting=setting)
    if shown.plot is not None and shown.plot.suffix != ".png":
        raise UserError(f"plot is {shown.plot}; give a file whose name ends in .png.")


def _axis(name: str, metrics: tuple[str, ...], topic: str) -> str:
    """Give the metric that stands for a topic; without a known one, the first for alignment and none for diversity."""
    return name or best_known(metrics, topic) or (metrics[0] if topic == "alignment" else "")


def _show(comparison: AdapterComparison, shown: Shown, flags: EvaluateCommand) -> None:
    evaluation, metrics = flags.evaluation, comparison.metrics
    print(
        f"{count(evaluation.num_images, 'image')} of {count(len(comparison.prompts), 'prompt')} each, same noise; "
        f"{evaluation.confidence:.0%} bootstrap intervals over prompts; * difference from {BASE} whose interval "
        "excludes 0"
    )
    lines = metric_lines(comparison, shown.metrics or metrics)
    alignment = _axis(shown.alignment, metrics, "alignment")
    diversity = _axis(shown.diversity, metrics, "diversity")
    axes = [name for name in (alignment, diversity) if name]
    if evaluation.adapter_scales != (1.0,):
        lines += curve_lines(comparison, axes)
    if shown.num_worst and alignment in comparison.evaluated[0].by_prompt:
        lines += worst_lines(comparison, alignment, num=shown.num_worst)
    print("\n".join(lines))
    if shown.plot is not None:
        curves = {
            adapter: [
                (f"{p.variant.scale:g}", _ends(p.metrics[diversity]), _ends(p.metrics[alignment])) for p in points
            ]
            for adapter, points in comparison.curves().items()
        }
        save_trade_off(curves, shown.plot, x_label=diversity, y_label=alignment)
        print(f"\nplot  {shown.plot}")


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def _settings(flags: EvaluateCommand) -> dict[str, Any]:
    lora = [str(lora) for lora in flags.lora]
    return {
        "model": flags.model,
        "lora": lora if len(lora) > 1 else next(iter(lora), None),
        "num_images": flags.evaluation.num_images,
        "prompts": list(flags.prompts),
        "seed": flags.seed,
        "guidance_scale": flags.generation.sampler(flags.model).guidance_scale,
    }
