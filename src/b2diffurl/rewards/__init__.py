"""Rewards: pictures and prompts in, one number a picture out. Higher is better."""

from b2diffurl.rewards.info import Info, picture_info
from b2diffurl.rewards.load import check_reward, check_watched, load_reward, load_watched
from b2diffurl.rewards.spec import Term, parse_reward
from b2diffurl.rewards.weighted_sum import WeightedSum, score_parts

__all__ = [
    "Info", "Term", "WeightedSum", "check_reward", "check_watched", "load_reward", "load_watched", "parse_reward",
    "picture_info", "score_parts",
]  # fmt: skip
