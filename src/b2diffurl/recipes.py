"""Recipes: named, complete runs. Every number cites its source or says "ours"."""

from dataclasses import replace

from b2diffurl.errors import UserError
from b2diffurl.models import EMOJI
from b2diffurl.run import Branching, Records, Run, Sampler
from b2diffurl.schedule import Backward, Full
from b2diffurl.selection import All
from b2diffurl.update import Optimization

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
        records=Records(num_evaluation_images=360, samples_every_rounds=6),
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


RECIPES = {"emoji-quickstart": emoji_quickstart, "emoji-ddpo": emoji_ddpo}


def recipe(name: str) -> Run:
    """Give a recipe's run.

    Raises:
        UserError: there is no such recipe.
    """
    if name not in RECIPES:
        raise UserError(f"recipe is {name!r}; give a run.toml or one of: {', '.join(RECIPES)}.")
    return RECIPES[name]()
