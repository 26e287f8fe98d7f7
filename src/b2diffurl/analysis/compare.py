"""Compare adapters with the model without one, on the same prompts and noise: metrics, intervals, differences.

Intervals are those of a bootstrap over prompts (`evaluation/statistics.py`); all models share its resamples, so that
differences are paired: what a hard prompt or an unlucky noise does to both models cancels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from b2diffurl.analysis.evaluate import EvaluationSettings, Variant, observe, variants
from b2diffurl.analysis.sample import Generation
from b2diffurl.errors import UserError
from b2diffurl.evaluation.observations import Observations
from b2diffurl.evaluation.statistics import Interval, bootstrap_interval, resample_prompts
from b2diffurl.prompts.lists import read_prompt_list
from b2diffurl.reporting.metric_docs import SCORES
from b2diffurl.rewards import RewardSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The numbers of one variant.

    Attributes:
        variant: the adapter and its scale.
        metrics: every metric with its interval, by name.
        differences: every metric minus the first variant's, with its interval; empty for the first.
        by_prompt: values by prompt, for each metric that is an average over prompts or images.
        observations: the observations of each image.
    """

    variant: Variant
    metrics: dict[str, Interval]
    differences: dict[str, Interval]
    by_prompt: dict[str, dict[str, float]]
    observations: Observations


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterComparison:
    """Several variants of a model on the same prompts and noise.

    Attributes:
        metrics: names of the metrics.
        prompts: the prompts that have images.
        evaluated: the variants; the first is the model without an adapter.
    """

    metrics: tuple[str, ...]
    prompts: tuple[str, ...]
    evaluated: tuple[Evaluated, ...]

    def worst(self, metric: str, *, num: int) -> dict[str, list[str]]:
        """Give the prompts with the lowest values of each variant, the lowest first, by the variant's label.

        Args:
            metric: one of the metrics that have values by prompt.
            num: number of prompts per variant.
        """
        return {
            each.variant.label: sorted(self.prompts, key=lambda prompt: values[prompt])[:num]
            for each in self.evaluated
            for values in [each.by_prompt[metric]]
        }

    def curves(self) -> dict[str, list[Evaluated]]:
        """Give the variants of each adapter by ascending scale, from the model without one, by the adapter's label."""
        base, *others = self.evaluated
        adapters = dict.fromkeys(each.variant.adapter for each in others)
        return {
            adapter: [base, *sorted((e for e in others if e.variant.adapter == adapter), key=lambda e: e.variant.scale)]
            for adapter in adapters
        }

    def to_tables(self) -> dict[str, Any]:
        """Give everything as nested tables that can be written as JSON; infinite and missing values are None."""
        return {
            "metrics": list(self.metrics),
            "variants": [
                {
                    "label": each.variant.label,
                    "lora": str(each.variant.lora) if each.variant.lora else None,
                    "scale": each.variant.scale,
                    "metrics": _tables(each.metrics),
                    "differences": _tables(each.differences),
                    "by_prompt": {name: _finite(values) for name, values in each.by_prompt.items()},
                }
                for each in self.evaluated
            ],
        }


