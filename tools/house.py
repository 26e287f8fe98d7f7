"""Architecture figures of src/b2diffurl with their limits: `make house`. Exit code 1 if a limit is broken.

    python tools/house.py [--root DIR]

Every check is a pure function from parsed modules to a `Figure`. Modules are a dict from the dotted name to the
syntax tree; the `__init__` of a package has the package's name. Calls are resolved by name only, so a call depth is a
lower bound. Standard library only.
"""

import argparse
import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "b2diffurl"
ROUND = "algorithm.round"
ENTRY = "run_round"
STRATEGIES = (
    "algorithm.schedule", "algorithm.adaptive", "algorithm.selection", "algorithm.advantage", "algorithm.objectives",
    "algorithm.shrunk", "algorithm.gap", "algorithm.power", "algorithm.extremes",
)  # fmt: skip
# annotated_types holds the ranges of `@settings` fields; it imports nothing.
CORE_MAY_IMPORT = {"torch", "numpy", "jaxtyping", "annotated_types"} | {
    f"{PACKAGE}.{name}" for name in ("errors", "config", "plugins", "distributed", "diffusion", "algorithm")
}
MAX_TOP_LEVEL, MAX_CLASS_LINES, MAX_ARGUMENTS, MAX_INNER_IMPORTS = 18, 200, 8, 20
SHORT_FUNCTION_LINES, MIN_SHORT_SHARE = 30, 0.95
MAX_CALLS_TO_TRANSITION, MAX_CALLS_TO_LOSS, MAX_ROUND_LINES = 4, 3, 60

Modules = dict[str, ast.Module]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what is measured.
        value: the result, as printed.
        limit: the limit, as printed.
        holds: whether the value is within the limit.
        details: source places behind the value, one per line; printed if the limit is broken.
    """

    name: str
    value: str
    limit: str
    holds: bool
    details: tuple[str, ...] = ()


def read_modules(source: Path) -> Modules:
    """Parse all modules below a folder such as src/.

    Args:
        source: the folder that contains the package.
    """
    modules: Modules = {}
    for path in sorted((source / PACKAGE).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return modules


def read_layers(pyproject: str) -> list[set[str]]:
    """Read the layers of import-linter's contract from the text of pyproject.toml, from high to low.

    Raises:
        ValueError: there is no contract of type "layers".
    """
    contracts = tomllib.loads(pyproject).get("tool", {}).get("importlinter", {}).get("contracts", [])
    for contract in contracts:
        if contract.get("type") == "layers":
            return [{name.strip(" ()") for name in re.split(r"[|:]", layer)} for layer in contract["layers"]]
    raise ValueError("pyproject.toml has no import-linter contract of type 'layers'.")


# Imports


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Give the dotted name and the line of every import, those in functions and under TYPE_CHECKING included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _sibling(name: str) -> str:
    """Name of the top-level package or module that contains a module; "" for the package itself and other packages."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == PACKAGE else ""


def sibling_imports(modules: Modules) -> Iterator[tuple[str, str, str]]:
    """Give (importer, imported, place) for each import between top-level packages, except those of `__init__`."""
    siblings = {_sibling(name) for name in modules}
    for name, tree in modules.items():
        for target, line in imports(tree):
            importer, imported = _sibling(name), _sibling(target)
            if importer and imported in siblings - {"", importer}:
                yield importer, imported, f"{name}:{line} imports {target}"


def check_top_level(modules: Modules) -> Figure:
    """Count packages and modules at the top level of the package; `__init__` and data files do not count."""
    siblings = sorted({_sibling(name) for name in modules} - {""})
    return Figure(
        name="packages and modules at the top level",
        value=str(len(siblings)),
        limit=f"<= {MAX_TOP_LEVEL}",
        holds=len(siblings) <= MAX_TOP_LEVEL,
        details=(", ".join(siblings),),
    )


