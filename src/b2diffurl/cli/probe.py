"""`b2diffurl probe RECIPE|run.toml`: before a run, where to begin."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from b2diffurl.cli.common import named_run, parse, prepare


def probe(words: list[str]) -> int:
    """Measure, show, suggest."""
    from b2diffurl.run.settings import Run

    base = named_run(words, "probe")

    @dataclass(frozen=True, kw_only=True)
    class ProbeCommand:
        """Branch a few trunks at several places, see what the branches still decide, and suggest where to begin.

        Attributes:
            run: every setting of the recipe; model, prompts, reward, sampler, advantage and thresholds count.
            output: folder for probe.json, probe.png and groups.png; by default nothing is written.
            lengths: interval lengths to measure; by default six over the chain.
            num_trunks: more make the numbers surer.
            num_branches: the most that can be suggested.
            lora: adapter folder of a run, to probe what it has learned.
            device: where the model runs, such as cpu or cuda.
        """

        run: Annotated[Run, tyro.conf.arg(name="")]
        output: Path | None = None
        lengths: tuple[int, ...] = ()
        num_trunks: int = 48
        num_branches: int = 6
        lora: Path | None = None
        device: str = "cpu"

    name = words[0]
    asked = parse(ProbeCommand, words[1:], prog=f"b2diffurl probe {name}", default=ProbeCommand(run=base))
    prepare()
    from b2diffurl.analysis.probe.measure import ProbeSettings
    from b2diffurl.models import check_lora
    from b2diffurl.run.settings import check_run

    check_run(asked.run)
    if asked.lora is not None:
        check_lora(asked.lora)
    settings = ProbeSettings(lengths=asked.lengths, num_trunks=asked.num_trunks, num_branches=asked.num_branches)
    lengths = settings.checked_lengths(asked.run.sampler.num_inference_steps)
    from rich.console import Console
    from rich.progress import Progress

    from b2diffurl.analysis.probe import measure, suggest, table, write_probe

    console = Console()
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        num = len(lengths) * asked.num_trunks * asked.num_branches
        bar = progress.add_task("sampling", total=num)
        found = measure(
            asked.run, settings, lora=asked.lora, device=asked.device,
            on_progress=lambda done: progress.advance(bar, done),
        )  # fmt: skip
    suggestion = suggest(found)
    console.print(table(found))
    for reason in suggestion.reasons if suggestion else ("The reward does not differ, whatever is branched.",):
        console.print(reason, highlight=False)
    if suggestion:
        flags = f"--schedule.tau-first {suggestion.tau_first} --rollout.num-branches {suggestion.num_branches}"
        console.print(f"b2diffurl train {name} {flags}", highlight=False, soft_wrap=True)
    if asked.output is not None:
        write_probe(found, suggestion, asked.output)
        console.print(f"pictures  {asked.output / 'probe.png'}  {asked.output / 'groups.png'}", highlight=False)
    return 0
