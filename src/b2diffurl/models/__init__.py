"""The only room that imports diffusers and peft: pipelines in, a policy out.

Importing it is cheap: the heavy libraries are loaded by `b2diffurl.models.policy`, when a model is.
"""

from b2diffurl.models.lora import LoRA
from b2diffurl.models.memory import Memory
from b2diffurl.models.model_source import EMOJI, check_lora, resolve_model

__all__ = ["EMOJI", "LoRA", "Memory", "check_lora", "resolve_model"]
