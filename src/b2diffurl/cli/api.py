"""The functions of the package that show progress of their own: `b2diffurl.train`, `sample` and `evaluate`.

They compose the library functions, which print nothing, with the progress of the console or of a notebook.
"""

import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import torch
from rich.console import Console

from b2diffurl.analysis import evaluate as evaluation
from b2diffurl.analysis import sample as sampling
from b2diffurl.analysis.sample import Generation
from b2diffurl.cli.console import ConsoleObserver
from b2diffurl.cli.cost_lines import cpu_warning
from b2diffurl.cli.generation import progress_bar
from b2diffurl.cli.notebook import NotebookObserver, is_notebook, notebook_display
from b2diffurl.config import read_toml
from b2diffurl.distributed import AUTO, Ranks, choose_device
from b2diffurl.errors import UserError
from b2diffurl.evaluation.generate import GeneratedImages
from b2diffurl.models.progress_bars import quiet_libraries
from b2diffurl.prompts.lists import own_prompt_list, read_prompts
from b2diffurl.rewards.custom import weighted_name
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.recipes import recipe
from b2diffurl.run.resolve import ResolvedRun, resolve
from b2diffurl.run.settings import Run
from b2diffurl.training import trainer
from b2diffurl.training.callbacks import Observer
from b2diffurl.training.result import Result
from b2diffurl.training.trainer import as_path

ProgressName = Literal["auto", "terminal", "notebook", "none"]
_PROGRESS = ("auto", "terminal", "notebook", "none")
RewardInput = Reward | Callable[..., Any] | str | Mapping[Any, float | int]


class TrainOptions(TypedDict, total=False):
    """Further arguments of `train`.

    Attributes:
        observers: callbacks for progress and metrics.
        ranks: the ranks that do the run together, from `join_ranks`.
        on_message: receives warnings of the run; by default they are shown with the progress.
    """

    observers: Sequence[Observer]
    ranks: Ranks
    on_message: Callable[[str], None]


class EvaluateOptions(TypedDict, total=False):
    """Further arguments of `evaluate`.

    Attributes:
        num_images: number of images, with the prompts in turn; 900 by default.
        seed: seed of the noise; 0 by default.
        judge: "auto" (the default), "clip" or "clip:MODEL".
    """

    num_images: int
    seed: int
    judge: str


def train(
    run: Run | ResolvedRun | str | Path,
    *,
    output: Path | str,
    prompts: str | Sequence[str] | None = None,
    reward: RewardInput | None = None,
    progress: ProgressName = "auto",
    device: torch.device | str = AUTO,
    resume: bool = False,
    **options: Unpack[TrainOptions],
) -> Result:
    """Fine-tune a model, and show progress.

    Args:
        run: the settings, the name of a recipe such as "emoji-quickstart", or the path of a run.toml.
        output: the run folder, created if it does not exist.
        prompts: used instead of those of the run: a list of prompts, which is stored in the run folder, or the name of
            a list or the path of a prompts file.
        reward: used instead of that of the run: a name such as "clip:emoji", a function (images, prompts) -> scores, or
            a dict from names and functions to weights. run.toml names a function by its file; one without a file, as in
            a notebook, has to be given again to resume the run.
        progress: "terminal", "notebook" (needs no ipywidgets), "none", or "auto": the one that fits the process.
        device: device of the model.
        resume: continue the run in that folder from its newest checkpoint.
        **options: see `TrainOptions`.

    Returns:
        The result, which reads the run folder.

    Raises:
        UserError: the run is invalid; raised before loading a model where possible.
        RunStopped: the run must not continue; the last good checkpoint, if there is one, is kept.
    """
    folder = as_path(output)
    ranks = options.pop("ranks", Ranks())
    observers, on_message = options.pop("observers", ()), options.pop("on_message", None)
    kind = _progress_kind(progress) if ranks.is_main else "none"
    named = weighted_name(reward) if isinstance(reward, Mapping) else reward  # pyright: ignore[reportUnknownArgumentType]
    function = named if named is not None and not isinstance(named, str) else None
    resolved = _resolve(_named(run), folder, prompts=prompts, reward=named, function=function)
    with quiet_libraries(), _training_progress(kind, resolved.run.num_rounds) as (shown, show_message):
        show_message = on_message or show_message
        warning = cpu_warning(resolved.run, device=choose_device(device))
        if warning and ranks.is_main:
            show_message(warning)
        trainer.train(
            resolved,
            output=folder,
            resume=resume,
            device=device,
            observers=[*shown, *observers],
            reward=function,
            ranks=ranks,
            on_message=show_message,
        )
    return Result(folder)


def _named(run: Run | ResolvedRun | str | Path) -> Run | ResolvedRun:
    if not isinstance(run, str | Path):
        return run
    return read_toml(Path(run), Run) if str(run).endswith(".toml") else recipe(str(run))


