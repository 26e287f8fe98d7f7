"""User code runs beside a run: it can neither change nor end it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.cli import main
from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.plugins import find_named
from b2diffurl.rewards import Term, WeightedSum, score_images
from b2diffurl.training.scorer import Scoring


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


def blackens(images: Tensor, prompts: Any) -> Tensor:
    scores = brightness(images, prompts)
    images.zero_()
    prompts.clear()
    return scores


class Buffered:
    """Returns its own buffer."""

    def __init__(self) -> None:
        self.out = torch.zeros(4, dtype=torch.float64)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.out[: len(images)] = brightness(images, prompts)
        return self.out[: len(images)]


IMAGES = torch.tensor([0.25, 0.5]).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()
PROMPTS = ["a cat", "a dog"]


def test_a_reward_that_returns_its_own_buffer_does_not_overwrite_earlier_scores() -> None:
    with Scoring(Buffered(), watched={}) as scoring:
        scoring.submit(IMAGES, PROMPTS, [{}, {}])
        scoring.submit(1 - IMAGES, PROMPTS, [{}, {}])
        assert scoring.result().rewards.tolist() == [0.25, 0.5, 0.75, 0.5]


def test_a_reward_that_writes_into_its_input_changes_nothing_for_others() -> None:
    both = WeightedSum((Term(name="a.py:f"), Term(name="a.py:g")), (blackens, brightness))
    with Scoring(both, watched={"a.py:h": brightness}) as scoring:
        scoring.submit(IMAGES.clone(), list(PROMPTS), [{}, {}])
        scores = scoring.result()
    assert scores.rewards.tolist() == [0.5, 1.0]
    assert scores.terms["a.py:h"].tolist() == [0.25, 0.5]


def test_a_reward_that_writes_into_its_input_is_retried_on_the_same_images() -> None:
    calls: list[int] = []

    def fails_once(images: Tensor, prompts: Any) -> Tensor:
        scores = blackens(images, prompts)
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        return scores

    with Scoring(fails_once, watched={}, pause_seconds=0.0) as scoring:
        scoring.submit(IMAGES.clone(), list(PROMPTS), [{}, {}])
        assert scoring.result().rewards.tolist() == [0.25, 0.5]


def test_metadata_is_copied() -> None:
    def pops(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        return brightness(images, prompts) + torch.tensor([entry.pop("n") for entry in metadata])

    metadata = [{"n": 1.0}, {"n": 2.0}]
    first, second = (score_images(pops, IMAGES, PROMPTS, metadata).scores.tolist() for _ in range(2))
    assert first == second


def test_process_settings_are_restored_after_a_call(tmp_path: Path) -> None:
    def careless(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = brightness(images, prompts)
        os.chdir(tmp_path)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        return scores

    before = Path.cwd()
    assert score_images(careless, IMAGES, PROMPTS).scores.tolist() == [0.25, 0.5]
    assert Path.cwd() == before
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_device() == torch.device("cpu")
    assert torch.is_grad_enabled()


def test_process_settings_are_restored_after_an_import(tmp_path: Path) -> None:
    file = tmp_path / "careless.py"
    file.write_text("import os, torch\nos.chdir('/')\ntorch.set_default_dtype(torch.float64)\ndef f(a, b): return a\n")
    before = Path.cwd()
    find_named(f"{file}:f", kind="reward", what="function")
    assert Path.cwd() == before
    assert torch.get_default_dtype() == torch.float32


def test_a_reward_that_exits_stops_the_run() -> None:
    def leaves(images: Any, prompts: Any) -> Tensor:  # noqa: ARG001
        raise SystemExit(0)

    message = r"the reward called sys\.exit\(0\) \(.*test_user_code\.py, line \d+\); raise an exception instead\.$"
    with Scoring(leaves, watched={}) as scoring:
        scoring.submit(IMAGES, PROMPTS, [{}, {}])
        with pytest.raises(RewardFailed, match=message):
            scoring.result()


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("from os import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        ("raise ValueError('no')", "ValueError: no"),
        ("import sys; sys.exit(0)", "called sys.exit(0)"),
    ],
)
def test_a_file_that_raises_at_import_is_refused_with_its_line(tmp_path: Path, line: str, cause: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(f"import os\n{line}\ndef f(images, prompts): return images\n")
    with pytest.raises(UserError) as refused:
        find_named(f"{file}:f", kind="reward", what="function")
    assert cause in str(refused.value)
    assert f"{file}, line 2" in str(refused.value)
    assert str(refused.value).endswith(".")


def test_a_module_that_raises_at_import_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("\nraise ValueError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"ValueError: no \(.*broken_module\.py, line 2\)"):
        find_named("broken_module:f", kind="reward", what="function")


def test_check_reward_reports_a_reward_that_exits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "leaves.py"
    file.write_text("import sys\ndef f(images, prompts):\n    sys.exit(0)\n")
    assert main(["check", "reward", f"{file}:f"]) == 1
    assert "BROKEN" in capsys.readouterr().out


@pytest.mark.slow
def test_a_reward_from_python_must_be_a_function(tmp_path: Path) -> None:
    """In a process of its own: types are not checked there."""
    script = """
import b2diffurl
from b2diffurl.training.trainer import train
for reward in ("rw.py:clean", 5):
    try:
        train(b2diffurl.recipes.emoji_b2_paper(), output="run", reward=reward)
    except b2diffurl.UserError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.partition("; ")[0] for line in lines] == [
        f"reward is {reward!r}, which is not a function of images and prompts" for reward in ("rw.py:clean", 5)
    ]
    assert not list(tmp_path.iterdir())


def test_noise_does_not_depend_on_the_default_dtype() -> None:
    def noise() -> Tensor:
        return NoiseKey(seed=0, stream=1).normal(trunk=0, branch=1, num=2, shape=(4, 2, 2))

    expected = noise()
    torch.set_default_dtype(torch.float64)
    try:
        actual = noise()
    finally:
        torch.set_default_dtype(torch.float32)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)
