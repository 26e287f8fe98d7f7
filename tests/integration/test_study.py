"""A study of the embedded model: trained in processes of its own, killed, resumed to the same table."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from b2diffurl.cli import main

STUDY = """
title = "tiny"
text = "Two arms of two rounds."
num_images = 16
evaluation_images = 6
interim_images = 3
evaluate_every_images = 8
seeds = [0]

[conditions.""]
reward_queries_per_round = 8
prompts = "prompts.txt"
sampler = { num_inference_steps = 4 }
schedule = { tau_first = 3 }

[arms.paper]

[arms.ours]
schedule = { tau_last = 1 }
advantage = { use = "branch" }

[samples]
images_per_prompt = 1
seed = 0

[samples.prompts]
"" = ["a bear riding a bike", "a dog riding a bike"]
"""


def without_times(folder: Path) -> list[str]:
    """The lines of cells.csv without the seconds."""
    lines = (folder / "results" / "tiny" / "cells.csv").read_text(encoding="utf-8").splitlines()
    seconds = lines[0].split(",").index("seconds")
    return [",".join(cell for place, cell in enumerate(line.split(",")) if place != seconds) for line in lines]


@pytest.mark.slow
def test_a_killed_study_resumes_to_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
        (folder / "tiny.toml").write_text(STUDY, encoding="utf-8")
        (folder / "prompts.txt").write_text("a bear riding a bike\na cat playing chess\n", encoding="utf-8")
    words = ["study", "tiny.toml"]
    monkeypatch.chdir(folders[1])
    with subprocess.Popen([sys.executable, "-m", "b2diffurl.cli", *words], process_group=0) as process:
        metrics = folders[1] / "runs" / "studies"
        while not any(file.stat().st_size for file in metrics.glob("*/metrics.jsonl")):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert main(words) == 0
    monkeypatch.chdir(folders[0])
    assert main(words) == 0
    whole, killed = without_times(folders[0]), without_times(folders[1])
    assert whole == killed
    assert len(whole) == 1 + 1 + 3 + 3  # header, base, before training, after one round and at the end of each arm
    monkeypatch.chdir(folders[1])
    width, height = Image.open("results/tiny/samples.png").size
    assert width > height > 200  # three panels, of two images on top of each other
    tables = [folders[1] / "results" / "tiny" / name for name in ("table.md", "cells.csv")]
    before = [table.read_bytes() for table in tables]
    assert main([*words, "--only-table"]) == 0
    assert [table.read_bytes() for table in tables] == before
    assert main([*words, "--plan"]) == 0


@pytest.mark.slow
def test_a_terminated_study_leaves_no_trainer(tmp_path: Path) -> None:
    text = STUDY.replace("num_images = 16", "num_images = 8000").replace("seeds = [0]", "seeds = [0, 1]")
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("a bear riding a bike\na cat playing chess\n", encoding="utf-8")
    command = [sys.executable, "-m", "b2diffurl.cli", "study", "tiny.toml", "--num-jobs", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while len(trainers := psutil.Process(process.pid).children()) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        output, error = process.communicate(timeout=60)
        assert not any(trainer.is_running() for trainer in trainers)
    assert (process.returncode, error) == (130, "b2diffurl: interrupted; the same command continues.\n")
    assert output.count("\n") == 2  # the two runs that had started; nothing started or failed afterward
