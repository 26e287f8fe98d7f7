"""Objectives: log-probs and advantages in, a loss out. Know nothing of images."""

from b2diffurl.objectives.ddpo import DDPO

__all__ = ["DDPO"]
