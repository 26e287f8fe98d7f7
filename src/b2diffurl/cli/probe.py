"""`b2diffurl probe RECIPE|run.toml`: measure, before a run, which interval to begin with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from b2diffurl.analysis.probe import Probe, ProbeSettings, measure, shown_numbers, suggest, write_probe
from b2diffurl.cli.common import check_output, named_run, parse, prepare
from b2diffurl.cli.generation import progress_bar
from b2diffurl.distributed import check_device
from b2diffurl.models import check_lora
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Run


@dataclass(frozen=True, kw_only=True)
class ProbeCommand:
    """Branch a few trunks at several interval lengths, measure how much the branches differ, and suggest the first one.

    Attributes:
        run: every setting of the recipe; model, prompts, reward, sampler, advantage and thresholds are used.
        output: folder for probe.json, probe.png and groups.png; by default nothing is written.
        lengths: interval lengths to measure; by default six over the chain.
        num_trunks: number of trunks; more give smaller standard errors.
        num_branches: maximum number of branches that can be suggested.
        lora: adapter folder of a run, to probe a trained policy.
        device: device of the model, such as cpu or cuda.
    """

    run: Annotated[Run, tyro.conf.arg(name="")]
    output: Path | None = None
    lengths: tuple[int, ...] = ()
    num_trunks: int = 48
    num_branches: int = 6
    lora: Path | None = None
    device: str = "cpu"


def probe(words: list[str]) -> int:
    """Measure, print a table, and suggest settings."""
    base, name = named_run(words, "probe"), words[0]
    flags = parse(ProbeCommand, words[1:], prog=f"b2diffurl probe {name}", default=ProbeCommand(run=base))
    check_device(flags.device)
    if flags.output is not None:
        check_output(flags.output)
    resolved = resolve(flags.run)
    if flags.lora is not None:
        check_lora(flags.lora)
    settings = ProbeSettings(lengths=flags.lengths, num_trunks=flags.num_trunks, num_branches=flags.num_branches)
    lengths = settings.checked_lengths(flags.run.sampler.num_inference_steps)
    prepare()
    with progress_bar(len(lengths) * flags.num_trunks * flags.num_branches) as advance:
        measured = measure(
            resolved, settings, lora=flags.lora, device=flags.device, on_progress=advance,
        )  # fmt: skip
    console, suggestion = Console(), suggest(measured)
    console.print(_table(measured))
    for reason in suggestion.reasons if suggestion else ("The reward does not differ between branches of any length.",):
        console.print(reason, highlight=False)
    if suggestion:
        settings = f"--schedule.tau-first {suggestion.tau_first} --rollout.num-branches {suggestion.num_branches}"
        console.print(f"b2diffurl train {name} {settings}", highlight=False, soft_wrap=True)
    if flags.output is not None:
        write_probe(measured, suggestion, flags.output)
        console.print(f"images  {flags.output / 'probe.png'}  {flags.output / 'groups.png'}", highlight=False)
    return 0


def _table(probe: Probe) -> Table:
    """Return a table with one row per interval length."""
    names = list(probe.rows[0].differ)
    heads = ["tau", "std within", "between", *(f"pairs, K={num}" for num in shown_numbers(probe)), "distance"]
    out = Table(
        *heads,
        *(f"differ in {name}" for name in names),
        title=f"{probe.num_trunks} trunks, {probe.num_branches} branches each, over the last tau steps",
        caption="std: of the reward within and between branch groups; pairs and differ: fraction of groups; "
        "distance: of images within groups",
    )
    for row in probe.rows:
        cells = [f"{row.std_within:.3g}", f"{row.std_between:.3g}"]
        cells += [f"{row.pair_fraction[num]:.2f}" for num in shown_numbers(probe)] + [f"{row.distance:.3f}"]
        out.add_row(str(row.interval_length), *cells, *(f"{row.differ[name]:.2f}" for name in names))
    return out
