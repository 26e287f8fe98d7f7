"""The report of a real run in a browser: no errors, no overflow, every image is loaded, also dark and printed.

The browser is that of B2DIFFURL_CHROMIUM, else `chromium` on the path; without one the tests are skipped, or fail if
B2DIFFURL_REQUIRE_BROWSER=1.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import b2diffurl
from b2diffurl.reporting import write_comparison, write_report
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.settings import Logging

_OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
_UNLOADED = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
_COLORS = """[...document.querySelectorAll("p, h1, h2, h3, li, dd, dt, small, td, th, summary, figcaption, b, span")]
    .filter(element => element.childNodes.length && element.checkVisibility() && element.textContent.trim())
    .filter(element => !element.classList.contains("no-image"))
    .map(element => {
        let behind = element;
        const background = () => getComputedStyle(behind).backgroundColor;
        while (background() === "rgba(0, 0, 0, 0)" && behind.parentElement) behind = behind.parentElement;
        return [getComputedStyle(element).color, background()];
    })"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, or a skip with the reason."""
    path = os.environ.get("B2DIFFURL_CHROMIUM") or shutil.which("chromium")
    if not (path and Path(path).is_file()):
        reason = "no browser: install chromium, or give its path as B2DIFFURL_CHROMIUM"
        if os.environ.get("B2DIFFURL_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a watched reward, held-out prompts and evaluations in between."""
    base = emoji_b2_paper()
    run = replace(
        base,
        num_rounds=2,
        reward_queries_per_round=8,
        watch=("jpeg-size:compressible",),
        held_out_fraction=0.2,
        sampler=replace(base.sampler, num_inference_steps=4),
        schedule=replace(base.schedule, tau_first=3),
        logging=Logging(num_samples=13, num_evaluation_images=4, evaluate_every_rounds=1, samples_every_rounds=1),
    )
    result = b2diffurl.train(run, output=tmp_path_factory.mktemp("runs") / "run", progress="none")
    return result.folder


@pytest.fixture(scope="module")
def pages(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report, and a comparison of the run with a copy."""
    copy = tmp_path_factory.mktemp("copy") / "other"
    shutil.copytree(run_dir, copy)
    comparison = write_comparison([run_dir, copy], copy.parent / "comparison.html")
    return {"report": write_report(run_dir), "comparison": comparison}


def opened(browser: Browser, path: Path, **context: Any) -> tuple[Page, list[str]]:
    page = browser.new_context(**context).new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    return page, errors


def luminance(color: str) -> float:
    """Relative luminance of "rgb(r, g, b)", WCAG 2.1."""
    values = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    red, green, blue = (value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_and_white_is_21() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)


@pytest.mark.parametrize("name", ["report", pytest.param("comparison", marks=pytest.mark.slow)])
def test_pages_fit_every_screen_and_are_readable(browser: Browser, pages: dict[str, Path], name: str) -> None:
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            viewport = {"width": width, "height": 900}
            page, errors = opened(browser, pages[name], viewport=viewport, color_scheme=scheme)
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            place = (width, scheme)
            assert errors == [], place
            assert page.evaluate(_OVERFLOW) <= 0, place
            assert page.evaluate(_UNLOADED) == 0, place
            assert page.evaluate("document.images.length") > 8, place
            colors = {tuple(pair) for pair in page.evaluate(_COLORS)}
            assert len(colors) > 2
            assert [pair for pair in colors if contrast(*pair) < 4.5] == [], place
            svg_heights = page.evaluate("[...document.querySelectorAll('svg')].map(each => each.clientHeight)")
            assert max(svg_heights) < 450, place
            page.context.close()


def test_the_first_screen_answers_and_the_print_is_short(browser: Browser, pages: dict[str, Path]) -> None:
    page, _ = opened(browser, pages["report"], viewport={"width": 1280, "height": 900})
    for question in ("Did it get better?", "At what price?", "Can it be trusted?"):
        box = page.get_by_text(question).bounding_box()
        assert box is not None
        assert box["y"] < 700, question
    num_pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", page.pdf(prefer_css_page_size=True)))
    assert 2 <= num_pages <= 7
    page.context.close()


def test_the_print_leaves_out_sections_that_are_folded(browser: Browser, pages: dict[str, Path]) -> None:
    """A heading without its table says nothing; a reader who unfolds the table gets both."""
    page, _ = opened(browser, pages["report"], viewport={"width": 1280, "height": 900})
    page.emulate_media(media="print")
    heading = page.get_by_role("heading", name="By prompt")
    assert heading.is_hidden()
    assert page.get_by_role("heading", name="The run").is_visible()
    page.get_by_text(re.compile(r"^[0-9]+ prompts$")).evaluate("summary => { summary.parentElement.open = true }")
    assert heading.is_visible()
    page.context.close()
