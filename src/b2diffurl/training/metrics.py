"""What a run logs about a round: the numbers of metrics.jsonl and the lines of scores.jsonl."""

# Tensor.tolist has no type.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterator
from typing import Any

from b2diffurl.algorithm.round import RoundResult
from b2diffurl.training.callbacks import Metrics


def round_metrics(result: RoundResult, *, reward_queries: int) -> Metrics:
    """Return the numbers of a round; reporting/metric_docs.py explains each.

    Args:
        result: the round.
        reward_queries: images scored so far, this round included.
    """
    sampled, update, rewards = result.sampled, result.update, result.sampled.scores.rewards
    return {
        "round": result.round_number,
        "reward_queries": reward_queries,
        "interval/length": result.interval_length,
        "interval/num_trained_steps": result.num_trained_steps,
        "interval/pair_fraction": len(result.selection.pairs) / len(result.prompts),
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std(correction=0)),
        "advantage/zero_fraction": float((result.advantages == 0).float().mean()),
        "selection/num_trajectories": len(result.selection),
        "selection/num_pairs": len(result.selection.pairs),
        **({"selection/num_replayed": update.num_replayed} if update.num_replayed else {}),
        **result.metrics,
        "objective/loss": None,
        **update.means,
        "policy/ratio_max_error": update.ratio_max_error,
        "policy/grad_norm": update.grad_norm,
        "policy/kl_to_old": update.kl_to_old,
        "update/num_optimizer_steps": update.num_optimizer_steps,
        "update/step_reverted": int(update.step_reverted),
        "update/step_scale": update.step_scale,
        "optimization/learning_rate": update.learning_rate,
        **{f"reward/{name}/mean": float(values.double().mean()) for name, values in sampled.scores.terms.items()},
        "image/contrast": float(sampled.scores.contrast.mean()),
        "network/rollout_evaluations": sampled.num_evaluations,
        "network/update_evaluations": update.num_evaluations,
        "time/rollout_s": sampled.rollout_seconds,
        "time/reward_s": sampled.reward_seconds,
        "time/update_s": update.seconds,
    }


def score_lines(result: RoundResult) -> Iterator[dict[str, Any]]:
    """Yield one line per image: round, branch group, prompt, reward, terms and further outputs of the rewards."""
    scores = result.sampled.scores
    num_branches = scores.rewards.shape[1]
    rewards: list[float] = scores.rewards.flatten().tolist()
    terms = {name: values.flatten().tolist() for name, values in scores.terms.items()}
    for index, reward in enumerate(rewards):
        group = index // num_branches
        line: dict[str, Any] = {
            "round": result.round_number,
            "group": group,
            "prompt": result.prompts[group],
            "reward": reward,
        }
        for name, columns in (("terms", terms), ("info", scores.info)):
            if columns:
                line[name] = {key: column[index] for key, column in columns.items()}
        yield line
