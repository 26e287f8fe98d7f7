"""Golden rounds: a few rounds of every emoji recipe at reduced size, with all logged metrics.

    python tools/golden.py --write                  record tests/golden/rounds.json (`make golden`)
    python tools/golden.py --against FILE           run and compare with a recording, at --rtol

Comparing a recording from before a change with a run after it, on the same machine, shows whether numbers changed.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

STORED = Path(__file__).parents[1] / "tests" / "golden" / "rounds.json"
RECIPES = (
    "emoji-b2-paper", "emoji-quickstart", "emoji-ddpo", "emoji-policy-gradient", "emoji-dpok", "emoji-dpo",
    "emoji-template2", "emoji-template3",
)  # fmt: skip
PROMPTS = (  # of template 1; the recipes of the other templates take the first six of their own
    "a bear riding a bike", "a cat playing chess", "a fox washing dishes", "a duck riding a bike",
    "a cow playing chess", "a bee washing dishes",
)  # fmt: skip
NUM_ROUNDS, REWARD_QUERIES_PER_ROUND, NUM_INFERENCE_STEPS, TAU_FIRST = 3, 16, 10, 7
# Durations, and the rounding error of the replay, which is noise.
NOT_COMPARED = ("time/", "policy/ratio_max_error")

Rounds = list[dict[str, float | int | None]]


def run_recipe(name: str) -> Rounds:
    """Run a reduced recipe on the CPU; return the metrics per round, the last with the norm of the final adapter."""
    import b2diffurl
    from b2diffurl.algorithm.schedule import Backward
    from b2diffurl.prompts.lists import read_prompts
    from b2diffurl.run.recipes import recipe

    with tempfile.TemporaryDirectory() as folder:
        run = recipe(name)
        chosen = PROMPTS if run.prompts == "template1-train" else read_prompts(run.prompts)[: len(PROMPTS)]
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        run = replace(
            run,
            prompts=str(prompts),
            num_rounds=NUM_ROUNDS,
            reward_queries_per_round=REWARD_QUERIES_PER_ROUND,
            sampler=replace(run.sampler, num_inference_steps=NUM_INFERENCE_STEPS),
            schedule=replace(run.schedule, tau_first=TAU_FIRST) if isinstance(run.schedule, Backward) else run.schedule,
            logging=replace(run.logging, num_evaluation_images=0, num_samples=1),
        )
        output = b2diffurl.train(run, output=Path(folder) / "run", progress="none")
        lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rounds: Rounds = [
            {key: value for key, value in json.loads(line).items() if not key.startswith(NOT_COMPARED)}
            for line in lines
        ]
        newest = sorted((output / "checkpoints").glob("round_*"))[-1]
        adapter = load_file(newest / "adapter.safetensors")
        rounds[-1]["adapter_norm"] = math.sqrt(sum(float(value.double().square().sum()) for value in adapter.values()))
    return rounds


def differences(expected: Rounds, actual: Rounds, *, rtol: float) -> Iterator[str]:
    """Give one line for each number that differs by more than `rtol` relative (and 1e-9 absolute)."""
    for index, (before, after) in enumerate(zip(expected, actual, strict=True), start=1):
        for key in sorted(before.keys() | after.keys()):
            old, new = before.get(key, "missing"), after.get(key, "missing")
            if old == new:
                continue
            if not isinstance(old, int | float) or not isinstance(new, int | float):
                yield f"round {index}, {key}: {old} -> {new}"
            elif not math.isclose(old, new, rel_tol=rtol, abs_tol=1e-9):
                yield f"round {index}, {key}: {old!r} -> {new!r}, relative {abs(new - old) / max(abs(old), 1e-300):.2g}"


def read_stored(path: Path = STORED) -> dict[str, Rounds]:
    """Read a recording."""
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the current metrics")
    parser.add_argument("--file", type=Path, default=STORED, help="output file of --write")
    parser.add_argument("--against", type=Path, help="recording to compare with")
    parser.add_argument("--rtol", type=float, default=1e-6, help="relative tolerance of --against")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    current = {name: run_recipe(name) for name in RECIPES}
    if arguments.write:
        arguments.file.write_text(json.dumps(current, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {arguments.file}")
    if arguments.against is not None:
        stored = read_stored(arguments.against)
        lines = [
            f"{name}: {line}"
            for name in RECIPES
            for line in differences(stored[name], current[name], rtol=arguments.rtol)
        ]
        print("\n".join(lines) or f"all numbers equal to {arguments.rtol:g} relative")
        raise SystemExit(bool(lines))


if __name__ == "__main__":
    main()
