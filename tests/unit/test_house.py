"""The figures of tools/house.py: each check on small sources that keep and break its limit, and the real package."""

import ast
from pathlib import Path

import pytest

from tools import house
from tools.house import Modules

ROOT = Path(__file__).parents[2]
LAYERS = [{"cli"}, {"models", "rewards"}, {"algorithm"}, {"errors"}]


def modules(**sources: str) -> Modules:
    """Parsed modules of the package; `__` in a name stands for a dot."""
    parsed = {f"b2diffurl.{name.replace('__', '.')}": ast.parse(source) for name, source in sources.items()}
    return {"b2diffurl": ast.parse(""), **parsed}


def lines(num: int, *, head: str = "def f():") -> str:
    """A function or class of so many lines."""
    return "\n".join([head, *["    x = 1"] * (num - 1)])


def test_modules_are_read_by_their_dotted_names(tmp_path: Path) -> None:
    for name in ("__init__.py", "errors.py", "algorithm/__init__.py", "algorithm/round.py", "data/prompts.toml"):
        path = tmp_path / "b2diffurl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    assert list(house.read_modules(tmp_path)) == [
        "b2diffurl", "b2diffurl.algorithm", "b2diffurl.algorithm.round", "b2diffurl.errors",
    ]  # fmt: skip


def test_layers_are_those_of_the_import_linter() -> None:
    text = '[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["cli", "models | rewards", "(extra) : errors"]'
    assert house.read_layers(text) == [{"cli"}, {"models", "rewards"}, {"extra", "errors"}]
    with pytest.raises(ValueError, match="no import-linter contract"):
        house.read_layers("[project]")


def test_the_top_level_counts_packages_and_modules_once() -> None:
    names = {f"p{i}": "" for i in range(house.MAX_TOP_LEVEL)}
    assert house.check_top_level(modules(**names, p0__inside="")).holds
    figure = house.check_top_level(modules(**names, one_more=""))
    assert (figure.holds, figure.value) == (False, str(house.MAX_TOP_LEVEL + 1))


@pytest.mark.parametrize(
    "source",
    [
        "import b2diffurl.models.text_to_image",
        "from b2diffurl import models",
        "from b2diffurl.models import policy",
        "def f():\n    from b2diffurl.models import policy",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b2diffurl.models",
    ],
)
def test_upward_imports_are_found_wherever_they_stand(source: str) -> None:
    figure = house.check_upward_imports(modules(algorithm__update=source, models=""), LAYERS)
    assert figure.value == "1"
    assert figure.details[0].startswith("b2diffurl.algorithm.update:")
    assert house.check_upward_imports(modules(cli__train=source, models="", algorithm=""), LAYERS).holds


def test_packages_of_one_layer_and_packages_without_a_layer_break_the_order() -> None:
    assert not house.check_upward_imports(modules(models="import b2diffurl.rewards", rewards=""), LAYERS).holds
    figure = house.check_upward_imports(modules(surprise=""), LAYERS)
    assert figure.details == ("surprise has no layer",)


def test_cycles_are_found_through_a_third_package() -> None:
    chain = {"a": "import b2diffurl.b", "b": "import b2diffurl.c.inside", "c": ""}
    assert house.check_cycles(modules(**chain)).holds
    assert not house.check_cycles(modules(**chain | {"c__other": "def f():\n    import b2diffurl.a"})).holds


@pytest.mark.parametrize(
    ("source", "holds"),
    [
        ("import torch.nn\nimport math\nfrom jaxtyping import Float\nfrom b2diffurl.errors import UserError", True),
        ("from b2diffurl.algorithm import records", True),
        ("import rich.table", False),
        ("def f():\n    import diffusers", False),
        ("from b2diffurl.rewards import load", False),
        ("from b2diffurl import run", False),
    ],
)
def test_the_core_imports_little(source: str, holds: bool) -> None:
    assert house.check_core_imports(modules(algorithm__update=source)).holds is holds
    assert house.check_core_imports(modules(diffusion__ddim=source)).holds is holds
    assert house.check_core_imports(modules(cli__train=source)).holds


def test_only_imports_in_functions_count_as_inner_imports() -> None:
    inner = "def f():\n" + "    import math\n" * house.MAX_INNER_IMPORTS
    outer = "import math\nif TYPE_CHECKING:\n    import torch\n"
    assert house.check_inner_imports(modules(a=outer + inner)).holds
    figure = house.check_inner_imports(modules(a=outer + inner, b="class A:\n    def f(self):\n        import torch"))
    assert (figure.holds, figure.value) == (False, str(house.MAX_INNER_IMPORTS + 1))


def test_the_longest_class_is_measured() -> None:
    assert house.check_classes(modules(a=lines(200, head="class A:"))).holds
    figure = house.check_classes(modules(a=lines(200, head="class A:"), b=lines(201, head="class B:")))
    assert (figure.holds, figure.value) == (False, "201 (b.B)")


@pytest.mark.parametrize(
    ("source", "num"),
    [
        ("def f(a, /, b, *c, d=1, **e): ...", 5),
        ("class A:\n    def f(self, a): ...", 1),
        ("class A:\n    @classmethod\n    def f(cls, a): ...", 1),
        ("class A:\n    @staticmethod\n    def f(a, b): ...", 2),
        ("class A:\n    def __init__(self, a, b, c): ...", 3),
        ("@settings\nclass A:\n    a: int = 1\n    b: int = 2", 0),
    ],
)
def test_arguments_are_counted_without_self(source: str, num: int) -> None:
    assert house.check_arguments(modules(a=source)).value.split()[0] == str(num)


