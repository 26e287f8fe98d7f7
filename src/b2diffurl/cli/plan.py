"""`b2diffurl plan RECIPE|run.toml`: print the cost of a run."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from b2diffurl.analysis.plan import MemoryEstimate, Shape, estimate_memory, model_shape, round_costs
from b2diffurl.analysis.speed import measure_speed
from b2diffurl.cli.common import Switch, announce_device, named_run, parse, prepare, show_help
from b2diffurl.cli.cost_lines import advice_text, storage_lines, time_lines
from b2diffurl.distributed import AUTO, check_device
from b2diffurl.errors import UserError
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Run

_GIB = 2**30
_CAPTION = (
    "A network evaluation is one forward pass of the UNet for one image; guidance doubles them. The time of a run is "
    "about their number times the seconds of one."
)


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Print the cost of a run, before anything is downloaded or loaded.

    Attributes:
        run: every setting of the recipe.
        memory_gib: memory of the GPU; chunk sizes are chosen for it.
        measure: load the model and the reward, generate and score two images, train one micro-batch, and print the time
            of the whole run on this machine.
        device: device for measure, such as cpu or cuda; "auto" is the first of cuda, mps and cpu that there is.
    """

    run: Annotated[Run, tyro.conf.arg(name="")]
    memory_gib: float = 24.0
    measure: Switch = False
    device: str = AUTO


def plan(words: list[str]) -> int:
    """Print the cost of a run; nothing is trained, and nothing is downloaded or loaded without --measure."""
    show_help(words, "plan", PlanCommand)
    base = named_run(words, "plan")
    flags = parse(PlanCommand, words[1:], prog=f"b2diffurl plan {words[0]}", default=PlanCommand(run=base))
    if not 0 < flags.memory_gib < math.inf:
        raise UserError(f"memory_gib is {flags.memory_gib}; give the GPU's memory in GiB, such as 24.")
    check_device(flags.device)
    run = flags.run if flags.measure else _without_gaps(flags.run)
    resolved = resolve(run)
    if not resolved.model.is_hub:  # otherwise it would download the tokenizers
        resolved.check_prompt_lengths()
    console = Console()
    shape = model_shape(run.model)
    console.print(_cost_table(run, shape))
    if shape.assumed:
        console.print(f"The model's shape is guessed from its name, {run.model}; it is known for a local directory.")
    estimate = estimate_memory(run, shape)
    if estimate is None:
        console.print("Memory: a small model, some hundred MiB; chunk sizes are kept.")
    else:
        console.print(_memory_table(estimate))
        console.print(advice_text(run, shape, flags.memory_gib), highlight=False, soft_wrap=True)
    if run != flags.run:
        console.print("Prompts or reward are not given: what they cost is not counted.")
    console.print("\n".join(storage_lines(resolved, shape)), highlight=False, soft_wrap=True)
    if flags.measure:
        prepare()
        device = announce_device(flags.device)
        speed = measure_speed(resolved, device=device)
        console.print("\n".join(time_lines(run, shape, speed, device)), highlight=False, soft_wrap=True)
    return 0


def _without_gaps(run: Run) -> Run:
    """Fill in what a recipe leaves to its user; prompts do not change the cost, and this reward has none."""
    return replace(run, prompts=run.prompts or "template1-train", reward=run.reward or "jpeg-size:compressible")


def _cost_table(run: Run, shape: Shape) -> Table:
    costs = round_costs(run, shape)
    rows = {
        "interval, steps": [cost.num_interval_steps for cost in costs],
        "interval, trained steps": [cost.num_trained_steps for cost in costs],
        "trunks": [run.num_trunks] * len(costs),
        "trajectories = reward queries": [run.reward_queries_per_round] * len(costs),
        "network evaluations, trunks": [cost.trunk_evaluations for cost in costs],
        "network evaluations, branches": [cost.branch_evaluations for cost in costs],
        "network evaluations, update, at most": [cost.most_update_evaluations for cost in costs],
        "MiB of stored latents": [math.ceil(cost.latent_bytes / 2**20) for cost in costs],
    }
    if run.optimization.replay_rounds:
        replayed = [math.ceil(cost.replayed_latent_bytes / 2**20) for cost in costs]
        rows["MiB of replayed latents, CPU"] = replayed
    heads = ("", "first round", "last round", f"all {run.num_rounds} rounds")
    table = Table(*heads, title=f"{run.recipe}: {run.model}", caption=_CAPTION)
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
