"""The documentation is correct: doctests, recipes, the commands of the README and the pages."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import b2diffurl
from b2diffurl.analysis.study.spec import make_cells, read_study, study_names
from b2diffurl.cli import _COMMANDS, _HELP, common, main
from b2diffurl.run.recipes import RECIPES
from b2diffurl.run.resolve import resolve
from tools import architecture, results

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(b2diffurl.__path__, "b2diffurl.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_doctests_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", study_names())
def test_every_study_has_valid_arms_at_every_scale(name: str) -> None:
    study = read_study(name)
    for scale in ("", *study.scales):
        cells = make_cells(study.at_scale(scale), seeds=[0])
        assert len({cell.key for cell in cells}) == len(cells)
    for cell in make_cells(study, seeds=[0]):
        resolve(cell.run)


def commands_of_the_readme() -> list[str]:
    return [line.split("#")[0].strip() for line in README.splitlines() if re.match(r" {4}b2diffurl \w", line)]


def test_the_readme_names_every_command() -> None:
    named = {shlex.split(line)[1] for line in commands_of_the_readme()}
    assert named == set(_COMMANDS)


def test_the_help_names_every_recipe_and_study() -> None:
    recipes, studies = re.search(r"^recipes: (.*)^studies: (.*?)\n\n", _HELP, re.DOTALL | re.MULTILINE).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert re.split(r",\s+", recipes.strip()) == list(RECIPES)
    assert re.split(r",\s+", studies.strip()) == list(study_names())


@pytest.fixture
def as_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages ask a user to write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    Path("prompts.txt").write_text("a bear riding a bike\na cat playing chess\na dog riding a bike\n", encoding="utf-8")
    own = (ROOT / "docs" / "how-to-own-reward.md").read_text(encoding="utf-8")
    Path("my_reward.py").write_text(own.split("```python\n")[1].split("```")[0], encoding="utf-8")
    own = (ROOT / "docs" / "objectives" / "README.md").read_text(encoding="utf-8")
    Path("my_objectives.py").write_text(own.split("```python\n")[1].split("```")[0], encoding="utf-8")
    own = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    Path("my_schedules.py").write_text(own.split("```python\n")[1].split("```")[0], encoding="utf-8")
    Path("runs/first/lora").mkdir(parents=True)  # the header of an adapter, which is all that a dry run reads
    weights = {
        "lora_unet_mid_block.lora_down.weight": torch.zeros(8, 1),
        "lora_unet_mid_block.alpha": torch.tensor(8.0),
    }
    save_file(weights, "runs/first/lora/b2diffurl_kohya.safetensors")
    return tmp_path


def train_commands(text: str) -> list[str]:
    """`b2diffurl train RECIPE ...` of indented and fenced blocks, torchrun's too; comments and prompts left out."""
    lines = [line.split(" #")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    commands = [
        line.partition("train ")[2] for line in lines if re.match(r"(PYTHONPATH|torchrun|b2diffurl).* train \w", line)
    ]
    return [line for line in commands if not re.match(r"RECIPE|my-run|runs/", line)]


@pytest.mark.parametrize(
    ("page", "line"),
    [(page.stem, line) for page in (ROOT / "README.md", *PAGES) for line in train_commands(page.read_text("utf-8"))],
)
def test_train_commands_of_the_pages_are_accepted(page: str, line: str, as_a_user: Path) -> None:
    before = sorted(as_a_user.iterdir())
    words = shlex.split(line)
    if "cuda" in words and not torch.cuda.is_available():  # refused where there is no GPU
        words[words.index("cuda")] = "cpu"
    if "models/my-sd" in words:
        words[words.index("models/my-sd")] = "emoji"
        words[words.index("my_module:my_reward")] = "my_reward:redness"
    assert main(["train", *words, "--dry-run"]) == 0, page
    assert [path for path in sorted(as_a_user.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.parametrize("page", [path.relative_to(ROOT) for path in (ROOT / "README.md", *PAGES)], ids=str)
def test_targets_of_links_and_images_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8")):
        assert target.startswith("http") or (ROOT / page.parent / target).exists(), target


def test_the_pages_have_the_tables_and_images_of_the_results() -> None:
    assert results.main(["--check"]) == 0, "run python tools/results.py"


_NUMBER = r"[+-]?\d*\.\d+"
_INTERVAL = re.compile(rf"({_NUMBER}) \(({_NUMBER}) to ({_NUMBER})\)")
_DERIVED = {  # intervals in the text that no table has, and what they are
    (".29", ".40"): "ratio of evaluations of study evidence times the seconds per evaluation of study cost",
    (".047", ".182"): "study one-rate, 3,072 images, --seeds 13 14 15 16 17 18 19, minus the best DDPO",
    (".037", ".199"): "the same, minus plain DDPO",
}


def unknown_intervals(text: str, tables: str) -> list[str]:
    """Intervals of a text, as `.1 (.05 to .15)` or `.1, .05 to .15`, that no table has, rounded, with their mean.

    The mean may stand up to 200 characters before, and a difference may be quoted with the other sign.
    """
    known = {tuple(map(float, each)) for each in _INTERVAL.findall(tables)}
    known |= {(-mean, -high, -low) for mean, low, high in known}
    unknown: list[str] = []
    for found in re.finditer(rf"(?:\(|,\s+)({_NUMBER})\s+to\s+({_NUMBER})", text):
        before = text[max(0, found.start() - 200) : found.start()]
        means = [each.lstrip("+-") for each in re.findall(rf"{_NUMBER}|\b\d+\b", before)]
        if found.groups() not in _DERIVED and not any(
            rounds_to(low, found[1]) and rounds_to(high, found[2]) and any(rounds_to(abs(mean), each) for each in means)
            for mean, low, high in known
        ):
            unknown.append(f"{before[-40:]}{found[0]}")
    return unknown


def rounds_to(value: float, text: str) -> bool:
    """Whether a value is what the text says, to the digits that it gives."""
    return abs(value - float(text)) <= 0.5 * 10.0 ** -len(text.partition(".")[2]) + 1e-9


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_intervals_in_the_text_are_those_of_the_tables(page: str) -> None:
    tables = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "results").glob("*/table.md")))
    assert not unknown_intervals((ROOT / page).read_text(encoding="utf-8"), tables)


