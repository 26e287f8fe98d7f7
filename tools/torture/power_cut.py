"""What a power cut leaves: each file of a run folder in turn cut in half, emptied, zeroed and missing; folders missing.

A sample image that is missing, or the list of their prompts in a finished run, is not made again, and a checkpoint
before the newest is not needed: these files may differ from those of the uninterrupted run, and no other.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from b2diffurl.models.adapter_files import KOHYA_FILE
from tools.torture.cases import Case, Result, failed, passed
from tools.torture.compare import contents
from tools.torture.processes import call
from tools.torture.runs import Runs


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: dict[str, Callable[[Path], None]] = {"half": _cut, "empty": _empty, "zeroed": _zero, "missing": Path.unlink}
SHORT_STEP = 11


def cases(runs: Runs, *, short: bool) -> Iterator[Case]:
    """Give the cases: each file of a killed and of a finished run, in each state of damage."""
    every = [
        *_cases(runs, "killed run", runs.killed),
        *_cases(runs, "finished run", runs.whole),
        *_adapter_cases(runs),
    ]
    yield from every[:: SHORT_STEP if short else 1]


def _cases(runs: Runs, name: str, source: Path) -> Iterator[Case]:
    for path in sorted(source.rglob("*")):
        file = str(path.relative_to(source))
        damages = {"missing": shutil.rmtree} if path.is_dir() else DAMAGES
        for how, damage in damages.items():
            yield Case(
                campaign=f"power cut, {name}",
                name=f"{file} {how}",
                run=partial(_damage, runs, source, file, damage),
            )


def _damage(runs: Runs, source: Path, file: str, damage: Callable[[Path], None]) -> Result:
    with runs.copy(source) as folder:
        damage(folder / file)
        return runs.judge_damaged(folder, damaged=file, may_differ=_spare(folder, file))


def _spare(folder: Path, file: str) -> tuple[str, ...]:
    """Return what may differ at the end: a missing sample's round, an old checkpoint of a finished run, or nothing.

    Without a sample or its prompt, other rounds may be the first and the last that are scored, and the model card may
    have no images.
    """
    if file.startswith("samples") and not (folder / file).exists():
        scores = (str(path.relative_to(folder) / "scores.json") for path in (folder / "samples").glob("round_*"))
        return ("/".join(file.split("/")[:2]), *scores, "lora/images", "lora/README.md")
    is_finished = (folder / "lora").is_dir()
    return (file,) if is_finished and "checkpoints/round_00002" in file else ()


def _adapter_cases(runs: Runs) -> Iterator[Case]:
    for path in sorted((runs.whole / "lora").glob("*.safetensors")):
        for how, damage in DAMAGES.items():
            yield Case(
                campaign="power cut, sample --lora",
                name=f"{path.name} {how}",
                run=partial(_sample, runs, path.name, damage),
            )


def _sample(runs: Runs, name: str, damage: Callable[[Path], None]) -> Result:
    with runs.copy(runs.whole) as folder:
        damage(folder / "lora" / name)
        ended = call(runs.world.sample(folder / "images", "--lora", str(folder / "lora")))
        if name == KOHYA_FILE:  # for other programs; the form of diffusers is read
            return passed("not read") if ended.code == 0 else failed(ended.describe())
        if damage is Path.unlink and ended.code == 0:  # without the form of diffusers, kohya's is read
            whole = call(runs.world.sample(folder / "expected", "--lora", str(runs.whole / "lora")))
            is_equal = whole.code == 0 and contents(folder / "images") == contents(folder / "expected")
            return passed("another form, equal") if is_equal else failed("another form, other images")
        return passed("refused") if ended.is_refusal else failed(ended.describe())
