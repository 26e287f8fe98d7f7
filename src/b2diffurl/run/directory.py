"""A run's folder: what is written into it, and where. Nothing that is there is overwritten by another run."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from b2diffurl.config import read_toml, to_toml
from b2diffurl.errors import RunStopped, UserError
from b2diffurl.evaluation.generate import GeneratedImages
from b2diffurl.images import to_pil
from b2diffurl.run.settings import Run

_LIBRARIES = ("b2diffurl", "torch", "diffusers", "transformers", "peft")


class RunFolder:
    """The files of one run.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.toml"
        self.metrics_file = path / "metrics.jsonl"
        self.scores_file = path / "scores.jsonl"
        self.checkpoints = path / "checkpoints"
        self.lora = path / "lora"
        self._evaluation = path / "evaluation.json"
        self._stopped = path / "stopped.json"
        self._samples = path / "samples"

    def check(self, run: Run, *, resume: bool) -> None:
        """See that the folder is free, or that it holds this very run. Nothing is written yet.

        Raises:
            UserError: the folder holds a run and `resume` is not asked for, or holds none or another one and it is.
        """
        if resume:
            self._check_same(run)
            return
        if self.run_file.exists():
            raise UserError(f"output {self.path} already holds a run; give another folder, or --resume to continue it.")
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"output {self.path} is there and not an empty folder; give another folder.")

    def begin(self, run: Run) -> None:
        """Make the folder, and write what it will hold the results of."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.run_file.write_text(to_toml(run), encoding="utf-8")

    def _check_same(self, run: Run) -> None:
        if not self.run_file.is_file():
            raise UserError(f"output {self.path} holds no run to resume; leave out --resume.")
        if read_toml(self.run_file, Run) != run:
            raise UserError(
                f"output {self.path} holds a run with other settings; resume it with `train {self.run_file} --resume`."
            )

    def write_environment(self, device: torch.device) -> None:
        """Write env.json: what the run's numbers may depend on besides its settings."""
        known: dict[str, str] = {name: version(name) for name in _LIBRARIES}
        known |= {"python": platform.python_version(), "machine": platform.platform(), "device": str(device)}
        known["threads"] = str(torch.get_num_threads())
        (self.path / "env.json").write_text(json.dumps(known, indent=2), encoding="utf-8")

    def write_samples(self, pictures: GeneratedImages, *, round_index: int) -> None:
        """Write the sample pictures of a round; round 0 is before training."""
        folder = self._samples / f"round_{round_index:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(pictures.images):
            to_pil(image).save(folder / f"{index:03d}.png")
        (self._samples / "prompts.json").write_text(json.dumps(pictures.prompts), encoding="utf-8")

    def write_evaluation(self, when: str, numbers: dict[str, float], *, num_images: int, prompts: str) -> None:
        """Add what was judged "before" or "after" training to evaluation.json."""
        told = self.read_evaluation() | {when: numbers, "num_images": num_images, "prompts": prompts}
        self._evaluation.write_text(json.dumps(told, indent=2), encoding="utf-8")

    def read_evaluation(self) -> dict[str, Any]:
        """What evaluation.json says so far."""
        if not self._evaluation.is_file():
            return {}
        return json.loads(self._evaluation.read_text(encoding="utf-8"))

    def mark_stopped(self, stop: RunStopped | None) -> None:
        """Write why the run was stopped, or take that back."""
        if stop is None:
            self._stopped.unlink(missing_ok=True)
            return
        told = {"round": stop.round_index, "cause": stop.cause}
        self._stopped.write_text(json.dumps(told), encoding="utf-8")
