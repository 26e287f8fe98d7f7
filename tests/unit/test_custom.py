"""User classes as schedule, selection, advantage and objective: found by name, checked, and delegated to."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from b2diffurl.algorithm.custom import CustomAdvantage, CustomObjective, CustomSchedule, CustomSelection
from b2diffurl.algorithm.interfaces import Normalizer, Objective, Schedule, Selector
from b2diffurl.cli import main
from b2diffurl.config import from_tables, to_tables, to_toml
from b2diffurl.errors import UserError
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.settings import Run

QUICK = "emoji-b2-paper"
INTERFACES: dict[type[Any], type] = {
    CustomSchedule: Schedule, CustomSelection: Selector, CustomAdvantage: Normalizer, CustomObjective: Objective,
}  # fmt: skip


class Anything:
    """Has every method of every interface; each returns its name, the options and its arguments."""

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale
        self.checked: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **options: (name, self.scale, args, options)

    def check(self, **arguments: Any) -> None:
        if self.scale < 0:
            raise UserError(f"scale is {self.scale}; give 0 or more.")
        self.checked.append(arguments)


class Nothing:
    pass


def members(interface: type) -> list[str]:
    return [name for name in vars(interface) if not name.startswith("_") and name != "check"]


@pytest.mark.parametrize(("cls", "interface"), INTERFACES.items())
def test_it_fits_its_interface_and_delegates_every_member(cls: type[Any], interface: type) -> None:
    custom = cls(name=f"{__name__}:Anything", options={"scale": 2.0})
    assert isinstance(custom, interface)
    assert members(interface)
    for name in members(interface):
        member = getattr(custom, name)
        assert member("a", b=3) == (name, 2.0, ("a",), {"b": 3})


class Bare:
    """A schedule and an advantage that lack what the interfaces give by default."""

    num_past_rounds = 0

    def interval_length(self, *arguments: Any, **options: Any) -> int: ...

    def normalize(self, *arguments: Any, **options: Any) -> Any: ...

    def metrics(self, **options: Any) -> dict[str, int]: ...


class Halved(Bare):
    tau_last = 2

    def clip(self, advantages: Tensor) -> Tensor:
        return advantages / 2


def test_a_class_that_lacks_a_default_has_that_of_the_interface() -> None:
    bare, halved = (CustomAdvantage(name=f"{__name__}:{name}") for name in ("Bare", "Halved"))
    nine = torch.full((1, 1), 9.0)
    assert (float(bare.clip(nine)), float(halved.clip(nine))) == (9.0, 4.5)
    schedules = [CustomSchedule(name=f"{__name__}:{name}") for name in ("Bare", "Halved")]
    assert [schedule.tau_last for schedule in schedules] == [0, 2]


def test_options_of_other_types_are_other_instances() -> None:
    """1 == 1.0 == True, but a class may distinguish them."""
    for scale in (1, 1.0, True):
        custom = CustomSchedule(name=f"{__name__}:Anything", options={"scale": scale})
        assert type(custom.instance().scale) is type(scale)


@pytest.mark.parametrize("kind", ["schedule", "selection", "advantage", "objective"])
def test_a_class_without_the_methods_is_refused_with_their_names(kind: str) -> None:
    tables = to_tables(emoji_b2_paper()) | {kind: {"use": f"{__name__}:Nothing"}}
    with pytest.raises(UserError) as refused:
        from_tables(tables, Run)
    message = str(refused.value)
    assert message.startswith(f"{kind} '{__name__}:Nothing' lacks ")
    assert "let the class inherit from b2diffurl.algorithm.interfaces." in message
    assert message.endswith(".")


@pytest.mark.parametrize("kind", ["schedule", "selection", "advantage"])
def test_a_class_may_refuse_the_run(kind: str) -> None:
    tables = to_tables(emoji_b2_paper()) | {kind: {"use": f"{__name__}:Anything", "scale": -1.0}}
    with pytest.raises(UserError, match=r"scale is -1\.0; give 0 or more\."):
        from_tables(tables, Run)


@pytest.mark.parametrize("kind", ["schedule", "selection", "advantage"])
def test_the_short_form_in_toml_is_the_long_one(kind: str) -> None:
    quick = to_tables(emoji_b2_paper())
    short = from_tables(quick | {kind: {"use": f"{__name__}:Anything", "scale": 0.5}}, Run)
    long = {"use": "custom", "name": f"{__name__}:Anything", "options": {"scale": 0.5}}
    assert short == from_tables(quick | {kind: long}, Run)
    assert from_tables(tomllib.loads(to_toml(short)), Run) == short


@pytest.mark.parametrize("kind", ["schedule", "selection", "advantage"])
@pytest.mark.parametrize("form", ["{kind}:{name}", "--{kind}.use {name}"])
def test_flags_name_a_class_in_a_file(
    kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "class Mine:\n"
        "    num_past_rounds = 0\n"
        "    def __init__(self, *, length=3): self.length = length\n"
        "    def interval_length(self, *arguments, **options): return self.length\n"
        "    def select(self, *arguments, **options): ...\n"
        "    def normalize(self, *arguments, **options): ...\n",
        encoding="utf-8",
    )
    words = form.format(kind=kind, name="mine.py:Mine").split()
    assert main(["train", QUICK, "--dry-run", *words, f"--{kind}.options", "length", "5"]) == 0
    written = tomllib.loads(capsys.readouterr().out)
    assert written[kind] == {"use": "custom", "name": "mine.py:Mine", "options": {"length": 5}}
