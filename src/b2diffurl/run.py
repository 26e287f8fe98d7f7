"""A run: everything that decides what is trained, and how. One object, one TOML file.

The nested tables are the rooms' own settings; only what several rooms share stands here.
"""

import math
from typing import Annotated

from pydantic import Field

from b2diffurl.advantage import PromptHistory
from b2diffurl.collapse import Collapse
from b2diffurl.config import settings
from b2diffurl.diffusion.gaussian import LogProbReduction
from b2diffurl.errors import UserError
from b2diffurl.models import LoRA, resolve_model
from b2diffurl.objectives import DDPO
from b2diffurl.prompts import load_prompts
from b2diffurl.rewards.load import check_reward
from b2diffurl.schedule import Backward, Full
from b2diffurl.selection import All, BestWorst
from b2diffurl.update import Optimization, TrustRegion


@settings
class Sampler:
    """How pictures are sampled, in training and in evaluation alike.

    Attributes:
        num_inference_steps: T, denoising steps.
        eta: weight of the noise of each DDIM step, above 0 and at most 1, the paper's.
        guidance_scale: of classifier-free guidance; 1 is none.
    """

    num_inference_steps: int = 20
    eta: float = 1.0
    guidance_scale: float = 5.0

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise UserError(f"sampler.num_inference_steps is {self.num_inference_steps}; give 1 or more.")
        if not self.eta > 0:
            raise UserError(
                f"sampler.eta is {self.eta}, which makes steps deterministic: they have no log-prob to train; give 1."
            )
        if self.eta > 1:
            raise UserError(f"sampler.eta is {self.eta}, more noise than a DDIM step can hold; give 1.")
        if not 1 <= self.guidance_scale < math.inf:
            raise UserError(f"sampler.guidance_scale is {self.guidance_scale}; give 1 (no guidance) or more.")


@settings
class Branching:
    """How trajectories are sampled.

    Attributes:
        num_branches: K, trajectories that leave one trunk; 1 is no branching.
        chunk_size: most trajectories that are sampled at once; changes memory and speed, results by rounding only.
        log_prob_reduction: "mean" over a latent's elements (the reference's unit) or "sum" (nats, in which float32's
            rounding is as many times larger).
    """

    num_branches: int = 4
    chunk_size: int = 64
    log_prob_reduction: LogProbReduction = "mean"

    def __post_init__(self) -> None:
        for name in ("num_branches", "chunk_size"):
            if getattr(self, name) < 1:
                raise UserError(f"rollout.{name} is {getattr(self, name)}; give 1 or more.")


@settings
class Records:
    """What a run keeps, and how often.

    Attributes:
        checkpoint_every_rounds: rounds between checkpoints.
        num_checkpoints: newest checkpoints that are kept.
        samples_every_rounds: rounds between sample pictures; they are also made before and after.
        num_samples: sample pictures each time, of the first prompts, always from the same noise.
        num_evaluation_images: pictures that are judged before and after training; 0 for none.
        evaluate_every_rounds: rounds between evaluations on the way; 0 for none.
    """

    checkpoint_every_rounds: int = 1
    num_checkpoints: int = 2
    samples_every_rounds: int = 10
    num_samples: int = 16
    num_evaluation_images: int = 0
    evaluate_every_rounds: int = 0

    def __post_init__(self) -> None:
        for name in ("checkpoint_every_rounds", "num_checkpoints", "samples_every_rounds", "num_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"records.{name} is {getattr(self, name)}; give 1 or more.")
        for name in ("num_evaluation_images", "evaluate_every_rounds"):
            if getattr(self, name) < 0:
                raise UserError(f"records.{name} is {getattr(self, name)}; give 0 or more.")
        if self.evaluate_every_rounds and not self.num_evaluation_images:
            raise UserError(
                f"records.evaluate_every_rounds is {self.evaluate_every_rounds} but num_evaluation_images is 0; "
                "give some pictures to evaluate."
            )


@settings
class Run:
    """A complete run.

    Attributes:
        recipe: name of the recipe it came from.
        model: "emoji", a local diffusers directory, or a hub id.
        reward: "clip:emoji", "clip:MODEL", "clip" (the paper's ViT-H-14), or "module:function".
        prompts: a named list such as template1-train, or a .txt file with one prompt a line.
        num_rounds: S, rounds of sampling, scoring, selecting and updating.
        reward_queries_per_round: pictures that are scored each round; a multiple of rollout.num_branches.
        seed: of everything random.
        sampler: how pictures are sampled.
        rollout: branching.
        schedule: which of the last steps each round trains.
        advantage: how rewards are normalised.
        selection: which trajectories are trained on.
        objective: what the optimizer minimises.
        lora: the adapter.
        optimization: AdamW and how a round's data is cut.
        trust_region: how far one round may move the policy.
        collapse: when a run counts as fallen apart.
        records: what a run keeps, and how often.
    """

    recipe: str = "custom"
    model: str
    reward: str
    prompts: str
    num_rounds: int
    reward_queries_per_round: int
    seed: int = 0
    sampler: Sampler = Sampler()
    rollout: Branching = Branching()
    schedule: Annotated[Backward | Full, Field(discriminator="use")] = Backward()
    advantage: PromptHistory = PromptHistory()
    selection: Annotated[BestWorst | All, Field(discriminator="use")] = BestWorst()
    objective: DDPO = DDPO()
    lora: LoRA = LoRA()
    optimization: Optimization = Optimization()
    trust_region: TrustRegion = TrustRegion()
    collapse: Collapse = Collapse()
    records: Records = Records()

    def __post_init__(self) -> None:
        for name in ("num_rounds", "reward_queries_per_round"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give 1 or more.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; give 0 or more, below 2**63.")
        if self.reward_queries_per_round % self.rollout.num_branches:
            raise UserError(
                f"reward_queries_per_round is {self.reward_queries_per_round}, which rollout.num_branches = "
                f"{self.rollout.num_branches} does not divide; give a multiple of it."
            )
        self.schedule.check(self.sampler.num_inference_steps)
        self.selection.check(self.rollout.num_branches)

    @property
    def num_trunks(self) -> int:
        """Branch groups of a round."""
        return self.reward_queries_per_round // self.rollout.num_branches


def check_run(run: Run, *, own_reward: bool = False) -> None:
    """Refuse, before any model is loaded, what can be seen to be wrong without one.

    Args:
        run: to look at.
        own_reward: the reward is given from Python, so the run's name of it does not count.

    Raises:
        UserError: the model, the prompts or the reward cannot be found.
    """
    resolve_model(run.model)
    load_prompts(run.prompts)
    if not own_reward:
        check_reward(run.reward)
