"""The directory of a run: this class reads and writes every file in it, and never overwrites those of another run."""

import io
import json
import platform
import tomllib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

import torch

from b2diffurl.config import read_toml, to_toml
from b2diffurl.errors import RunStopped, UserError
from b2diffurl.evaluation.generate import GeneratedImages
from b2diffurl.images import to_pil
from b2diffurl.prompts.lists import load_prompts
from b2diffurl.run import checkpoint as checkpoints
from b2diffurl.run import files, records
from b2diffurl.run.checkpoint import Checkpoint
from b2diffurl.run.code_version import current_commit
from b2diffurl.run.lock import LOCK_NAME, locked
from b2diffurl.run.records import Evaluation, Json, RunRecord, Stop
from b2diffurl.run.round_lines import RoundLines
from b2diffurl.run.settings import Run

OnMessage = Callable[[str], None]
_LIBRARIES = ("b2diffurl", "torch", "diffusers", "transformers", "peft")


class RunDirectory:
    """The files of one run.

    Args:
        path: the directory; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.toml"
        self.metrics_file = path / "metrics.jsonl"
        self.scores_file = path / "scores.jsonl"
        self.report_file = path / "report.html"
        self.log_file = path / "run.log"
        self.checkpoints = path / "checkpoints"
        self.lora = path / "lora"
        self._environment = path / "env.json"
        self._evaluation = path / "evaluation.json"
        self._stopped = path / "stopped.json"
        self.prompts_file = path / "prompts.json"
        self.samples = path / "samples"
        self._notes = path / "notes.json"

    def lock(self, *, on_message: OnMessage) -> AbstractContextManager[None]:
        """Return a context in which this process alone may write; the directory is created.

        Raises:
            UserError: another process holds the lock, or the directory cannot be created.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output {self.path} exists and is not an empty folder; give another folder.")
        return locked(self.path, on_message=on_message)

    def check_unused(self) -> None:
        """Check that the directory does not exist or is empty. Nothing is written.

        Raises:
            UserError: the directory contains files.
        """
        if self.is_started():
            raise UserError(f"output {self.path} already holds a run; give another folder, or --resume to continue it.")
        if self.path.exists() and (not self.path.is_dir() or not all(map(self._is_of_a_start, self.path.iterdir()))):
            raise UserError(f"output {self.path} exists and is not an empty folder; give another folder.")

    def is_started(self) -> bool:
        """Whether the directory contains a run."""
        return self.run_file.is_file()

    def _is_of_a_start(self, path: Path) -> bool:
        """Whether a file is left over from a start that was killed before run.toml was written."""
        if path == self.checkpoints:
            return path.is_dir() and not any(path.iterdir())
        return path.name.removesuffix(".partial") in (LOCK_NAME, self.run_file.name, self.prompts_file.name)

    def is_ended(self) -> bool:
        """Whether the run has saved its adapter or was stopped."""
        return self.lora.is_dir() or self._stopped.is_file()

    # Write

    def begin(self, run: Run, *, prompts: Sequence[str] = ()) -> None:
        """Create the directory; write the settings unless a resumed run's are there, and prompts if they name them."""
        files.make_directory(self.path)
        files.make_directory(self.checkpoints)
        if run.prompts == str(self.prompts_file):
            _write_prompts(self.prompts_file, prompts)
        if not self.is_started() or read_toml(self.run_file, Run) != run:  # another number of rounds
            files.write_text(self.run_file, to_toml(run))

    def write_environment(self, device: torch.device, *, num_processes: int = 1) -> None:
        """Write env.json: everything besides the settings that may change the numbers; num_processes: world size."""
        environment = _environment(device, num_processes=num_processes)
        files.write_text(self._environment, json.dumps(environment, indent=2))

    def write_samples(self, samples: GeneratedImages, *, round_number: int) -> None:
        """Write the sample images of a round; round 0 is before training."""
        directory = self.samples / f"round_{round_number:05d}"
        files.make_directory(directory)
        for index, image in enumerate(samples.images):
            content = io.BytesIO()
            to_pil(image).save(content, format="PNG")
            files.write_bytes(directory / f"{index:03d}.png", content.getvalue())
        files.write_text(self.samples / "prompts.json", json.dumps(samples.prompts))

    def write_evaluation(self, when: str, numbers: dict[str, float], *, num_images: int, prompts: str) -> None:
        """Add scores to evaluation.json.

        Args:
            when: "before" or "after" training.
            numbers: scores by metric name.
            num_images: number of images per score.
            prompts: name of the prompt list.
        """
        content = records.read_object(self._evaluation) or {}
        content |= {when: numbers, "num_images": num_images, "prompts": prompts}
        files.write_text(self._evaluation, json.dumps(content, indent=2))

    def mark_stopped(self, stop: RunStopped | None) -> None:
        """Write why the run was stopped; None removes the mark."""
        if stop is None:
            with files.explained(self._stopped):
                self._stopped.unlink(missing_ok=True)
            return
        content = {"round": stop.round_number, "cause": stop.cause}
        files.write_text(self._stopped, json.dumps(content))

    def add_notes(self, notes: Sequence[str]) -> None:
        """Add sentences to notes.json, which the report shows."""
        if notes:
            files.write_text(self._notes, json.dumps([*records.read_list(self._notes), *notes], indent=2))

    def open_metrics(self, *, first_round: int) -> RoundLines:
        """Open metrics.jsonl to append one line per round; lines from `first_round` on are dropped."""
        return RoundLines(self.metrics_file, first_round=first_round)

    def open_scores(self, *, first_round: int) -> RoundLines:
        """Open scores.jsonl to append one line per image; lines from `first_round` on are dropped."""
        return RoundLines(self.scores_file, first_round=first_round)

    def save_checkpoint(self, checkpoint: Checkpoint, *, num_kept: int) -> None:
        """Write a checkpoint atomically, and remove all but the newest `num_kept`."""
        checkpoints.save_checkpoint(self.checkpoints, checkpoint, num_kept=num_kept)

    def remove_old_checkpoints(self, *, last_round: int, num_kept: int) -> None:
        """Remove all but the newest `num_kept` of the checkpoints up to `last_round`."""
        checkpoints.remove_old_checkpoints(self.checkpoints, last_round=last_round, num_kept=num_kept)

    def remove_checkpoints(self, *, first_round: int) -> None:
        """Remove the checkpoints of `first_round` and of later rounds."""
        checkpoints.remove_checkpoints(self.checkpoints, first_round=first_round)

    # Read

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint; its content is not checked."""
        return checkpoints.has_checkpoint(self.checkpoints)

    def load_checkpoint(self, *, on_message: OnMessage = lambda _: None) -> Checkpoint | None:
        """Load the newest checkpoint that is whole, or return None if there is none.

        Args:
            on_message: receives a sentence per damaged checkpoint.

        Raises:
            UserError: every checkpoint is damaged, or the newest whole one has another format.
        """
        return checkpoints.load_newest_checkpoint(self.checkpoints, on_message=on_message)

    def read(self) -> RunRecord:
        """Read everything that exists so far.

        Raises:
            UserError: there is no `run.toml`, or a file cannot be parsed.
        """
        if not self.is_started():
            raise UserError(
                f"run_dir={str(self.path)!r} is not a run folder: it has no run.toml; give the folder of a run."
            )
        settings_text = self.run_file.read_text(encoding="utf-8")
        environment = records.read_object(self._environment) or {}
        return RunRecord(
            name=self.path.resolve().name,
            settings_text=settings_text,
            settings=tomllib.loads(settings_text),
            environment={name: str(value) for name, value in environment.items()},
            rounds=self.read_metrics(),
            evaluation=self.read_evaluation(),
            prompts=records.read_list(self.samples / "prompts.json"),
            images=records.list_images(self.samples),
            stop=self.read_stop(),
            notes=records.read_list(self._notes),
        )

    def read_metrics(self) -> tuple[Json, ...]:
        """Return the metrics of each finished round; empty before the first.

        Raises:
            UserError: a complete line is not a JSON object.
        """
        return records.read_metrics(self.metrics_file)

    def read_evaluation(self) -> Evaluation | None:
        """Return the scores before and after training, or None before the first evaluation.

        Raises:
            UserError: evaluation.json is not a JSON object of scores.
        """
        return records.read_evaluation(self._evaluation)

    def read_stop(self) -> Stop | None:
        """Return why the run was stopped, or None.

        Raises:
            UserError: stopped.json is not a JSON object.
        """
        return records.read_stop(self._stopped)


def _write_prompts(file: Path, prompts: Sequence[str]) -> None:
    """Write prompts from Python; a file that has the same ones, perhaps with metadata, stays."""
    if not file.is_file() or load_prompts(str(file)) != tuple(prompts):
        files.write_text(file, json.dumps(prompts, indent=1, ensure_ascii=False))


def _environment(device: torch.device, *, num_processes: int) -> dict[str, str]:
    """Return versions, machine, commit, processes and threads by name."""
    environment: dict[str, str] = {name: version(name) for name in _LIBRARIES}
    environment |= {"python": platform.python_version(), "machine": platform.platform(), "device": str(device)}
    environment["commit"] = current_commit()
    return environment | {"processes": str(num_processes), "threads": str(torch.get_num_threads())}