def _resolve(
    run: Run | ResolvedRun,
    folder: Path,
    *,
    prompts: str | Sequence[str] | None,
    reward: Reward | Callable[..., Any] | str | None,
    function: Reward | Callable[..., Any] | None,
) -> ResolvedRun:
    """Put prompts and reward from Python into the run, and check it."""
    if isinstance(run, ResolvedRun):
        if prompts is None and (reward is None or function is not None):
            return run
        run = run.run
    own_prompts = None
    if isinstance(prompts, str):
        run = replace(run, prompts=prompts)
    elif prompts is not None:
        own_prompts = own_prompt_list(prompts)
        run = replace(run, prompts=str(RunDirectory(folder).prompts_file))
    if isinstance(reward, str):
        run = replace(run, reward=reward)
    return resolve(run, own_reward=function is not None, own_prompts=own_prompts)


def sample(
    model: str,
    prompts: str | Sequence[str],
    *,
    lora: Path | str | Result | None = None,
    num_images: int | None = None,
    seed: int = 0,
    progress: ProgressName = "auto",
    device: str | None = None,
    generation: Generation = Generation(),  # noqa: B008 - frozen
) -> GeneratedImages:
    """Generate images, and show progress.

    Args:
        model: "emoji", "emoji-objects", a local diffusers directory, a .safetensors checkpoint file, or a hub id.
        prompts: prompts, or the name of a list or the path of a prompts file.
        lora: adapter directory of a run, its run folder, or the result of `train`; one that was trained with
            `lora.interval` is on only in these steps.
        num_images: number of images, with the prompts in turn; by default one per prompt.
        seed: seed of the noise.
        progress: as for `train`.
        device: device of the model; by default that of `generation`.
        generation: sampler, precision and device.

    Returns:
        The images, which a notebook shows: `.pil` as PIL images, `.images` as a tensor B x 3 x H x W in [0, 1], with
        their `.prompts`.

    Raises:
        UserError: an argument is invalid, or the model, the adapter or the prompts cannot be found, or the
            images are not finite.
    """
    texts = read_prompts([prompts] if isinstance(prompts, str) else prompts)
    with quiet_libraries(), _bar(_progress_kind(progress), num_images or len(texts)) as advance:
        return sampling.sample(
            model, texts, lora=_adapter(lora), num_images=num_images, seed=seed,
            generation=_on_device(generation, device), on_progress=advance,
        )  # fmt: skip


def evaluate(
    model: str,
    prompts: str | Sequence[str],
    *,
    lora: Path | str | Result | None = None,
    progress: ProgressName = "auto",
    device: str | None = None,
    generation: Generation = Generation(),  # noqa: B008 - frozen
    **options: Unpack[EvaluateOptions],
) -> dict[str, float]:
    """Generate images, show progress, and compute the metrics of a judge: alignment and diversity, higher is better.

    `compare` evaluates several adapters, with intervals.

    Args:
        model: as for `sample`.
        prompts: as for `sample`.
        lora: as for `sample`.
        progress: as for `train`.
        device: as for `sample`.
        generation: as for `sample`.
        **options: see `EvaluateOptions`.

    Returns:
        The metrics by name.

    Raises:
        UserError: an argument is invalid, or the model, the adapter or the prompts cannot be found.
    """
    with quiet_libraries(), _bar(_progress_kind(progress), options.get("num_images", 900)) as advance:
        return evaluation.evaluate(
            model, prompts, lora=_adapter(lora), generation=_on_device(generation, device), on_progress=advance,
            **options,
        )  # fmt: skip


def _adapter(lora: Path | str | Result | None) -> Path | None:
    """Return the adapter directory that a run folder, a result or a path names."""
    if lora is None:
        return None
    path = lora.adapter if isinstance(lora, Result) else Path(lora)
    directory = RunDirectory(path)
    return directory.lora if directory.is_started() else path


def _on_device(generation: Generation, device: str | None) -> Generation:
    return generation if device is None else replace(generation, device=device)


def _progress_kind(progress: str) -> str:
    """Return "terminal", "notebook" or "none".

    Raises:
        UserError: `progress` is another word.
    """
    if progress not in _PROGRESS:
        raise UserError(f"progress is {progress!r}; give one of: {', '.join(_PROGRESS)}.")
    if progress != "auto":
        return progress
    return "notebook" if is_notebook() else "terminal"


@contextmanager
def _training_progress(kind: str, num_rounds: int) -> Generator[tuple[Sequence[Observer], Callable[[str], None]]]:
    """Return a context that gives what shows a run, and what shows its messages."""
    if kind == "terminal":
        console = Console()
        with ConsoleObserver(console, num_rounds=num_rounds) as shown:
            yield [shown], partial(console.print, highlight=False, markup=False, soft_wrap=True)
    elif kind == "notebook":
        observer = NotebookObserver(notebook_display(), num_rounds=num_rounds)
        try:
            yield [observer], observer.on_message
        finally:
            observer.close()
    else:
        yield (), warnings.warn


@contextmanager
def _bar(kind: str, total: int) -> Generator[Callable[[int], None]]:
    """Return a context that gives what counts images."""
    if kind == "notebook":
        observer = NotebookObserver(notebook_display())
        observer.on_phase("images", total=total)
        try:
            yield observer.on_progress
        finally:
            observer.close()
        return
    is_shown = kind == "terminal" and sys.stderr.isatty()
    with progress_bar(total) if is_shown else nullcontext(_ignore) as advance:
        yield advance


def _ignore(_: int) -> None:
    pass
