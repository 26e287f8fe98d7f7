"""Experiment trackers through `accelerate.tracking`: settings, metrics and sample images over reward queries."""

# accelerate is not typed.
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from b2diffurl.config import flat_settings
from b2diffurl.errors import UserError
from b2diffurl.evaluation.generate import GeneratedImages
from b2diffurl.images import to_pil
from b2diffurl.run.settings import Run
from b2diffurl.training.callbacks import Metrics

TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow", "swanlab", "comet_ml", "aim"]
PROJECT = "b2diffurl"
_TENSORBOARD = "tensorboard"
_MODULES = {_TENSORBOARD: "torch.utils.tensorboard"}  # what is imported; for the others their own name
_PACKAGES = {_TENSORBOARD: "'b2diffurl[tensorboard]'"}  # what pip installs; for the others their own name
_MAX_TAG = 80


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        UserError: which one, with the line that installs it.
    """
    for name in names:
        try:
            is_missing = getattr(import_module(_MODULES.get(name, name)), "__file__", None) is None  # a folder
        except ImportError:
            is_missing = True
        if is_missing:
            raise UserError(f"track holds {name}, which is not installed; run pip install {_PACKAGES.get(name, name)}.")
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UserError(f"track holds {name}, which this accelerate lacks; run pip install --upgrade accelerate.")


class Trackers:
    """Observer that sends a run to trackers; it starts them with the first event and must be closed.

    The project is "b2diffurl". A metric's step is the number of reward queries. TensorBoard and Aim write into the run
    folder, and drop what a resumed run repeats (TensorBoard only); for the others a resumed run is a new run.

    Args:
        names: which trackers; empty to track nothing.
        run: the settings, which become the tracker's configuration.
        directory: the run folder.
        run_name: name of the run in the trackers; by default that of the folder.
    """

    def __init__(self, names: Sequence[TrackerName], *, run: Run, directory: Path, run_name: str = "") -> None:
        check_trackers(names)
        self._names = names
        self._run = run
        self._directory = directory
        self._run_name = run_name or directory.resolve().name
        self._trackers: list[GeneralTracker] = []

    def on_phase(self, name: str, *, total: int) -> None:
        """Ignored."""

    def on_progress(self, num: int) -> None:
        """Ignored."""

    def on_round(self, metrics: Metrics) -> None:
        """Log every number of a round."""
        step = int(metrics["reward_queries"] or 0)
        values = {name: value for name, value in metrics.items() if value is not None}
        for tracker in self._started(step):
            tracker.log(values, step=step)

    def on_samples(self, samples: GeneratedImages, *, reward_queries: int) -> None:
        """Log the sample images, one series per prompt, to the trackers that take images."""
        pairs = enumerate(zip(samples.prompts, samples.images, strict=True))
        images = {_tag(index, prompt): np.asarray(to_pil(image))[None] for index, (prompt, image) in pairs}
        for tracker in self._started(reward_queries):
            log_images = getattr(tracker, "log_images", None)
            if log_images is None:
                continue
            options = {"dataformats": "NHWC"} if tracker.name == _TENSORBOARD else {}
            values = {tag: batch[0] for tag, batch in images.items()} if tracker.name == "aim" else images
            log_images(values, step=reward_queries, **options)

    def close(self) -> None:
        """Finish all trackers."""
        for tracker in self._trackers:
            tracker.finish()
        self._trackers = []

    def _started(self, step: int) -> list[GeneralTracker]:
        """Return the trackers; they start with the first event, since the run folder must be empty before."""
        if self._names and not self._trackers:
            PartialState(cpu=True)  # the trackers' logging needs it; with cpu=True it leaves the devices alone
            self._trackers = [self._start(name, step) for name in self._names]
        return self._trackers

    def _start(self, name: TrackerName, step: int) -> GeneralTracker:
        is_resumed = name == _TENSORBOARD and (self._directory / _TENSORBOARD).is_dir()
        tracker = LOGGER_TYPE_TO_CLASS[name](**tracker_options(name, self._run_name, self._directory, step))
        tracker.start()
        if not is_resumed:
            settings = flat_settings(self._run).items()
            tracker.store_init_configuration(
                {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings}
            )
        return tracker


def tracker_options(name: TrackerName, run_name: str, directory: Path, step: int) -> dict[str, Any]:
    """Return the arguments of a tracker of accelerate, whose `run_name` is the name of the project in most of them.

    Args:
        name: which tracker.
        run_name: name of the run.
        directory: the run folder.
        step: number of reward queries at the first event; TensorBoard drops later events of the same folder.
    """
    return {
        _TENSORBOARD: {"run_name": run_name, "logging_dir": directory / _TENSORBOARD, "purge_step": step},
        "wandb": {"run_name": PROJECT, "name": run_name, "dir": str(directory)},
        "trackio": {"run_name": PROJECT, "name": run_name},
        "mlflow": {"experiment_name": PROJECT, "run_name": run_name},
        "swanlab": {"run_name": PROJECT, "experiment_name": run_name, "logdir": str(directory / "swanlab")},
        "comet_ml": {"run_name": PROJECT},
        "aim": {"run_name": run_name, "logging_dir": str(directory), "experiment": PROJECT},
    }[name]


def _tag(index: int, prompt: str) -> str:
    """Name of a series of images: characters that every tracker accepts.

    >>> _tag(3, "a bear, riding")
    'samples/003 a bear_ riding'
    """
    return "samples/" + re.sub(r"[^A-Za-z0-9_ -]", "_", f"{index:03d} {prompt}")[:_MAX_TAG]