def compare(
    model: str,
    prompts: str | Sequence[str],
    *,
    loras: Sequence[Path | str],
    evaluation: EvaluationSettings = EvaluationSettings(),  # noqa: B008 - frozen
    seed: int = 0,
    generation: Generation = Generation(),  # noqa: B008 - frozen
    reward_settings: RewardSettings | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> AdapterComparison:
    """Evaluate a model without an adapter, and with each of several, from the same prompts and noise.

    Args:
        model: "emoji", "emoji-objects", a local diffusers directory, a .safetensors checkpoint file, or a hub id.
        prompts: prompts, or the name of a list or the path of a prompts file.
        loras: adapter directories of runs.
        evaluation: number of images, judge, rewards, scales of the adapters, bootstrap.
        seed: seed of the noise and of the bootstrap.
        generation: sampler, precision and device.
        reward_settings: settings of the rewards in `evaluation`, such as the server of "vlm"; the defaults if None.
        on_progress: called with the number of images that have been completed since the last call.

    Raises:
        UserError: an argument is invalid, or the model, an adapter or the prompts cannot be found.
    """
    listed = read_prompt_list([prompts] if isinstance(prompts, str) else prompts)
    names = evaluation.metrics(model=model, prompts=listed.prompts, reward_settings=reward_settings)
    compared = variants([Path(lora) for lora in loras], scales=evaluation.adapter_scales)
    observations = observe(
        model, listed, compared, evaluation=evaluation, seed=seed, generation=generation,
        reward_settings=reward_settings, on_progress=on_progress,
    )  # fmt: skip
    used = tuple(dict.fromkeys(listed.prompts[: evaluation.num_images]))
    return summarize(compared, observations, prompts=used, metrics=names, evaluation=evaluation, seed=seed)


def summarize(
    variants: Sequence[Variant],
    observations: Sequence[Observations],
    *,
    prompts: tuple[str, ...],
    metrics: tuple[str, ...],
    evaluation: EvaluationSettings,
    seed: int,
) -> AdapterComparison:
    """Compute metrics, intervals and differences to the first variant from observations.

    Args:
        variants: the variants.
        observations: those of each variant, of the same prompts and noise.
        prompts: the prompts in the order of their numbers.
        metrics: names of the metrics.
        evaluation: settings of the bootstrap.
        seed: seed of the bootstrap.
    """
    resamples = resample_prompts(len(prompts), num_resamples=evaluation.num_resamples, seed=seed)
    tables = [_metrics(observed, metrics, resamples) for observed in observations]

    def interval(values: "np.ndarray[Any, np.dtype[np.float64]]") -> Interval:
        return bootstrap_interval(
            float(values[0]), values[1:], num_prompts=len(prompts), confidence=evaluation.confidence
        )

    evaluated: list[Evaluated] = []
    for variant, observed, table in zip(variants, observations, tables, strict=True):
        by_prompt = {name: values for name in metrics if (values := observed.by_prompt(name))}
        evaluated.append(
            Evaluated(
                variant=variant,
                metrics={name: interval(table[name]) for name in metrics},
                differences={name: interval(table[name] - tables[0][name]) for name in metrics if evaluated},
                by_prompt={name: dict(zip(prompts, values, strict=True)) for name, values in by_prompt.items()},
                observations=observed,
            )
        )
    return AdapterComparison(metrics=metrics, prompts=prompts, evaluated=tuple(evaluated))


def best_known(metrics: Sequence[str], topic: str) -> str | None:
    """Choose the metric that stands for a topic: the first of `SCORES`, None if there is none.

    Args:
        metrics: names of metrics.
        topic: "alignment" or "diversity".

    >>> best_known(("clip_score", "inception_score", "scene_accuracy"), "alignment")
    'scene_accuracy'
    """
    return next((name for name, score in SCORES.items() if score.topic == topic and name in metrics), None)


def check_metric(name: str, metrics: Sequence[str], *, setting: str) -> None:
    """Check the name of a metric.

    Raises:
        UserError: there is no such metric.
    """
    if name not in metrics:
        raise UserError(
            f"{setting} holds {name!r}; for this model and these prompts give some of: {', '.join(metrics)}."
        )


def _metrics(
    observed: Observations, names: Sequence[str], resamples: "np.ndarray[Any, np.dtype[np.int64]]"
) -> dict[str, "np.ndarray[Any, np.dtype[np.float64]]"]:
    """Compute each metric of all prompts, then of each resample."""
    sets = [observed, *observed.resampled(resamples.tolist())]
    return {name: np.array([each.metric(name) for each in sets]) for name in names}


def _tables(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {name: _finite(asdict(interval)) for name, interval in intervals.items()}


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
