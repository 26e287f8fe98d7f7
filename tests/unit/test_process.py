"""Settings of the whole process."""

import os

import pytest

from b2diffurl.cli.environment import prepare_process


def test_float32_convolutions_are_float32_unless_the_user_has_set_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    prepare_process()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "1"
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    prepare_process()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
