"""Compare run folders to the bit: adapter, optimizer, metrics but for times, scores, samples, evaluation."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

# report.html shows times, env.json is about the machine, run.log has times.
NOT_COMPARED = ("report.html", "env.json", "run.log")


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of every file below a folder, by its relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kept(folder: Path) -> dict[str, str]:
    """Return the hashes of the files that a refused command must leave as they are; it may add to run.log."""
    return {name: value for name, value in contents(folder).items() if name not in (".lock", "run.log")}


def numbers(folder: Path) -> dict[str, Any]:
    """Return what two equal runs share: a hash of each file, tensors of the adapter, and metrics without times."""
    values: dict[str, Any] = {name: value for name, value in contents(folder).items() if name not in NOT_COMPARED}
    for name in values:
        path = folder / name
        if name == "metrics.jsonl":
            values[name] = _metrics(path)
        elif name.startswith("lora") and path.suffix == ".safetensors":  # the order of its metadata differs
            tensors = load_file(path)
            values[name] = {key: tensors[key].numpy().tobytes() for key in sorted(tensors)}
    values["report.html"] = (folder / "report.html").is_file()
    return values


def differences(folder: Path, expected: dict[str, Any], *, may_differ: tuple[str, ...] = ()) -> str:
    """Describe how a finished run differs from the uninterrupted one; "" if it does not.

    Args:
        folder: the run folder.
        expected: `numbers` of the uninterrupted run.
        may_differ: files and folders that depend on a damaged one, which is neither needed nor written again.
    """
    actual = numbers(folder)
    names = [name for name in sorted(expected.keys() | actual.keys()) if expected.get(name) != actual.get(name)]
    wrong = [name for name in names if not any(Path(name).is_relative_to(path) for path in may_differ)]
    return ", ".join(f"{name} {_verb(name, expected, actual)}" for name in wrong)


def _verb(name: str, expected: dict[str, Any], actual: dict[str, Any]) -> str:
    if name not in actual:
        return "is missing"
    return "differs" if name in expected else "is left over"


def _metrics(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if not name.startswith("time/")} for line in lines]
