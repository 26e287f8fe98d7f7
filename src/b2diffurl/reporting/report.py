"""The page itself: from a run folder to `report.html`.

Everything that comes from the run passes `html.escape` before it meets the template.
"""

import math
from html import escape
from pathlib import Path
from string import Template

from b2diffurl.reporting.run_reader import RunFolder, read_run_folder
from b2diffurl.reporting.sections import (
    curves_section,
    metrics_section,
    pairs_section,
    scores_section,
    strips_section,
)
from b2diffurl.reporting.text import count, format_duration, format_number

TAKEN_BACK_METRICS = ("update/step_reverted",)
FACTS = ("model", "reward", "prompts", "seed")
TIME_METRICS = ("time/rollout_s", "time/reward_s", "time/update_s")
TEMPLATE_PATH = Path(__file__).with_name("template.html")


def write_report(run_dir: Path) -> Path:
    """Write `report.html`, one self-contained page, into a run folder.

    The run may be finished, still going on, or stopped; parts that do not exist yet are left out.

    Args:
        run_dir: the run folder; only `run.toml` must be there.

    Returns:
        The page's path, `run_dir / "report.html"`.

    Raises:
        UserError: if `run_dir` has no `run.toml`, or if one of its files cannot be understood.
    """
    run = read_run_folder(run_dir)
    template = Template(TEMPLATE_PATH.read_text(encoding="utf-8"))
    html = template.substitute(
        title=escape(_title(run)),
        summary=escape(_summary(run)),
        facts=_facts(run),
        banner=_banner(run),
        scores=scores_section(run.evaluation),
        curves=curves_section(run),
        pairs=pairs_section(run),
        strips=strips_section(run),
        metrics=metrics_section(run),
        config=_details("run.toml", f"<pre>{escape(run.config_text)}</pre>"),
        environment=_environment(run),
    )
    path = run_dir / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def _title(run: RunFolder) -> str:
    return str(run.config.get("recipe", run.name))


def _rounds_text(run: RunFolder) -> str:
    done, planned = len(run.rounds), run.num_rounds()
    if planned is None or done >= planned:
        return count(done, "round")
    return f"{done:,} of {count(planned, 'round')}"


def _summary(run: RunFolder) -> str:
    """Say in one sentence what happened."""
    if not run.rounds:
        return "No round has finished yet."
    rewards = _finite(run, "reward/mean")
    queries = _finite(run, "reward_queries")
    seconds = [value for metric in TIME_METRICS for value in _finite(run, metric)]
    parts = [_rounds_text(run)]
    if rewards:
        change = " → ".join(dict.fromkeys(format_number(value) for value in (rewards[0], rewards[-1])))
        parts = [f"Reward {change} over {_rounds_text(run)}"]
    if queries:
        parts.append(count(int(queries[-1]), "reward query", plural="reward queries"))
    if seconds:
        parts.append(format_duration(sum(seconds)))
    return ", ".join(parts) + "."


def _finite(run: RunFolder, metric: str) -> list[float]:
    return [value for value in run.series(metric) if math.isfinite(value)]


def _facts(run: RunFolder) -> str:
    """List the settings that one looks for first, and the rounds in which nothing was learnt."""
    facts = [f"{name} <b>{escape(str(run.config[name]))}</b>" for name in FACTS if name in run.config]
    num_idle = _finite(run, "update/num_optimizer_steps").count(0)
    num_taken_back = sum(_finite(run, metric).count(1) for metric in TAKEN_BACK_METRICS)
    if num_idle:
        facts.append(f"{count(num_idle, 'round')} without an update")
    if num_taken_back:
        facts.append(f"the trust region took back a step in {count(num_taken_back, 'round')}")
    return "".join(f"<li>{fact}</li>" for fact in facts)


def _banner(run: RunFolder) -> str:
    if run.stop:
        where = "" if run.stop.round is None else f" in round {run.stop.round:,}"
        return f'<p class="banner stopped" role="alert"><b>Stopped{where}.</b> {escape(run.stop.cause)}</p>'
    planned = run.num_rounds()
    if planned is not None and len(run.rounds) < planned:
        return f'<p class="banner"><b>Unfinished.</b> {_rounds_text(run)} so far; this page shows what there is.</p>'
    return ""


def _environment(run: RunFolder) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in run.environment.items()
    )
    return _details("env.json", f"<table>{rows}</table>") if rows else ""


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"
