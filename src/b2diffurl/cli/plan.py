"""`b2diffurl plan RECIPE|run.toml`: print the cost of a run."""

import math
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from b2diffurl.analysis.plan import (
    MemoryEstimate,
    Shape,
    estimate_memory,
    fit,
    model_shape,
    round_costs,
)
from b2diffurl.cli.common import named_run, parse
from b2diffurl.errors import UserError
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Run

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Print the cost of a run, before anything is downloaded or loaded.

    Attributes:
        run: every setting of the recipe.
        memory_gib: memory of the GPU; chunk sizes are chosen for it.
    """

    run: Annotated[Run, tyro.conf.arg(name="")]
    memory_gib: float = 24.0


def plan(words: list[str]) -> int:
    """Print the cost of a run; nothing is downloaded, loaded or trained."""
    base = named_run(words, "plan")
    flags = parse(PlanCommand, words[1:], prog=f"b2diffurl plan {words[0]}", default=PlanCommand(run=base))
    if not 0 < flags.memory_gib < math.inf:
        raise UserError(f"memory_gib is {flags.memory_gib}; give the GPU's memory in GiB, such as 24.")
    resolved = resolve(flags.run)
    if not resolved.model.is_hub:  # otherwise it would download the tokenizers
        resolved.check_prompt_lengths()
    console, run = Console(), flags.run
    shape = model_shape(run.model)
    console.print(_cost_table(run, shape))
    if shape.assumed:
        console.print(f"The model's shape is guessed from its name, {run.model}; it is known for a local directory.")
    estimate = estimate_memory(run, shape)
    if estimate is None:
        console.print("Memory: a small model, some hundred MiB; chunk sizes are kept.")
        return 0
    console.print(_memory_table(estimate))
    console.print(_advice(run, shape, flags.memory_gib), highlight=False, soft_wrap=True)
    return 0


def _advice(run: Run, shape: Shape, memory_gib: float) -> str:
    fitting = fit(run, shape, memory_bytes=float(memory_gib * _GIB))
    if fitting is None:
        return (
            f"The run does not fit into {memory_gib:g} GiB even with one image at a time: "
            "try --memory.base-dtype float16 --memory.gradient-checkpointing."
        )
    flags = f"--rollout.chunk-size {fitting.rollout.chunk_size}"
    return f"For {memory_gib:g} GiB: {flags} --optimization.micro-batch-size {fitting.optimization.micro_batch_size}"


def _cost_table(run: Run, shape: Shape) -> Table:
    costs = round_costs(run, shape)
    rows = {
        "interval, steps": [cost.num_interval_steps for cost in costs],
        "interval, trained steps": [cost.num_trained_steps for cost in costs],
        "trunks": [run.num_trunks] * len(costs),
        "trajectories = reward queries": [run.reward_queries_per_round] * len(costs),
        "UNet evaluations, trunks": [cost.trunk_evaluations for cost in costs],
        "UNet evaluations, branches": [cost.branch_evaluations for cost in costs],
        "UNet evaluations, update, at most": [cost.most_update_evaluations for cost in costs],
        "MiB of stored latents": [math.ceil(cost.latent_bytes / 2**20) for cost in costs],
    }
    if run.optimization.replay_rounds:
        replayed = [math.ceil(cost.replayed_latent_bytes / 2**20) for cost in costs]
        rows["MiB of replayed latents, CPU"] = replayed
    table = Table("", "first round", "last round", f"all {run.num_rounds} rounds", title=f"{run.recipe}: {run.model}")
    for name, values in rows.items():
        total = "" if name.startswith(("interval", "MiB")) else f"{sum(values):,}"
        table.add_row(name, f"{values[0]:,}", f"{values[-1]:,}", total)
    return table


def _memory_table(estimate: MemoryEstimate) -> Table:
    table = Table("memory on the GPU, estimated", "GiB")
    table.add_row("weights", f"{estimate.weights / _GIB:.2f}")
    table.add_row("adapter, gradient, AdamW", f"{estimate.adapter / _GIB:.2f}")
    table.add_row("reward", f"{estimate.reward / _GIB:.2f}")
    table.add_row("stored latents", f"{estimate.latents / _GIB:.2f}")
    table.add_row("sampling, decoding or backward pass", f"{estimate.work / _GIB:.2f}")
    table.add_row("peak", f"{estimate.total / _GIB:.2f}")
    return table
