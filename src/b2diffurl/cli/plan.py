"""`b2diffurl plan RECIPE|run.toml`: what a run will cost."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from b2diffurl.cli.common import named_run, parse
from b2diffurl.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from b2diffurl.analysis.plan import MemoryEstimate, Shape
    from b2diffurl.run.settings import Run

_GIB = 2**30


def plan(words: list[str]) -> int:
    """Print what a run will cost; nothing is downloaded, loaded or trained."""
    from b2diffurl.run.settings import Run

    base = named_run(words, "plan")

    @dataclass(frozen=True, kw_only=True)
    class Plan:
        """Say what a run will cost, before anything is downloaded or loaded.

        Attributes:
            run: every setting of the recipe.
            memory_gib: of the GPU that is meant; chunk sizes are chosen for it.
        """

        run: Annotated[Run, tyro.conf.arg(name="")]
        memory_gib: float = 24.0

    asked = parse(Plan, words[1:], prog=f"b2diffurl plan {words[0]}", default=Plan(run=base))
    if not 0 < asked.memory_gib < math.inf:
        raise UserError(f"memory_gib is {asked.memory_gib}; give the GPU's memory in GiB, such as 24.")
    from rich.console import Console

    from b2diffurl.analysis.plan import estimate_memory, fit, model_shape

    console, run = Console(), asked.run
    shape = model_shape(run.model)
    console.print(_costs(run, shape))
    if shape.assumed:
        console.print(f"The model's shape is a guess from its name, {run.model}; a local directory would tell.")
    estimate = estimate_memory(run, shape)
    if estimate is None:
        console.print("Memory: a small model, some hundred MiB; chunk sizes stay as they are.")
        return 0
    console.print(_memory(estimate))
    fitting = fit(run, shape, memory_bytes=float(asked.memory_gib * _GIB))
    if fitting is None:
        console.print(
            f"Does not fit into {asked.memory_gib:g} GiB even one picture at a time: "
            "try --memory.base-dtype float16 --memory.gradient-checkpointing."
        )
        return 0
    flags = f"--rollout.chunk-size {fitting.rollout.chunk_size}"
    flags += f" --optimization.micro-batch-size {fitting.optimization.micro_batch_size}"
    console.print(f"For {asked.memory_gib:g} GiB: {flags}", highlight=False, soft_wrap=True)
    return 0


def _costs(run: "Run", shape: "Shape") -> "Table":
    from rich.table import Table

    from b2diffurl.analysis.plan import interval_lengths, round_cost

    lengths = interval_lengths(run)
    costs = [round_cost(run, shape, num_interval_steps=length) for length in lengths]
    rows = {
        "interval, steps": [cost.num_interval_steps for cost in costs],
        "trunks": [run.num_trunks] * len(costs),
        "trajectories = reward queries": [run.reward_queries_per_round] * len(costs),
        "UNet evaluations, trunks": [cost.trunk_evaluations for cost in costs],
        "UNet evaluations, branches": [cost.branch_evaluations for cost in costs],
        "UNet evaluations, update, at most": [cost.most_update_evaluations for cost in costs],
        "MiB of stored latents": [math.ceil(cost.latent_bytes / 2**20) for cost in costs],
    }
    table = Table("", "first round", "last round", f"all {run.num_rounds} rounds", title=f"{run.recipe}: {run.model}")
    for name, values in rows.items():
        total = "" if name.startswith(("interval", "MiB")) else f"{sum(values):,}"
        table.add_row(name, f"{values[0]:,}", f"{values[-1]:,}", total)
    return table


def _memory(estimate: "MemoryEstimate") -> "Table":
    from rich.table import Table

    table = Table("memory on the GPU, estimated", "GiB")
    table.add_row("weights", f"{estimate.weights / _GIB:.2f}")
    table.add_row("adapter, gradient, AdamW", f"{estimate.adapter / _GIB:.2f}")
    table.add_row("reward", f"{estimate.reward / _GIB:.2f}")
    table.add_row("stored latents", f"{estimate.latents / _GIB:.2f}")
    table.add_row("sampling, decoding or backward pass", f"{estimate.work / _GIB:.2f}")
    table.add_row("peak", f"{estimate.total / _GIB:.2f}")
    return table