def check_upward_imports(modules: Modules, layers: Sequence[set[str]]) -> Figure:
    """Count imports from a layer into a higher one, or between two packages of one layer."""
    level = {name: -index for index, layer in enumerate(layers) for name in layer}
    details = [f"{name} has no layer" for name in sorted({_sibling(name) for name in modules} - {""} - level.keys())]
    for importer, imported, place in sibling_imports(modules):
        if importer in level and imported in level and level[importer] <= level[imported]:
            details.append(place)
    return _count("upward imports between top-level packages", details)


def check_cycles(modules: Modules) -> Figure:
    """Count top-level packages that import each other, directly or through others."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for importer, imported, _ in sibling_imports(modules):
        arrows[importer].add(imported)
    reach = {name: _reachable(name, arrows) for name in list(arrows)}
    details = [
        f"{a} <-> {b}" for a in sorted(reach) for b in sorted(reach[a]) if a < b and a in reach.get(b, set[str]())
    ]
    return _count("cycles between top-level packages", details)


def _reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = arrows.get(waiting.pop(), set()) - reached
        reached |= new
        waiting += new
    return reached


def check_core_imports(modules: Modules) -> Figure:
    """Count imports of `algorithm` and `diffusion` outside the standard library and `CORE_MAY_IMPORT`."""
    details: list[str] = []
    for name, tree in modules.items():
        if _sibling(name) in ("algorithm", "diffusion"):
            for target, line in imports(tree):
                root = ".".join(target.split(".")[: 2 if target.startswith(f"{PACKAGE}.") else 1])
                if root not in CORE_MAY_IMPORT and root not in sys.stdlib_module_names:
                    details.append(f"{name}:{line} imports {target}")
    return _count("other imports of algorithm/ and diffusion/", details)


def check_inner_imports(modules: Modules) -> Figure:
    """Count import statements inside functions."""
    lines = {
        (name, node.lineno)
        for name, function in functions(modules)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return Figure(
        name="imports inside functions",
        value=str(len(lines)),
        limit=f"<= {MAX_INNER_IMPORTS}",
        holds=len(lines) <= MAX_INNER_IMPORTS,
        details=tuple(f"{name}:{line}" for name, line in sorted(lines)),
    )


# Sizes and names


def functions(modules: Modules) -> Iterator[tuple[str, Function]]:
    """Give the module and the node of every function and method, nested ones included."""
    for name, tree in modules.items():
        yield from ((name, node) for node in ast.walk(tree) if isinstance(node, Function))


def classes(modules: Modules) -> Iterator[tuple[str, ast.ClassDef]]:
    """Give the module and the node of every class, nested ones included."""
    for name, tree in modules.items():
        yield from ((name, node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def num_lines(node: Function | ast.ClassDef) -> int:
    """Lines from `def` or `class` to the last line, docstring included, decorators not."""
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def check_classes(modules: Modules) -> Figure:
    """Measure the longest class."""
    sizes = [(num_lines(node), f"{name}.{node.name}") for name, node in classes(modules)]
    return _largest("lines of the longest class", sizes, MAX_CLASS_LINES)


def check_arguments(modules: Modules) -> Figure:
    """Measure the most arguments of a function or constructor; `self` and `cls` do not count.

    Constructors that `@dataclass` and `@settings` generate are not functions in the source, so they do not count.
    """
    methods = {id(child) for _, node in classes(modules) for child in node.body}
    sizes = [(_num_arguments(node, id(node) in methods), f"{name}.{node.name}") for name, node in functions(modules)]
    return _largest("most arguments of a function", sizes, MAX_ARGUMENTS)


def _num_arguments(node: Function, is_method: bool) -> int:
    arguments = node.args
    num = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
    num += (arguments.vararg is not None) + (arguments.kwarg is not None)
    is_static = any(isinstance(name, ast.Name) and name.id == "staticmethod" for name in node.decorator_list)
    return num - (is_method and not is_static)


def check_function_lines(modules: Modules) -> Figure:
    """Measure the share of functions of at most `SHORT_FUNCTION_LINES` lines."""
    sizes = sorted(((num_lines(node), f"{name}.{node.name}") for name, node in functions(modules)), reverse=True)
    long = [f"{size} {name}" for size, name in sizes if size > SHORT_FUNCTION_LINES]
    share = 1 - len(long) / len(sizes) if sizes else 1.0
    return Figure(
        name=f"functions of at most {SHORT_FUNCTION_LINES} lines",
        value=f"{share:.1%} of {len(sizes)}",
        limit=f">= {MIN_SHORT_SHARE:.0%}",
        holds=share >= MIN_SHORT_SHARE,
        details=tuple(long),
    )


def check_class_names(modules: Modules) -> Figure:
    """Count class names that two modules define."""
    homes: dict[str, set[str]] = defaultdict(set)
    for module, node in classes(modules):
        homes[node.name].add(module)
    details = [f"{name}: {', '.join(sorted(homes[name]))}" for name in sorted(homes) if len(homes[name]) > 1]
    return _count("class names defined twice", details)


# The round


def check_strategy_tests(modules: Modules) -> Figure:
    """Count type tests on strategy classes (`isinstance` and class patterns) in the round, the update and training/."""
    strategies = {node.name for module, node in classes(modules) if _is_within(module, STRATEGIES)}
    details: list[str] = []
    for module, tree in modules.items():
        if _is_within(module, (ROUND, "algorithm.update", "training")):
            for node in ast.walk(tree):
                names = sorted(_tested_names(node) & strategies)
                details += [f"{module}:{getattr(node, 'lineno', 0)} tests for {name}" for name in names]
    return _count("type tests on strategies in round, update, training/", details)


def _tested_names(node: ast.AST) -> set[str]:
    if isinstance(node, ast.MatchClass):
        return _names(node.cls)
    if isinstance(node, ast.Call) and _called_name(node) in ("isinstance", "issubclass") and len(node.args) == 2:
        return _names(node.args[1])
    return set()


def _names(node: ast.AST) -> set[str]:
    """Names and last attributes in an expression."""
    names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
    return names | {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)}


def _called_name(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _is_within(module: str, places: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{PACKAGE}.{place}.") for place in places)


def call_graph(modules: Modules) -> dict[str, set[str]]:
    """Names that each function or method calls, by its name; functions of one name are merged.

    A called method begins with a dot, both here and in the keys. A class stands for its constructor. A lambda is a
    function of its own, and so is a nested function: both are called by the function around them, one call deeper. A
    function that is passed as an argument counts as called; a parameter or local variable that is called does not.
    """
    graph: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules.items():
        methods = {id(child) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                names = {child.name for child in node.body if isinstance(child, Function)}
                graph[node.name] |= {f".{name}" for name in names & {"__init__", "__post_init__"}}
            elif isinstance(node, Function | ast.Lambda):
                graph["." * (id(node) in methods) + _graph_name(module, node)] |= _callees(module, node)
    return graph


def _graph_name(module: str, node: Function | ast.Lambda) -> str:
    return node.name if isinstance(node, Function) else f"<lambda {module}:{node.lineno}>"


def _callees(module: str, function: Function | ast.Lambda) -> set[str]:
    """Functions that a function calls, passes on or contains, without those of the functions nested in it."""
    callees, local = set[str](), {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
    waiting: list[ast.AST] = list(function.body) if isinstance(function, Function) else [function.body]
    nested: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function | ast.Lambda):
            nested.add(_graph_name(module, node))
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            local.add(node.id)
        if isinstance(node, ast.Call):
            mentioned = [node.func, *node.args, *(keyword.value for keyword in node.keywords)]
            callees |= {name for part in mentioned for name in _function_name(part)}
        waiting += ast.iter_child_nodes(node)
    return (callees - local) | nested


def _function_name(node: ast.expr) -> Iterator[str]:
    """Name of a function or class, or of a method, with a dot; `module.function` gives both."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield f".{node.attr}"
        if isinstance(node.value, ast.Name) and node.value.id not in ("self", "cls"):
            yield node.attr