def test_rows_with_half_widths_are_rows_of_the_tables() -> None:
    """README shows some columns of a row, some under another name."""
    tables = [file.read_text(encoding="utf-8").splitlines() for file in (ROOT / "results").glob("*/table.md")]
    rows = [set(row.strip("| ").split(" | ")) for table in tables for row in table]
    for row in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        if row.startswith("|") and " ± " in row:
            cells = row.strip("| ").split(" | ")[1:]
            assert any(each.issuperset(cells) for each in rows), row


def test_an_interval_that_no_table_has_is_found() -> None:
    tables = "| -0.019 (-0.050 to +0.012) |"
    for text in ("it is -.019 (-.050 to .012)", "behind by .02 (-.012 to .050)", "(-.019, -.050 to .012; margin .03)"):
        assert not unknown_intervals(text, tables), text
    for text in ("it is -.019 (-.050 to .013)", "it is -.018 (-.050 to .012)"):
        assert unknown_intervals(text, tables), text


def test_tables_are_written_anew_where_they_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, study = tmp_path / "docs" / "page.md", tmp_path / "results" / "some-study"
    page.parent.mkdir()
    study.mkdir(parents=True)
    (study / "table.md").write_text("# Title\n\ntext\n\n## Claims\n\n| a |\n", encoding="utf-8")
    (study / "curves.png").write_bytes(b"image")
    page.write_text(
        "before\n<!-- results/some-study/table.md -->\nold\n<!-- end -->\n![](results-some-study-curves.png)\n",
        encoding="utf-8",
    )
    assert results.main(["--check", "--root", str(tmp_path)]) == 1
    assert "page.md differs from the results" in capsys.readouterr().out
    assert results.main(["--root", str(tmp_path)]) == 0
    assert results.main(["--check", "--root", str(tmp_path)]) == 0
    assert page.read_text(encoding="utf-8") == (
        "before\n<!-- results/some-study/table.md -->\n\ntext\n\n### Claims\n\n| a |\n\n<!-- end -->\n"
        "![](results-some-study-curves.png)\n"
    )
    assert (page.parent / "results-some-study-curves.png").read_bytes() == b"image"


@pytest.mark.parametrize("file", ["curves", "samples", "samples-template-1"])
@pytest.mark.parametrize("study", ["samples", "some-study"])
def test_an_image_of_a_page_is_that_of_its_study_and_condition(study: str, file: str) -> None:
    [pair] = results.images(f"![text](results-{study}-{file}.png)", Path("docs"), Path("results"))
    assert pair == (Path("docs", f"results-{study}-{file}.png"), Path("results", study, f"{file}.png"))


