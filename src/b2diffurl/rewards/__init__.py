"""Rewards: pictures and prompts in, one number a picture out. Higher is better."""

from b2diffurl.rewards.load import load_reward

__all__ = ["load_reward"]
