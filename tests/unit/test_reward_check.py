"""The contract check reports each broken promise by its own finding, and passes rewards that keep the contract."""

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

from b2diffurl.cli.check import CheckReward, check, print_findings, run
from b2diffurl.errors import UserError
from b2diffurl.images import to_pil
from b2diffurl.rewards import load_reward
from b2diffurl.rewards.contract import PROMPTS, Finding, check_reward_contract, read_images, synthetic_images

SHAPE, FINITE, TWICE, ONE = "one score per image", "finite", "same scores twice", "a batch of one"
BATCH, INPUT, BETTER, KIND = (
    "same scores in any batch",
    "leaves its input unchanged",
    "higher is better",
    "dtype and range",
)
IMAGES = synthetic_images(size=16)
TEXTS = [PROMPTS[i % len(PROMPTS)] for i in range(len(IMAGES))]


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Keeps the contract; depends on the prompt too."""
    return images.mean(dim=(1, 2, 3)) + torch.tensor([0.01 * len(prompt) for prompt in prompts])


def findings(reward: Any, **changed: Any) -> dict[str, Finding]:
    arguments: dict[str, Any] = {"images": IMAGES, "prompts": TEXTS} | changed
    return {finding.name: finding for finding in check_reward_contract(reward, **arguments)}


def broken(reward: Any, **changed: Any) -> set[str]:
    return {name for name, finding in findings(reward, **changed).items() if not finding.ok}


def test_a_valid_reward_keeps_every_promise() -> None:
    result = findings(brightness)
    assert list(result) == [SHAPE, FINITE, TWICE, ONE, BATCH, INPUT, KIND]
    assert all(finding.ok for finding in result.values())
    scores = brightness(IMAGES, TEXTS)
    low, high = float(scores.min()), float(scores.max())
    assert re.fullmatch(rf"float32, \S+ ms per image, {low:.6g} to {high:.6g}", result[KIND].detail)


@pytest.mark.parametrize("name", ["clip:emoji", "clip:emoji - 0.1*jpeg-size:compressible", "bert:emoji"])
def test_built_in_rewards_keep_every_promise(name: str) -> None:
    """A red image scores higher than noise for one prompt, or lower: exactly one of the two orders holds."""
    reward = load_reward(name)
    assert broken(reward) == set()
    pair = IMAGES[0], IMAGES[3], PROMPTS[0]
    swapped = IMAGES[3], IMAGES[0], PROMPTS[0]
    assert [BETTER in broken(reward, better=images) for images in (pair, swapped)] in ([True, False], [False, True])


class Shuffles:
    """Returns the scores of the batch in another order, always the same."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return brightness(images, prompts).roll(1)


class ByBatch:
    """Normalizes over the batch."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = brightness(images, prompts)
        return (scores - scores.mean()) / (scores.std(correction=0) + 1e-6)


class Slightly:
    """Depends on the batch: whole batches and single images differ by a fraction of the scores' range."""

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = brightness(images, prompts).double()
        spread = float(brightness(IMAGES, TEXTS).max() - brightness(IMAGES, TEXTS).min())
        return scores + self.fraction * spread * (len(scores) - 1) / (len(IMAGES) - 1)


def random(images: Tensor, _prompts: Sequence[str]) -> Tensor:
    return torch.rand(len(images))


