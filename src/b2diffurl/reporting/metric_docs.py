"""The meaning of each logged metric: unit, range, and which direction is better."""

from dataclasses import dataclass, replace
from typing import Literal

METRIC_NOTES: dict[str, str] = {
    "round": "Training round, counted from 1. A round samples, scores, selects and updates.",
    "reward_queries": "Images scored by the reward so far, the cost axis of the paper.",
    "interval/length": (
        "Denoising steps of this round's interval, counted from the end of the trajectory. "
        "Backward progressive training increases it up to the sampler's number of steps, or to tau_max."
    ),
    "interval/num_trained_steps": (
        "Denoising steps of the interval that are trained in this round; the others, such as the last tau_last, are "
        "only sampled."
    ),
    "interval/pair_fraction": (
        "Selected pairs per branch group. Near 0, either the interval is too short to change the reward, or the policy "
        "has learned everything that this interval can teach."
    ),
    "interval/growth_reason": (
        "Why the adaptive schedule makes the next interval longer. 0: it does not. 1: the pace of the backward "
        "schedule. 2: the pairs are learned. 3: there are too few pairs."
    ),
    "reward/mean": "Mean reward of the round's images, in the reward's own unit. Higher is better.",
    "reward": "Mean training reward over the evaluation images. It is not an independent judge.",
    "reward/std": "Standard deviation of the reward over the round's images, in the reward's own unit.",
    "advantage/zero_fraction": (
        "Fraction of images (0 to 1) whose advantage is 0, because their prompt has too few rewards or rewards that "
        "are almost equal. Near 1, the round provides no training signal."
    ),
    "advantage/shrinkage": (
        "Weight (0 to 1) of the branch group's mean in the baseline of the advantage shrunk; the rest is the prompt's "
        "mean. Near 0, trunks hardly differ in reward; near 1, they decide it."
    ),
    "selection/num_trunks": (
        "Trunks trained besides the selected trajectories (rollout.train_trunk). 0 in rounds whose interval is the "
        "whole chain."
    ),
    "selection/trunk_weight": (
        "Weight of a trunk's loss in units of a branch's, 1 to K: how many independent rewards its K branches are "
        "worth. Logged if rollout.trunk_weight is effective, in rounds that train trunks."
    ),
    "selection/num_replayed": (
        "Trajectories of earlier rounds, trunks included, that are trained on again (optimization.replay_rounds). Not "
        "logged in rounds without any."
    ),
    "selection/num_trajectories": (
        "Trajectories selected for the update: the best and the worst of each branch group, if they pass the "
        "thresholds. 0 means a round without an update."
    ),
    "selection/num_pairs": (
        "Pairs of a better and a worse trajectory: the best and the worst of a branch group, if both pass the "
        "thresholds. Preference objectives (dpo) train on pairs only."
    ),
    "objective/loss": (
        "Value of the objective, to minimize. Empty in a round without an update. Its absolute value has little "
        "meaning, and it need not decrease while the reward rises."
    ),
    "objective/clip_fraction": (
        "Fraction of trained steps (0 to 1), those of earlier rounds included, whose gradient is removed by the clip "
        "range. If it is always 0, clipping has no effect; near 1, the updates are too large."
    ),
    "objective/kl_term": (
        "KL term of the loss, beta times KL(policy || reference), in the unit of the log-probs. 0 at the start. "
        "If it is as large as the rest of the loss, the policy no longer changes."
    ),
    "objective/margin": (
        "DPO's implicit reward of the better step minus that of the worse step, times beta, before the sigmoid. 0 at "
        "the start, and it should rise. Well above 3, the pairs provide almost no gradient."
    ),
    "objective/pair_accuracy": (
        "Fraction of pairs (0 to 1) that DPO's implicit reward ranks correctly. 0 at the start, when all pairs are "
        "ties."
    ),
    "policy/kl_to_reference": (
        "Exact KL divergence from the policy to the pretrained model, in nats per step and latent element, averaged "
        "over the trained steps during the round's update. 0 at the start. It measures how far fine-tuning has moved "
        "the policy."
    ),
    "policy/ratio_max_error": (
        "Largest |ratio - 1| between replayed and sampled log-probs before the first update. In float32 it must be "
        "below 1e-6; a larger value means that replay and rollout differ."
    ),
    "policy/grad_norm": (
        "Gradient norm before clipping, averaged over the round's optimizer steps. Sudden peaks often precede a "
        "collapse."
    ),
    "policy/kl_to_old": (
        "KL divergence between the updated policy and the policy that sampled the round, in nats per step and latent "
        "element, estimated from the log-ratios of the trained steps. The square root of twice this value is the shift "
        "of a step's mean in standard deviations of its noise. Empty without an update."
    ),
    "update/num_optimizer_steps": "Optimizer steps of the round, shrunk ones included, reverted ones not.",
    "update/step_reverted": (
        "1 if the trust region reverted the round's last optimizer step and ended the update, otherwise 0."
    ),
    "update/step_scale": (
        "Fraction of the round's last optimizer step that was kept (0 to 1). 1: all of it. Below 1, the trust region "
        "shrank the step to its border and ended the update; 0: it reverted the step. Often far below 1, the learning "
        "rate is too large. Empty without an update."
    ),
    "optimization/learning_rate": (
        "Learning rate of the round's optimizer steps: `optimization.learning_rate` times the factor of the warm-up "
        "and of the schedule."
    ),
    "image/contrast": (
        "Standard deviation of an image's pixel values (0 to 0.5), averaged over the round's images. A steady drift "
        "indicates that images become flat or oversaturated, even while the reward rises."
    ),
    "network/rollout_evaluations": (
        "Latents evaluated by the UNet while sampling the round, trunks and branches. Guidance doubles the number. "
        "`b2diffurl plan` predicts it."
    ),
    "network/update_evaluations": (
        "Latents evaluated by the UNet in the round's update: replay, reference model and trust region. A backward "
        "pass is not counted in addition to its forward pass."
    ),
    "time/rollout_s": "Seconds spent sampling trunks and branches.",
    "time/reward_s": "Seconds spent scoring images.",
    "time/update_s": "Seconds spent replaying steps and updating the policy.",
    "clip_score": (
        "Cosine similarity between the CLIP embeddings of image and prompt, averaged over the images. From -1 to 1; "
        "higher means better alignment. Only scores of the same CLIP model are comparable."
    ),
    "bert_score": (
        "Similarity of a caption of the image and the prompt, averaged over the images: the BERTScore that the reward "
        "is or contains. At most 1; higher means better alignment. Only scores of the same reward are comparable."
    ),
    "scene_accuracy": (
        "Fraction of images in which an independent classifier, which is never used as a reward, recognizes the animal "
        "and the activity of the prompt. From 0 to 100 %; higher means better alignment. If the reward rises without "
        "it, the policy is hacking the reward."
    ),
    "style_entropy": (
        "Entropy of the styles over all images, in nats. 0: a single style; ln 4 = 1.386: all four equally often. "
        "Higher is more diverse; a decrease indicates diversity collapse."
    ),
    "inception_score": (
        "Exponential of the mean KL divergence between the class probabilities of one image, from the judge's "
        "features, and their average over all images. At least 1 (all images alike); higher is more diverse. Only "
        "scores of the same judge are comparable."
    ),
    "vendi_score": (
        "Effective number of different images: the exponential of the entropy of the eigenvalues of their "
        "similarities, the cosines of the judge's features. 1: all images alike; higher is more diverse. It grows with "
        "the number of images."
    ),
    "pairwise_distance": (
        "1 minus the cosine of the judge's features, averaged over the pairs of images of a prompt and then over "
        "prompts, 0 to 2. Diversity within prompts; higher is more diverse."
    ),
}
"""One or more plain sentences for every metric that a run logs or an evaluation reports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How the report shows an evaluation metric. Higher is better for all metrics in `SCORES`.

    Attributes:
        label: display name.
        topic: the property that it measures.
        decimals: number of decimal places.
        is_fraction: True for a value from 0 to 1 that is shown in percent, and its change in points.
    """

    label: str
    topic: Literal["alignment", "diversity", "other"]
    decimals: int = 3
    is_fraction: bool = False


