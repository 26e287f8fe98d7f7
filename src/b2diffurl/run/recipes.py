"""Recipes: named, complete runs. Every number cites its source or says "ours"."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from b2diffurl.algorithm.advantage import PromptHistory
from b2diffurl.algorithm.collapse import Collapse
from b2diffurl.algorithm.objectives import DDPO, DPO, DPOK, PolicyGradient
from b2diffurl.algorithm.schedule import Backward, Full
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.algorithm.update import Optimization, TrustRegion
from b2diffurl.errors import UserError
from b2diffurl.models import EMOJI, Memory
from b2diffurl.run.settings import Branching, Logging, Run, Sampler

EMOJI_GUIDANCE_SCALE = 1.0  # ours: at guidance 1 the embedded model is as misaligned as it was made to be


def emoji_quickstart() -> Run:
    """B² on the embedded model: the paper's 45 training prompts of template 1, some minutes on two cores."""
    return Run(
        recipe="emoji-quickstart",
        model=EMOJI,
        reward="clip:emoji",
        prompts="template1-train",
        num_rounds=18,  # ours: what fits into 5 minutes
        reward_queries_per_round=256,  # the paper's
        sampler=Sampler(num_inference_steps=20, eta=1.0, guidance_scale=EMOJI_GUIDANCE_SCALE),  # T, eta: the paper's
        schedule=Backward(tau_first=14),  # the reference run's
        optimization=Optimization(
            learning_rate=2e-3,
            num_inner_epochs=1,  # ours: new pictures are cheap here, so each is used once (the reference run: 2)
            num_minibatches=6,  # ours, as the learning rate: `b2diffurl study b2-against-ddpo-grid`
            step_weights="even",  # ours: without it the last step but one drowns the others and the run falls apart
        ),
        trust_region=TrustRegion(max_kl=0.00483),  # ours: what docs/ was measured with
        logging=Logging(num_evaluation_images=360, samples_every_rounds=6),
    )


def emoji_ddpo() -> Run:
    """Plain DDPO on the embedded model: no branches, the whole chain, every trajectory; a round takes twice as long."""
    quickstart = emoji_quickstart()
    return replace(
        quickstart,
        recipe="emoji-ddpo",
        num_rounds=9,  # ours: about the seconds of the quickstart's 18
        rollout=Branching(num_branches=1),
        schedule=Full(),
        selection=All(),
    )


def emoji_policy_gradient() -> Run:
    """B² under the policy gradient, on the embedded model.

    On-policy, so small rounds of one optimizer step each: as many pictures a step as the quickstart's six have.
    """
    quickstart = emoji_quickstart()
    return replace(
        quickstart,
        recipe="emoji-policy-gradient",
        num_rounds=96,  # ours: the quickstart's 4,608 reward queries
        reward_queries_per_round=48,  # ours: the quickstart's 256 by 6 optimizer steps, rounded up to 12 groups
        advantage=PromptHistory(num_rounds=43),  # the quickstart's 8 rounds, in reward queries
        objective=PolicyGradient(),
        optimization=replace(quickstart.optimization, num_minibatches=1),
        logging=replace(quickstart.logging, samples_every_rounds=32, checkpoint_every_rounds=4),
    )


def emoji_dpok() -> Run:
    """B² under DPOK, on the embedded model; its small rounds are the policy gradient's."""
    return replace(
        emoji_policy_gradient(),
        recipe="emoji-dpok",
        objective=DPOK(beta=0.1),  # ours: DPOK's 0.01 is 0 to three digits beside advantages of about 1
    )


def emoji_dpo() -> Run:
    """B² under DPO, on the embedded model."""
    return replace(
        emoji_quickstart(),
        recipe="emoji-dpo",
        objective=DPO(beta=25.0),  # ours: 0.1 a nat, as log-probs are averaged over 256 elements
    )


