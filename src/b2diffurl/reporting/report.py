"""Write `report.html` from the files of a run.

Everything that comes from the run is escaped by `html.escape` before it is inserted into the template.
"""

import math
from html import escape
from pathlib import Path
from string import Template

from b2diffurl.reporting.sections import (
    curves_section,
    metrics_section,
    pairs_section,
    scores_section,
    strips_section,
)
from b2diffurl.reporting.text import count, format_duration, format_number
from b2diffurl.run import files
from b2diffurl.run.records import RunRecord

FACTS = ("model", "reward", "prompts", "seed")
TIME_METRICS = ("time/rollout_s", "time/reward_s", "time/update_s")
TEMPLATE_PATH = Path(__file__).with_name("template.html")


def write_report(run_dir: Path) -> Path:
    """Write `report.html`, one self-contained page, into a run directory.

    The run may be finished, in progress or stopped; sections without data are left out.

    Args:
        run_dir: the run directory; only `run.toml` must exist.

    Returns:
        The path of the page, `run_dir / "report.html"`.

    Raises:
        UserError: `run_dir` has no `run.toml`, or one of its files cannot be parsed.
    """
    from b2diffurl.run.directory import RunDirectory  # loads torch, which `note_of` does not need

    directory = RunDirectory(run_dir)
    run = directory.read()
    template = Template(TEMPLATE_PATH.read_text(encoding="utf-8"))
    html = template.substitute(
        title=escape(_title(run)),
        summary=escape(_summary(run)),
        facts=_facts(run),
        banner=_banner(run) + _notes(run),
        scores=scores_section(run.evaluation),
        curves=curves_section(run),
        pairs=pairs_section(run),
        strips=strips_section(run),
        metrics=metrics_section(run),
        config=_details("run.toml", f"<pre>{escape(run.settings_text)}</pre>"),
        environment=_environment(run),
    )
    files.write_text(directory.report_file, html)
    return directory.report_file


def _title(run: RunRecord) -> str:
    return str(run.settings.get("recipe", run.name))


def _rounds_text(run: RunRecord) -> str:
    done, planned = len(run.rounds), run.num_rounds()
    if planned is None or done >= planned:
        return count(done, "round")
    return f"{done:,} of {count(planned, 'round')}"


def _summary(run: RunRecord) -> str:
    """Summarize the run in one sentence."""
    if not run.rounds:
        return "No round has finished yet."
    rewards = _finite(run, "reward/mean")
    queries = _finite(run, "reward_queries")
    seconds = [value for metric in TIME_METRICS for value in _finite(run, metric)]
    facts = [_rounds_text(run)]
    if rewards:
        change = " → ".join(dict.fromkeys(format_number(value) for value in (rewards[0], rewards[-1])))
        facts = [f"Reward {change} over {_rounds_text(run)}"]
    if queries:
        facts.append(count(int(queries[-1]), "reward query", plural="reward queries"))
    if seconds:
        facts.append(format_duration(sum(seconds)))
    return ", ".join(facts) + "."


def _finite(run: RunRecord, metric: str) -> list[float]:
    return [value for value in run.series(metric) if math.isfinite(value)]


def _facts(run: RunRecord) -> str:
    """List the main settings, and the numbers of rounds without an update, with a reverted or with a shrunk step."""
    facts = [f"{name} <b>{escape(str(run.settings[name]))}</b>" for name in FACTS if name in run.settings]
    num_idle = _finite(run, "update/num_optimizer_steps").count(0)
    num_reverted = _finite(run, "update/step_reverted").count(1)
    num_shrunk = sum(0 < scale < 1 for scale in _finite(run, "update/step_scale"))
    if num_idle:
        facts.append(f"{count(num_idle, 'round')} without an update")
    if num_reverted:
        facts.append(f"step reverted by the trust region in {count(num_reverted, 'round')}")
    if num_shrunk:
        facts.append(f"step shrunk by the trust region in {count(num_shrunk, 'round')}")
    return "".join(f"<li>{fact}</li>" for fact in facts)


def _banner(run: RunRecord) -> str:
    if run.stop:
        where = "" if run.stop.round is None else f" in round {run.stop.round:,}"
        return f'<p class="banner stopped" role="alert"><b>Stopped{where}.</b> {escape(run.stop.cause)}</p>'
    planned = run.num_rounds()
    if planned is not None and len(run.rounds) < planned:
        return f'<p class="banner"><b>Unfinished.</b> {_rounds_text(run)} so far.</p>'
    return ""


def _notes(run: RunRecord) -> str:
    return "".join(f'<p class="banner"><b>Note.</b> {escape(note)}</p>' for note in run.notes)


def _environment(run: RunRecord) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in run.environment.items()
    )
    return _details("env.json", f"<table>{rows}</table>") if rows else ""


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"
