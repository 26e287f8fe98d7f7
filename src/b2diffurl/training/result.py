"""The result of a run, read from its folder: what `train` returns, and what a notebook shows."""

from importlib import import_module
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from b2diffurl.config import read_toml
from b2diffurl.errors import UserError
from b2diffurl.reporting import headline, sections
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.gallery import read_gallery
from b2diffurl.run.records import Evaluation, RunRecord, read_image
from b2diffurl.run.settings import Run

_NUM_SHOWN_PAIRS = 6
_HTML = Environment(autoescape=True).from_string("""\
<div><b>{{ verdict }}</b>
<table><tr><th></th><th>before</th><th>after</th><th></th></tr>
{% for change in changes %}<tr><th style="text-align: left">{{ change.label }}</th><td>{{ change.before }}</td>
<td>{{ change.after }}</td><td>{{ change.change }} {{ change.word }}</td></tr>{% endfor %}</table>
<div style="display: flex; flex-wrap: wrap; gap: 12px">
{% for pair in pairs %}<figure style="margin: 0; text-align: center"><div style="display: flex; gap: 4px">
{% for frame in pair.frames %}<div><img src="{{ frame.src }}" alt="{{ frame.alt }}"
style="width: 96px{{ '; image-rendering: pixelated' if frame.is_pixel_art }}">
<br><small>{{ frame.label }}{% if frame.reward %}: {{ frame.reward }}{% endif %}</small></div>{% endfor %}
</div><figcaption><small>{{ pair.caption }}</small></figcaption></figure>{% endfor %}</div>
<p><small>{{ folder }}: adapter in lora/, report in report.html</small></p></div>
""")


class Result:
    """A run in its folder; everything is read when it is used, so it may be finished, unfinished or stopped.

    It can be used as the path of the folder: `result / "run.toml"`, `Path(result)`.

    Args:
        folder: a run folder.

    Raises:
        UserError: the folder holds no run.
    """

    def __init__(self, folder: Path | str) -> None:
        self._directory = RunDirectory(Path(folder))
        if not self._directory.is_started():
            raise UserError(f"folder is {str(folder)!r}, which holds no run; give the folder of a run.")

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._directory.path

    @property
    def run(self) -> Run:
        """The settings."""
        return read_toml(self._directory.run_file, Run)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The metrics of each finished round, by name; docs and report explain each."""
        return [dict(metrics) for metrics in self._directory.read_metrics()]

    @property
    def evaluation(self) -> Evaluation | None:
        """Metrics of the judge before and after training; None before the first evaluation."""
        return self._directory.read_evaluation()

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of the sample images `before` and `after`."""
        return self._record().prompts

    @property
    def before(self) -> list[Image.Image]:
        """Sample images before training, one per prompt; none if the run has none."""
        return [read_image(path) for path in self._record().before.values()]

    @property
    def after(self) -> list[Image.Image]:
        """The newest sample images, of the same prompts and noise as `before`."""
        return [read_image(path) for path in self._record().after.values()]

    @property
    def adapter(self) -> Path:
        """The folder of the adapter, which exists once the run has finished."""
        return self._directory.lora

    @property
    def report(self) -> Path:
        """The page of the run, which exists once the run has ended."""
        return self._directory.report_file

    def to_pandas(self) -> Any:
        """Return `metrics` as a pandas.DataFrame, one row per round.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            return import_module("pandas").DataFrame(self.metrics)
        except ModuleNotFoundError as error:
            raise UserError("pandas is not installed; run pip install pandas, or use Result.metrics.") from error

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Result({str(self.folder)!r}): {headline.verdict(self._record())}"

    def _repr_html_(self) -> str:
        """Show the run in a notebook: before and after, in numbers and images."""
        run = self._record()
        reward = headline.reward_change(run)
        return _HTML.render(
            verdict=headline.verdict(run),
            changes=[*([reward] if reward else []), *headline.evaluation_changes(run.evaluation)],
            pairs=sections.pairs(run, read_gallery(self._directory.samples))[:_NUM_SHOWN_PAIRS],
            folder=str(self.folder),
        )

    def _record(self) -> RunRecord:
        return self._directory.read()
