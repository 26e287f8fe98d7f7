"""`b2diffurl probe RECIPE|run.toml`: measure, before a run, what to train: which steps, by which rule."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from b2diffurl.analysis.plan import model_shape, round_cost
from b2diffurl.analysis.probe import (
    InformationSettings,
    Probe,
    ProbeSettings,
    Suggestion,
    measure,
    measure_information,
    suggest,
    write_information,
    write_probe,
)
from b2diffurl.analysis.probe.setup import Cost
from b2diffurl.cli.common import announce_device, check_output, named_run, parse, prepare
from b2diffurl.cli.generation import progress_bar
from b2diffurl.cli.information_tables import comparisons_table, rules_table, steps_table
from b2diffurl.distributed import AUTO, check_device
from b2diffurl.errors import UserError
from b2diffurl.models import check_lora
from b2diffurl.run.resolve import ResolvedRun, resolve
from b2diffurl.run.settings import Run


@dataclass(frozen=True, kw_only=True)
class ProbeCommand:
    """Branch a few trunks at every step, measure the reward variance that each step decides, and suggest settings.

    With adapters of trained runs, also measure the information per reward query of each credit rule and each step.

    Attributes:
        run: every setting of the recipe; model, prompts, reward, sampler, branches, advantage and thresholds are used.
        output: folder for the JSON files and plots; by default nothing is written.
        lengths: interval lengths to measure; by default every one, or 20 over a longer chain.
        num_trunks: number of trunks; more give smaller standard errors. 0, with `lora`, measures only the information.
        num_branches: branches per trunk; one less is the largest number that can be suggested.
        policy: adapter folder of a run, to measure the variance under a trained policy.
        lora: adapter folders of runs; their mean change of the weights is the direction of the information.
        num_trajectories: trajectories without branches for the information.
        num_groups: branch groups for the information.
        tau: interval length of these groups; 0 for the run's first one.
        tau_last: number of last steps to leave out; 0 for the run's own or, if that is 0, three tenths of the chain.
        device: device of the model, such as cpu or cuda; "auto" is the first of cuda, mps and cpu that there is.
    """

    run: Annotated[Run, tyro.conf.arg(name="")]
    output: Path | None = None
    lengths: tuple[int, ...] = ()
    num_trunks: int = 48
    num_branches: int = 6
    policy: Path | None = None
    lora: tuple[Path, ...] = ()
    num_trajectories: int = 2000
    num_groups: int = 500
    tau: int = 0
    tau_last: int = 0
    device: str = AUTO

    @property
    def variance(self) -> ProbeSettings | None:
        """What to measure of the variance, if anything."""
        if self.lora and self.num_trunks == 0:
            return None
        return ProbeSettings(lengths=self.lengths, num_trunks=self.num_trunks, num_branches=self.num_branches)

    @property
    def information(self) -> InformationSettings:
        """What to measure of the information."""
        return InformationSettings(
            num_trajectories=self.num_trajectories, num_groups=self.num_groups, tau=self.tau, tau_last=self.tau_last
        )


def probe(words: list[str]) -> int:
    """Measure, print tables, and suggest settings."""
    base, name = named_run(words, "probe"), words[0]
    flags = parse(ProbeCommand, words[1:], prog=f"b2diffurl probe {name}", default=ProbeCommand(run=base))
    resolved = _check(flags)
    prepare()
    flags, console = replace(flags, device=announce_device(flags.device)), Console()
    if flags.variance is not None:
        _probe_variance(flags, resolved, flags.variance, name, console)
    if flags.lora:
        _probe_information(flags, resolved, console)
    return 0


def _check(flags: ProbeCommand) -> ResolvedRun:
    """Refuse what cannot be measured, before anything is loaded."""
    check_device(flags.device)
    if flags.output is not None:
        check_output(flags.output)
    resolved = resolve(flags.run)
    if flags.policy is not None and flags.lora:
        raise UserError("policy and lora are both given, but the information is measured at the base model; give one.")
    for folder in (*flags.lora, *(() if flags.policy is None else (flags.policy,))):
        check_lora(folder)
    if flags.variance is not None:
        flags.variance.checked_lengths(flags.run.sampler.num_inference_steps)
    if flags.lora:
        flags.information.checked(flags.run)
    return resolved


def _probe_variance(
    flags: ProbeCommand, resolved: ResolvedRun, settings: ProbeSettings, name: str, console: Console
) -> None:
    lengths = settings.checked_lengths(flags.run.sampler.num_inference_steps)
    with progress_bar(len(lengths) * settings.num_trunks * settings.num_branches) as advance:
        measured = measure(resolved, settings, lora=flags.policy, device=flags.device, on_progress=advance)
    suggestion = suggest(measured, num_inner_epochs=flags.run.optimization.num_inner_epochs)
    if flags.output is not None:
        write_probe(measured, suggestion, flags.output)
    console.print(_variance_table(measured))
    console.print(_cost(measured.cost), highlight=False)
    if suggestion is None:
        console.print("The reward does not differ between branches of any length.", highlight=False)
    else:
        _print_suggestion(suggestion, measured, flags.run, name, console)
    if flags.output is not None:
        console.print(f"images  {flags.output / 'probe.png'}  {flags.output / 'groups.png'}", highlight=False)


def _print_suggestion(suggestion: Suggestion, measured: Probe, run: Run, name: str, console: Console) -> None:
    for reason in suggestion.reasons:
        console.print(reason, highlight=False)
    changed = suggestion.applied_to(run)
    rounds = [round_cost(one, model_shape(one.model), interval=one.intervals()[0]) for one in (changed, run)]
    now, before = ((one.rollout_evaluations, one.most_update_evaluations) for one in rounds)
    console.print(
        f"cost of round 1: {changed.reward_queries_per_round} images scored, {now[0]:,} network evaluations to sample "
        f"and at most {now[1]:,} with gradient ({before[0]:,} and {before[1]:,} with the settings of {name}).",
        highlight=False,
    )
    variance = ", ".join(f"{value:.3g}" for value in measured.decided.smoothed)
    console.print(f"b2diffurl train {name} {suggestion.flags(run)}", highlight=False, soft_wrap=True)
    console.print(
        f'\\[optimization]  # step weights by what each step decides\nstep_weights = "probe"\n'
        f"decided_variance = \\[{variance}]",
        highlight=False,
        soft_wrap=True,
    )


def _probe_information(flags: ProbeCommand, resolved: ResolvedRun, console: Console) -> None:
    settings = flags.information
    num_images = settings.num_trajectories + settings.num_groups * flags.run.rollout.num_branches
    with progress_bar(num_images) as advance:
        measured = measure_information(resolved, flags.lora, settings, device=flags.device, on_progress=advance)
    if flags.output is not None:
        write_information(measured, flags.output)
    for table in (rules_table(measured), steps_table(measured), comparisons_table(measured)):
        console.print(table)
    console.print(_cost(measured.cost), highlight=False)
    if flags.output is not None:
        console.print(f"image  {flags.output / 'information.png'}", highlight=False)


def _cost(cost: Cost) -> str:
    return (
        f"cost of this measurement: {cost.num_images:,} images scored, {cost.num_evaluations:,} network evaluations, "
        f"{cost.seconds:.0f} s."
    )


def _variance_table(probe: Probe) -> Table:
    """Return a table with one row per interval length."""
    shares, errors = probe.decided.share_of_last, probe.decided.share_of_last_error
    has_style = "style" in probe.rows[0].differ
    heads = ["tau", "std within", "between", "decided", "+-", "pairs", "distance"]
    heads += ["alignment differs", "one style"] if has_style else []
    out = Table(
        *heads,
        title=f"{probe.num_trunks} trunks, {probe.num_branches} branches each, over the last tau steps",
        caption="std: of the reward within and between branch groups; decided: fraction of the chain's reward variance "
        "that the last tau steps decide, with its standard error; pairs, alignment differs, one style: fraction of "
        "groups; distance: of images within groups",
    )
    for row in probe.rows:
        cells = [f"{row.std_within:.3g}", f"{row.std_between:.3g}"]
        cells += [f"{shares[row.interval_length]:.3f}", f"{errors[row.interval_length]:.3f}"]
        cells += [f"{row.pair_fraction[probe.num_branches]:.2f}", f"{row.distance:.3f}"]
        cells += [f"{row.differ['alignment']:.2f}", f"{1 - row.differ['style']:.2f}"] if has_style else []
        out.add_row(str(row.interval_length), *cells)
    return out
