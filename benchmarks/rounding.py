"""How much of a KL is rounding alone: a forward pass repeated after a change of the adapter that is next to nothing.

Half precision rounds a network's output differently after the slightest change of its weights. The trust region and the
ratio see the difference as a move of the policy. Printed is its KL in nats an element of the latent, of which the trust
region allows 0.005 by default, at four of 20 denoising steps.

    python benchmarks/rounding.py --family sd1 --models runs/full-size-models
"""

import argparse
from pathlib import Path

import torch
from full_size_models import build

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.cli.environment import prepare_process
from b2diffurl.models import LoRA, Memory
from b2diffurl.models.memory import Weights
from b2diffurl.models.policy import Policy

STEPS = (4, 10, 16, 18)
FORMATS: tuple[Weights, ...] = ("float32", "float16", "bfloat16")
CHANGE = 1e-7  # of the adapter's second factor, which begins at 0: 10,000 times less than one AdamW step's first move


@torch.no_grad()
def kl_of_rounding(model: Path, form: Weights, *, device: str, guidance_scale: float) -> list[float]:
    """Nats an element, one of `STEPS` each."""
    policy = Policy.load(str(model), device=device, memory=Memory(base_dtype=form))
    policy.add_lora(LoRA(), seed=0)
    bound = DenoisingPolicy(
        denoiser=policy, chain=policy.ddim(num_inference_steps=20, eta=1.0), guidance_scale=guidance_scale
    )
    conditioning = policy.encode(["a cat riding a bike"])
    x = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(0)).to(device)

    def looked_at(step: int) -> torch.Tensor:
        at = torch.tensor([step])
        gaussian = bound.step(x, at, conditioning)
        return gaussian.mean.double() / gaussian.var.double().sqrt().view(-1, 1, 1, 1)

    before = [looked_at(step) for step in STEPS]
    for name, parameter in policy.trainable_parameters().items():
        if ".lora_B." in name:
            parameter.add_(CHANGE)
    return [float((looked_at(step) - old).square().mean() / 2) for step, old in zip(STEPS, before, strict=True)]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="sd1", choices=["sd1", "sd2", "sdxl"])
    parser.add_argument("--models", type=Path, default=Path("runs/full-size-models"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    asked = parser.parse_args()
    prepare_process()
    print(f"| {asked.family}, {asked.device} | " + " | ".join(f"step {step}" for step in STEPS) + " |")
    print("|---|" + "---|" * len(STEPS))
    for form in FORMATS:
        model = build(asked.family, asked.models / f"{asked.family}-{form}", dtype=getattr(torch, form))
        found = kl_of_rounding(model, form, device=asked.device, guidance_scale=asked.guidance_scale)
        print(f"| {form} | " + " | ".join(f"{value:.1e}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    main()
