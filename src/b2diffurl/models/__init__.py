"""Models: the only package that imports diffusers and peft. It turns a pipeline into a policy.

Importing it is cheap; `b2diffurl.models.text_to_image` imports the heavy libraries.
"""

import logging
import warnings

from b2diffurl.models.adapter_files import AdapterFile
from b2diffurl.models.adapter_interval import AdapterInterval, read_adapter_interval
from b2diffurl.models.lora import LoRA
from b2diffurl.models.memory import Memory
from b2diffurl.models.model_source import ModelSource, check_lora

# What the libraries warn about when they are imported and a user cannot act on: a missing torchvision, which nothing
# here uses, and in a notebook missing ipywidgets.
warnings.filterwarnings("ignore", message="IProgress not found")
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)

__all__ = [
    "AdapterFile",
    "AdapterInterval",
    "LoRA",
    "Memory",
    "ModelSource",
    "check_lora",
    "read_adapter_interval",
]
