"""What each of several processes does in test_processes.py: one small run, then its own adapter into a file."""

import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from b2diffurl.config import read_toml
from b2diffurl.distributed import Ranks, join_ranks
from b2diffurl.errors import RewardFailed, RunStopped
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Run
from b2diffurl.training.trainer import Trainer


def redness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return images[:, 0].mean(dim=(1, 2)) - images[:, 2].mean(dim=(1, 2))


def main(settings: str, output: str, failing_rank: int) -> None:
    with join_ranks() as ranks:
        train(settings, output, failing_rank, ranks)


def train(settings: str, output: str, failing_rank: int, ranks: Ranks) -> None:
    run = read_toml(Path(settings), Run)
    calls = 0

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        nonlocal calls
        calls += 1
        if ranks.rank == failing_rank and calls > 1:
            raise RewardFailed("the server is gone")
        return redness(images, prompts)

    directory = RunDirectory(Path(output) / "run")
    trainer = Trainer(resolve(run, own_reward=True), directory=directory, reward=reward, ranks=ranks)
    try:
        trainer.train()
    except RunStopped as stop:
        (Path(output) / f"stopped{ranks.rank}.txt").write_text(str(stop), encoding="utf-8")
    save_file(trainer.model.adapter_state(), Path(output) / f"adapter{ranks.rank}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
