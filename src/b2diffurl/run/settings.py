"""A run: everything that decides what is trained, and how. One object, one TOML file.

The nested tables are the settings of the components; only what several components share is defined here.
"""

from typing import Annotated

from annotated_types import Ge, Le, Lt
from pydantic import Field

from b2diffurl.algorithm.adaptive import Adaptive
from b2diffurl.algorithm.advantage import Branch, PromptHistory, ScaledDifferences
from b2diffurl.algorithm.collapse import Collapse
from b2diffurl.algorithm.objectives import DDPO, AnyObjective
from b2diffurl.algorithm.records import StepInterval
from b2diffurl.algorithm.rollout import Rollout
from b2diffurl.algorithm.schedule import Backward, interval_of
from b2diffurl.algorithm.selection import BestWorst
from b2diffurl.algorithm.strategies import AnyAdvantage, AnySchedule, AnySelection
from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.algorithm.update import Optimization
from b2diffurl.config import Finite, NonNegativeInt, PositiveInt, settings
from b2diffurl.errors import UserError
from b2diffurl.models import LoRA, Memory
from b2diffurl.rewards.bert.reward import BertSettings
from b2diffurl.rewards.remote.client import RemoteSettings
from b2diffurl.rewards.settings import AestheticSettings, HPSv2Settings, OCRSettings, VLMSettings


@settings(table="sampler")
class Sampler:
    """How images are sampled, in training and in evaluation alike.

    Attributes:
        num_inference_steps: T, the number of denoising steps.
        eta: weight of the noise of each DDIM step, above 0 and at most 1, the paper's value.
        guidance_scale: scale of classifier-free guidance; 1 turns it off.
        negative_prompt: prompt of the unconditional half of guidance; "" for none.
    """

    num_inference_steps: PositiveInt = 20
    eta: Annotated[float, Le(1)] = 1.0
    guidance_scale: Annotated[float, Ge(1), Finite()] = 5.0
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise UserError(
                f"sampler.eta is {self.eta}, which makes steps deterministic: they have no log-prob to train; give 1."
            )
        if self.negative_prompt and self.guidance_scale == 1:
            raise UserError(
                f"sampler.negative_prompt is {self.negative_prompt!r}, which has no effect at guidance_scale 1; "
                "give a guidance_scale above 1, or no negative prompt."
            )


@settings(table="logging")
class Logging:
    """What a run saves and evaluates, and how often.

    Attributes:
        checkpoint_every_rounds: rounds between checkpoints.
        num_checkpoints: number of newest checkpoints that are kept.
        samples_every_rounds: rounds between preview images; they are also generated before and after training.
        num_samples: number of preview images, of prompts spread over the list, always from the same noise.
        sample_prompts: a list named as in `prompts`, of which each prompt gets one preview image, in place of
            num_samples images of training prompts; "" for those.
        grid_side: n of the n x n grid of images of the first prompt, which shows diversity before and after training;
            0 for none.
        num_evaluation_images: number of images that are evaluated before and after training; 0 for none.
        evaluate_before: whether the images before training are evaluated too.
        evaluate_every_rounds: rounds between evaluations during training; 0 for none.
        num_interim_images: number of images of an evaluation during training, at most num_evaluation_images; 0 for as
            many as those.
        kl_to_reference: log the exact KL to the reference under every objective: one more forward pass per step,
            without gradient. DPOK, DPO and DDPO with a KL term need that pass anyway and always log it.
    """

    checkpoint_every_rounds: PositiveInt = 1
    num_checkpoints: PositiveInt = 2
    samples_every_rounds: PositiveInt = 10
    num_samples: PositiveInt = 16
    sample_prompts: str = ""
    grid_side: NonNegativeInt = 3
    num_evaluation_images: NonNegativeInt = 0
    evaluate_before: bool = True
    evaluate_every_rounds: NonNegativeInt = 0
    num_interim_images: NonNegativeInt = 0
    kl_to_reference: bool = False

    def __post_init__(self) -> None:
        if self.evaluate_every_rounds and not self.num_evaluation_images:
            raise UserError(
                f"logging.evaluate_every_rounds is {self.evaluate_every_rounds} but num_evaluation_images is 0; "
                "give the number of images to evaluate."
            )
        if self.num_interim_images > self.num_evaluation_images:
            raise UserError(
                f"logging.num_interim_images is {self.num_interim_images} but num_evaluation_images is "
                f"{self.num_evaluation_images}; give at most as many."
            )