def test_the_architecture_quotes_the_loop() -> None:
    source = (ROOT / architecture.ROUND).read_text(encoding="utf-8")
    quoted = architecture.quoted_loop(ARCHITECTURE)
    assert quoted == architecture.loop(source), "run python tools/architecture.py"
    assert quoted.startswith("# Backward progressive training")
    assert textwrap.indent(quoted, "    ") in source


def test_the_architecture_names_every_file() -> None:
    assert architecture.differences(ARCHITECTURE, ROOT) == []


def test_a_file_without_a_line_and_a_line_without_a_file_are_listed(tmp_path: Path) -> None:
    for name in ("__init__.py", "a.py", "deep/__init__.py", "deep/b.py"):
        path = tmp_path / "src" / "b2diffurl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    tree = "src/b2diffurl/   # the package\n  a.py   # first\n  deep/  # second\n    b.py # third\n"
    page = f"## The tree\n\n```\n{tree}```\n"
    assert architecture.differences(page, tmp_path) == []
    assert architecture.differences(page.replace("  a.py   # first\n", ""), tmp_path) == [
        "the tree lacks src/b2diffurl/a.py"
    ]
    assert architecture.differences(page.replace("b.py # third", "c.py"), tmp_path) == [
        "the tree lacks src/b2diffurl/deep/b.py",
        "src/b2diffurl/deep/c.py does not exist",
        "src/b2diffurl/deep/c.py has no comment",
    ]


def test_the_loop_is_quoted_anew_where_it_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, source = tmp_path / "ARCHITECTURE.md", tmp_path / architecture.ROUND
    source.parent.mkdir(parents=True)
    source.write_text('def run_round():\n    """Doc."""\n    # Why.\n    if 1:\n        return 2\n', encoding="utf-8")
    before = f"## The loop\n\n```python\nold\n```\n\n## The tree\n\n```\n{architecture.ROUND} # the loop\n```\n"
    page.write_text(before, encoding="utf-8")
    assert architecture.main(["--root", str(tmp_path), "--check"]) == 1
    assert "python tools/architecture.py" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == before
    assert architecture.main(["--root", str(tmp_path)]) == 0
    assert page.read_text(encoding="utf-8") == before.replace("old\n", "# Why.\nif 1:\n    return 2\n")
    assert architecture.main(["--root", str(tmp_path), "--check"]) == 0


class FlagsAccepted(Exception):  # noqa: N818
    """The flags of a command were accepted."""


def other_commands(text: str) -> list[str]:
    """Commands of indented blocks other than `train`; what the page leaves open, such as RECIPE, is left out."""
    lines = [
        line.split(" #")[0].partition(" > ")[0].strip()
        for line in text.replace("\\\n", " ").splitlines()
        if line[:4] == "    "
    ]
    return [
        line
        for line in lines
        if re.match(r"b2diffurl (?!train)[a-z-]+ ", line) and not re.search(r"\b[A-Z]{3,}\b", line)
    ]


@pytest.mark.parametrize(
    ("page", "line"),
    [(page.stem, line) for page in (ROOT / "README.md", *PAGES) for line in other_commands(page.read_text("utf-8"))],
)
@pytest.mark.usefixtures("as_a_user")
def test_flags_of_the_other_commands_of_the_pages_are_accepted(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse_only(*arguments: object, **options: object) -> None:
        common.parse(*arguments, **options)  # pyright: ignore
        raise FlagsAccepted

    words = shlex.split(line)[1:]
    module = importlib.import_module(f"b2diffurl.cli.{_COMMANDS[words[0]][0]}")
    if not hasattr(module, "parse"):
        assert main(words) == 0, page
        return
    monkeypatch.setattr(module, "parse", parse_only)
    with pytest.raises(FlagsAccepted):
        main(words)


def python_blocks(text: str) -> list[str]:
    return [
        textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    ]


@pytest.mark.parametrize(
    ("page", "block"),
    [(page.stem, block) for page in (ROOT / "README.md", *PAGES) for block in python_blocks(page.read_text("utf-8"))],
)
def test_python_of_the_pages_names_what_exists(page: str, block: str) -> None:
    """Every block compiles, what it imports from the package exists, and calls have arguments that are accepted."""
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("b2diffurl"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), page
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if ast.unparse(node.func.value) == "b2diffurl":
            signature = inspect.signature(getattr(b2diffurl, node.func.attr))
            keywords = {str(keyword.arg): None for keyword in node.keywords if keyword.arg}
            signature.bind(*node.args, **keywords)
