"""Peak memory of the update of a round under each objective, alternating, one process per measurement; Linux only.

Trajectories of the embedded model and forward passes are the same; DPOK and DPO need an additional forward pass of the
reference, which is the same network with the adapter off.

    python benchmarks/update_memory.py
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from b2diffurl.algorithm.objectives import DDPO, DPO, DPOK, PolicyGradient
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.algorithm.records import SelectedTrajectories, Trajectories
from b2diffurl.algorithm.rollout import sample_branches
from b2diffurl.algorithm.update import Optimization, Update, UpdateSettings
from b2diffurl.cli.environment import prepare_process
from b2diffurl.emoji import EMOJI
from b2diffurl.models import LoRA
from b2diffurl.models.text_to_image import TextToImageModel

OBJECTIVES = {"ddpo": DDPO(), "policy-gradient": PolicyGradient(), "dpok": DPOK(), "dpo": DPO()}
NUM_TRAJECTORIES = 32


def status_kib(name: str) -> int:
    """Read a value of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def peak_kib(name: str, *, micro_batch_size: int) -> int:
    """Measure the peak memory of an update above the memory before it."""
    prepare_process()
    policy = TextToImageModel.load(EMOJI)
    policy.add_lora(LoRA(), seed=0)
    bound = DenoisingPolicy(denoiser=policy, chain=policy.ddim(num_inference_steps=20, eta=1.0), guidance_scale=1.0)
    chunks = sample_branches(
        bound,
        ["a cat riding a bike"] * NUM_TRAJECTORIES,
        interval_length=20,
        num_branches=1,
        noise=NoiseKey(seed=0, stream=1),
        chunk_size=8,
    )
    trajectories = Trajectories.join([chunk.trajectories for chunk in chunks])
    selected = SelectedTrajectories(
        latents=trajectories.latents[:, 0],
        log_probs=trajectories.log_probs[:, 0],
        step_index=trajectories.step_index,
        prompts=trajectories.prompts,
        advantages=torch.randn(NUM_TRAJECTORIES),
        pairs=torch.arange(NUM_TRAJECTORIES).view(-1, 2),
    )
    optimization = Optimization(num_inner_epochs=1, num_minibatches=1, micro_batch_size=micro_batch_size)
    update = Update(
        bound,
        torch.optim.AdamW(policy.trainable_parameters().values(), lr=1e-4),
        OBJECTIVES[name],
        UpdateSettings(optimization=optimization),
    )
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is measured from here
    before = status_kib("VmRSS")
    update.optimize(selected, seed=0, round_number=1)
    return status_kib("VmHWM") - before


def main() -> None:
    """Print a table, or the value of one process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro-batch-size", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--objective", choices=list(OBJECTIVES))
    arguments = parser.parse_args()
    if arguments.objective:
        print(peak_kib(arguments.objective, micro_batch_size=arguments.micro_batch_size))
        return
    peaks_by_name: dict[str, list[int]] = {name: [] for name in OBJECTIVES}
    for _ in range(arguments.repeats):
        for name, peaks in peaks_by_name.items():
            command = [sys.executable, __file__, "--objective", name]
            command += ["--micro-batch-size", str(arguments.micro_batch_size)]
            process = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(int(process.stdout.split()[-1]))
    base = min(peaks_by_name["ddpo"])
    print("| objective | peak MiB of the update | relative to ddpo |\n|---|---|---|")
    for name, peaks in peaks_by_name.items():
        print(f"| {name} | {', '.join(f'{peak / 1024:.0f}' for peak in peaks)} | {min(peaks) / base:.3f} |")


if __name__ == "__main__":
    main()
