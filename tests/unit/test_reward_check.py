"""The checker finds what breaks a reward's contract, each by its own finding, and passes what keeps it."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from PIL import Image
from rich.console import Console
from torch import Tensor

from b2diffurl.errors import UserError
from b2diffurl.images import to_pil
from b2diffurl.rewards import load_reward
from b2diffurl.rewards.contract import (
    PROMPTS,
    CheckReward,
    Finding,
    check_reward_contract,
    made_pictures,
    print_findings,
    read_pictures,
    run,
)

SHAPE, FINITE, TWICE, ONE = "one score a picture", "finite", "same scores twice", "a batch of one"
BATCH, INPUT, BETTER, KIND = "same scores in any batch", "leaves its input alone", "higher is better", "kind of numbers"
IMAGES = made_pictures(size=16)
TEXTS = [PROMPTS[i % len(PROMPTS)] for i in range(len(IMAGES))]


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Keeps the contract; depends on the prompt too."""
    return images.mean(dim=(1, 2, 3)) + torch.tensor([0.01 * len(prompt) for prompt in prompts])


def findings(reward: Any, **changed: Any) -> dict[str, Finding]:
    asked: dict[str, Any] = {"images": IMAGES, "prompts": TEXTS} | changed
    return {finding.name: finding for finding in check_reward_contract(reward, **asked)}


def broken(reward: Any, **changed: Any) -> set[str]:
    return {name for name, finding in findings(reward, **changed).items() if not finding.ok}


def test_a_sound_reward_keeps_every_promise() -> None:
    found = findings(brightness)
    assert list(found) == [SHAPE, FINITE, TWICE, ONE, BATCH, INPUT, KIND]
    assert all(finding.ok for finding in found.values())
    scores = brightness(IMAGES, TEXTS)
    low, high = float(scores.min()), float(scores.max())
    assert re.fullmatch(rf"float32, \S+ ms a picture, {low:.6g} to {high:.6g}", found[KIND].told)


@pytest.mark.parametrize("name", ["clip:emoji", "clip:emoji - 0.1*jpeg-size:compressible"])
def test_ours_keep_every_promise(name: str) -> None:
    """Red is higher for a red picture's prompt than noise is for it, or lower: one of the two orders holds."""
    reward = load_reward(name)
    assert broken(reward) == set()
    pair = IMAGES[0], IMAGES[3], PROMPTS[0]
    turned = IMAGES[3], IMAGES[0], PROMPTS[0]
    assert [BETTER in broken(reward, better=given) for given in (pair, turned)] in ([True, False], [False, True])


class Shuffles:
    """Gives the scores of the batch in another order, always the same."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return brightness(images, prompts).roll(1)


class ByBatch:
    """Normalises over the batch."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = brightness(images, prompts)
        return (scores - scores.mean()) / (scores.std(correction=0) + 1e-6)


