"""What each logged number means: unit, range, and which direction is good."""

from dataclasses import dataclass, replace
from typing import Literal

METRIC_NOTES: dict[str, str] = {
    "round": "Training round, counted from 1: sample, score, select, update.",
    "reward_queries": "Images scored by the reward so far: the cost axis of the paper.",
    "interval/length": (
        "Denoising steps trained in this round, counted from the end of the trajectory. "
        "Backward progressive training lets it grow up to the sampler's number of steps."
    ),
    "interval/pair_fraction": (
        "Pairs per branch group. Near 0, the interval is too short to make a difference, or what it can teach has been "
        "learned."
    ),
    "interval/growth_reason": (
        "Why the adaptive schedule makes the next interval longer: 0 it does not, 1 the backward schedule's pace, "
        "2 the pairs have been learned, 3 they have run dry."
    ),
    "reward/mean": "Mean reward of the round's images, in the reward's own unit. Higher is better.",
    "reward": "Mean of the run's own reward over the evaluation images: not an independent judge.",
    "reward/std": "Standard deviation of the reward over the round's images, in the reward's own unit.",
    "advantage/zero_fraction": (
        "Share of images (0 to 1) whose advantage is 0, because their prompt has too few rewards or rewards that "
        "hardly differ. Near 1, there is nothing to learn from."
    ),
    "selection/num_trajectories": (
        "Trajectories selected for the update: the best and the worst of each branch group, where they pass the "
        "thresholds. 0 is a round without an update."
    ),
    "selection/num_pairs": (
        "Pairs of a better and a worse trajectory: best and worst of a branch group, where both pass the thresholds. "
        "Preference objectives (dpo) learn from these alone."
    ),
    "objective/loss": (
        "The objective's value, to minimize; empty in a round without an update. Its level means little, and it need "
        "not fall while the reward rises."
    ),
    "objective/clip_fraction": (
        "Share of trained steps (0 to 1) where the clip range takes the gradient away. 0 throughout: the clip never "
        "acts. Near 1: the updates are too large."
    ),
    "objective/kl_term": (
        "The KL's part of DPOK's loss, beta times KL(policy || reference) in the unit of the log-probs. 0 at the "
        "start; as large as the rest of the loss, it holds the policy still."
    ),
    "objective/margin": (
        "DPO's implicit reward of the better step minus that of the worse, times beta, before the sigmoid. Begins at "
        "0 and should rise; well above 3 the pairs teach nothing more."
    ),
    "objective/pair_accuracy": (
        "Share of pairs (0 to 1) that DPO's implicit reward ranks right. 0 before anything is learned, as all are ties."
    ),
    "policy/kl_to_reference": (
        "Exact KL divergence from the policy to the pretrained model, in nats a step per element of the latent, mean "
        "over trained steps, while the round's update goes on. 0 at the start; how far fine-tuning has gone."
    ),
    "policy/ratio_max_error": (
        "Largest |ratio - 1| between replayed and sampled log-probs before the first update. In float32 it must stay "
        "below 1e-6; more means that replay and rollout differ."
    ),
    "policy/grad_norm": (
        "Norm of the gradient before clipping, mean over the round's optimizer steps. Sudden peaks often come before a "
        "collapse."
    ),
    "policy/kl_to_old": (
        "KL divergence between the updated policy and the one that sampled the round, in nats a step per element of "
        "the latent, estimated from the log-ratios of trained steps. The root of twice this is how far a step's mean "
        "moved, in standard deviations of its noise. 0 is no change; empty without an update."
    ),
    "update/num_optimizer_steps": "Optimizer steps of the round that stand.",
    "update/step_reverted": (
        "1 if the trust region took back the round's last optimizer step and ended the update, else 0."
    ),
    "image/contrast": (
        "Standard deviation of a picture's values, 0 to 0.5, averaged over the round's pictures. A steady drift warns "
        "of pictures that turn flat or garish, even while the reward rises."
    ),
    "network/rollout_evaluations": (
        "Latents that the UNet saw while the round was sampled, trunks and branches; guidance counts twice. "
        "`b2diffurl plan` foretells this number."
    ),
    "network/update_evaluations": (
        "Latents that the UNet saw in the round's update: replays, the reference's passes and the trust region's "
        "measurement; a backward pass is not counted besides its forward pass."
    ),
    "time/rollout_s": "Seconds spent sampling trunks and branches.",
    "time/reward_s": "Seconds spent scoring images.",
    "time/update_s": "Seconds spent replaying steps and updating the policy.",
    "clip_score": (
        "Raw cosine between picture and prompt in CLIP's space, averaged over the pictures. From -1 to 1, higher is "
        "better aligned; comparable only between scores of the same CLIP model."
    ),
    "scene_accuracy": (
        "Share of pictures in which an independent classifier, never used as a reward, sees what the prompt asks for, "
        "animal and activity. From 0 to 100 %, higher is better aligned. Reward up without it is reward hacking."
    ),
    "style_entropy": (
        "Entropy of the styles over all pictures, in nats. 0: a single style. ln 4 = 1.386: all four equally often. "
        "Higher is more diverse; falling is diversity collapse."
    ),
    "inception_score": (
        "exp of the mean KL divergence between one picture's class probabilities, as a judge's features give them, "
        "and their average. At least 1 (all alike), higher is more diverse; comparable only for the same judge."
    ),
}
"""One or two plain sentences for every metric that a run logs or an evaluation reports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How the page shows one evaluation metric; of those listed here, more is always better.

    Attributes:
        label: the name in words.
        topic: what it measures.
        decimals: digits behind the point.
        is_share: True for a value from 0 to 1 that is shown in per cent, its change in points.
    """

    label: str
    topic: Literal["alignment", "diversity", "other"]
    decimals: int = 3
    is_share: bool = False


SCORES: dict[str, Score] = {
    "scene_accuracy": Score(label="Scene accuracy", topic="alignment", decimals=1, is_share=True),
    "clip_score": Score(label="CLIPScore", topic="alignment"),
    "reward": Score(label="Reward", topic="alignment"),
    "style_entropy": Score(label="Style entropy", topic="diversity"),
    "inception_score": Score(label="Inception Score", topic="diversity"),
}
"""The evaluation metrics that the page knows, in the order in which it shows them."""
_HELD_OUT = "held_out_"


def note_of(name: str) -> str | None:
    """What a number means: one of `METRIC_NOTES`, or one that is named after a score or a reward."""
    if name in METRIC_NOTES:
        return METRIC_NOTES[name]
    if part := reward_part(name):
        return (
            f"Mean of {part} over the round's images, in its own unit and without its weight. Where a reward that is "
            "only watched falls while the trained one rises, the trained one is being hacked."
        )
    score = name.removeprefix("evaluation/")
    told = METRIC_NOTES.get(score.removeprefix(_HELD_OUT))
    return f"On the prompts held out from training. {told}" if told and score.startswith(_HELD_OUT) else told


def score_of(name: str) -> Score | None:
    """How the page shows an evaluation metric, or None for one that it does not know."""
    found = SCORES.get(name.removeprefix(_HELD_OUT))
    return replace(found, label=f"{found.label}, held out") if found and name.startswith(_HELD_OUT) else found


def reward_part(name: str) -> str | None:
    """Which reward a metric is the mean of, or None if it is no such metric.

    >>> reward_part("reward/my.py:f/mean"), reward_part("reward/mean")
    ('my.py:f', None)
    """
    head, tail = "reward/", "/mean"
    return name[len(head) : -len(tail)] or None if name.startswith(head) and name.endswith(tail) else None
