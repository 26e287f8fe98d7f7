"""CPU time of the embedded model's UNet with merged LoRA layers, relative to PEFT's own layers.

Both are the same network in one process, switched in the order old, new, new, old, so that a slower minute of the
machine slows both. The table has the median and the quartiles of the ratio within these four, and the largest relative
change of the output and of the adapter's gradients.

    OMP_NUM_THREADS=1 python benchmarks/merged_lora.py
"""

import argparse
import time
from collections.abc import Callable
from statistics import quantiles

import torch
from peft.tuners.lora import Linear
from torch import Tensor

from b2diffurl.models import LoRA
from b2diffurl.models.merged_lora import MergedLinear
from b2diffurl.models.text_to_image import TextToImageModel

Pass = Callable[[], list[Tensor]]


def passes(policy: TextToImageModel, *, batch: int) -> dict[str, Pass]:
    """Return a forward pass, and a forward and backward pass; with their outputs and gradients."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *policy.latent_shape, generator=generator)
    timestep = torch.full((batch,), 500)
    conditioning = policy.encode(["a cat riding a bike"] * batch)
    parameters = list(policy.trainable_parameters().values())

    @torch.no_grad()
    def forward() -> list[Tensor]:
        return [policy.predict(x, timestep, conditioning, guidance_scale=1.0)]

    def forward_backward() -> list[Tensor]:
        output = policy.predict(x, timestep, conditioning, guidance_scale=1.0)
        return list(torch.autograd.grad(output.square().mean(), parameters))

    return {"forward": forward, "forward and backward": forward_backward}


def switch(policy: TextToImageModel, layer: type[Linear]) -> None:
    """Set the class of all linear LoRA layers."""
    for module in policy.unet.modules():
        if isinstance(module, Linear):
            module.__class__ = layer


def ratios(policy: TextToImageModel, run: Pass, *, repeats: int) -> list[float]:
    """Return the ratio of the times, new to old, of each four passes."""
    measured: list[float] = []
    for _ in range(repeats):
        times: dict[type[Linear], float] = {Linear: 0.0, MergedLinear: 0.0}
        for layer in (Linear, MergedLinear, MergedLinear, Linear):
            switch(policy, layer)
            start = time.process_time()
            run()
            times[layer] += time.process_time() - start
        measured.append(times[MergedLinear] / times[Linear])
    return measured


def change(policy: TextToImageModel, run: Pass) -> float:
    """Return the largest change of a result, relative to the largest element of its tensor."""
    switch(policy, Linear)
    old = run()
    switch(policy, MergedLinear)
    return max(float((new - one).abs().max() / one.abs().max()) for one, new in zip(old, run(), strict=True))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    policy = TextToImageModel.load("emoji")
    policy.add_lora(LoRA(), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    print("| pass | time, relative to PEFT's layers | quartiles | largest relative change |\n|---|---|---|---|")
    for name, run in passes(policy, batch=arguments.batch).items():
        changed = change(policy, run)
        low, middle, high = quantiles(ratios(policy, run, repeats=arguments.repeats))
        print(f"| {name} | {middle:.3f} | {low:.3f} to {high:.3f} | {changed:.1e} |", flush=True)


if __name__ == "__main__":
    main()