def shortest_path(graph: dict[str, set[str]], start: str, target: str) -> list[str]:
    """Shortest chain of calls from `start` to a call of `target`, both included; empty if there is none."""
    paths = {start: [start]}
    waiting = [start]
    for name in waiting:
        for callee in sorted(graph.get(name, ())):
            if callee == target:
                return [*paths[name], target]
            if callee in graph and callee not in paths:
                paths[callee] = [*paths[name], callee]
                waiting.append(callee)
    return []


def check_call_depth(modules: Modules, target: str, limit: int) -> Figure:
    """Count the calls from `run_round` to `target`, that of `target` included, through algorithm/ and diffusion/.

    Args:
        modules: modules of the package.
        target: a function or class, or a method with a dot before its name.
        limit: most calls.
    """
    name = f"calls from {ENTRY} to {target}"
    if f"{PACKAGE}.{ROUND}" not in modules:
        return _missing(name, limit)
    core = {module: tree for module, tree in modules.items() if _is_within(module, ("algorithm", "diffusion"))}
    path = shortest_path(call_graph(core), ENTRY, target)
    return Figure(
        name=name,
        value=str(len(path) - 1) if path else "no path",
        limit=f"<= {limit}",
        holds=bool(path) and len(path) - 1 <= limit,
        details=(" > ".join(path),) if path else (),
    )


