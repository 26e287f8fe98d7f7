"""Keep the pages under docs/ equal to the results: tables of studies between markers, and their images.

    python tools/results.py [--check] [--root DIR]

A block of a page from `<!-- results/NAME/table.md -->` to `<!-- end -->` is the table of a study, without its title and
with headings one level lower. An image `results-NAME-FILE.png` beside the page is results/NAME/FILE.png, where FILE is
curves, samples or samples-CONDITION. With --check nothing is written. Exit code 1 if something differs from the
results. Standard library only.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_BLOCK = re.compile(r"^(<!-- results/([\w.-]+)/table\.md -->\n)(.*?)(?=^<!-- end -->$)", re.MULTILINE | re.DOTALL)
_IMAGE = re.compile(r"\((results-([\w.-]+)-(curves|samples(?:-[\w.-]+)?)\.png)\)")
_HEADING = re.compile(r"^(?=##)", re.MULTILINE)


def with_tables(page: str, results: Path) -> str:
    """Return the page with the tables as the results have them.

    Args:
        page: text of the page.
        results: folder of the results.
    """

    def table(match: re.Match[str]) -> str:
        text = (results / match[2] / "table.md").read_text(encoding="utf-8")
        _title, _, content = text.partition("\n")
        return f"{match[1]}\n{_HEADING.sub('#', content.strip())}\n\n"

    return _BLOCK.sub(table, page)


def images(page: str, folder: Path, results: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every image of results on a page and the file that it is a copy of.

    Args:
        page: text of the page.
        folder: folder of the page.
        results: folder of the results.
    """
    for name, study, file in _IMAGE.findall(page):
        yield folder / name, results / study / f"{file}.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite tables and images, or check them.

    Returns:
        The exit code: 1 if something differs from the results.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="folder of docs/ and results/")
    flags = parser.parse_args(arguments)
    results, differ = flags.root / "results", list[Path]()
    for path in sorted((flags.root / "docs").glob("**/*.md")):
        page = path.read_text(encoding="utf-8")
        contents = {path: (page.encode(), with_tables(page, results).encode())}
        for copy, original in images(page, path.parent, results):
            contents[copy] = (copy.read_bytes() if copy.is_file() else b"", original.read_bytes())
        for file, (present, expected) in contents.items():
            if present != expected:
                differ.append(file.relative_to(flags.root))
                if not flags.check:
                    file.write_bytes(expected)
    verb = "differs from the results; run python tools/results.py" if flags.check else "written anew"
    print("\n".join(f"{file} {verb}" for file in differ) or "docs/ equals the results")
    return int(flags.check and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
