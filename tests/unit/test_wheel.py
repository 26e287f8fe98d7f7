"""The wheel contains the package only: no tools, no training of the embedded model."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "b2diffurl"
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported_by(source: str) -> Iterator[str]:
    """Names of all imported modules, including imports in functions and `import_module("...")`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))


def needs_tools(source: str) -> bool:
    return any(name.split(".")[0] == "tools" for name in imported_by(source))


def test_the_wheel_packs_only_the_package() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"] == {"packages": ["src/b2diffurl"]}
    assert build.keys() == {"targets"}


def test_the_renderer_and_the_training_of_the_embedded_model_are_outside_the_package() -> None:
    tool = {path.name for path in (ROOT / "tools" / "emoji_model").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert {"render.py", "denoiser.py"} <= tool
    assert not tool & {path.name for path in (PACKAGE / "emoji").rglob("*.py")}


def test_the_files_of_the_wheel_have_less_than_20_megabytes() -> None:
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 20e6


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_of_the_package_needs_the_tools_or_the_font(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not needs_tools(source)
    assert "fonts-noto" not in source
    assert "NotoColorEmoji" not in source


@pytest.mark.parametrize(
    "source",
    [
        "import tools.emoji_model",
        "from tools.emoji_model import render",
        "def f():\n    from tools import house",
        'importlib.import_module("tools.house")',
    ],
)
def test_imports_of_the_tools_are_found(source: str) -> None:
    assert needs_tools(source)
    assert not needs_tools(source.replace("tools", "mytools"))


def test_no_packaged_file_has_a_directory_of_the_machine_that_wrote_it() -> None:
    for path in PACKAGE.rglob("*.json"):
        assert '"_name_or_path"' not in path.read_text(encoding="utf-8"), path