SCORES: dict[str, Score] = {
    "scene_accuracy": Score(label="Scene accuracy", topic="alignment", decimals=1, is_fraction=True),
    "clip_score": Score(label="CLIPScore", topic="alignment"),
    "bert_score": Score(label="BERTScore", topic="alignment"),
    "reward": Score(label="Reward", topic="alignment"),
    "style_entropy": Score(label="Style entropy", topic="diversity"),
    "inception_score": Score(label="Inception Score", topic="diversity"),
    "vendi_score": Score(label="Vendi score", topic="diversity"),
    "pairwise_distance": Score(label="Pairwise distance", topic="diversity"),
}
"""The known evaluation metrics, in display order."""
HELD_OUT = "held_out_"


def note_of(name: str) -> str | None:
    """Return the meaning of a metric, or None for an unknown one.

    Metrics named after a score or a reward term, such as "evaluation/held_out_clip_score", are derived.
    """
    if name in METRIC_NOTES:
        return METRIC_NOTES[name]
    if term := reward_term(name):
        return (
            f"Mean of {term} over the round's images, in its own unit and without its weight. If a reward that is only "
            "watched falls while the trained reward rises, the policy is hacking the trained reward."
        )
    score = name.removeprefix("evaluation/")
    note = METRIC_NOTES.get(score.removeprefix(HELD_OUT))
    return f"On the prompts held out from training. {note}" if note and score.startswith(HELD_OUT) else note


def score_of(name: str) -> Score | None:
    """Return how to show an evaluation metric, or None for an unknown one."""
    score = SCORES.get(name.removeprefix(HELD_OUT))
    return replace(score, label=f"{score.label}, held out") if score and name.startswith(HELD_OUT) else score


def reward_term(name: str) -> str | None:
    """Return the reward term whose mean a metric is, or None for other metrics.

    >>> reward_term("reward/my.py:f/mean"), reward_term("reward/mean")
    ('my.py:f', None)
    """
    head, tail = "reward/", "/mean"
    return name[len(head) : -len(tail)] or None if name.startswith(head) and name.endswith(tail) else None