class Slightly:
    """Leans on the batch: whole and alone differ by a share of the scores' spread."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = brightness(images, prompts).double()
        spread = float(brightness(IMAGES, TEXTS).max() - brightness(IMAGES, TEXTS).min())
        return scores + self.share * spread * (len(scores) - 1) / (len(IMAGES) - 1)


def random(images: Tensor, _prompts: Sequence[str]) -> Tensor:
    return torch.rand(len(images))


def not_a_number(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return brightness(images, prompts).masked_fill(images.flatten(2).std(dim=2).mean(dim=1) < 1e-3, float("nan"))


def not_a_number_in_company(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return brightness(images, prompts).masked_fill(torch.tensor(len(images) > 1), float("nan"))


def writes(images: Tensor, prompts: Sequence[str]) -> Tensor:
    scores = brightness(images, prompts)
    images.sub_(0.5).div_(0.5)
    return scores


def writes_prompts(images: Tensor, prompts: Any) -> Tensor:
    scores = brightness(images, prompts)
    prompts[:] = [f"a photo of {prompt}" for prompt in prompts]
    return scores


def wants_two(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return brightness(images, prompts).squeeze()


def breaks(_images: Tensor, _prompts: Sequence[str]) -> Tensor:
    raise ValueError("no such\n   layer")


def breaks_alone(images: Tensor, prompts: Sequence[str]) -> Tensor:
    if len(images) == 1:
        raise IndexError("dimension")
    return brightness(images, prompts)


@pytest.mark.parametrize(
    ("reward", "names", "told"),
    [
        (Shuffles(), {BATCH}, "; scores must keep the order."),
        (ByBatch(), {BATCH}, "; a score must depend on its own picture and prompt alone."),
        (Slightly(1e-3), {BATCH}, ", 0.001 of the scores' spread; a score must "),
        (Slightly(1e-5), set[str](), ""),
        (random, {TWICE, BATCH}, "; fix the seed"),
        (not_a_number, {FINITE}, "3 of 8 are not: score 3 is nan."),
        (
            not_a_number_in_company,
            {FINITE, BATCH},
            "one by one: a score is a finite number once and not the other time",
        ),
        (writes, {INPUT}, "it writes into its pictures; work on a copy"),
        (writes_prompts, {INPUT}, "it writes into its prompts; "),
        (lambda images, prompts: brightness(images, prompts)[:, None], {SHAPE, ONE, BATCH}, "shape (8, 1) for 8 pict"),
        (lambda images, prompts: brightness(images, prompts).mean(), {SHAPE, ONE, BATCH}, "shape () for 8 pictures; "),
        (lambda images, prompts: brightness(images, prompts)[:3], {SHAPE, BATCH}, "shape (3,) for 8 pictures; "),
        (wants_two, {ONE}, "shape () for 1 picture; return shape (1,)."),
        (breaks_alone, {ONE, BATCH}, "IndexError: dimension"),
        (lambda images, prompts: brightness(images, prompts) + 1j, {KIND}, "complex64, "),
        (lambda *_: torch.zeros(0), {SHAPE, ONE, BATCH, KIND}, "no scores at all."),
        (lambda *_: None, {SHAPE, FINITE, TWICE, ONE, BATCH, INPUT, KIND}, "UserError: reward of your"),
    ],
)
def test_what_breaks_the_contract_is_found(reward: Callable[..., Any], names: set[str], told: str) -> None:
    found = findings(reward)
    assert {name for name, finding in found.items() if not finding.ok} == names
    if names:
        assert any(told in found[name].told for name in names)


def test_an_exception_is_every_findings_cause_and_stops_none() -> None:
    found = findings(breaks, better=(IMAGES[0], IMAGES[1], "a cat"))
    assert len(found) == 8
    assert {finding.told for finding in found.values()} == {"ValueError: no such layer"}
    assert not any(finding.ok for finding in found.values())


def test_a_reward_that_fails_is_not_asked_for_ever() -> None:
    """A server that is not there takes its time to say so: once for the whole batch, once for a picture alone."""
    sizes: list[int] = []

    def fails(images: Tensor, _prompts: Sequence[str]) -> Tensor:
        sizes.append(len(images))
        raise OSError("no server")

    findings(fails)
    assert sizes == [8, 1]


def test_an_interruption_is_no_finding() -> None:
    def interrupted(_images: Tensor, _prompts: Sequence[str]) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        findings(interrupted)


@pytest.mark.parametrize(("sign", "holds"), [(1, True), (-1, False), (0, False)])
def test_higher_is_better_on_a_pair(sign: int, holds: bool) -> None:
    pair = torch.full((3, 8, 8), 0.75), torch.full((3, 4, 6), 0.25), "a cat"
    found = findings(lambda images, _: sign * images.mean(dim=(1, 2, 3)), better=pair)
    assert found[BETTER].ok == holds
    told = f"{sign * 0.75:.6g} for the better picture, {sign * 0.25:.6g} for the worse"
    assert found[BETTER].told.removesuffix("; give it the other sign if low is good.") == told


def test_a_constant_is_told() -> None:
    found = findings(lambda images, _: [1] * len(images))
    assert all(finding.ok for finding in found.values())
    assert "int64" in found[KIND].told
    assert "always 1: these pictures cannot tell scores apart" in found[KIND].told


def test_no_more_queries_than_needed() -> None:
    """The whole batch, again, reversed, once more for the time, and each picture alone."""
    sizes: list[int] = []

    async def counted(images: Tensor, prompts: Sequence[str]) -> list[float]:
        sizes.append(len(images))
        return brightness(images, prompts).tolist()

    assert broken(counted) == set()
    assert sorted(sizes) == [1] * 8 + [8] * 4


@pytest.mark.parametrize(("num_images", "num_prompts"), [(1, 1), (8, 7)])
def test_too_few_pictures_or_prompts_are_refused(num_images: int, num_prompts: int) -> None:
    with pytest.raises(UserError, match="; give at least 2 pictures, and a prompt each"):
        check_reward_contract(brightness, images=IMAGES[:num_images], prompts=TEXTS[:num_prompts])


def test_made_pictures_are_pictures_and_always_the_same() -> None:
    assert torch.equal(made_pictures(size=16), IMAGES)
    assert IMAGES.shape == (8, 3, 16, 16)
    assert float(IMAGES.min()) >= 0
    assert float(IMAGES.max()) <= 1
    assert len({tuple(image.flatten().tolist()) for image in IMAGES}) == 8


def test_findings_are_printed_whole() -> None:
    console = Console(width=100, record=True)
    found = [Finding(name="finite", ok=True, told="all [8]"), Finding(name=BATCH, ok=False, told="they differ.")]
    print_findings(console, found)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0] == ["holds", "finite", "all", "[8]"]
    assert lines[1][0] == "BROKEN"
    assert lines[2] == ["1", "of", "2", "hold."]


# The command

OWN = """
def redness(images, prompts):
    return images[:, 0].mean(dim=(1, 2))