def not_a_number(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return brightness(images, prompts).masked_fill(images.flatten(2).std(dim=2).mean(dim=1) < 1e-3, float("nan"))


def not_a_number_in_batches(images: Tensor, prompts: Sequence[str]) -> Tensor:
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
    ("reward", "names", "detail"),
    [
        (Shuffles(), {BATCH}, "; scores must keep the order."),
        (ByBatch(), {BATCH}, "; a score must depend only on its own image and prompt."),
        (Slightly(1e-3), {BATCH}, ", 0.001 of the scores' range; a score must "),
        (Slightly(1e-5), set[str](), ""),
        (random, {TWICE, BATCH}, "; fix the seed"),
        (not_a_number, {FINITE}, "3 of 8 are not: score 3 is nan."),
        (
            not_a_number_in_batches,
            {FINITE, BATCH},
            "one by one: a score is finite in one call and not in the other",
        ),
        (writes, {INPUT}, "it writes into its images; work on a copy"),
        (writes_prompts, {INPUT}, "it writes into its prompts; "),
        (
            lambda images, prompts: brightness(images, prompts)[:, None],
            {SHAPE, ONE, BATCH},
            "shape (8, 1) for 8 imag",
        ),
        (lambda images, prompts: brightness(images, prompts).mean(), {SHAPE, ONE, BATCH}, "shape () for 8 images; "),
        (lambda images, prompts: brightness(images, prompts)[:3], {SHAPE, BATCH}, "shape (3,) for 8 images; "),
        (wants_two, {ONE}, "shape () for 1 image; return shape (1,)."),
        (breaks_alone, {ONE, BATCH}, "IndexError: dimension"),
        (lambda images, prompts: brightness(images, prompts) + 1j, {KIND}, "complex64, "),
        (lambda *_: torch.zeros(0), {SHAPE, ONE, BATCH, KIND}, "no scores at all."),
        (
            lambda *_: None,
            {SHAPE, FINITE, TWICE, ONE, BATCH, INPUT, KIND},
            "returned a NoneType that is ",
        ),
    ],
)
def test_what_breaks_the_contract_is_reported(reward: Callable[..., Any], names: set[str], detail: str) -> None:
    result = findings(reward)
    assert {name for name, finding in result.items() if not finding.ok} == names
    if names:
        assert any(detail in result[name].detail for name in names)


def test_an_exception_becomes_every_finding_and_stops_none() -> None:
    result = findings(breaks, better=(IMAGES[0], IMAGES[1], "a cat"))
    assert len(result) == 8
    assert {finding.detail for finding in result.values()} == {"ValueError: no such layer"}
    assert not any(finding.ok for finding in result.values())


def test_a_reward_that_fails_is_called_twice_at_most() -> None:
    """A missing server takes long to fail: it is tried once for the whole batch and once for a single image."""
    sizes: list[int] = []

    def fails(images: Tensor, _prompts: Sequence[str]) -> Tensor:
        sizes.append(len(images))
        raise OSError("no server")

    findings(fails)
    assert sizes == [8, 1]


def test_an_interrupt_is_not_a_finding() -> None:
    def interrupted(_images: Tensor, _prompts: Sequence[str]) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        findings(interrupted)


@pytest.mark.parametrize(("sign", "holds"), [(1, True), (-1, False), (0, False)])
def test_higher_is_better_on_a_pair(sign: int, holds: bool) -> None:
    pair = torch.full((3, 8, 8), 0.75), torch.full((3, 4, 6), 0.25), "a cat"
    result = findings(lambda images, _: sign * images.mean(dim=(1, 2, 3)), better=pair)
    assert result[BETTER].ok == holds
    detail = f"{sign * 0.75:.6g} for the better image, {sign * 0.25:.6g} for the worse"
    assert result[BETTER].detail.removesuffix("; negate it if low is good.") == detail


def test_a_constant_reward_is_reported() -> None:
    result = findings(lambda images, _: [1] * len(images))
    assert all(finding.ok for finding in result.values())
    assert "int64" in result[KIND].detail
    assert "always 1: these images do not separate scores" in result[KIND].detail


def test_there_are_no_more_queries_than_needed() -> None:
    """The whole batch, again, reversed, once more for the time, and each image alone."""
    sizes: list[int] = []

    async def counted(images: Tensor, prompts: Sequence[str]) -> list[float]:
        sizes.append(len(images))
        return brightness(images, prompts).tolist()

    assert broken(counted) == set()
    assert sorted(sizes) == [1] * 8 + [8] * 4


@pytest.mark.parametrize(("num_images", "num_prompts"), [(1, 1), (8, 7)])
def test_too_few_images_or_prompts_are_rejected(num_images: int, num_prompts: int) -> None:
    with pytest.raises(UserError, match="; give at least 2 images and one prompt per image"):
        check_reward_contract(brightness, images=IMAGES[:num_images], prompts=TEXTS[:num_prompts])


def test_synthetic_images_are_in_range_and_always_the_same() -> None:
    assert torch.equal(synthetic_images(size=16), IMAGES)
    assert IMAGES.shape == (8, 3, 16, 16)
    assert float(IMAGES.min()) >= 0
    assert float(IMAGES.max()) <= 1
    assert len({tuple(image.flatten().tolist()) for image in IMAGES}) == 8


