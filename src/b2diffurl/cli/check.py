"""`b2diffurl check reward X`: check that a reward keeps its contract."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from b2diffurl.cli.common import announce_device, parse, prepare
from b2diffurl.distributed import AUTO, check_device
from b2diffurl.errors import UserError
from b2diffurl.rewards import RewardSettings, check_reward, load_reward
from b2diffurl.rewards.contract import (
    PROMPTS,
    SIZE,
    Better,
    Finding,
    check_reward_contract,
    read_image,
    read_images,
    synthetic_images,
)


@dataclass(frozen=True, kw_only=True)
class CheckReward:
    """Check that a reward keeps its contract: one finite score per image, in any batch; higher is better.

    Attributes:
        reward: the reward, as for `train --reward`.
        better: an image that must score higher than `worse` for `prompt`.
        worse: the other image.
        prompt: prompt of the two images.
        images: images to check with, all of one size; by default eight synthetic ones.
        prompts: prompts of the images, repeated as needed.
        size: side of the synthetic images, in pixels.
        device: device of the models, such as cpu or cuda; "auto" is the first of cuda, mps and cpu that there is.
        settings: settings of the rewards that have some.
    """

    reward: tyro.conf.Positional[str]
    better: Path | None = None
    worse: Path | None = None
    prompt: str | None = None
    images: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = ()
    prompts: tuple[str, ...] = PROMPTS
    size: int = SIZE
    device: str = AUTO
    settings: Annotated[RewardSettings, tyro.conf.arg(name="")] = field(default_factory=RewardSettings)


def check(words: list[str]) -> int:
    """Check a reward; other components cannot be checked yet."""
    if words and words[0] in ("-h", "--help"):
        print("usage: b2diffurl check reward MODULE:FUNCTION [flags]; `b2diffurl check reward --help` lists the flags")
        return 0
    if not words or words[0] != "reward":
        raise UserError("`b2diffurl check` needs a component; give `b2diffurl check reward MODULE:FUNCTION`.")
    prepare()
    return run(parse(CheckReward, words[1:], prog="b2diffurl check reward"))


def run(command: CheckReward) -> int:
    """Check a reward and print the findings.

    Returns:
        0 if the whole contract holds, otherwise 1.

    Raises:
        UserError: the reward is invalid, or a file cannot be read.
    """
    check_device(command.device)
    check_reward(command.reward, command.settings)
    better = _read_pair(command)
    if command.size < 1:
        raise UserError(f"size is {command.size}; give 1 or more.")
    if not command.prompts:
        raise UserError("prompts is empty; give at least one.")
    images = read_images(command.images) if command.images else synthetic_images(size=command.size)
    prompts = [command.prompts[index % len(command.prompts)] for index in range(len(images))]
    device = announce_device(command.device)
    reward = load_reward(command.reward, command.settings, device=device)
    findings = check_reward_contract(reward, images=images, prompts=prompts, better=better)
    print_findings(Console(), findings)
    return 0 if all(finding.ok for finding in findings) else 1


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print one line per finding, and how many hold."""
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        mark = Text("holds", style="green") if finding.ok else Text("BROKEN", style="bold red")
        table.add_row(mark, Text(finding.name), Text(finding.detail))
    console.print(table)
    num_held = sum(finding.ok for finding in findings)
    console.print(f"{num_held} of {len(findings)} hold.", highlight=False)


def _read_pair(command: CheckReward) -> Better | None:
    if command.better is None and command.worse is None and command.prompt is None:
        return None
    if command.better is None or command.worse is None or command.prompt is None:
        missing = next(name for name in ("better", "worse", "prompt") if getattr(command, name) is None)
        raise UserError(f"{missing} is missing; give --better, --worse and --prompt together, or none of them.")
    return read_image(command.better), read_image(command.worse), command.prompt
