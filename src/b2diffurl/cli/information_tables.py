"""The information of rules and steps as tables, readable at 80 columns."""

from rich.table import Table

from b2diffurl.analysis.probe import Information

_UNIT = "the information of DDPO on all steps with step weights even (of 1 where that is not above 0)"


def rules_table(measured: Information) -> Table:
    """Return a table with one row per rule."""
    settings, kinds = measured.settings, list(dict.fromkeys(row.step_weights for row in measured.rules))
    out = Table(
        "rule", "steps", *kinds,
        title=f"Information per reward query: {settings.num_trajectories} trajectories, {settings.num_groups} groups "
        f"of {measured.num_branches} at tau {settings.tau}",
        caption=f"in units of {_UNIT}, {measured.unit:.4f} per query, with standard errors of the numerator",
    )  # fmt: skip
    rules: dict[str, list[str]] = {}
    for row in measured.rules:
        cell = f"{row.value / measured.unit:.2f} +- {row.std_error / measured.unit:.2f}"
        rules.setdefault(row.rule, [str(row.num_trained_steps)]).append(cell)
    for name, cells in rules.items():
        out.add_row(name, *cells)
    return out


def steps_table(measured: Information) -> Table:
    """Return a table with one row per denoising step and one column per rule, as narrow as its words."""
    out = Table(
        title="Information per reward query of each step alone; step 1 is the noisiest",
        caption=f"in percent of {_UNIT}, with standard errors of the numerator; the same for all step weights; empty "
        "where the rule does not train the step",
        padding=0,
    )
    out.add_column("step", justify="right")
    columns: list[list[str]] = []
    for rule, values in measured.steps.items():
        errors = measured.steps_error[rule]
        columns.append([_percent(*cell, measured.unit) for cell in zip(values, errors, strict=True)])
        head = rule.replace(", ", "\n").replace("/", "/\n")
        out.add_column(head, justify="right", max_width=max(map(len, (*head.split(), *columns[-1]))))
    for step, cells in enumerate(zip(*columns, strict=True), start=1):
        out.add_row(str(step), *cells)
    return out


def _percent(value: float, error: float, unit: float) -> str:
    """Return a cell; both numbers are 0 where the step is not trained."""
    return f"{100 * value / unit:z.0f} +- {100 * error / unit:.0f}" if error > 0 else ""


def comparisons_table(measured: Information) -> Table:
    """Return a table of differences with their intervals, one column per kind of step weights."""
    kinds = dict.fromkeys(one.step_weights for one in measured.comparisons)
    out = Table(
        "more", "less", *(f"{kind} weights" for kind in kinds),
        title="Differences of the information per reward query, by step weights",
        caption=f"each with its 95 % interval, decided if that excludes 0; in units of {_UNIT}, {measured.unit:.4f} "
        "per query",
    )  # fmt: skip
    pairs: dict[tuple[str, str], list[str]] = {}
    for one in measured.comparisons:
        low, high, difference = (value / measured.unit for value in (one.low, one.high, one.difference))
        decided = " decided" if one.is_decided else ""
        cell = f"{difference:+z.2f}{decided}\n{low:+z.2f} to {high:+z.2f}"
        pairs.setdefault((one.more, one.less), []).append(cell)
    for names, cells in pairs.items():
        out.add_row(*names, *cells)
    return out
