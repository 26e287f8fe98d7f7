"""How to make a run fit into a GPU: changes of its settings, each estimated again before it is recommended."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from b2diffurl.analysis.plan import Shape, estimate_memory, fit, planned_dtype
from b2diffurl.run.settings import Run

_SIZES = (4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 80, 96, 141)  # GiB of common GPUs


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What helps a run to fit.

    Attributes:
        smallest: estimate of the memory of the run at the smallest chunk sizes, in bytes.
        changes: flags, each with the estimate in bytes after it and those before it are applied.
        fits: whether the run fits with all of them.
        sufficient_gib: memory of the smallest common GPU that fits the changed run; None if none does.
    """

    smallest: int
    changes: tuple[tuple[str, int], ...]
    fits: bool
    sufficient_gib: int | None


def advise(run: Run, shape: Shape, *, memory_bytes: float) -> Advice:
    """Apply what lowers the estimate of the memory, one change after the other, until the run fits.

    Args:
        run: a run that does not fit, at the smallest chunk sizes.
        shape: shape of its model, of a known family.
        memory_bytes: memory of the GPU.
    """
    changes: list[tuple[str, int]] = []
    current = run
    for flags, change in _candidates(run):
        changed = change(current)
        before, after = _smallest(current, shape), _smallest(changed, shape)
        if after < before:
            changes.append((flags, after))
            current = changed
        if fit(current, shape, memory_bytes=memory_bytes) is not None:
            break
    fits = fit(current, shape, memory_bytes=memory_bytes) is not None
    sufficient = [gib for gib in _SIZES if fit(current, shape, memory_bytes=float(gib * 2**30)) is not None]
    return Advice(
        smallest=_smallest(run, shape),
        changes=tuple(changes),
        fits=fits,
        sufficient_gib=min(sufficient, default=None),
    )


def _candidates(run: Run) -> Iterator[tuple[str, Callable[[Run], Run]]]:
    if planned_dtype(run) == "float32":
        yield "--memory.base-dtype float16", lambda one: replace(one, memory=replace(one.memory, base_dtype="float16"))
    if not run.memory.gradient_checkpointing:
        yield (
            "--memory.gradient-checkpointing",
            lambda one: replace(one, memory=replace(one.memory, gradient_checkpointing=True)),
        )
    yield (
        "--reward remote:URL (the reward on another machine, by b2diffurl serve-reward)",
        lambda one: replace(one, reward="remote:http://127.0.0.1:8009"),
    )


def _smallest(run: Run, shape: Shape) -> int:
    """Estimate the memory at the smallest chunk sizes."""
    least = replace(
        run,
        rollout=replace(run.rollout, chunk_size=max(1, run.rollout.num_branches)),
        optimization=replace(run.optimization, micro_batch_size=1),
    )
    estimate = estimate_memory(least, shape)
    assert estimate is not None
    return estimate.total
