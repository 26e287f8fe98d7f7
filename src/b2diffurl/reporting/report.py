"""Write `report.html`, the page of one run, and the page that compares several, from the files of the runs.

The templates escape everything that comes from a run; only the charts, which matplotlib escapes, are inserted as they
are.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from b2diffurl.reporting import headline, sections
from b2diffurl.reporting.comparison import compare_records
from b2diffurl.reporting.plots import Chart, large_charts, score_charts, small_charts, term_charts, together_chart
from b2diffurl.run import files
from b2diffurl.run.gallery import read_gallery
from b2diffurl.run.records import RunRecord
from b2diffurl.run.round_lines import read_rewards

if TYPE_CHECKING:
    from b2diffurl.run.directory import RunDirectory

FACTS = ("model", "reward", "prompts", "seed")
_FILES = (
    ("run.toml", "the settings"),
    ("run.log", "what the console showed, with times"),
    ("lora", "the adapter"),
    ("samples", "the sample images"),
    ("metrics.jsonl", "one line per round"),
    ("scores.jsonl", "one line per image"),
    ("evaluation.json", "metrics before and after"),
    ("env.json", "versions and machine"),
)
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(run_dir: Path, *, refresh_seconds: int = 0) -> Path:
    """Write `report.html`, one self-contained page, into a run directory.

    The run may be finished, in progress or stopped; sections without data are left out.

    Args:
        run_dir: the run directory; only `run.toml` must exist.
        refresh_seconds: how often a browser loads the page anew while the run is unfinished; 0 for never.

    Returns:
        The path of the page, `run_dir / "report.html"`.

    Raises:
        UserError: `run_dir` has no `run.toml`, or one of its files cannot be parsed.
    """
    directory = _directory(run_dir)
    run = directory.read()
    gallery = read_gallery(directory.samples)
    shown = sections.pairs(run, gallery)
    content = {
        "title": title_of(run),
        "verdict": headline.verdict(run),
        "refresh_seconds": 0 if directory.is_ended() else refresh_seconds,
        "facts": [(name, str(run.settings[name])) for name in FACTS if name in run.settings],
        "stop": run.stop,
        "unfinished": headline.rounds_text(run) if _is_unfinished(run) else "",
        "reward": headline.reward_change(run),
        "changes": headline.evaluation_changes(run.evaluation),
        "evaluation": run.evaluation,
        "price": headline.price(run),
        "findings": headline.findings(run),
        "pairs": shown[: sections.MAX_FIRST_PAIRS],
        "more_pairs": shown[sections.MAX_FIRST_PAIRS :],
        "num_prompts": len({index for images in run.images.values() for index in images}),
        "is_paired": len(run.images) > 1,
        "has_scores": bool(gallery.scores),
        "grids": sections.grids(run, gallery),
        "grid_prompt": _grid_prompt(run),
        "grid_side": run.settings.get("logging", {}).get("grid_side", 0),
        "groups": sections.group_tables(gallery),
        "strips": sections.strips(run),
        "num_sampled_rounds": len(run.images),
        "charts": _charts(run),
        "more_charts": [*score_charts(run), *term_charts(run), *small_charts(run)],
        "prompt_rows": sections.prompt_rows(read_rewards(directory.scores_file)),
        "metrics": sections.metric_rows(run),
        "settings_text": run.settings_text,
        "environment": run.environment,
        "files": [(name, what) for name, what in _FILES if (directory.path / name).exists()],
        "repeat": _repeat(run, directory.path),
    }
    files.write_text(directory.report_file, _TEMPLATES.get_template("report.html").render(content))
    return directory.report_file


def write_comparison(run_dirs: Sequence[Path], output: Path) -> Path:
    """Write one page that compares runs: curves in one chart, final metrics, images of the same prompts side by side.

    Args:
        run_dirs: the run directories, at least two.
        output: the page to write.

    Raises:
        UserError: a directory has no `run.toml`, a file cannot be parsed, or the page cannot be written.
    """
    content = compare_records([_directory(path).read() for path in run_dirs], names=[str(path) for path in run_dirs])
    files.write_text(output, _TEMPLATES.get_template("comparison.html").render(content))
    return output


def _directory(path: Path) -> "RunDirectory":
    """Import on first use: run/directory.py loads torch, which `note_of` does not need."""
    return import_module("b2diffurl.run.directory").RunDirectory(path)


def title_of(run: RunRecord) -> str:
    """Return the title of a run: its recipe, or the name of its folder."""
    return str(run.settings.get("recipe", run.name))


def svg(chart: Chart) -> Markup:
    """Insert a chart as it is: matplotlib has escaped its texts."""
    return Markup(chart.svg)


_TEMPLATES.filters["svg"] = svg


def _is_unfinished(run: RunRecord) -> bool:
    planned = run.num_rounds()
    return run.stop is None and planned is not None and len(run.rounds) < planned


def _charts(run: RunRecord) -> list[tuple[str, list[Chart]]]:
    together = together_chart(run)
    rows: list[tuple[str, list[Chart]]] = [
        ("charts-wide", [together] if together else []),
        ("charts-large", large_charts(run)),
    ]
    return [(style, charts) for style, charts in rows if charts]


def _grid_prompt(run: RunRecord) -> str:
    return run.prompts[0] if run.prompts else "the first prompt"


def _repeat(run: RunRecord, path: Path) -> list[str]:
    """Return the commands that repeat the run; none if its reward exists in a Python session only."""
    reward: Any = run.settings.get("reward", "")
    return [] if "session:" in str(reward) else [f"b2diffurl train {path}/run.toml --output {path}-again"]