def check_round_lines(modules: Modules) -> Figure:
    """Measure the lines of `run_round`."""
    name = f"lines of {ENTRY}"
    core = {module: tree for module, tree in modules.items() if module == f"{PACKAGE}.{ROUND}"}
    sizes = [(num_lines(node), ENTRY) for _, node in functions(core) if node.name == ENTRY]
    return _largest(name, sizes, MAX_ROUND_LINES) if sizes else _missing(name, MAX_ROUND_LINES)


def check_callers(modules: Modules, target: str, allowed: Sequence[str]) -> Figure:
    """Count calls of `target`, function or method, in modules outside `allowed`."""
    details = [
        f"{module}:{node.lineno}"
        for module, tree in modules.items()
        if not _is_within(module, allowed)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _called_name(node) == target
    ]
    return _count(f"other callers of {target}", details)


# Figures


def _count(name: str, details: Sequence[str]) -> Figure:
    return Figure(name=name, value=str(len(details)), limit="0", holds=not details, details=tuple(details))


def _largest(name: str, sizes: list[tuple[int, str]], limit: int) -> Figure:
    value, place = max(sizes, default=(0, ""))
    over = [f"{size} {where}" for size, where in sorted(sizes, reverse=True) if size > limit]
    return Figure(
        name=name,
        value=f"{value} ({place.removeprefix(f'{PACKAGE}.')})" if place else "0",
        limit=f"<= {limit}",
        holds=value <= limit,
        details=tuple(over),
    )


def _missing(name: str, limit: int) -> Figure:
    return Figure(name=name, value="missing", limit=f"<= {limit}", holds=False, details=(f"{ROUND} not found",))


def measure(modules: Modules, layers: Sequence[set[str]]) -> list[Figure]:
    """Run all checks."""
    return [
        check_top_level(modules),
        check_upward_imports(modules, layers),
        check_cycles(modules),
        check_core_imports(modules),
        check_classes(modules),
        check_arguments(modules),
        check_function_lines(modules),
        check_inner_imports(modules),
        check_class_names(modules),
        check_strategy_tests(modules),
        check_call_depth(modules, ".transition", MAX_CALLS_TO_TRANSITION),
        check_call_depth(modules, ".loss", MAX_CALLS_TO_LOSS),
        check_round_lines(modules),
        check_callers(modules, "sample_branches", (ROUND, "evaluation", "analysis.probe")),
        check_callers(modules, "select", (ROUND, "analysis.probe")),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and the places behind each broken limit.

    Returns:
        The exit code: 1 if a limit is broken.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).parents[1], help="folder of pyproject.toml and src/"
    )
    root = parser.parse_args(arguments).root
    figures = measure(read_modules(root / "src"), read_layers((root / "pyproject.toml").read_text(encoding="utf-8")))
    for figure in figures:
        print(f"{'ok    ' if figure.holds else 'BROKEN'}  {figure.name:<54}  {figure.limit:<7}  {figure.value}")
    for figure in figures:
        if not figure.holds:
            print(f"\n{figure.name} ({figure.value}, limit {figure.limit}):")
            print("\n".join(f"    {line}" for line in figure.details))
    return int(not all(figure.holds for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
