"""One round of a recipe on a full-size model with random weights: peak memory against `plan`'s estimate, and speed.

    python benchmarks/full_size.py paper-template1-clip --limit-gib 16
    python benchmarks/full_size.py sdxl --limit-gib 24
    python benchmarks/full_size.py paper-template1-clip --device cpu --queries 4 --steps 2 --epochs 1
    python benchmarks/full_size.py sdxl --device cpu --queries 4 --steps 1 --epochs 1 --minibatches 1

On a GPU the peak is the memory reserved by the caching allocator, limited to `--limit-gib` minus plan's allowance for
the overhead of the device. On a CPU (Linux with glibc only) it is the growth of the resident memory since before the
model was loaded; glibc is configured to return freed memory, otherwise fragmentation would count too. The model and a
CLIP with the size of ViT-H-14 are built once, in `--models`.
"""

import argparse
import ctypes
import json
import os
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
from full_size_models import build, build_clip

import b2diffurl
from b2diffurl.algorithm.schedule import Full
from b2diffurl.analysis.plan import CUDA_CONTEXT_BYTES, FAMILIES, estimate_memory, model_shape, planned_dtype
from b2diffurl.cli.environment import prepare_process
from b2diffurl.run.recipes import recipe
from b2diffurl.run.settings import Run
from b2diffurl.training.callbacks import Metrics

_GIB = 2**30
_POLL_SECONDS = 0.02
_MMAP_THRESHOLD, _MMAP_BYTES = -3, 2**16  # mallopt: larger blocks are allocated by mmap
_SPREAD = 10_000  # scores of a random CLIP differ so little that advantages would treat them as equal


def resident_bytes() -> int:
    """Resident memory of this process, including weights mapped from files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


class PeakByPhase:
    """Observer that records the peak memory of each phase, in bytes.

    Args:
        device: device of the run.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda, self._phase = device.type == "cuda", "load"
        self._start = 0 if self._cuda else resident_bytes()
        self.peaks: dict[str, int] = {}
        self.metrics: Metrics = {}
        if not self._cuda:
            threading.Thread(target=self._poll, daemon=True).start()

    def on_phase(self, name: str, *, total: int) -> None:
        """Finish the previous phase."""
        self._keep()
        self._phase = name

    def on_progress(self, num: int) -> None:
        """Record the peak so far."""
        self._keep()

    def on_round(self, metrics: Metrics) -> None:
        """Store the metrics of the round."""
        self._keep()
        self._phase, self.metrics = "save", metrics

    def _keep(self) -> None:
        now = torch.cuda.max_memory_reserved() if self._cuda else resident_bytes() - self._start
        self.peaks[self._phase] = max(now, self.peaks.get(self._phase, 0))
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def _poll(self) -> None:
        while True:
            self._keep()
            time.sleep(_POLL_SECONDS)


def full_size(arguments: argparse.Namespace) -> Run:
    """Build a one-round run of the recipe on a random model of its size."""
    run = recipe(arguments.recipe)
    name = {width: family.name for width, family in FAMILIES.items()}
    known = model_shape(run.model).family
    assert known is not None, "the recipe uses the embedded model"
    family = {name[768]: "sd1", name[1024]: "sd2", name[2048]: "sdxl"}[known.name]
    dtype_name = arguments.base_dtype or planned_dtype(run)
    run = replace(run, memory=replace(run.memory, base_dtype=dtype_name), prompts=run.prompts or "template1-train")
    dtype = getattr(torch, run.memory.base_dtype)
    model = build(family, arguments.models / f"{family}-{run.memory.base_dtype}", dtype=dtype)
    steps = arguments.steps or run.sampler.num_inference_steps
    return replace(
        run,
        model=str(model),
        reward=f"{_SPREAD}*clip:{build_clip(arguments.models / 'clip')}",
        reward_queries_per_round=arguments.queries or run.reward_queries_per_round,
        num_rounds=1,
        sampler=replace(run.sampler, num_inference_steps=steps),
        schedule=Full(),
        optimization=replace(
            run.optimization,
            num_inner_epochs=arguments.epochs or run.optimization.num_inner_epochs,
            num_minibatches=arguments.minibatches or run.optimization.num_minibatches,
        ),
        logging=replace(run.logging, num_evaluation_images=0, num_samples=1, samples_every_rounds=2),
    )


def main() -> None:
    """Run the round and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", type=Path, default=Path("runs/full-size-models"))
    parser.add_argument("--limit-gib", type=float, help="memory of the target GPU; more runs out of memory")
    parser.add_argument("--base-dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--queries", type=int, help="images per round")
    parser.add_argument("--steps", type=int, help="number of denoising steps")
    parser.add_argument("--epochs", type=int, help="passes over the selected trajectories")
    parser.add_argument("--minibatches", type=int, help="per pass; with few images only 1 fills a forward pass")
    arguments = parser.parse_args()
    device, run = torch.device(arguments.device), full_size(arguments)
    if device.type == "cuda":
        prepare_process()  # on a CPU it would keep freed memory and hide the requirement
    else:
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _MMAP_BYTES)
    if device.type == "cuda" and arguments.limit_gib:
        allowed = arguments.limit_gib * _GIB - CUDA_CONTEXT_BYTES
        torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(device).total_memory)
    observer = PeakByPhase(device)
    with tempfile.TemporaryDirectory() as folder:
        b2diffurl.train(run, output=Path(folder) / "run", device=device, observers=[observer], progress="none")
    estimate = estimate_memory(replace(run, reward=recipe(arguments.recipe).reward or "clip"), model_shape(run.model))
    assert estimate is not None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    measured, expected = max(observer.peaks.values()), estimate.total - CUDA_CONTEXT_BYTES
    metrics = observer.metrics
    seconds = {phase: float(metrics[f"time/{phase}_s"] or 0) for phase in ("rollout", "reward", "update")}
    print(f"{arguments.recipe}, {run.memory.base_dtype}, {name}, torch {torch.__version__}, {os.uname().machine}")
    print(f"peak {measured / _GIB:.2f} GiB, estimated {expected / _GIB:.2f} (x {expected / measured:.2f})")
    for phase, peak in observer.peaks.items():
        print(f"  {phase}: {peak / _GIB:.2f} GiB")
    for part in ("weights", "adapter", "reward", "latents", "work"):
        print(f"  estimated {part}: {getattr(estimate, part) / _GIB:.2f} GiB")
    print(f"sampling {run.reward_queries_per_round / seconds['rollout']:.3f} images/s")
    print(f"whole round {run.reward_queries_per_round / sum(seconds.values()):.3f} images/s")
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
