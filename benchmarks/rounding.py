"""KL that is due to rounding alone: a forward pass before and after a negligible change of the adapter.

In half precision the slightest change of the weights rounds the output of a network differently. The trust region and
the ratio treat the difference as a change of the policy. This prints its KL in nats per element of the latent at four
of 20 denoising steps; the trust region allows 0.005 by default.

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
from b2diffurl.models.text_to_image import TextToImageModel

STEPS = (4, 10, 16, 18)
DTYPES: tuple[Weights, ...] = ("float32", "float16", "bfloat16")
CHANGE = 1e-7  # of the adapter's B matrices, initially 0: 10,000 times less than the first AdamW step


@torch.no_grad()
def kl_of_rounding(model: Path, dtype: Weights, *, device: str, guidance_scale: float) -> list[float]:
    """Compute the KL in nats per element, one value per step of `STEPS`."""
    policy = TextToImageModel.load(str(model), device=device, memory=Memory(base_dtype=dtype))
    policy.add_lora(LoRA(), seed=0)
    bound = DenoisingPolicy(
        denoiser=policy, chain=policy.ddim(num_inference_steps=20, eta=1.0), guidance_scale=guidance_scale
    )
    conditioning = policy.encode(["a cat riding a bike"])
    x = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(0)).to(device)

    def normalized_mean(step: int) -> torch.Tensor:
        gaussian = bound.step(x, torch.tensor([step]), conditioning)
        return gaussian.mean.double() / gaussian.var.double().sqrt().view(-1, 1, 1, 1)

    before = [normalized_mean(step) for step in STEPS]
    for name, parameter in policy.trainable_parameters().items():
        if ".lora_B." in name:
            parameter.add_(CHANGE)
    return [float((normalized_mean(step) - old).square().mean() / 2) for step, old in zip(STEPS, before, strict=True)]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="sd1", choices=["sd1", "sd2", "sdxl"])
    parser.add_argument("--models", type=Path, default=Path("runs/full-size-models"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    arguments = parser.parse_args()
    prepare_process()
    print(f"| {arguments.family}, {arguments.device} | " + " | ".join(f"step {step}" for step in STEPS) + " |")
    print("|---|" + "---|" * len(STEPS))
    for dtype in DTYPES:
        model = build(arguments.family, arguments.models / f"{arguments.family}-{dtype}", dtype=getattr(torch, dtype))
        values = kl_of_rounding(model, dtype, device=arguments.device, guidance_scale=arguments.guidance_scale)
        print(f"| {dtype} | " + " | ".join(f"{value:.1e}" for value in values) + " |", flush=True)


if __name__ == "__main__":
    main()
