"""The report page: written from real files, for runs in every state, and self-contained."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from b2diffurl.errors import UserError
from b2diffurl.reporting import headline, note_of, write_comparison, write_report
from b2diffurl.run import gallery
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.gallery import BranchGroup
from b2diffurl.run.records import Evaluation, RunRecord

RUN_TOML = """recipe = "emoji-b2-paper"
seed = 0
model = "emoji"
reward = "emoji-clip"
prompts = "template1-train"
num_rounds = 20
reward_queries_per_round = 256

[sampler]
num_inference_steps = 20
"""
LOGGED = [
    "round",
    "reward_queries",
    "interval/length",
    "interval/pair_fraction",
    "interval/growth_reason",
    "reward/mean",
    "reward/std",
    "advantage/zero_fraction",
    "selection/num_trajectories",
    "selection/num_pairs",
    "objective/loss",
    "objective/clip_fraction",
    "objective/kl_term",
    "objective/margin",
    "objective/pair_accuracy",
    "policy/kl_to_reference",
    "policy/ratio_max_error",
    "policy/grad_norm",
    "policy/kl_to_old",
    "update/num_optimizer_steps",
    "update/step_reverted",
    "image/contrast",
    "time/rollout_s",
    "time/reward_s",
    "time/update_s",
]
NAMED = ["reward/clip/mean", "reward/my.py:f/mean", "evaluation/clip_score", "held_out_scene_accuracy",
         "evaluation/held_out_clip_score"]  # fmt: skip
SCORED = ["clip_score", "scene_accuracy", "style_entropy", "inception_score"]
BEFORE = {"clip_score": 0.6132, "scene_accuracy": 0.453, "style_entropy": 1.301, "inception_score": 3.214}
AFTER = {"clip_score": 0.7391, "scene_accuracy": 0.672, "style_entropy": 1.184, "inception_score": 3.214}
PROMPTS = ["a bear riding a bike", "a cat playing chess"]
CHARTS = ["Reward", "Interval length", "Selected trajectories", "KL to old policy", "Gradient norm", "Time per round"]


def metrics_of_round(number: int) -> dict[str, float | None]:
    """Return the metrics of one round; round 2 has no update."""
    metrics: dict[str, float | None] = dict.fromkeys(LOGGED, 0.5)
    metrics |= {"round": number, "reward_queries": 256 * number, "interval/length": 14 + number // 4}
    metrics |= {"reward/mean": 0.6 + 0.005 * number, "reward/std": 0.1, "update/step_reverted": int(number == 5)}
    metrics |= {"time/rollout_s": 6.0, "time/reward_s": 1.0, "time/update_s": 5.5, "update/num_optimizer_steps": 2}
    if number == 2:
        metrics |= {"objective/loss": None, "policy/grad_norm": None, "update/num_optimizer_steps": 0}
    return metrics


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_metrics(run_dir: Path, *, num_rounds: int) -> None:
    lines = [json.dumps(metrics_of_round(number)) + "\n" for number in range(1, num_rounds + 1)]
    (run_dir / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")


def write_samples(run_dir: Path, *, rounds: list[int], prompts: list[str], side: int = 32) -> None:
    """Write smooth images with some noise, like photographs."""
    write_json(run_dir / "samples" / "prompts.json", prompts)
    generator = np.random.default_rng(0)
    for number in rounds:
        folder = run_dir / "samples" / f"round_{number:05d}"
        folder.mkdir()
        for index in range(len(prompts)):
            coarse = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
            noisy = np.clip(smooth + generator.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{index:03d}.png")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory that contains only run.toml."""
    (tmp_path / "run.toml").write_text(RUN_TOML, encoding="utf-8")
    return tmp_path


@pytest.fixture
def full_run_dir(run_dir: Path) -> Path:
    """A finished run of 20 rounds."""
    write_metrics(run_dir, num_rounds=20)
    write_json(run_dir / "env.json", {"torch": "2.13.0", "commit": "3f2a"})
    write_json(
        run_dir / "evaluation.json", {"before": BEFORE, "after": AFTER, "num_images": 256, "prompts": "template1-test"}
    )
    write_samples(run_dir, rounds=[0, 10, 20], prompts=PROMPTS)
    return run_dir


