"""The ready servers of published rewards: their pins, and the protocol around a stand-in for the package.

The packages and their weights cannot be installed beside this one. The stand-ins have the signatures of hpsv3 1.0.0 and
image-reward 1.5, and score brightness.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from b2diffurl.rewards import load_reward, score_images

SERVERS = Path(__file__).parents[2] / "examples" / "servers"
STAND_INS = {
    "hpsv3": """
import numpy, torch
class HPSv3RewardInferencer:
    def __init__(self, config_path=None, checkpoint_path=None, device="cuda", differentiable=False):
        assert device == "cpu"
    def reward(self, image_paths, prompts):
        means = [[numpy.asarray(i).mean() / 255 + len(p), 9.0] for i, p in zip(image_paths, prompts, strict=True)]
        return torch.tensor(means, requires_grad=True)
""",
    "ImageReward": """
import numpy
class Model:
    def score(self, prompt, image):
        return numpy.asarray(image).mean() / 255 + len(prompt)
def load(name="ImageReward-v1.0", device="cuda", download_root=None, med_config=None):
    assert (name, device) == ("ImageReward-v1.0", "cpu")
    return Model()
""",
}


@pytest.mark.parametrize(("server", "package"), [("hpsv3", "hpsv3"), ("imagereward", "ImageReward")])
def test_a_ready_server_scores_images(tmp_path: Path, server: str, package: str) -> None:
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").write_text(STAND_INS[package], encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, SERVERS / f"{server}.py", "0", "cpu"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as output:
        try:
            lines: list[str] = []
            for line in output:
                lines.append(line)
                if match := re.fullmatch(rf"{server} at (http://127\.0\.0\.1:\d+)\n", line):
                    break
            else:
                pytest.fail("".join(lines))
            reward = load_reward(f"remote:{match[1]}")
            images = torch.stack([torch.ones(3, 8, 8), torch.zeros(3, 8, 8)])
            assert score_images(reward, images, ["a", "bcd"]).scores.tolist() == pytest.approx([2.0, 3.0])
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("server", sorted(path.stem for path in SERVERS.glob("*.py")))
def test_a_server_pins_its_package_in_inline_metadata(server: str) -> None:
    """As the standard for scripts defines it (PEP 723)."""
    text = (SERVERS / f"{server}.py").read_text(encoding="utf-8")
    block = re.search(r"(?m)^# /// script\n((?:^#(?: .*)?\n)+)^# ///$", text)
    assert block is not None
    metadata = tomllib.loads(re.sub(r"(?m)^# ?", "", block[1]))
    assert metadata["requires-python"] == ">=3.10"
    first = metadata["dependencies"][0]
    assert re.fullmatch(r"[\w-]+==[\d.]+", first)
    assert first.replace("==", " ") in text.split('"""')[1].replace("\n", " ")
