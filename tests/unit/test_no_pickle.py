"""Nothing that is read can run code: no pickle, no torch.load that unpickles, no eval."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def findings(text: str) -> list[str]:
    """The lines of a module that could run what they read."""
    lines: list[str] = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                bad = any(alias.name.partition(".")[0] in MODULES for alias in names)
            case ast.ImportFrom(module=module):
                bad = str(module).partition(".")[0] in MODULES
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile")):
                bad = True
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords):
                weights_only = [word.value for word in keywords if word.arg == "weights_only"]
                bad = not any(isinstance(value, ast.Constant) and value.value is True for value in weights_only)
            case ast.Call(keywords=keywords):
                bad = any(
                    word.arg == "allow_pickle" and isinstance(word.value, ast.Constant) and bool(word.value.value)
                    for word in keywords
                )
            case _:
                bad = False
        if bad:
            lines.append(ast.unparse(node))
    return lines


def test_the_package_runs_nothing_that_it_reads() -> None:
    assert len(FILES) > 100
    assert {str(file): found for file in FILES if (found := findings(file.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "eval(text)", "exec(text)", "torch.load(path)",
        "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)",
    ],
)  # fmt: skip
def test_each_kind_is_recognized(line: str) -> None:
    assert findings(line) == [line]


@pytest.mark.parametrize("line", ["torch.load(path, weights_only=True)", "model.eval()", "np.load(path)"])
def test_what_is_harmless_is_not(line: str) -> None:
    assert findings(line) == []
