"""examples/notebook.ipynb runs as it stands, without ipywidgets."""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def execute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    source = str(Path(__file__).parents[2] / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def check(notebook: Any, folder: Path) -> None:
    shown = outputs(notebook)
    assert not [output for output in shown if output.output_type in ("error", "stream")]  # no warnings, no bars
    html = ["".join(output.data.get("text/html", "")) for output in shown if "data" in output]
    assert sum("<progress" in text for text in html) >= 1
    assert sum("data:image/png" in text for text in html) == 3
    result = next(text for text in html if "Reward" in text and "before" in text)
    assert "a bear riding a bike" in result
    assert (folder / "runs" / "notebook" / "lora").is_dir()
    assert (folder / "runs" / "notebook" / "prompts.json").is_file()
    assert 'reward = "1.0*clip:emoji + 2.0*session:warmth"' in (folder / "runs/notebook/run.toml").read_text("utf-8")


@pytest.mark.slow
def test_the_notebook_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(execute(tmp_path, monkeypatch), tmp_path)
