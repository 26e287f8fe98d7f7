"""The cost of a run in sentences: memory, download, disk and hours."""

import torch

from b2diffurl.analysis.advice import advise
from b2diffurl.analysis.plan import Shape, fit, model_shape
from b2diffurl.analysis.speed import Speed, rough_cpu_speed, run_seconds
from b2diffurl.analysis.storage import hub_models, run_disk_bytes, run_download_bytes
from b2diffurl.reporting.text import count, format_duration
from b2diffurl.run.resolve import ResolvedRun
from b2diffurl.run.settings import Run

_GIB = 2**30


def cpu_warning(run: Run, *, device: str) -> str:
    """Return a warning with an estimate of the hours if a model of a known family is trained on a CPU; "" otherwise."""
    family = model_shape(run.model).family
    if torch.device(device).type != "cpu" or family is None:
        return ""
    shape, num_threads = model_shape(run.model), torch.get_num_threads()
    speed = rough_cpu_speed(family, num_threads=num_threads)
    hours = run_seconds(run, shape, speed) / 3600
    return (
        f"warning  a run of {family.name} on a CPU takes about {hours:,.0f} hours ({speed.sampling:.1f} s per network "
        f"evaluation on {num_threads} threads, a rough value); use a GPU, or measure with `b2diffurl plan --measure`."
    )


def advice_text(run: Run, shape: Shape, memory_gib: float) -> str:
    """Return the chunk sizes that fill the GPU, or what would make the run fit."""
    fitting = fit(run, shape, memory_bytes=memory_gib * _GIB)
    if fitting is not None:
        flags = f"--rollout.chunk-size {fitting.rollout.chunk_size}"
        return (
            f"For {memory_gib:g} GiB: {flags} --optimization.micro-batch-size {fitting.optimization.micro_batch_size}"
        )
    advice = advise(run, shape, memory_bytes=memory_gib * _GIB)
    smallest = advice.smallest / _GIB
    lines = [f"The run does not fit into {memory_gib:g} GiB: one image at a time takes {smallest:.2f} GiB."]
    lines += [f"  {flags}: {after / _GIB:.2f} GiB" for flags, after in advice.changes]
    if advice.fits:
        lines.append(f"With these it fits into {memory_gib:g} GiB; give them to plan for the chunk sizes.")
    elif advice.sufficient_gib is None:
        lines.append("No size up to that of the largest GPUs would suffice.")
    else:
        lines.append(f"{'With these, ' if lines[1:] else ''}{advice.sufficient_gib} GiB would suffice.")
    return "\n".join(lines)


def storage_lines(resolved: ResolvedRun, shape: Shape) -> list[str]:
    """Return what is downloaded, and what is kept on disk."""
    names = hub_models(resolved)
    size = run_download_bytes(resolved) if names else 0
    download = "not known offline" if size is None else f"{size / 1e9:.2f} GB"
    return [
        f"Download: {download}" + (f" ({', '.join(names)})" if names else ""),
        f"Disk: {run_disk_bytes(resolved, shape) / 1e9:.2f} GB (checkpoints, adapter, preview images)",
    ]


def time_lines(run: Run, shape: Shape, speed: Speed, device: str) -> list[str]:
    """Return what `plan --measure` has measured, and the time of the whole run."""
    micro_batch = run.optimization.micro_batch_size
    lines = [
        f"Measured on {device}: {speed.sampling:.3g} s per network evaluation in sampling "
        f"({count(speed.num_images, 'image')} at a time), {speed.update:.3g} s in updates (one micro-batch of "
        f"{micro_batch}), {speed.reward:.3g} s per scored image",
        f"The whole run on this machine: about {format_duration(run_seconds(run, shape, speed))}, or less if fewer "
        "trajectories are selected; what a judge takes besides is not counted",
    ]
    if speed.peak_bytes:
        lines.append(f"Peak memory of the measurement: {speed.peak_bytes / _GIB:.2f} GiB")
    return lines
