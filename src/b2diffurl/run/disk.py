"""Whether the disk has space for what a run keeps."""

import shutil
from contextlib import suppress
from pathlib import Path

from b2diffurl.errors import UserError
from b2diffurl.models.before_loading import adapter_bytes
from b2diffurl.run.resolve import ResolvedRun

_MIB = 2**20
OTHER_BYTES = 20 * _MIB  # ours: report, metrics, scores and sample images of a short run


def needed_bytes(resolved: ResolvedRun) -> int:
    """Estimate the space that a run needs.

    Checkpoints have the adapter and both moments of AdamW, and one more exists while it is written; the final adapter
    is saved in two formats. The adapter of a model on the hub, whose size is not known here, is not counted.
    """
    size = adapter_bytes(resolved.model, resolved.run.lora)
    return size * (3 * (resolved.run.logging.num_checkpoints + 1) + 2) + OTHER_BYTES


def check_disk_space(path: Path, resolved: ResolvedRun) -> None:
    """Refuse a run folder on a disk without space for the run.

    Args:
        path: the run folder; it need not exist.
        resolved: the run.

    Raises:
        UserError: less space is free than the run needs.
    """
    needed, free = needed_bytes(resolved), _free_bytes(path.absolute())
    if free < needed:
        raise UserError(
            f"output {path} has {free / _MIB:,.0f} MiB of free disk space but checkpoints and adapter need about "
            f"{needed / _MIB:,.0f} MiB; free space, or lower lora.rank or logging.num_checkpoints."
        )


def _free_bytes(path: Path) -> int:
    """Return the free space of the disk that a path is on or will be on."""
    for folder in (path, *path.parents):
        with suppress(OSError):  # it does not exist, or another process has just removed it
            return shutil.disk_usage(folder).free
    raise AssertionError(path)
