"""One line per round, on the console and in run.log."""

from collections.abc import Mapping

# Column heading, metric, format.
_COLUMNS = (
    ("round", "round", "{:>5.0f}"),
    ("queries", "reward_queries", "{:>7,.0f}"),
    ("steps", "interval/length", "{:>5.0f}"),
    ("reward", "reward/mean", "{:>7.4f}"),
    ("std", "reward/std", "{:>6.4f}"),
    ("trained", "selection/num_trajectories", "{:>7.0f}"),
    ("KL", "policy/kl_to_old", "{:>7.1e}"),
    ("grad", "policy/grad_norm", "{:>6.3f}"),
    ("sample", "time/rollout_s", "{:>5.1f}s"),
    ("update", "time/update_s", "{:>5.1f}s"),
)


def round_heading() -> str:
    """Return the heading of the columns."""
    return "  ".join(name.rjust(len(form.format(0))) for name, _, form in _COLUMNS)


def round_line(metrics: Mapping[str, float | int | None]) -> str:
    """Return the line of a round; "-" where it has no such number."""
    cells: list[str] = []
    for _, name, form in _COLUMNS:
        value = metrics.get(name)
        cells.append("-".rjust(len(form.format(0))) if value is None else form.format(value))
    return "  ".join(cells)