def test_nine_arguments_are_too_many() -> None:
    assert house.check_arguments(modules(a="async def f(a, b, c, d, e, f, g, h): ...")).holds
    assert not house.check_arguments(modules(a="async def f(a, b, c, d, e, f, g, h, i): ...")).holds


def test_one_function_in_twenty_may_be_long() -> None:
    short = {f"m{i}": lines(30) for i in range(19)}
    assert house.check_function_lines(modules(**short, long=lines(31))).holds
    figure = house.check_function_lines(modules(**short, long=lines(31), longer=lines(50)))
    assert not figure.holds
    assert figure.details == ("50 b2diffurl.longer.f", "31 b2diffurl.long.f")


def test_a_class_name_belongs_to_one_module() -> None:
    assert house.check_class_names(modules(a="class A: ...\nclass B: ...", b="class C: ...")).holds
    figure = house.check_class_names(modules(a="class A: ...", b="class A(Protocol): ..."))
    assert figure.details == ("A: b2diffurl.a, b2diffurl.b",)


@pytest.mark.parametrize(
    "test",
    [
        "isinstance(x, Backward)",
        "isinstance(x, int | schedule.Backward)",
        "isinstance(x, (int, Backward))",
        "match x:\n    case Backward():\n        pass",
    ],
)
@pytest.mark.parametrize("module", ["algorithm__round", "algorithm__update", "training__trainer"])
def test_type_tests_on_strategies_are_found(test: str, module: str) -> None:
    schedule = {"algorithm__schedule": "class Backward: ...", "algorithm__policy": "class Policy: ..."}
    assert not house.check_strategy_tests(modules(**schedule, **{module: test})).holds
    assert house.check_strategy_tests(modules(**schedule, **{module: test.replace("Backward", "Policy")})).holds
    assert house.check_strategy_tests(modules(**schedule, run__settings=test)).holds


def depth(source: str, target: str = ".loss", limit: int = 3, **others: str) -> house.Figure:
    return house.check_call_depth(modules(algorithm__round=source, **others), target, limit)


def test_the_call_depth_follows_functions_methods_and_constructors() -> None:
    others = {
        "algorithm__update": "def optimize():\n    Step()\nclass Step:\n    def __init__(self):\n        self.take()\n"
        "    def take(self):\n        objective.loss()",
        "training__trainer": "def optimize():\n    x.loss()",
    }
    figure = depth("def run_round():\n    update.optimize()", limit=5, **others)
    assert (figure.holds, figure.value) == (True, "5")
    assert figure.details == ("run_round > optimize > Step > .__init__ > .take > .loss",)
    assert not depth("def run_round():\n    update.optimize()", limit=4, **others).holds


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("def run_round():\n    batch.loss()", "1"),
        ("def run_round():\n    call(lambda: batch.loss())", "2"),
        ("def run_round():\n    def inner():\n        batch.loss()\n    call(inner)", "2"),
        ("def run_round():\n    call(inner)\ndef inner():\n    batch.loss()", "2"),
        ("def run_round(inner):\n    inner()\ndef inner():\n    batch.loss()", "no path"),
        ("def run_round():\n    loss = 1\n    loss.backward()", "no path"),
        ("def run_round():\n    return batch.loss", "no path"),
    ],
)
def test_lambdas_and_callbacks_are_calls_and_variables_are_not(source: str, value: str) -> None:
    assert depth(source).value == value


def test_the_shortest_way_counts() -> None:
    source = "def run_round():\n    a()\n    b()\ndef a():\n    b()\ndef b():\n    Gaussian(mean=0)"
    assert depth(source, "Gaussian").value == "2"


def test_a_missing_round_is_broken() -> None:
    empty = modules(algorithm__update="def optimize(): ...")
    for figure in (house.check_call_depth(empty, "Gaussian", 4), house.check_round_lines(empty)):
        assert (figure.holds, figure.value) == (False, "missing")


def test_the_round_fits_a_screen() -> None:
    assert house.check_round_lines(modules(algorithm__round=lines(60, head="def run_round():"))).holds
    assert not house.check_round_lines(modules(algorithm__round=lines(61, head="def run_round():"))).holds


@pytest.mark.parametrize("target", ["select", "sample_branches"])
def test_only_the_named_modules_call_a_function(target: str) -> None:
    source = f"rows = x.{target}(1)"
    allowed = ("algorithm.round", "evaluation")
    inside = modules(algorithm__round=source, evaluation__generate=source, training__trainer=f"def {target}(): ...")
    assert house.check_callers(inside, target, allowed).holds
    figure = house.check_callers(modules(evaluation_too=source), target, allowed)
    assert figure.details == ("b2diffurl.evaluation_too:1",)


@pytest.mark.parametrize(("num_siblings", "code"), [(1, "BROKEN"), (0, "ok")])
def test_the_command_prints_every_figure(
    num_siblings: int, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "src" / "b2diffurl"
    folder.mkdir(parents=True)
    for index in range(num_siblings):
        (folder / f"m{index}.py").write_text("", encoding="utf-8")
    layers = '[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["cli"]\n'
    (tmp_path / "pyproject.toml").write_text(layers, encoding="utf-8")
    assert house.main(["--root", str(tmp_path)]) == 1  # there is no algorithm/round.py
    printed = capsys.readouterr().out
    assert len(printed.split("\n\n")[0].splitlines()) == 15
    assert any(line.startswith(code) and "upward imports" in line for line in printed.splitlines())


def test_the_package_keeps_all_limits() -> None:
    layers = house.read_layers((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    figures = house.measure(house.read_modules(ROOT / "src"), layers)
    assert not [(figure.name, figure.value, figure.details) for figure in figures if not figure.holds]
