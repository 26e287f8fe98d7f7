"""Objectives: log-probs and advantages in, a loss out; independent of images and models.

A new objective is one file in this folder and one member of the union `AnyObjective`.
"""

from typing import get_args

from b2diffurl.algorithm.custom import CustomObjective
from b2diffurl.algorithm.objectives.ddpo import DDPO
from b2diffurl.algorithm.objectives.ddpo_kl import DDPOKl
from b2diffurl.algorithm.objectives.dpo import DPO
from b2diffurl.algorithm.objectives.dpok import DPOK
from b2diffurl.algorithm.objectives.policy_gradient import PolicyGradient

AnyObjective = DDPO | DDPOKl | PolicyGradient | DPOK | DPO | CustomObjective
OBJECTIVES: tuple[type[AnyObjective], ...] = get_args(AnyObjective)

__all__ = ["DDPO", "DPO", "DPOK", "OBJECTIVES", "AnyObjective", "CustomObjective", "DDPOKl", "PolicyGradient"]
