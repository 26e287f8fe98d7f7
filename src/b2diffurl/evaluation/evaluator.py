"""Evaluates a policy on fixed prompts and fixed noise, on all ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.progress import NO_PROGRESS, Progress
from b2diffurl.algorithm.randomness import EVALUATION_STREAM, NoiseKey
from b2diffurl.distributed import Ranks
from b2diffurl.evaluation.generate import GeneratedImages, generate_images
from b2diffurl.evaluation.judges import Judge


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Generates images of the training prompts, and of the held-out ones, and judges them; always from the same noise.

    Attributes:
        policy: returns the policy as it is now.
        load_judge: loads the judge at its first use.
        prompts: the training prompts.
        held_out: the held-out prompts; may be empty.
        num_images: images per prompt list; 0 for no evaluation.
        seed: the run's seed.
        chunk_size: most images generated at once.
        ranks: the ranks that share the images; rank 0 judges.
        progress: advanced by the number of images.
    """

    policy: Callable[[], DenoisingPolicy]
    load_judge: Callable[[], Judge]
    prompts: Sequence[str]
    held_out: Sequence[str]
    num_images: int
    seed: int
    chunk_size: int
    ranks: Ranks = Ranks()  # noqa: RUF009 - frozen
    progress: Progress = field(default=NO_PROGRESS)

    def evaluate(self, phase: str, *, num_images: int | None = None) -> dict[str, float]:
        """Return all metrics; those of held-out prompts have the prefix held_out_.

        Args:
            phase: its name for progress reporting.
            num_images: images per prompt list, the first ones; by default all.
        """
        num_images = self.num_images if num_images is None else num_images
        metrics = self._evaluate(self.prompts, phase, num_images)
        if self.held_out:
            others = self._evaluate(self.held_out, f"{phase}, held out", num_images)
            metrics |= {f"held_out_{name}": value for name, value in others.items()}
        return metrics

    def _evaluate(self, prompts: Sequence[str], phase: str, num_images: int) -> dict[str, float]:
        shard = self.ranks.shard(num_images)
        self.progress.phase(phase, len(shard))
        own = generate_images(
            self.policy(),
            prompts,
            num_images=num_images,
            noise=NoiseKey(seed=self.seed, stream=EVALUATION_STREAM),
            shard=shard,
            chunk_size=self.chunk_size,
            on_progress=self.progress.advance,
        )
        generated = GeneratedImages.join(self.ranks.gather(own))
        metrics = self.judge(generated.images, generated.prompts) if self.ranks.is_main else {}
        return self.ranks.gather(metrics)[0]

    @cached_property
    def judge(self) -> Judge:
        """The judge, loaded at its first use."""
        return self.load_judge()
