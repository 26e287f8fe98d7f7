"""Keep ARCHITECTURE.md equal to the code: the quoted body of `run_round`, and the tree of files.

    python tools/architecture.py [--check] [--root DIR]

Rewrites the quoted loop in place and lists the files that the tree lacks or that no longer exist; their lines, with a
comment each, are written by hand. With --check nothing is written. Exit code 1 if the page differs from the code.
Standard library only.
"""

import argparse
import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

PAGE, ROUND, ENTRY = "ARCHITECTURE.md", "src/b2diffurl/algorithm/round.py", "run_round"
_LOOP = re.compile(r"(?<=^## The loop\n).*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TREE = re.compile(r"(?<=^## The tree\n).*?^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def loop(source: str) -> str:
    """Return the body of `run_round` without its docstring, dedented.

    Args:
        source: text of the module that defines it.
    """
    node = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == ENTRY)
    body = source.splitlines(keepends=True)[node.body[0].end_lineno : node.end_lineno]
    return textwrap.dedent("".join(body))


def quoted_loop(page: str) -> str:
    """Return the loop that the page quotes."""
    return page[slice(*_block(_LOOP, page))]


def with_loop(page: str, body: str) -> str:
    """Return the page with another loop in place of the quoted one."""
    start, end = _block(_LOOP, page)
    return page[:start] + body + page[end:]


def tree(page: str) -> Iterator[tuple[str, str]]:
    """Give the path and the comment of each line of the page's tree; the path of a folder ends with "/"."""
    folders: list[tuple[int, str]] = []
    for line in page[slice(*_block(_TREE, page))].splitlines():
        name, _, comment = line.partition("#")
        depth = len(name) - len(name.lstrip())
        folders = [(other, folder) for other, folder in folders if other < depth]
        path = (folders[-1][1] if folders else "") + name.strip()
        if path.endswith("/"):
            folders.append((depth, path))
        yield path, comment.strip()


def differences(page: str, root: Path) -> list[str]:
    """List what the tree lacks, what it names that does not exist, and the lines without a comment.

    Args:
        page: text of the page.
        root: folder of src/.
    """
    lines = dict(tree(page))
    modules = [path for path in root.glob("src/b2diffurl/**/*.py") if path.name != "__init__.py"]
    packages = [path.parent for path in root.glob("src/b2diffurl/**/__init__.py")]
    names = {path.relative_to(root).as_posix() for path in modules}
    names |= {f"{path.relative_to(root).as_posix()}/" for path in packages}
    return [
        *(f"the tree lacks {name}" for name in sorted(names - set(lines))),
        *(f"{name} does not exist" for name in lines if not (root / name).exists()),
        *(f"{name} has no comment" for name, comment in lines.items() if not comment),
    ]


def _block(pattern: re.Pattern[str], page: str) -> tuple[int, int]:
    match = pattern.search(page)
    if match is None:
        raise ValueError(f"{PAGE} has no block {pattern.pattern!r}")
    return match.span(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the loop, or check it, and list the differences of the tree.

    Returns:
        The exit code: 1 if the page differs from the code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="folder of ARCHITECTURE.md")
    flags = parser.parse_args(arguments)
    path = flags.root / PAGE
    page = path.read_text(encoding="utf-8")
    new = with_loop(page, loop((flags.root / ROUND).read_text(encoding="utf-8")))
    problems = differences(page, flags.root)
    if new != page and flags.check:
        problems.append(f"the quoted loop is not the body of {ENTRY}; run python tools/architecture.py")
    elif new != page:
        path.write_text(new, encoding="utf-8")
        print(f"{PAGE}: quoted {ENTRY} anew")
    print("\n".join(f"{PAGE}: {problem}" for problem in problems) or f"{PAGE} equals the code")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
