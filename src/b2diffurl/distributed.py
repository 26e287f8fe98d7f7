"""The device of a process, and several processes as one run, one GPU per rank.

Every rank samples and trains on a shard, and all decide alike.

Noise is keyed by trunk and gradients are summed before the step, so the result is that of one process, to rounding.
Ranks exchange scores, the selected trajectories and adapter gradients; the model is not wrapped in
DistributedDataParallel.
"""

import os
import platform
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from b2diffurl.errors import RankLost, RewardFailed, RunStopped, UserError

T = TypeVar("T")
AUTO = "auto"
_GIB = 2**30
_HAS_SYSCONF = hasattr(os, "sysconf")  # not on Windows
_TIMEOUT = timedelta(minutes=30)  # ours: a slow reward keeps other ranks waiting


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among the ranks of its run; by default it is the only one.

    Attributes:
        rank: index of this process, 0 to world_size - 1; rank 0 writes and logs.
        world_size: number of ranks.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def shard(self, num: int) -> range:
        """Return this rank's shard of `num` items: contiguous, with sizes that differ by one at most.

        >>> [list(Ranks(rank=rank, world_size=2).shard(5)) for rank in (0, 1)]
        [[0, 1, 2], [3, 4]]
        """
        each, more = divmod(num, self.world_size)
        start = self.rank * each + min(self.rank, more)
        return range(start, start + each + (self.rank < more))

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in order, on every rank.

        Raises:
            RankLost: another rank ended, or does not answer for half an hour.
        """
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with _exchange():
            distributed.all_gather_object(values, value)
        return cast("list[T]", values)

    @contextmanager
    def fail_together(self) -> Generator[None]:
        """Return a context in which each rank does its work; if any rank fails, all of them raise at its end.

        Raises:
            RunStopped: or RewardFailed or UserError, as the first rank that failed raised it.
        """
        failure: Exception | None = None
        try:
            yield
        except (RewardFailed, RunStopped, UserError) as error:
            if self.world_size == 1:
                raise
            failure = error
        for other in self.gather(failure):
            if other is not None:
                raise other

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every rank's gradients by their sum, in one exchange; a missing gradient counts as 0."""
        if self.world_size == 1:
            return
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        with _exchange():
            sums = _sum_over_ranks(gradients)
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.grad = total


@contextmanager
def _exchange() -> Generator[None]:
    """Return a context for an exchange between ranks, in which a lost connection raises RankLost."""
    try:
        yield
    except RuntimeError as error:  # gloo has no exception of its own
        raise RankLost(
            f"another process of this run ended or does not answer ({str(error).splitlines()[0]}); start all processes "
            "again with --resume."
        ) from error


@contextmanager
def join_ranks() -> Generator[Ranks]:
    """Return a context in which this process is one of those that torchrun started; without torchrun, the only one.

    The process group is destroyed at its end, after an error too: its threads abort the process when they are still
    there as Python exits.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks()
        return
    distributed.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield Ranks(rank=distributed.get_rank(), world_size=world_size)
    finally:
        distributed.destroy_process_group()


def device_of_rank(device: str, ranks: Ranks) -> str:
    """Return the device of this rank: `cuda` becomes `cuda:LOCAL_RANK` where there are several ranks."""
    if device == "cuda" and ranks.world_size > 1:
        return f"cuda:{os.environ.get('LOCAL_RANK', ranks.rank)}"
    return device


def choose_device(device: torch.device | str) -> str:
    """Return the device to use: "auto" is the first of cuda, mps and cpu that this machine has.

    Raises:
        UserError: as `check_device`, for any other device.
    """
    if str(device) != AUTO:
        check_device(device)
        return str(device)
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def describe_device(device: str) -> str:
    """Return a device with its name and memory; the first use of a GPU, which initializes CUDA.

    Raises:
        UserError: the GPU cannot be used.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        try:
            properties: Any = torch.cuda.get_device_properties(device)  # pyright: ignore
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"device is {device!r}, which cannot be used ({str(error).splitlines()[0].rstrip('.')}); give cpu."
            ) from error
        return f"{device}: {properties.name}, {properties.total_memory / _GIB:.1f} GiB"
    memory = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / _GIB:.1f} GiB" if _HAS_SYSCONF else ""
    name = "Apple GPU" if kind == "mps" else f"{platform.machine()}, threads: {torch.get_num_threads()}"
    return f"{device}: " + ", ".join(filter(None, (name, memory)))


def check_device(device: torch.device | str) -> None:
    """Refuse a device that this machine does not have; CUDA is not initialized. "auto" is always accepted.

    Raises:
        UserError: the device is unknown or not available, or it cannot hold numbers (meta).
    """
    if str(device) == AUTO:
        return
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device is {str(device)!r}, not a device of PyTorch; give auto, cpu, cuda or mps.") from error
    if parsed.type == "cuda":
        num = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if num <= (parsed.index or 0):
            raise UserError(f"device is {str(device)!r} but PyTorch finds {num} CUDA devices here; give auto or cpu.")
        return
    try:
        torch.zeros(1, device=parsed).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device is {str(device)!r}, which is not available here; give cpu.") from error


def _sum_over_ranks(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Sum in one float32 tensor on the CPU, where gloo works: an adapter has a few megabytes."""
    bucket = torch.cat([gradient.flatten().float() for gradient in gradients]).cpu()
    distributed.all_reduce(bucket)
    parts = torch.split(bucket, [gradient.numel() for gradient in gradients])
    return [part.view_as(gradient).to(gradient) for part, gradient in zip(parts, gradients, strict=True)]
