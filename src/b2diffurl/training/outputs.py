"""What a run writes while it trains: the lines of its rounds, the preview images and the final adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import PREVIEW_STREAM, NoiseKey
from b2diffurl.algorithm.round import RoundResult
from b2diffurl.distributed import Ranks
from b2diffurl.evaluation.generate import GeneratedImages, generate_images
from b2diffurl.models import AdapterInterval
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.reporting import write_report
from b2diffurl.reporting.model_card import write_card
from b2diffurl.reporting.round_line import round_heading, round_line
from b2diffurl.run import files
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.log import RunLog
from b2diffurl.run.resolve import ResolvedRun
from b2diffurl.run.round_lines import RoundLines
from b2diffurl.run.settings import Run
from b2diffurl.training.callbacks import Metrics, ProgressReporter
from b2diffurl.training.metrics import score_lines


@dataclass(kw_only=True)
class RoundWriter:
    """Appends every round to metrics.jsonl, scores.jsonl and run.log.

    Attributes:
        metrics: metrics.jsonl.
        scores: scores.jsonl.
        log: run.log.
    """

    metrics: RoundLines
    scores: RoundLines
    log: RunLog

    @staticmethod
    def open(directory: RunDirectory, log: RunLog, *, first_round: int) -> "RoundWriter":
        """Open the files; lines of `first_round` and of later rounds, which a resumed run repeats, are dropped."""
        log.write(f"begins with round {first_round}\n{round_heading()}")
        return RoundWriter(
            metrics=directory.open_metrics(first_round=first_round),
            scores=directory.open_scores(first_round=first_round),
            log=log,
        )

    def write(self, result: RoundResult, metrics: Metrics) -> None:
        """Append a round."""
        self.metrics.append([metrics])
        self.scores.append(score_lines(result))
        self.log.write(round_line(metrics))


def save_previews(
    directory: RunDirectory,
    resolved: ResolvedRun,
    policy: DenoisingPolicy,
    *,
    round_number: int,
    reward_queries: int,
    ranks: Ranks,
    progress: ProgressReporter,
) -> None:
    """Generate the preview images of a round, from fixed prompts and noise, on all ranks; rank 0 writes them."""
    run, prompts = resolved.run, preview_prompts(resolved)
    own = generate_images(
        policy,
        prompts,
        num_images=len(prompts),
        noise=NoiseKey(seed=run.seed, stream=PREVIEW_STREAM),
        shard=ranks.shard(len(prompts)),
        chunk_size=run.rollout.chunk_size,
        on_progress=progress.advance,
    )
    previews = GeneratedImages.join(ranks.gather(own))
    if ranks.is_main:
        directory.write_samples(previews, round_number=round_number)
        progress.samples(previews, reward_queries=reward_queries)


def preview_prompts(resolved: ResolvedRun) -> tuple[str, ...]:
    """Return the prompts of the preview images: the run's own, or training prompts spread over the whole list."""
    if resolved.sample_prompts:
        return resolved.sample_prompts
    prompts = resolved.train_prompts
    num = min(resolved.run.logging.num_samples, len(prompts))
    return tuple(prompts[index * len(prompts) // num] for index in range(num))


def write_results(directory: RunDirectory, resolved: ResolvedRun, model: TextToImageModel, log: RunLog) -> None:
    """Write the adapter with its card, and the report."""
    record = directory.read()
    with files.replaced_directory(directory.lora) as partial:
        model.save_lora(partial, interval=_adapter_interval(resolved.run, record.rounds))
        write_card(partial, resolved.run, record)
    write_report(directory.path)
    if record.evaluation is not None:
        evaluation = record.evaluation
        log.write(f"evaluation before: {_numbers(evaluation.before)}; after: {_numbers(evaluation.after)}")
    log.write(f"adapter  {directory.lora}\nreport   {directory.report_file}")


def _adapter_interval(run: Run, rounds: Sequence[Mapping[str, Any]]) -> AdapterInterval | None:
    """Return the steps in which the trained adapter has to be on; None for all."""
    if not (run.lora.interval and rounds):
        return None
    length = int(rounds[-1]["interval/length"])
    return AdapterInterval(length=length, num_inference_steps=run.sampler.num_inference_steps)


def _numbers(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
