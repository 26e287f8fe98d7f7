"""The selected trajectories of the last rounds, which are trained on again (experience replay, Lin 1992; ours).

They keep the log-probs under which they were sampled, so that an objective with importance sampling weights each step
by exp(log_prob - old_log_prob), as it does within a round. Advantages and weights are those of their own round.

Shapes: S trajectories of n steps, latents of C x H x W.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor

from b2diffurl.algorithm.records import SelectedTrajectories


@dataclass(kw_only=True, slots=True)
class EarlierRounds:
    """What is kept of the last rounds, on the CPU.

    Attributes:
        num_rounds: number of rounds that are kept; 0 keeps none.
        rounds: the batches of each round, the newest round last: the selected trajectories and, where trunks are
            trained, the trunks. A round that selected nothing has none.
    """

    num_rounds: int = 0
    rounds: list[tuple[SelectedTrajectories, ...]] = field(default_factory=list[tuple[SelectedTrajectories, ...]])

    @property
    def batches(self) -> list[SelectedTrajectories]:
        """All batches, the oldest first."""
        return [batch for batches in self.rounds for batch in batches]

    def add(self, batches: Sequence[SelectedTrajectories]) -> None:
        """Keep the batches of a completed round, and drop those of the round that is now too old."""
        if self.num_rounds:
            kept = tuple(_to_keep(batch) for batch in batches if len(batch))
            self.rounds = [*self.rounds, kept][-self.num_rounds :]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, as "ROUND/BATCH/FIELD", for a checkpoint."""
        return {
            f"{i}/{j}/{item.name}": value
            for i, batches in enumerate(self.rounds)
            for j, batch in enumerate(batches)
            for item in fields(batch)
            if isinstance(value := getattr(batch, item.name), Tensor)
        }

    def prompts(self) -> list[list[list[str]]]:
        """Return the prompts of every trajectory of every batch of every round, for a checkpoint."""
        return [[list(batch.prompts) for batch in batches] for batches in self.rounds]

    def load(self, tensors: dict[str, Tensor], prompts: Sequence[Sequence[Sequence[str]]]) -> None:
        """Restore what `tensors` and `prompts` returned."""
        self.rounds = [
            tuple(_load_batch(tensors, f"{i}/{j}/", names) for j, names in enumerate(batches))
            for i, batches in enumerate(prompts)
        ]


def _to_keep(batch: SelectedTrajectories) -> SelectedTrajectories:
    """Move a batch to the CPU, without its pairs, which no objective with importance sampling needs.

    Small tensors are copied: a checkpoint file cannot hold two that share memory.
    """
    return replace(
        batch,
        log_probs=batch.log_probs.cpu(),
        latents=batch.latents.cpu(),
        step_index=batch.step_index.clone(),
        advantages=batch.advantages.to("cpu", copy=True),
        pairs=batch.pairs[:0].clone(),
        weights=None if batch.weights is None else batch.weights.to("cpu", copy=True),
    )


def _load_batch(tensors: dict[str, Tensor], prefix: str, prompts: Sequence[str]) -> SelectedTrajectories:
    values: dict[str, Any] = {
        name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
    }
    return SelectedTrajectories(prompts=tuple(prompts), **values)
