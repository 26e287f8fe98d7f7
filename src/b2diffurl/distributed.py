"""Several processes as one run, a card each: everyone samples and trains a share, and all decide alike.

Noise is keyed by trunk and gradients are summed before the step, so the result is that of one process, to rounding.
What goes to and fro are trajectories, scores and the adapter's gradients; the model itself is never wrapped.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from b2diffurl.errors import RewardFailed, RunStopped, UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those of its run; by default it is alone.

    Attributes:
        rank: its number, from 0; number 0 writes and talks.
        num: how many there are.
    """

    rank: int = 0
    num: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0

    def share(self, num: int) -> range:
        """This process's part of so many things: next to each other, sizes that differ by one at most.

        >>> [list(Ranks(rank=rank, num=2).share(5)) for rank in (0, 1)]
        [[0, 1, 2], [3, 4]]
        """
        each, more = divmod(num, self.num)
        start = self.rank * each + min(self.rank, more)
        return range(start, start + each + (self.rank < more))

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank."""
        if self.num == 1:
            return [value]
        out: list[Any] = [None] * self.num
        distributed.all_gather_object(out, value)
        return cast("list[T]", out)

    def together(self, work: Callable[[], T]) -> list[T]:
        """Do one's part; everyone gets every part, or everyone gets the first failure.

        Raises:
            RunStopped: or RewardFailed or UserError, as the first process that failed has it.
        """
        done: T | None = None
        failure: Exception | None = None
        try:
            done = work()
        except (RewardFailed, RunStopped, UserError) as error:
            if self.num == 1:
                raise
            failure = error
        for other in self.gather(failure):
            if other is not None:
                raise other
        return cast("list[T]", self.gather(done))

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give every process the sum of all gradients; one that had nothing to do counts as 0."""
        if self.num == 1:
            return
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = _summed(gradient)


def join_ranks() -> Ranks:
    """Join the processes that torchrun has started, as its environment says; without torchrun, stay alone."""
    num = int(os.environ.get("WORLD_SIZE", "1"))
    if num == 1:
        return Ranks()
    distributed.init_process_group("gloo")
    return Ranks(rank=distributed.get_rank(), num=num)


def own_device(device: str, processes: Ranks) -> str:
    """The card of this process: `cuda` is `cuda:LOCAL_RANK` where there are several processes."""
    if device == "cuda" and processes.num > 1:
        return f"cuda:{os.environ.get('LOCAL_RANK', processes.rank)}"
    return device


def leave_ranks(processes: Ranks) -> None:
    """Say good-bye, so that nobody waits."""
    if processes.num > 1:
        distributed.destroy_process_group()


def _summed(gradient: Tensor) -> Tensor:
    """Through the CPU, where gloo adds: an adapter is a few megabytes."""
    whole = gradient.cpu()
    distributed.all_reduce(whole)
    return whole.to(gradient.device)
