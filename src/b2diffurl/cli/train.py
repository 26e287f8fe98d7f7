"""`b2diffurl train RECIPE|run.toml`: fine-tune a model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from b2diffurl.cli.common import named_run, parse, prepare

if TYPE_CHECKING:
    from rich.console import Console

    from b2diffurl.run.settings import Run


def train(words: list[str]) -> int:
    """Fine-tune a model into a run folder."""
    from b2diffurl.run.settings import Run

    base = named_run(words, "train")

    @dataclass(frozen=True, kw_only=True)
    class Train:
        """Fine-tune a model.

        Attributes:
            run: every setting of the recipe.
            output: the run folder; the default is runs/RECIPE-seedSEED.
            resume: continue the run in that folder from its newest checkpoint.
            dry_run: check everything that can be checked without loading a model, print the run, and stop.
            tensorboard: write TensorBoard events into the run folder (extra: tensorboard).
            device: where the model runs, such as cpu or cuda.
            push_to_hub: repository, such as me/my-adapter, that the adapter is uploaded to at the end.
        """

        run: Annotated[Run, tyro.conf.arg(name="")]
        output: Path | None = None
        resume: bool = False
        dry_run: bool = False
        tensorboard: bool = False
        device: str = "cpu"
        push_to_hub: str | None = None

    name = words[0]
    beside = Path(name).parent if name.endswith("run.toml") and "--resume" in words else None
    asked = parse(Train, words[1:], prog=f"b2diffurl train {name}", default=Train(run=base, output=beside))
    run = asked.run
    output = asked.output or Path("runs") / f"{run.recipe}-seed{run.seed}"
    if asked.dry_run:
        from b2diffurl.config import to_toml
        from b2diffurl.run.settings import check_run

        check_run(run)
        print(to_toml(run), end="")
        return 0
    is_main = _do_train(run, output=output, resume=asked.resume, tensorboard=asked.tensorboard, device=asked.device)
    if is_main and asked.push_to_hub is not None:
        from b2diffurl.models.hub import push_to_hub

        print(f"hub      {push_to_hub(output / 'lora', repo_id=asked.push_to_hub)}")
    return 0


def _do_train(run: "Run", *, output: Path, resume: bool, tensorboard: bool, device: str) -> bool:
    """Train; whether this is the process that talks."""
    prepare()
    from b2diffurl.distributed import device_of_rank, join_ranks, leave_ranks

    ranks = join_ranks()
    device = device_of_rank(device, ranks)
    from rich.console import Console

    from b2diffurl.cli.console import ConsoleObserver
    from b2diffurl.run.settings import check_run, has_judge
    from b2diffurl.training.callbacks import Observer, TensorBoard

    check_run(run)
    console = Console(quiet=not ranks.is_main)
    console.print(
        f"{run.recipe}: {run.num_rounds} rounds of {run.reward_queries_per_round} reward queries into {output}"
    )
    from b2diffurl.evaluation.judges import NO_JUDGE_NOTE
    from b2diffurl.models.pipeline import has_safety_checker
    from b2diffurl.models.policy import SAFETY_CHECKER_NOTE
    from b2diffurl.training import trainer

    if has_safety_checker(run.model):
        console.print(SAFETY_CHECKER_NOTE)
    if run.logging.num_evaluation_images and not has_judge(run):
        console.print(NO_JUDGE_NOTE)
    with ConsoleObserver(console, num_rounds=run.num_rounds) as shown:
        observers: list[Observer] = [shown]
        if tensorboard and ranks.is_main:
            observers.append(TensorBoard(output / "tensorboard"))
        trainer.train(run, output=output, resume=resume, device=device, observers=observers, ranks=ranks)
    leave_ranks(ranks)
    _print_before_after(console, output / "evaluation.json")
    console.print(f"adapter  {output / 'lora'}\nreport   {output / 'report.html'}", highlight=False, soft_wrap=True)
    return ranks.is_main


def _print_before_after(console: "Console", file: Path) -> None:
    if not file.is_file():
        return
    from rich.table import Table

    found = json.loads(file.read_text(encoding="utf-8"))
    table = Table("", "before", "after", "change", title=f"{found['num_images']} pictures of {found['prompts']}")
    for name, before in found["before"].items():
        after = found["after"][name]
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    console.print(table)