def test_findings_are_printed_completely() -> None:
    console = Console(width=100, record=True)
    result = [Finding(name="finite", ok=True, detail="all [8]"), Finding(name=BATCH, ok=False, detail="they differ.")]
    print_findings(console, result)
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
    for name, color in (("red", (250, 10, 10)), ("blue", (10, 10, 250))):
        Image.new("RGB", (20, 12), color).save(tmp_path / f"{name}.png")
    to_pil(IMAGES[0]).save(tmp_path / "noise.png")
    return tmp_path


def parse(*words: str) -> CheckReward:
    return tyro.cli(CheckReward, args=words)


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        (["own.py:redness"], 0, "7 of 7 hold."),
        (["own.py:by_batch"], 1, "6 of 7 hold."),
        (["own.py:redness", "--better", "red.png", "--worse", "blue.png", "--prompt", "a cat"], 0, "8 of 8 hold."),
        (["own.py:redness", "--better", "blue.png", "--worse", "red.png", "--prompt", "a cat"], 1, "negate it"),
        (["own.py:redness", "--images", "red.png", "blue.png", "--prompts", "a cat"], 0, "shape (2,) for 2 images"),
        (["0.5*own.py:redness - jpeg-size:compressible", "--size", "8"], 0, "float64"),
    ],
)
@pytest.mark.usefixtures("here")
def test_the_command_prints_findings_and_returns_the_exit_code(
    words: list[str], code: int, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(parse(*words)) == code
    assert output in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["own.py:green"], "file own.py has no function 'green'."),
        (["own.py:redness", "--better", "red.png"], "worse is missing; give --better, --worse and --prompt together"),
        (["own.py:redness", "--prompt", "a cat"], "better is missing; give "),
        (["own.py:redness", "--images", "red.png", "own.py"], "own.py cannot be read as an image; give "),
        (["own.py:redness", "--images", "red.png", "nowhere.png"], "nowhere.png cannot be read as an image; "),
        (["own.py:redness", "--images", "red.png", "noise.png"], "red.png is 20 x 12 but noise.png is 16 x 16; give "),
        (["own.py:redness", "--images", "red.png"], "there are 1 images and 1 prompts; give at least 2"),
        (["own.py:redness", "--size", "0"], "size is 0; give "),
        (["own.py:redness", "--prompts"], "prompts is empty; give "),
    ],
)
@pytest.mark.usefixtures("here")
def test_user_errors_are_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        run(parse(*words))
    assert message in str(error.value)


def test_images_are_read_as_they_were_saved(here: Path) -> None:
    read = read_images([here / "noise.png", here / "noise.png"])
    assert (read[0] - IMAGES[0]).abs().max() <= 0.5 / 255 + 1e-6


def test_only_rewards_can_be_checked() -> None:
    for words in ([], ["schedule", "x"]):
        with pytest.raises(UserError, match="needs a component; give `b2diffurl check reward"):
            check(words)


def test_a_reward_that_returns_info_is_checked_on_its_scores() -> None:
    result = findings(lambda images, prompts: (brightness(images, prompts), {"prompt": list(prompts)}))
    assert all(finding.ok for finding in result.values())


def of_size(images: Any, _prompts: Any) -> list[float]:
    return [image.size[0] / image.size[1] for image in images]


def of_converted(images: Any, _prompts: Any) -> list[float]:
    return [image.convert("L").getextrema()[1] for image in images]


def of_unpacked(images: Any, _prompts: Any) -> list[float]:
    widths = []
    for image in images:
        width, _height = image.size
        widths.append(width)
    return widths


@pytest.mark.parametrize("reward", [of_size, of_converted, of_unpacked])
def test_code_for_pil_images_is_explained(reward: Callable[..., Any]) -> None:
    detail = findings(reward)[SHAPE].detail
    hint = "; images is a float tensor (N, 3, H, W) in [0, 1]; for PIL use b2diffurl.images.to_pil."
    assert detail.endswith(hint)
    assert detail.startswith(("TypeError: ", "AttributeError: "))
    wrapped = findings(lambda images, prompts: reward([to_pil(image) for image in images], prompts))
    assert wrapped[SHAPE].ok


@pytest.mark.parametrize("error", [TypeError("no such layer"), AttributeError("size"), KeyError("PIL")])
def test_other_exceptions_are_not(error: Exception) -> None:
    def fails(_images: Any, _prompts: Any) -> None:
        raise error

    assert "to_pil" not in findings(fails)[SHAPE].detail