def paper(template: int, reward: str) -> Run:
    """The paper's run on one of its templates (sections 4.1 and 4.2): SD 1.4, 25,600 reward queries in 100 rounds.

    Args:
        template: 1 (animals and activities), 2 (colours), 3 (relations).
        reward: "clip" or "bert".
    """
    return Run(
        recipe=f"paper-template{template}-{reward}",
        model="CompVis/stable-diffusion-v1-4",  # section 4.1
        reward=reward,  # section 4.1: ViT-H-14 CLIPScore, or BERTScore over LLaVA-1.5-7B
        prompts=f"template{template}-train",  # appendix H
        judge="clip",  # section 4.1: ViT-H-14
        num_rounds=100,  # the reference run's S
        reward_queries_per_round=256,  # section 4.2: 25,600 reward queries
        sampler=Sampler(num_inference_steps=20, eta=1.0, guidance_scale=5.0),  # section 4.1; guidance: the reference's
        rollout=Branching(
            num_branches=4,  # the reference run's
            chunk_size=16,  # ours: for 16 GB
        ),
        schedule=Backward(tau_first=14),  # the reference run's
        advantage=PromptHistory(num_rounds=8),  # the reference run's
        selection=BestWorst(pos_threshold=0.5, neg_threshold=-0.5),  # the reference run's
        objective=DDPO(clip_range=0.1),  # the reference run's
        memory=Memory(base_dtype="float16"),  # ours: for 16 GB
        optimization=Optimization(
            learning_rate=1e-4,  # the reference run's
            num_inner_epochs=2,  # the reference run's
            num_minibatches=4,  # ours: the reference fixes their size, and does not say which
            micro_batch_size=2,  # ours: for 16 GB
        ),
        trust_region=TrustRegion(max_kl=math.inf),  # the paper has none
        collapse=Collapse(max_kl=math.inf),  # so only the reward and the pictures' contrast are watched
        logging=Logging(num_evaluation_images=1600, samples_every_rounds=10),  # section 4.6: 1,600 pictures
    )


def sd15_custom_prompts() -> Run:
    """Stable Diffusion 1.5 on your own prompts, a line each in prompts.txt; a fifth of them held out."""
    run = paper(1, "clip")
    return replace(
        run,
        recipe="sd15-custom-prompts",
        model="stable-diffusion-v1-5/stable-diffusion-v1-5",
        prompts="prompts.txt",
        held_out_fraction=0.2,  # ours
        logging=replace(run.logging, num_evaluation_images=256),  # ours: some minutes
    )


def sdxl_clip() -> Run:
    """Stable Diffusion XL on the paper's prompts of template 1; sizes for 24 GB."""
    run = paper(1, "clip")
    return replace(
        run,
        recipe="sdxl-clip",
        model="stabilityai/stable-diffusion-xl-base-1.0",
        reward_queries_per_round=64,  # ours: a picture costs about ten times SD 1.4's
        rollout=Branching(num_branches=4, chunk_size=4),  # ours: for 24 GB
        memory=Memory(base_dtype="float16", gradient_checkpointing=True),  # ours: for 24 GB
        logging=Logging(num_evaluation_images=128, num_samples=8, samples_every_rounds=10),  # ours
    )


RECIPES: dict[str, Callable[[], Run]] = {
    "emoji-quickstart": emoji_quickstart,
    "emoji-ddpo": emoji_ddpo,
    "emoji-policy-gradient": emoji_policy_gradient,
    "emoji-dpok": emoji_dpok,
    "emoji-dpo": emoji_dpo,
    **{
        f"paper-template{template}-{reward}": partial(paper, template, reward)
        for template in (1, 2, 3)
        for reward in ("clip", "bert")
    },
    "sd15-custom-prompts": sd15_custom_prompts,
    "sdxl-clip": sdxl_clip,
}


def recipe(name: str) -> Run:
    """Give a recipe's run.

    Raises:
        UserError: there is no such recipe.
    """
    if name not in RECIPES:
        raise UserError(f"recipe is {name!r}; give a run.toml or one of: {', '.join(RECIPES)}.")
    return RECIPES[name]()