class Page(HTMLParser):
    """Collect the elements of a page, and check that every element is closed."""

    VOID = frozenset({"meta", "img", "br", "link", "hr", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.text = " ".join(self.text.split())
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    def count(self, tag: str, style: str = "") -> int:
        return sum(1 for name, attributes in self.elements if name == tag and style in attributes.get("class", ""))


def read_page(run_dir: Path) -> tuple[str, Page]:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def test_a_finished_run_shows_every_section(full_run_dir: Path) -> None:
    html, page = read_page(full_run_dir)

    # 20 rounds of 6 + 1 + 5.5 seconds; reward 0.6 + 0.005 per round: rounds 1 and 2 against 19 and 20.
    assert re.search(r"Reward 0\.60[78] → 0\.69[78] over 20 rounds: better\.", page.text)
    assert "Images scored 5,120" in page.text
    assert "4 min 10 s of sampling, scoring and updating" in page.text
    assert "The trust region reverted a step in 1 of 20 rounds." in page.text
    for title in CHARTS:
        assert f"<h3>{title}<b" in html
    assert page.count("figure", "pair") == 2
    assert page.count("figure", "strip") == 2
    assert page.count("img", "pixel") == 2 * 2 + 2 * 3
    assert "num_inference_steps = 20" in page.text
    assert "3f2a" in page.text
    assert page.count("p", "banner") == 0
    for metric in LOGGED:
        assert f"<code>{metric}</code>" in html
        assert (note_of(metric) or "?") in page.text


def test_sections_are_in_reading_order(full_run_dir: Path) -> None:
    html, _ = read_page(full_run_dir)

    assert re.findall("<h2>(.*?)</h2>", html) == [
        "Did it get better?",
        "At what price?",
        "Can it be trusted?",
        "Images before and after",
        "Training",
        "Round by round",
        "Metrics",
        "The run",
    ]


def test_changes_are_signed_and_in_words(full_run_dir: Path) -> None:
    """Accuracy .453 -> .672 is +21.9 points."""
    _, page = read_page(full_run_dir)

    assert "45.3 % → 67.2 % ▲ +21.9 points better" in page.text
    assert "0.613 → 0.739 ▲ +0.126 better" in page.text
    assert "1.301 → 1.184 ▼ −0.117 less diverse" in page.text
    assert "3.214 → 3.214 ±0.000 unchanged" in page.text


def test_unknown_scores_and_metrics_are_shown_without_a_verdict(run_dir: Path) -> None:
    write_json(run_dir / "evaluation.json", {"before": {"blur<": 2.0}, "after": {"blur<": 1.5}})
    (run_dir / "metrics.jsonl").write_text('{"round": 1, "mine/number": 7}\n', encoding="utf-8")

    html, page = read_page(run_dir)

    assert "blur&lt;" in html
    assert "2.000 → 1.500 −0.500" in page.text
    assert "No description of this metric" in page.text
    assert "<code>mine/number</code>" in html
    assert not re.search(r'class="change (good|bad)"', html)


@pytest.mark.parametrize("num_rounds", [1, 3])
def test_unfinished_run(run_dir: Path, num_rounds: int) -> None:
    write_metrics(run_dir, num_rounds=num_rounds)
    write_json(run_dir / "evaluation.json", {"before": BEFORE, "num_images": 64, "prompts": "template1-test"})
    write_samples(run_dir, rounds=[0], prompts=PROMPTS)

    html, page = read_page(run_dir)

    assert f"{num_rounds} of 20 rounds so far" in page.text
    assert "before training only" in page.text
    assert page.text.count("→") <= 2  # of the reward
    assert page.count("img") == len(PROMPTS)
    for title in CHARTS:
        assert f"<h3>{title}<b" in html
    assert "nan" not in page.text.lower()


def test_run_that_has_only_settings(run_dir: Path) -> None:
    html, page = read_page(run_dir)

    assert "No round has finished yet." in page.text
    assert page.count("img") == page.count("svg") == 0
    assert re.findall("<h2>(.*?)</h2>", html) == ["The run"]
    assert "b2diffurl train" in page.text


def test_run_without_samples(full_run_dir: Path) -> None:
    for path in sorted((full_run_dir / "samples").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()

    _, page = read_page(full_run_dir)

    assert page.count("img") == 0
    assert "Images before and after" not in page.text
    assert page.count("figure", "pair") == page.count("figure", "strip") == 0
    assert page.count("svg") == len(CHARTS) + 1


def test_missing_image_leaves_an_empty_frame(full_run_dir: Path) -> None:
    (full_run_dir / "samples" / "round_00020" / "001.png").unlink()

    _, page = read_page(full_run_dir)

    assert page.count("span", "no-image") == 2  # in the pair and in the strip


def test_missing_metrics_are_omitted(run_dir: Path) -> None:
    lines = [json.dumps({"round": number, "reward/mean": 0.1 * number}) + "\n" for number in (1, 2)]
    (run_dir / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")

    html, page = read_page(run_dir)

    assert "Reward 0.100 → 0.200 over 2 of 20 rounds: better." in page.text
    assert re.findall("<h3>(.*?)<b", html) == ["Reward"]


def test_rounds_without_updates_are_plotted(run_dir: Path) -> None:
    metrics = dict.fromkeys(LOGGED, None) | {"round": 1, "selection/num_trajectories": 0, "time/update_s": 0.0}
    (run_dir / "metrics.jsonl").write_text(json.dumps(metrics) + "\n", encoding="utf-8")

    html, _ = read_page(run_dir)

    assert re.findall("<h3>(.*?)<b", html) == ["Selected trajectories", "Time per round"]


def test_stopped_run_has_a_banner(full_run_dir: Path) -> None:
    write_metrics(full_run_dir, num_rounds=13)
    write_json(full_run_dir / "stopped.json", {"round": 13, "cause": "non-finite gradient in <step 4>"})

    html, page = read_page(full_run_dir)

    assert page.count("p", "banner stopped") == 1
    assert "Stopped in round 13. non-finite gradient in <step 4>" in page.text
    assert "<step 4>" not in html
    assert "Unfinished" not in page.text


def test_everything_from_the_run_is_escaped(run_dir: Path) -> None:
    attack = "\"><script>alert(1)</script><img src=x onerror=alert(1)> ${title} & 'x'"
    quoted = json.dumps(attack)
    (run_dir / "run.toml").write_text(f"recipe = {quoted}\nmodel = {quoted}\n", encoding="utf-8")
    (run_dir / "metrics.jsonl").write_text(json.dumps({"round": 1, attack: 1, "reward/mean": 1}), encoding="utf-8")
    write_json(run_dir / "env.json", {attack: attack})
    write_json(run_dir / "evaluation.json", {"before": {attack: 1}, "after": {attack: 2}, "prompts": attack})
    write_json(run_dir / "stopped.json", {"round": 1, "cause": attack})
    write_samples(run_dir, rounds=[0, 1, 2], prompts=[attack])

    html, page = read_page(run_dir)

    assert "<script" not in html
    assert page.count("script") == 0
    assert page.attributes("onerror") == []
    assert all(source.startswith("data:image/") for source in page.attributes("src"))
    assert f"{attack} (before)" in page.attributes("alt")
    assert page.text.count(" ".join(attack.split())) >= 7


def test_page_loads_no_external_resource(full_run_dir: Path) -> None:
    html, page = read_page(full_run_dir)

    links = page.attributes("src") + page.attributes("href") + page.attributes("xlink:href")
    assert links
    assert all(link.startswith(("data:image/", "#")) or (full_run_dir / link).exists() for link in links)
    assert "://" not in html
    assert "loading=" not in html
    assert "@import" not in html
    assert page.count("link") == page.count("script") == 0
    assert "default-src 'none'" in html
    assert re.findall(r"url\((?!#)", html) == []


def test_charts_use_the_pages_colors_and_unique_ids(full_run_dir: Path) -> None:
    html, page = read_page(full_run_dir)

    charts = re.findall("<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(charts) == len(CHARTS) + 1
    colors = {color for chart in charts for color in re.findall(r"(?:fill|stroke): *(#\w+)", chart)}
    assert colors <= {"#ffffff"}, "a fixed color would not follow dark mode"
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html))
    assert {one or other for one, other in targets} <= set(ids)


def test_large_images_become_thumbnails(run_dir: Path) -> None:
    """45 prompts (the paper's template 1) at 512 pixels: 27 MB of PNG per round, below 5 MB on the page."""
    write_samples(run_dir, rounds=[0], prompts=[f"prompt {index}" for index in range(45)], side=512)
    for number in (10, 20):
        (run_dir / "samples" / f"round_{number:05d}").symlink_to("round_00000")

    html, page = read_page(run_dir)

    assert len(html) < 5_000_000
    assert page.count("img") == 2 * 45 + 4 * 3
    assert set(page.attributes("width")) == {"256"}
    assert all(source.startswith("data:image/jpeg") for source in page.attributes("src"))


def test_long_lists_are_truncated_with_a_note(run_dir: Path) -> None:
    write_samples(run_dir, rounds=list(range(0, 60, 5)), prompts=[f"prompt {index}" for index in range(50)], side=8)

    _, page = read_page(run_dir)

    assert "48 of 50 prompts." in page.text
    assert "9 of 12 sampled rounds." in page.text
    assert page.count("figure", "pair") == 48
    assert page.count("figure", "strip") == 4


def test_an_unfinished_metrics_line_is_skipped(full_run_dir: Path) -> None:
    with (full_run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 21, "rew')

    _, page = read_page(full_run_dir)

    assert "over 20 rounds" in page.text


def test_invalid_files_are_named_in_the_error(full_run_dir: Path) -> None:
    with (full_run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 21, "rew\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 21 is not JSON"):
        write_report(full_run_dir)

    write_metrics(full_run_dir, num_rounds=20)
    write_json(full_run_dir / "evaluation.json", [1, 2])
    with pytest.raises(UserError, match=r"evaluation\.json contains list, not a JSON object"):
        write_report(full_run_dir)


def test_a_directory_without_run_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run_dir=.* is not a run folder: it has no run\.toml"):
        write_report(tmp_path)


@pytest.mark.parametrize("metric", [*LOGGED, *SCORED, *NAMED])
def test_every_metric_has_a_note(metric: str) -> None:
    note = note_of(metric)
    assert note is not None
    assert note.endswith(".")


@pytest.mark.parametrize("metric", ["a", "reward//mean", "evaluation/a", "held_out_a"])
def test_an_unknown_metric_has_no_note(metric: str) -> None:
    assert note_of(metric) is None


def test_intermediate_scores_and_watched_rewards_are_plotted(full_run_dir: Path) -> None:
    """The curve of a score begins before training and has one point per evaluated round."""
    rounds = [
        metrics_of_round(number)
        | ({"evaluation/scene_accuracy": 0.4 + 0.01 * number} if number % 5 == 0 else {})
        | {"reward/clip/mean": 0.1 * number, "reward/<b>.py:f/mean": -0.1 * number}
        for number in range(1, 21)
    ]
    (full_run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rounds), encoding="utf-8")
    html, page = read_page(full_run_dir)
    assert page.count("figure", "card") == len(CHARTS) + 4
    for title, latest in (("Scene accuracy", "0.600"), ("clip", "2"), ("&lt;b&gt;.py:f", "−2")):
        assert f'<h3>{title}<b title="last round">{latest}</b></h3>' in html
    chart = html.partition("<h3>Scene accuracy<b")[2].partition("</figure>")[0]
    num_segments = [path.count("L ") for path in re.findall(r'<path d="([^"]*)" clip-path=[^>]*stroke-width: 2', chart)]
    assert num_segments == [4]  # from before training to rounds 5, 10, 15 and 20


def test_the_report_is_deterministic(full_run_dir: Path) -> None:
    assert read_page(full_run_dir)[0] == read_page(full_run_dir)[0]


def test_import_is_cheap_and_report_does_not_use_pyplot(full_run_dir: Path) -> None:
    program = (
        "import pathlib, sys, b2diffurl.reporting as report\n"
        "assert not {'matplotlib', 'torch', 'numpy'} & set(sys.modules)\n"
        f"report.write_report(pathlib.Path({str(full_run_dir)!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_pairs_that_changed_most_come_first(full_run_dir: Path) -> None:
    """Prompt 1's decision flips; without scores, the order is that of the pixels."""
    samples = full_run_dir / "samples"
    for number, rewards, right in ((0, [0.9, 0.5], [1.0, 0.0]), (20, [0.1, 0.6], [1.0, 1.0])):
        scores = {"rewards": rewards, "judged": {"clip_score": rewards, "scene_accuracy": right}}
        write_json(samples / f"round_{number:05d}" / "scores.json", scores)

    html, page = read_page(full_run_dir)

    captions = re.findall(r"<figure class=\"pair\">.*?<figcaption>(.*?) <b", html, flags=re.DOTALL)
    assert captions == [PROMPTS[1], PROMPTS[0]]
    first = html.partition('<figure class="pair">')[2].partition("</figure>")[0]
    assert first.index("✗") < first.index("0.500") < first.index("✓") < first.index("0.600")
    assert f"{PROMPTS[0]} −0.800" in page.text


def groups_of(run_dir: Path, number: int) -> None:
    groups = [
        BranchGroup(prompt="a cat", rewards=[0.1, 0.9, 0.5], selected=[0, 1]),
        BranchGroup(prompt="a dog", rewards=[0.4, 0.4, 0.4], selected=[]),
    ]
    images = [Image.new("RGB", (120, 120), (40 * index, 0, 0)) for index in range(6)]
    gallery.write_groups(run_dir / "samples", groups, images, round_number=number)


def test_branch_groups_mark_the_best_and_the_worst(full_run_dir: Path) -> None:
    groups_of(full_run_dir, 1)
    groups_of(full_run_dir, 20)
    assert Image.open(full_run_dir / "samples" / "round_00001" / "groups.png").size == (3 * 96, 2 * 96)

    html, page = read_page(full_run_dir)

    assert page.count("figure", "group") == 4
    assert page.count("div", "frame best") == page.count("div", "frame worst") == 2
    worst, best = (html.index(f'class="frame {mark}"') for mark in ("worst", "best"))
    assert worst < best  # branch 1 has 0.1, branch 2 has 0.9


def test_the_grid_shows_one_prompt_before_and_after(full_run_dir: Path) -> None:
    text = (full_run_dir / "run.toml").read_text(encoding="utf-8")
    (full_run_dir / "run.toml").write_text(f"{text}\n[logging]\ngrid_side = 2\n", encoding="utf-8")
    for number in (0, 20):
        images = [Image.new("RGB", (32, 32), (0, 60 * index, 0)) for index in range(4)]
        gallery.write_grid(full_run_dir / "samples", images, side=2, round_number=number)

    _, page = read_page(full_run_dir)

    assert page.count("figure", "grid") == 2
    assert "before training, image 4" in page.attributes("alt")


def test_a_table_by_prompt_lists_falls_first(full_run_dir: Path) -> None:
    lines = [
        {"round": number, "group": 0, "prompt": prompt, "reward": 0.5 + slope * number}
        for number in range(1, 7)
        for prompt, slope in (("a cat", 0.1), ("a dog", -0.05))
    ]
    (full_run_dir / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    html, page = read_page(full_run_dir)
    table = html.partition('<table class="prompts">')[2]
    assert table.index("a dog") < table.index("a cat")
    assert "a cat 6 0.650 1.05 +0.400" in page.text  # rounds 1 and 2 against 5 and 6


def record(run_dir: Path, settings: str = "", **changes: Any) -> RunRecord:
    """The record of the finished run with other settings, metrics or scores."""
    text = (run_dir / "run.toml").read_text(encoding="utf-8")
    (run_dir / "run.toml").write_text(settings + text, encoding="utf-8")
    return replace(RunDirectory(run_dir).read(), **changes)


def levels(run: RunRecord, word: str) -> list[str]:
    return [finding.level for finding in headline.findings(run) if word in finding.text]


def with_metric(run: RunRecord, name: str, values: list[float]) -> RunRecord:
    rounds = tuple({**line, name: value} for line, value in zip(run.rounds, values, strict=False))
    return replace(run, rounds=rounds)


@pytest.mark.parametrize(("last", "level"), [(0.3, "warn"), (0.49, "good"), (0.6, "good")])
def test_a_watched_reward_that_fell_is_a_warning(full_run_dir: Path, last: float, level: str) -> None:
    run = with_metric(record(full_run_dir, 'watch = ["mine.py:f"]\n'), "reward/mine.py:f/mean", [0.5, last])
    assert levels(run, "mine.py:f") == [level]


@pytest.mark.parametrize(("held_out", "level"), [(0.70, "good"), (0.46, "warn")])
def test_a_gain_that_held_out_prompts_lack_is_a_warning(full_run_dir: Path, held_out: float, level: str) -> None:
    evaluation = Evaluation(
        before=BEFORE | {"held_out_scene_accuracy": 0.45}, after=AFTER | {"held_out_scene_accuracy": held_out}
    )
    assert levels(record(full_run_dir, evaluation=evaluation), "held-out") == [level]


def test_lost_diversity_and_a_falling_judge_are_warnings(full_run_dir: Path) -> None:
    fell = Evaluation(before=BEFORE, after=BEFORE | {"scene_accuracy": 0.2, "style_entropy": 0.5}, num_images=256)
    run = record(full_run_dir, evaluation=fell)
    assert levels(run, "Style entropy") == levels(run, "Scene accuracy") == ["warn"]
    assert headline.findings(run)[0].level == "warn"


def test_a_reward_that_nothing_confirms_is_a_warning(full_run_dir: Path) -> None:
    only_clip = Evaluation(before={"clip_score": 0.5}, after={"clip_score": 0.6})
    assert levels(record(full_run_dir, evaluation=only_clip), "Nothing independent") == ["warn"]


@pytest.mark.parametrize(
    ("scale", "advice"), [(0.2, "Lower optimization.learning_rate"), (0.95, "nothing needs to be")]
)
def test_shrunk_steps_are_explained(full_run_dir: Path, scale: float, advice: str) -> None:
    run = with_metric(record(full_run_dir), "update/step_reverted", [0] * 20)
    run = with_metric(run, "update/step_scale", [scale] * 20)
    (finding,) = [finding for finding in headline.findings(run) if "trust region" in finding.text]
    assert "in 20 of 20 rounds" in finding.text
    assert advice in finding.advice


def test_a_change_within_the_noise_has_no_direction(full_run_dir: Path) -> None:
    """256 images with a standard deviation of 5: the standard error of the difference is 0.31."""
    run = with_metric(record(full_run_dir), "reward/std", [5.0] * 20)
    change = headline.reward_change(run)
    assert change is not None
    assert (change.word, change.style) == ("no clear change", "")


def test_the_page_reloads_itself_until_the_run_has_ended(full_run_dir: Path) -> None:
    assert '<meta http-equiv="refresh" content="20">' in write_report(full_run_dir, refresh_seconds=20).read_text(
        "utf-8"
    )
    (full_run_dir / "lora").mkdir()
    assert "refresh" not in write_report(full_run_dir, refresh_seconds=20).read_text("utf-8")


def test_two_runs_are_compared_on_one_page(full_run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "<b>second"
    shutil.copytree(full_run_dir, other)
    (other / "run.toml").write_text(RUN_TOML.replace("seed = 0", "seed = 1"), encoding="utf-8")
    page = Page(
        write_comparison([full_run_dir, other], tmp_path_factory.mktemp("page") / "both.html").read_text("utf-8")
    )
    assert page.count("svg") == 1
    assert page.count("figure", "strip") == len(PROMPTS)
    assert page.count("img", "pixel") == 3 * len(PROMPTS)  # before, and the last round of both
    assert "The runs differ in seed: images of a prompt start from other noise." in page.text
    assert page.count("b") > 0
    assert "second, round 20" in page.text
    assert page.text.count("45.3 % → 67.2 %") == 2
    for runs, message in (([full_run_dir], "compares 1 runs"), ([other, other], "more than once")):
        with pytest.raises(UserError, match=message):
            write_comparison(runs, full_run_dir / "no.html")