def by_batch(images, prompts):
    return redness(images, prompts) - redness(images, prompts).mean()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    for name, colour in (("red", (250, 10, 10)), ("blue", (10, 10, 250))):
        Image.new("RGB", (20, 12), colour).save(tmp_path / f"{name}.png")
    to_pil(IMAGES[0]).save(tmp_path / "noise.png")
    return tmp_path


def asked(*words: str) -> CheckReward:
    return tyro.cli(CheckReward, args=words)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["own.py:redness"], 0, "7 of 7 hold."),
        (["own.py:by_batch"], 1, "6 of 7 hold."),
        (["own.py:redness", "--better", "red.png", "--worse", "blue.png", "--prompt", "a cat"], 0, "8 of 8 hold."),
        (["own.py:redness", "--better", "blue.png", "--worse", "red.png", "--prompt", "a cat"], 1, "other sign"),
        (["own.py:redness", "--images", "red.png", "blue.png", "--prompts", "a cat"], 0, "shape (2,) for 2 pictures"),
        (["0.5*own.py:redness - jpeg-size:compressible", "--size", "8"], 0, "float64"),
    ],
)
@pytest.mark.usefixtures("here")
def test_the_command_tells_and_its_exit_code_says_so(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(asked(*words)) == code
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["own.py:green"], "file own.py has no function 'green'."),
        (["own.py:redness", "--better", "red.png"], "worse is missing; give --better, --worse and --prompt together"),
        (["own.py:redness", "--prompt", "a cat"], "better is missing; give "),
        (["own.py:redness", "--images", "red.png", "own.py"], "own.py is no picture that can be read; give "),
        (["own.py:redness", "--images", "red.png", "nowhere.png"], "nowhere.png is no picture that can be read; "),
        (["own.py:redness", "--images", "red.png", "noise.png"], "red.png is 20 x 12 but noise.png is 16 x 16; give "),
        (["own.py:redness", "--images", "red.png"], "there are 1 pictures and 1 prompts; give at least 2"),
        (["own.py:redness", "--size", "0"], "size is 0; give "),
        (["own.py:redness", "--prompts"], "prompts is empty; give "),
    ],
)
@pytest.mark.usefixtures("here")
def test_mistakes_are_told_in_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        run(asked(*words))
    assert said in str(refused.value)


def test_pictures_are_read_as_they_were_saved(here: Path) -> None:
    read = read_pictures([here / "noise.png", here / "noise.png"])
    assert (read[0] - IMAGES[0]).abs().max() <= 0.5 / 255 + 1e-6
