"""The adapter interval: the last denoising steps, if an adapter was trained for these only; stored with it (ours)."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from b2diffurl.errors import UserError
from b2diffurl.models.adapter_files import ADAPTER_FILES, INTERVAL_KEY


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterInterval:
    """The last denoising steps, in which an adapter has to be on.

    Attributes:
        length: tau of the last trained round, 1 to T.
        num_inference_steps: T in training.
    """

    length: int
    num_inference_steps: int

    def num_steps(self, num_inference_steps: int) -> int:
        """Return the number of last steps with the adapter on, if images are sampled in so many steps.

        The steps without it are the same share of the chain as in training, rounded down.

        >>> [AdapterInterval(length=16, num_inference_steps=20).num_steps(num) for num in (20, 50, 7, 1)]
        [16, 40, 6, 1]
        """
        num_off = num_inference_steps * (self.num_inference_steps - self.length) // self.num_inference_steps
        return num_inference_steps - num_off


def interval_metadata(interval: AdapterInterval | None) -> dict[str, str]:
    """Return the metadata of a safetensors file that stores an interval; empty for none."""
    return {} if interval is None else {INTERVAL_KEY: json.dumps(asdict(interval))}


def write_adapter_interval(file: Path, interval: AdapterInterval) -> None:
    """Add an interval to the metadata of the adapter that diffusers has saved."""
    with safe_open(file, framework="pt") as opened:
        metadata: dict[str, str] = opened.metadata()
    save_file(load_file(file), file, metadata=metadata | interval_metadata(interval))


def read_adapter_interval(directory: Path) -> AdapterInterval | None:
    """Return the interval of the adapter in a folder; None if it has none, or if there is no readable adapter.

    Raises:
        UserError: the interval is invalid.
    """
    file = next((file for name in ADAPTER_FILES if (file := directory / name).is_file()), directory / ADAPTER_FILES[0])
    try:
        with safe_open(file, framework="pt") as opened:
            text: str | None = (opened.metadata() or {}).get(INTERVAL_KEY)
    except (OSError, SafetensorError):  # loading the adapter explains why
        return None
    if text is None:
        return None
    interval = _parse(text)
    if interval is None:
        raise UserError(f"lora directory {directory} has the invalid adapter interval {text!r}; save the adapter anew.")
    return interval


def _parse(text: str) -> AdapterInterval | None:
    """Return the interval that a text describes; None if it is invalid."""
    try:
        values: dict[str, Any] = json.loads(text)
        interval = AdapterInterval(**values)
        return interval if 1 <= interval.length <= interval.num_inference_steps else None
    except (ValueError, TypeError):
        return None
