"""Run the campaigns: `python -m tools.torture --output DIR --seed 0`."""

import argparse
import gc
import json
import os
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from b2diffurl.cli import main as run_command
from b2diffurl.cli.environment import prepare_process
from tools.torture import disk_full, fuzz, kills, power_cut, two_processes, writes
from tools.torture.cases import Journal, run_cases, summarize, to_markdown
from tools.torture.runs import Runs
from tools.torture.spared import preload, spare_time
from tools.torture.world import make_world

CAMPAIGNS = {
    "kills": kills, "writes": writes, "power_cut": power_cut, "disk_full": disk_full, "two_processes": two_processes,
    "fuzz": fuzz,
}  # fmt: skip
_MEMORY = Path("/dev/shm")  # file operations without a disk


def main(arguments: list[str] | None = None) -> int:
    """Run the campaigns and write the table; exit code 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tools.torture", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and of the finished cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of kills and of the invalid input")
    parser.add_argument("--short", action="store_true", help="a sample of the cases, for continuous integration")
    parser.add_argument("--only", nargs="*", choices=list(CAMPAIGNS), default=list(CAMPAIGNS), help="campaigns")
    flags = parser.parse_args(arguments)
    flags.output.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    journal = Journal(flags.output / "cases.jsonl")
    begin = time.monotonic()
    with TemporaryDirectory(prefix="torture-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        runs = Runs(make_world(Path(folder) / "world", seed=flags.seed))
        _warm_up(runs)
        cases = [case for name in flags.only for case in CAMPAIGNS[name].cases(runs, short=flags.short)]
        Random(flags.seed).shuffle(cases)  # so that an interrupted campaign has some of everything
        run_cases(cases, journal, on_progress=print)
    rows = summarize(journal.records.values())
    command = f"python -m tools.torture --seed {flags.seed}" + (" --short" if flags.short else "")
    summary = {"command": command, "seconds": round(time.monotonic() - begin), "rows": rows}
    (flags.output / "table.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    (flags.output / "table.md").write_text(to_markdown(rows), encoding="utf-8")
    print(to_markdown(rows))
    return int(any(row["faults"] for row in rows))


def _warm_up(runs: Runs) -> None:
    """Import and cache in this process, from which the cases are forked, everything that a run needs."""
    prepare_process()
    spare_time()
    with runs.copy(None) as folder, redirect_stdout(StringIO()):
        if run_command(runs.world.train(folder)) != 0:
            raise RuntimeError("the run of the campaigns cannot be trained")
    preload(runs.world)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