_BY_USE = Field(discriminator="use")


@settings
class Run:
    """A complete run.

    `schedule`, `advantage`, `selection` and `objective` are built-in components by name, or "module:Class" or
    "file.py:Class" with the arguments of the class beside it.

    Attributes:
        recipe: name of the recipe that the run is based on.
        model: "emoji", "emoji-objects", a local diffusers directory, a .safetensors checkpoint file, or a hub id.
        reward: "clip" (the paper's ViT-H-14), "clip:emoji", "pickscore", "aesthetic", "file.py:function" or another
            one that `b2diffurl rewards` lists; or a sum such as "clip + 0.1*my.py:f".
        watch: rewards that are logged and not trained on, with names as in `reward`: if they fall while the reward
            rises, the reward is being hacked.
        prompts: a named list such as template1-train, or a .txt, .json or .toml file.
        held_out_fraction: fraction of the prompts that is evaluated and never trained on, such as 0.2.
        held_out_prompts: another list, named as in `prompts`, that is evaluated and never trained on.
        judge: what evaluates images: "auto" (the scene oracle for an embedded model on its prompts, otherwise the CLIP
            of the reward if it has one, otherwise none), "none", "reward", "clip" (the paper's ViT-H-14) or
            "clip:MODEL".
        num_rounds: S, the number of rounds of sampling, scoring, selecting and updating.
        reward_queries_per_round: images that are scored per round; a multiple of rollout.num_branches.
        seed: seed of all random numbers.
        sampler: how images are sampled.
        rollout: branching.
        schedule: which of the last steps each round trains.
        advantage: how rewards are normalized.
        selection: which trajectories are trained on.
        objective: the loss that the optimizer minimizes.
        bert: captioner and encoder of the reward "bert".
        remote: requests to reward servers.
        aesthetic: weights of the reward "aesthetic".
        hpsv2: model of the reward "hpsv2".
        vlm: server of the rewards "vlm:QUESTION".
        ocr: engine of the reward "ocr".
        memory: precision and gradient checkpointing.
        lora: the adapter.
        optimization: AdamW, epochs and minibatches.
        trust_region: how far one round may move the policy.
        collapse: when a run is stopped because it has collapsed.
        logging: what a run saves and evaluates, and how often.
    """

    recipe: str = "custom"
    model: str
    reward: str
    watch: tuple[str, ...] = ()
    prompts: str
    held_out_fraction: Annotated[float, Ge(0), Lt(1)] = 0.0
    held_out_prompts: str = ""
    judge: str = "auto"
    num_rounds: PositiveInt
    reward_queries_per_round: PositiveInt
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    sampler: Sampler = Sampler()
    rollout: Rollout = Rollout()
    schedule: Annotated[AnySchedule, _BY_USE] = Backward()
    advantage: Annotated[AnyAdvantage, _BY_USE] = PromptHistory()
    selection: Annotated[AnySelection, _BY_USE] = BestWorst()
    objective: Annotated[AnyObjective, _BY_USE] = DDPO()
    bert: BertSettings = BertSettings()
    remote: RemoteSettings = RemoteSettings()
    aesthetic: AestheticSettings = AestheticSettings()
    hpsv2: HPSv2Settings = HPSv2Settings()
    vlm: VLMSettings = VLMSettings()
    ocr: OCRSettings = OCRSettings()
    memory: Memory = Memory()
    lora: LoRA = LoRA()
    optimization: Optimization = Optimization()
    trust_region: TrustRegion = TrustRegion()
    collapse: Collapse = Collapse()
    logging: Logging = Logging()

    def __post_init__(self) -> None:
        if self.held_out_fraction and self.held_out_prompts:
            raise UserError(
                f"held_out_fraction is {self.held_out_fraction} and held_out_prompts is {self.held_out_prompts!r}; "
                "give one of them."
            )
        if self.reward_queries_per_round % self.rollout.num_branches:
            raise UserError(
                f"reward_queries_per_round is {self.reward_queries_per_round}, which rollout.num_branches = "
                f"{self.rollout.num_branches} does not divide; give a multiple of it."
            )
        num_branches = self.rollout.num_branches
        self.schedule.check(num_inference_steps=self.sampler.num_inference_steps, num_branches=num_branches)
        self.selection.check(num_branches=num_branches)
        self.advantage.check(num_branches=num_branches)
        self._check_on_policy()
        self._check_thresholds()
        self._check_replay()
        if self.optimization.warmup_rounds >= self.num_rounds:
            raise UserError(
                f"optimization.warmup_rounds is {self.optimization.warmup_rounds} but num_rounds is {self.num_rounds}; "
                "give fewer warm-up rounds than rounds."
            )
        if self.optimization.decided_variance:
            self.optimization.check_decided_variance(
                self.intervals(), num_inference_steps=self.sampler.num_inference_steps
            )
        if self.rollout.train_trunk:
            self._check_trunks()
        if self.lora.interval:
            self._check_adapter_interval()

    def _check_on_policy(self) -> None:
        updates = self.optimization.num_inner_epochs * self.optimization.num_minibatches
        if self.objective.needs.on_policy and updates > 1:
            raise UserError(
                f"objective {self.objective.use} is on-policy, one optimizer step per round, but optimization."
                f"num_inner_epochs x num_minibatches is {updates}; set both to 1 (and prefer smaller rounds)."
            )

    def _check_thresholds(self) -> None:
        if not (isinstance(self.selection, BestWorst) and isinstance(self.advantage, ScaledDifferences)):
            return
        limit = self.advantage.max_advantage
        thresholds = {"pos_threshold": self.selection.pos_threshold, "neg_threshold": self.selection.neg_threshold}
        for name, threshold in thresholds.items():
            if abs(threshold) > limit:
                raise UserError(
                    f"selection.{name} is {threshold} but advantage.max_advantage is {limit}, so that the advantage of "
                    "every selected trajectory would be clipped; give a threshold closer to 0, or a larger "
                    "max_advantage."
                )

    def _check_replay(self) -> None:
        needs = self.objective.needs
        if self.optimization.replay_rounds and (needs.on_policy or needs.pairs):
            reason = "trains on pairs" if needs.pairs else "is on-policy"
            raise UserError(
                f"optimization.replay_rounds is {self.optimization.replay_rounds} but objective {self.objective.use} "
                f"{reason}, and has no importance ratio for trajectories of earlier rounds; give objective:ddpo, or 0."
            )

    def intervals(self) -> list[StepInterval]:
        """Return the interval of every round; for an adaptive schedule the lengths are minima."""
        num_rounds, num_steps = self.num_rounds, self.sampler.num_inference_steps
        return [
            interval_of(self.schedule, i, num_rounds=num_rounds, num_inference_steps=num_steps)
            for i in range(1, num_rounds + 1)
        ]

    def _check_adapter_interval(self) -> None:
        num_steps = self.sampler.num_inference_steps
        if self.rollout.train_trunk:
            raise UserError(
                "lora.interval and rollout.train_trunk are both true, but the adapter is off in the trunk's steps, so "
                "that they cannot be trained; give one of them."
            )
        last = self.schedule.longest(num_steps) if isinstance(self.schedule, Adaptive) else self.intervals()[-1].length
        if last >= num_steps:
            raise UserError(
                f"lora.interval is true but schedule {self.schedule.use} ends at all {num_steps} steps, where the "
                f"adapter is never off; give a schedule that ends earlier, such as schedule.tau_max = {num_steps - 1}."
            )

    def _check_trunks(self) -> None:
        num_steps = self.sampler.num_inference_steps
        if min(interval.length for interval in self.intervals()) >= num_steps:
            raise UserError(
                f"rollout.train_trunk is true but schedule {self.schedule.use} trains all {num_steps} steps in every "
                "round, which leaves no trunk; give a schedule with shorter intervals, or no train_trunk."
            )
        if self.objective.needs.pairs:
            raise UserError(
                f"rollout.train_trunk is true but objective {self.objective.use} trains on pairs, and trunks have "
                "none; give another objective, or no train_trunk."
            )
        if isinstance(self.advantage, Branch):
            raise UserError(
                "rollout.train_trunk is true but advantage branch is 0 on average over a branch group, and so for "
                "every trunk; use advantage:shrunk."
            )

    @property
    def num_trunks(self) -> int:
        """Number of trunks, and so of branch groups, per round."""
        return self.reward_queries_per_round // self.rollout.num_branches
