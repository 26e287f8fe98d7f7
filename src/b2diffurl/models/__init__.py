"""Models: the only package that imports diffusers and peft. It turns a pipeline into a policy.

Importing it is cheap; `b2diffurl.models.text_to_image` imports the heavy libraries.
"""

from b2diffurl.models.adapter_files import AdapterFile
from b2diffurl.models.adapter_interval import AdapterInterval, read_adapter_interval
from b2diffurl.models.lora import LoRA
from b2diffurl.models.memory import Memory
from b2diffurl.models.model_source import EMOJI, ModelSource, check_lora

__all__ = [
    "EMOJI",
    "AdapterFile",
    "AdapterInterval",
    "LoRA",
    "Memory",
    "ModelSource",
    "check_lora",
    "read_adapter_interval",
]
