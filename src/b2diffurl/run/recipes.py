"""Recipes: named, complete runs. A new recipe is one function with the decorator `@_recipe("name")`.

Every number cites its source or says "ours". "The reference" is the authors' public code, run_process.sh of
hu-zijing/B2-DiffuRL. It differs from the paper in the number of reward queries: the reference samples 256 trunks with 5
branches, 1,280 scored images per round; the paper reports 25,600 queries in all, 256 per round. The recipes follow the
paper.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TypeVar

from b2diffurl.algorithm.advantage import PromptHistory
from b2diffurl.algorithm.collapse import Collapse
from b2diffurl.algorithm.objectives import DDPO, DPO, DPOK, PolicyGradient
from b2diffurl.algorithm.rollout import Rollout
from b2diffurl.algorithm.schedule import Backward, Full
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.algorithm.shrunk import Shrunk
from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.algorithm.update import Optimization
from b2diffurl.emoji import EMOJI, EMOJI_OBJECTS
from b2diffurl.errors import UserError, did_you_mean
from b2diffurl.models import LoRA, Memory
from b2diffurl.run.settings import Logging, Run, Sampler

C = TypeVar("C", bound=Callable[..., Run])
RECIPES: dict[str, Callable[[], Run]] = {}  # by name, in the order of this file
EMOJI_GUIDANCE_SCALE = 1.0  # ours: at guidance 1 the embedded models are as misaligned as intended
_EMOJI_BATCH_SIZE = 128  # ours: the fastest on a CPU; changes results by rounding only


def _recipe(name: str) -> Callable[[C], C]:
    """Register a function that creates a run under a name."""

    def register(create: C) -> C:
        RECIPES[name] = create
        return create

    return register


@_recipe("emoji-quickstart")
def emoji_quickstart() -> Run:
    """B² with trunk credit on the embedded model: the paper's 45 training prompts, a few minutes on two cores.

    The arm "B², trunk credit, two branches" of `b2diffurl study one-rate`: two branches per trunk, the last six steps
    left out, every member of a branch group trained on, and the trunk's own steps with the mean of their subtree.
    """
    b2 = emoji_b2_paper()
    return replace(
        b2,
        recipe="emoji-quickstart",
        num_rounds=8,  # ours: less than three minutes of training on two cores
        rollout=replace(b2.rollout, num_branches=2, train_trunk=True),  # ours: ahead of four (docs/results.md)
        schedule=Backward(tau_first=14, tau_last=6),  # ours: the last steps decide little (docs/probe.md)
        advantage=Shrunk(),
        selection=All(),
        logging=Logging(num_evaluation_images=360, samples_every_rounds=3),
    )


@_recipe("emoji-b2-paper")
def emoji_b2_paper() -> Run:
    """B² with the paper's interval, advantage and selection, on the embedded model.

    Step weights, learning rate and trust region are ours: with the paper's equal weights the second-to-last step
    dominates and the run collapses on this model.
    """
    return Run(
        recipe="emoji-b2-paper",
        model=EMOJI,
        reward="clip:emoji",
        prompts="template1-train",
        num_rounds=18,  # ours
        reward_queries_per_round=256,  # section 4.2: 25,600 reward queries in 100 rounds
        sampler=Sampler(num_inference_steps=20, eta=1.0, guidance_scale=EMOJI_GUIDANCE_SCALE),  # T, eta: section 4.1
        rollout=Rollout(chunk_size=_EMOJI_BATCH_SIZE),
        schedule=Backward(tau_first=14),  # the reference
        optimization=Optimization(
            learning_rate=2e-3,
            micro_batch_size=_EMOJI_BATCH_SIZE,
            num_inner_epochs=1,  # ours: new images are cheap here, so each is used once (the reference: 2)
            num_minibatches=6,  # ours, as the learning rate: `b2diffurl study sweep`
            step_weights="even",  # ours: without it the second-to-last step dominates and the run collapses
        ),
        trust_region=TrustRegion(max_kl=0.00483),  # ours: the value of the measurements in docs/
        logging=Logging(num_evaluation_images=360, samples_every_rounds=6),
    )


@_recipe("emoji-ddpo")
def emoji_ddpo() -> Run:
    """Plain DDPO on the embedded model: no branches, the whole chain, every trajectory; a round takes twice as long."""
    b2 = emoji_b2_paper()
    return replace(
        b2,
        recipe="emoji-ddpo",
        num_rounds=9,  # ours: takes about as long as the 18 of emoji-b2-paper
        rollout=replace(b2.rollout, num_branches=1),
        schedule=Full(),
        selection=All(),
    )


@_recipe("emoji-policy-gradient")
def emoji_policy_gradient() -> Run:
    """B² under the policy gradient, on the embedded model.

    On-policy, so small rounds of one optimizer step each, with as many images per step as emoji-b2-paper has.
    """
    b2 = emoji_b2_paper()
    return replace(
        b2,
        recipe="emoji-policy-gradient",
        num_rounds=96,  # ours: 4,608 reward queries, as emoji-b2-paper
        reward_queries_per_round=48,  # ours: 256 by 6 optimizer steps, rounded up to 12 groups
        advantage=PromptHistory(num_rounds=43),  # 8 rounds of 256, in reward queries
        objective=PolicyGradient(),
        optimization=replace(b2.optimization, num_minibatches=1),
        logging=replace(b2.logging, samples_every_rounds=32, checkpoint_every_rounds=4),
    )


@_recipe("emoji-dpok")
def emoji_dpok() -> Run:
    """B² under DPOK, on the embedded model; with the small rounds of the policy gradient."""
    return replace(
        emoji_policy_gradient(),
        recipe="emoji-dpok",
        objective=DPOK(beta=0.1),  # ours: DPOK's 0.01 is negligible beside advantages of about 1
    )


@_recipe("emoji-dpo")
def emoji_dpo() -> Run:
    """B² under DPO, on the embedded model."""
    return replace(
        emoji_b2_paper(),
        recipe="emoji-dpo",
        objective=DPO(beta=25.0),  # ours: 0.1 per nat, as log-probs are averaged over 256 elements
    )


def emoji_objects(template: int) -> Run:
    """The quickstart's rule on the embedded model of the paper's other templates: the prompts that it can generate.

    Args:
        template: 2 (colors) or 3 (relations).
    """
    return replace(
        emoji_quickstart(),
        recipe=f"emoji-template{template}",
        model=EMOJI_OBJECTS,
        reward=f"clip:{EMOJI_OBJECTS}",
        prompts=f"emoji-template{template}-train",
    )


for _template in (2, 3):
    _recipe(f"emoji-template{_template}")(partial(emoji_objects, _template))


def paper(template: int, reward: str) -> Run:
    """The paper's run on one of its templates (sections 4.1 and 4.2): SD 1.4, 25,600 reward queries in 100 rounds.

    Args:
        template: 1 (animals and activities), 2 (colors), 3 (relations).
        reward: "clip" or "bert".
    """
    return Run(
        recipe=f"paper-template{template}-{reward}",
        model="CompVis/stable-diffusion-v1-4",  # section 4.1
        reward=reward,  # section 4.1: ViT-H-14 CLIPScore, or BERTScore over LLaVA-1.5-7B
        prompts=f"template{template}-train",  # appendix H
        judge="clip",  # section 4.1: ViT-H-14
        num_rounds=100,  # the reference (StageCnt)
        reward_queries_per_round=256,  # section 4.2: 25,600 reward queries
        sampler=Sampler(num_inference_steps=20, eta=1.0, guidance_scale=5.0),  # section 4.1; guidance: the reference
        rollout=Rollout(
            num_branches=4,  # ours: divides 256; the reference uses 5 (SplitTime, config default 3)
            chunk_size=16,  # ours: for 16 GB
        ),
        schedule=Backward(tau_first=14),  # the reference
        advantage=PromptHistory(num_rounds=8),  # the reference
        selection=BestWorst(pos_threshold=0.5, neg_threshold=-0.5),  # the reference
        objective=DDPO(clip_range=0.1),  # the reference
        optimization=Optimization(
            learning_rate=1e-4,  # the reference
            num_inner_epochs=2,  # the reference
            num_minibatches=4,  # ours: the reference fixes their size, 128 trajectories per step (2 x AccStep 64)
            micro_batch_size=2,  # ours: for 16 GB
        ),
        trust_region=TrustRegion(max_kl=math.inf),  # the paper has none
        collapse=Collapse(max_kl=math.inf),  # so only the reward and the contrast of the images are monitored
        logging=Logging(num_evaluation_images=1600, samples_every_rounds=10),  # section 4.6: 1,600 images
    )


for _template, _reward in product((1, 2, 3), ("clip", "bert")):
    _recipe(f"paper-template{_template}-{_reward}")(partial(paper, _template, _reward))


@_recipe("sd15")
def sd15(prompts: str = "", reward: str = "") -> Run:
    """Stable Diffusion 1.5 on your own prompts and reward; a fifth of the prompts is held out.

    Args:
        prompts: as `Run.prompts`; required before the run can start.
        reward: as `Run.reward`; required before the run can start.
    """
    run = paper(1, "clip")
    return replace(
        run,
        recipe="sd15",
        model="stable-diffusion-v1-5/stable-diffusion-v1-5",
        reward=reward,
        prompts=prompts,
        held_out_fraction=0.2,  # ours
        judge="auto",
        logging=replace(run.logging, num_evaluation_images=256),  # ours: a few minutes
    )


@_recipe("sdxl")
def sdxl(prompts: str = "", reward: str = "") -> Run:
    """Stable Diffusion XL on your own prompts and reward; sizes for 24 GB.

    Args:
        prompts: as `Run.prompts`; required before the run can start.
        reward: as `Run.reward`; required before the run can start.
    """
    return replace(
        sd15(prompts, reward),
        recipe="sdxl",
        model="stabilityai/stable-diffusion-xl-base-1.0",
        reward_queries_per_round=64,  # ours: an image costs about ten times as much as with SD 1.4
        rollout=Rollout(num_branches=4, chunk_size=4),  # ours: for 24 GB
        memory=Memory(gradient_checkpointing=True),  # ours: for 24 GB
        logging=Logging(num_evaluation_images=128, num_samples=8, samples_every_rounds=10),  # ours
    )


@_recipe("sd15-ddpo")
def sd15_ddpo(prompts: str = "") -> Run:
    """DDPO as in ddpo-pytorch: its config/base.py, with the numbers of images of its config/dgx.py:compressibility.

    Its base.py has 2 images per round, which by its README are not meant to give good results. Numbers without a
    comment are those of base.py; docs/coming-from-ddpo.md compares the keys.

    Args:
        prompts: as `Run.prompts`; required before the run can start. Theirs are the animals of ImageNet.
    """
    return Run(
        recipe="sd15-ddpo",
        model="stable-diffusion-v1-5/stable-diffusion-v1-5",  # base.py, at its present address
        reward="jpeg-size:compressible",  # base.py
        prompts=prompts,
        num_rounds=100,
        reward_queries_per_round=256,  # dgx.py; base.py: 2
        seed=42,
        sampler=Sampler(num_inference_steps=50, eta=1.0, guidance_scale=5.0),
        rollout=Rollout(num_branches=1, chunk_size=8),  # dgx.py: 8 images at a time; base.py: 1
        schedule=Full(),
        advantage=PromptHistory(num_rounds=2, max_advantage=5.0),  # ours: theirs has the last 16 rewards of a prompt
        selection=All(),
        objective=DDPO(clip_range=1e-4),
        lora=LoRA(rank=4, alpha=4.0),  # the default of diffusers' LoRAAttnProcessor, which train.py uses
        optimization=Optimization(
            learning_rate=3e-4,
            weight_decay=1e-4,
            max_grad_norm=1.0,
            num_inner_epochs=1,
            num_minibatches=4,  # dgx.py: 4 updates per epoch
            micro_batch_size=4,  # dgx.py; base.py: 1
        ),
        trust_region=TrustRegion(max_kl=math.inf),  # theirs has none
        collapse=Collapse(max_kl=math.inf),  # so only the reward and the contrast of the images are monitored
    )


def recipe(name: str) -> Run:
    """Create the run of a recipe.

    Raises:
        UserError: the recipe does not exist.
    """
    if name not in RECIPES:
        raise UserError(
            f"recipe is {name!r}{did_you_mean(name, RECIPES)}; give a run.toml or one of: {', '.join(RECIPES)}."
        )
    return RECIPES[name]()
