"""Rewards: images and prompts to one score per image, higher is better."""

from b2diffurl.rewards.builtin import RewardSettings
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.load import check_reward, check_reward_prompts, check_watched, load_reward, load_watched
from b2diffurl.rewards.scores import Info, InvalidScoresError, ScoredImages
from b2diffurl.rewards.spec import Term, parse_reward
from b2diffurl.rewards.weighted_sum import WeightedSum, score_images

__all__ = [
    "Info", "InvalidScoresError", "Reward", "RewardSettings", "ScoredImages", "Term", "WeightedSum", "check_reward",
    "check_reward_prompts", "check_watched", "load_reward", "load_watched", "parse_reward", "score_images",
]  # fmt: skip
