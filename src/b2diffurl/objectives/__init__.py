"""Objectives: log-probs and advantages in, a loss out. Know nothing of images."""

from b2diffurl.objectives.ddpo import DDPO
from b2diffurl.objectives.dpo import DPO
from b2diffurl.objectives.dpok import DPOK
from b2diffurl.objectives.own import Own
from b2diffurl.objectives.policy_gradient import PolicyGradient

__all__ = ["DDPO", "DPO", "DPOK", "Own", "PolicyGradient"]
