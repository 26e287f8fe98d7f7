"""Objectives: log-probs and advantages in, a loss out. Know nothing of images."""

from b2diffurl.algorithm.objectives.custom import Own
from b2diffurl.algorithm.objectives.ddpo import DDPO
from b2diffurl.algorithm.objectives.dpo import DPO
from b2diffurl.algorithm.objectives.dpok import DPOK
from b2diffurl.algorithm.objectives.policy_gradient import PolicyGradient

__all__ = ["DDPO", "DPO", "DPOK", "Own", "PolicyGradient"]
