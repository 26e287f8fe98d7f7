"""What both measurements of the probe share: the policy, and images with their rewards.

Shapes: G trunks, K branches each, images of 3 x H x W in [0, 1].
"""

# Tensor.split and Tensor.unflatten have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.models import read_adapter_interval
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.prompts.lists import PromptList
from b2diffurl.rewards import RewardSettings, load_reward, score_images
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.binding import bind_policy
from b2diffurl.run.resolve import ResolvedRun, resolve
from b2diffurl.run.settings import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Branched:
    """Images and rewards of branch groups."""

    images: Float[Tensor, "G K 3 H W"]
    rewards: Float[Tensor, "G K"]


@dataclass(kw_only=True, slots=True)
class Cost:
    """What a measurement took.

    Attributes:
        num_images: images sampled and scored.
        num_evaluations: network evaluations.
        seconds: duration, without loading the model and the reward.
    """

    num_images: int = 0
    num_evaluations: int = 0
    seconds: float = 0.0
    _started: float = 0.0

    def start(self) -> "Cost":
        """Start the clock."""
        self._started = time.perf_counter()
        return self

    def add(self, *, num_images: int = 0, num_evaluations: int = 0) -> None:
        """Count work that is done."""
        self.num_images += num_images
        self.num_evaluations += num_evaluations
        self.seconds = time.perf_counter() - self._started


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A loaded run: its policy, its prompts and its reward.

    Attributes:
        run: the settings.
        model: the network.
        policy: the network with the run's chain, guidance scale and unit of log-probs.
        train_prompts: the prompts to sample from.
        prompt_list: all prompts with their metadata.
        reward: scores images.
    """

    run: Run
    model: TextToImageModel
    policy: DenoisingPolicy
    train_prompts: tuple[str, ...]
    prompt_list: PromptList
    reward: Reward

    @staticmethod
    def load(
        run: Run | ResolvedRun, *, lora: Path | None, device: torch.device | str, reward: Reward | None
    ) -> "Setup":
        """Load the model, with an adapter if one is given, and the reward.

        Raises:
            UserError: the run is invalid, or the adapter does not fit the model.
        """
        resolved = run if isinstance(run, ResolvedRun) else resolve(run, own_reward=reward is not None)
        run = resolved.run
        model = TextToImageModel.load(
            resolved.model, device=device, memory=run.memory, negative_prompt=run.sampler.negative_prompt
        )
        policy = bind_policy(model, run)
        if lora is not None:
            model.load_lora(lora)
            interval = read_adapter_interval(lora)
            if interval is not None:
                policy = policy.with_adapter_in(interval.num_steps(policy.chain.num_steps))
        return Setup(
            run=run,
            model=model,
            policy=policy,
            train_prompts=resolved.train_prompts,
            prompt_list=resolved.prompt_list,
            reward=reward or load_reward(run.reward, RewardSettings.of(run), device=device),
        )

    def score(self, latents: Float[Tensor, "G K C H W"], prompts: Sequence[str]) -> Branched:
        """Decode and score the final latents of G branch groups, one prompt per group."""
        num_branches = latents.shape[1]
        images = self.policy.denoiser.decode(latents.flatten(0, 1))
        repeated = [prompt for prompt in prompts for _ in range(num_branches)]
        scores = score_images(self.reward, images, repeated, self.prompt_list.metadata_of(repeated)).scores
        return Branched(images=images.unflatten(0, (-1, num_branches)), rewards=scores.view(-1, num_branches))
