"""Studies: cells and their hashes, results, comparisons and claims, without training; see integration/test_study.py."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from b2diffurl.algorithm.advantage import Branch
from b2diffurl.algorithm.schedule import Backward
from b2diffurl.analysis.study.compare import StudyResults, ratio_interval, value_at
from b2diffurl.analysis.study.results import (
    CellResult,
    Point,
    evaluation_points,
    read_result,
    result_file,
    write_result,
)
from b2diffurl.analysis.study.runner import Runner
from b2diffurl.analysis.study.samples import save_samples
from b2diffurl.analysis.study.spec import (
    Cell,
    Claim,
    Samples,
    Scale,
    StudyFile,
    changed_settings,
    make_cells,
    merge,
    read_study,
    settings_hash,
    study_names,
)
from b2diffurl.analysis.study.tables import claims_table, study_text, write_tables
from b2diffurl.config import from_tables, to_tables, to_toml
from b2diffurl.errors import UserError
from b2diffurl.evaluation.generate import GeneratedImages
from b2diffurl.prompts.lists import load_prompts
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.recipes import RECIPES, recipe
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Run

RESULTS = Path(__file__).parents[2] / "results"
ARMS = {"ours": {"advantage": {"use": "branch"}}, "DDPO": {"rollout": {"num_branches": 1}, "schedule": {"use": "full"},
        "selection": {"use": "all"}}}  # fmt: skip


def make_study(**changes: object) -> StudyFile:
    return replace(StudyFile(title="t", text="x", arms=ARMS, seeds=(0, 1, 2), num_images=512), **changes)  # pyright: ignore[reportArgumentType]


def point(queries: int, accuracy: float, entropy: float = 1.0, seconds: float = 1.0) -> Point:
    return Point(reward_queries=queries, network_evaluations=2 * queries, seconds=seconds, num_images=10,
                 scores={"scene_accuracy": accuracy, "style_entropy": entropy})  # fmt: skip


def result(cell: Cell, *points: Point, stopped: str = "") -> CellResult:
    return CellResult(settings_sha256=settings_hash(cell.run), settings={}, seed=cell.seed, commit="abc",
                      environment={}, points=points, rounds={}, stopped=stopped)  # fmt: skip


def comparison(study: StudyFile, values: Mapping[str, Sequence[Sequence[Point]]]) -> StudyResults:
    """A comparison with the evaluations of every arm and seed."""
    cells = make_cells(study)
    results = {
        cell.key: result(cell, *values[cell.arm][cell.seed]) for cell in cells if cell.seed < len(values[cell.arm])
    }
    return StudyResults(cells, results)


def claimed_conditions(study: StudyFile) -> set[str]:
    """The conditions in which the claims of a study are decided."""
    results = StudyResults(make_cells(study), {})
    return {decision.condition for each in study.claims for decision in results.decide(each)}


def test_arms_are_a_recipe_with_changes_and_seeds_alternate_them() -> None:
    cells = make_cells(make_study())
    assert [(cell.seed, cell.arm) for cell in cells[:3]] == [(0, "ours"), (0, "DDPO"), (1, "ours")]
    ours, ddpo = cells[0].run, cells[1].run
    assert ours.advantage == Branch()
    assert ours.schedule == Backward(tau_first=14)
    assert ours.num_rounds == 2
    assert ddpo.schedule.use == "full"
    assert ddpo.rollout.num_branches == 1


def test_cells_whose_images_before_training_are_the_same_evaluate_them_once() -> None:
    same: dict[str, object] = {"objective": {"use": "dpo"}, "reward_queries_per_round": 128}
    other: dict[str, object] = {"reward": "bert:emoji"}
    cells = make_cells(make_study(conditions={"a": {}, "same": same, "other": other}))
    assert [cell.run.logging.evaluate_before for cell in cells[:6]] == [True, False, False, False, True, False]
    assert [cell.run.logging.evaluate_before for cell in cells[6:12]] == [True, False, False, False, True, False]


def test_a_condition_has_the_images_before_training_of_another_one_only_if_they_are_the_same() -> None:
    study = make_study(conditions={"a": {}, "same": {"objective": {"use": "dpo"}}, "other": {"reward": "bert:emoji"}})
    cells = make_cells(study, [0])
    first = [point(0, 0.5), point(512, 0.8)]
    results = {cell.key: result(cell, *(first if cell is cells[0] else [point(512, 0.7)])) for cell in cells}
    comparison = StudyResults(cells, results)
    assert comparison.seeds("a", "ours") == {0: [replace(each, images_per_trunk=4) for each in first]}
    assert comparison.seeds("same", "base") == {0: first[:1]}
    assert comparison.seeds("same", "DDPO") == {0: [first[0], point(512, 0.7)]}
    assert comparison.seeds("other", "base") == {}
    assert comparison.seeds("other", "DDPO") == {0: [point(512, 0.7)]}


def test_an_arm_may_have_seeds_of_its_own() -> None:
    study = make_study(arms=ARMS | {"DDPO": ARMS["DDPO"] | {"seeds": [0, 3]}}, seeds=(0, 1))
    cells = make_cells(study)
    assert [(cell.seed, cell.arm) for cell in cells] == [(0, "ours"), (0, "DDPO"), (1, "ours"), (3, "DDPO")]
    assert cells[1].key == make_cells(make_study())[1].key
    assert [cell.seed for cell in make_cells(study, [5])] == [5, 5]
    assert make_cells(study) == cells


def test_a_condition_may_limit_the_seeds_of_its_arms() -> None:
    arms = ARMS | {"DDPO": ARMS["DDPO"] | {"seeds": [0, 1, 3]}}
    study = make_study(arms=arms, seeds=(0, 1), conditions={"all": {}, "few": {"seeds": [1, 3]}})
    cells = make_cells(study)
    assert {(cell.condition, cell.arm, cell.seed) for cell in cells} == {
        ("all", "ours", 0), ("all", "ours", 1), ("all", "DDPO", 0), ("all", "DDPO", 1), ("all", "DDPO", 3),
        ("few", "ours", 1), ("few", "DDPO", 1), ("few", "DDPO", 3),
    }  # fmt: skip
    assert [cell.seed for cell in make_cells(study, [5])] == [5, 5, 5, 5]
    assert make_cells(study) == cells


@pytest.mark.parametrize("seeds", [[], [-1], ["a"], "12", [0.5]])
def test_invalid_seeds_of_an_arm_or_a_condition_are_named(seeds: object) -> None:
    with pytest.raises(UserError, match="arm 'ours': seeds is"):
        make_cells(make_study(arms={"ours": {"seeds": seeds}}))
    with pytest.raises(UserError, match="condition 'few': seeds is"):
        make_cells(make_study(conditions={"few": {"seeds": seeds}}))


def test_a_grid_multiplies_the_arms() -> None:
    study = make_study(grid={"optimization.learning_rate": (1e-3, 2e-3)}, seeds=(0,))
    assert {(cell.arm, cell.run.optimization.learning_rate) for cell in make_cells(study)} == {
        ("ours, learning_rate 0.001", 1e-3), ("ours, learning_rate 0.002", 2e-3),
        ("DDPO, learning_rate 0.001", 1e-3), ("DDPO, learning_rate 0.002", 2e-3),
    }  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_changed_settings_rebuild_the_run(name: str) -> None:
    run = recipe(name)
    assert from_tables(json.loads(json.dumps(changed_settings(run))), Run) == run


def test_the_hash_depends_on_what_moves_numbers_only() -> None:
    run = recipe("emoji-b2-paper")
    same = replace(run, recipe="other", seed=7, logging=replace(run.logging, num_samples=3, evaluate_before=False))
    assert settings_hash(same) == settings_hash(run)
    batches = replace(run, rollout=replace(run.rollout, chunk_size=3),
                      optimization=replace(run.optimization, micro_batch_size=3))  # fmt: skip
    assert settings_hash(batches) == settings_hash(run), "batch sizes change numbers by rounding only"
    assert settings_hash(replace(run, num_rounds=17)) != settings_hash(run)
    assert settings_hash(replace(run, advantage=Branch())) != settings_hash(run)
    assert settings_hash(replace(run, logging=replace(run.logging, num_evaluation_images=1))) != settings_hash(run)


@pytest.mark.parametrize("name", ["alignment", "diversity", "generalization"])
def test_a_study_has_the_three_templates_on_the_embedded_models(name: str) -> None:
    study = read_study(name)
    cells = make_cells(study, seeds=(10,))
    assert [cell.condition for cell in cells[:: len(study.arms)]] == ["template 1", "template 2", "template 3"]
    assert claimed_conditions(study) == set(study.conditions)
    for cell in cells:
        number = int(cell.condition[-1])
        assert cell.run.prompts == ("template1-train" if number == 1 else f"emoji-template{number}-train")
        assert cell.run.reward == f"clip:{cell.run.model}"
        assert resolve(cell.run).judge.world == cell.run.model == ("emoji" if number == 1 else "emoji-objects")
        assert bool(cell.run.held_out_prompts) == (number > 1 or name == "generalization")


def test_the_shipped_studies_share_their_runs() -> None:
    """What the paper's figures and tables have in common is trained once."""

    def keys(name: str, condition: str = "") -> set[str]:
        return {cell.key for cell in make_cells(read_study(name), seeds=()) if condition in cell.condition}

    for name in ("alignment", "diversity"):
        assert keys(name, "template 1") < keys("one-rate")
        assert keys(name, "template 2") | keys(name, "template 3") < keys("generalization")
    assert keys("samples", "template 1") < keys("one-rate")
    assert len(keys("ablation", "CLIPScore") & keys("one-rate")) == 40
    assert not keys("ablation", "BERTScore") & keys("one-rate")
    assert len(keys("compatibility") & keys("one-rate")) == 9
    assert len(keys("evidence") & keys("one-rate")) == 50  # the arms at 2e-3


def test_the_ablation_finds_the_runs_of_the_evidence_under_its_condition_clipscore() -> None:
    """Their files are in results/runs, under the hash of their settings: the condition must leave it as it is."""
    shared = ("DDPO", "B² (paper)", "B²", "B², trunk credit")
    cells = make_cells(read_study("ablation"))
    stored = [cell for cell in cells if read_result(result_file(RESULTS, cell), cell)]
    found = {(cell.condition, cell.arm, cell.seed) for cell in stored}
    assert {("CLIPScore", arm, seed) for arm in shared for seed in range(10, 13)} <= found


def test_the_ablation_runs_every_arm_under_both_rewards_of_the_paper() -> None:
    study = read_study("ablation")
    cells = make_cells(study, seeds=(10,))
    rewards = {(cell.condition, cell.run.reward, resolve(cell.run).judge.kind) for cell in cells}
    assert rewards == {("CLIPScore", "clip:emoji", "emoji"), ("BERTScore", "bert:emoji", "emoji")}
    assert len(cells) == 2 * len(study.arms)
    assert claimed_conditions(study) == set(study.conditions)
    large = make_cells(study.at_scale("sd14"))
    assert {(cell.condition, cell.run.reward) for cell in large} == {("CLIPScore", "clip"), ("BERTScore", "bert")}
    assert {cell.seed for cell in large} < {cell.seed for cell in make_cells(study)}


def test_a_condition_may_have_evaluations_of_its_own() -> None:
    study = replace(read_study("alignment"), evaluate_every_images=512, conditions={
        "as the study": {}, "few": {"evaluation_images": 24, "evaluate_every_images": 0},
    })  # fmt: skip
    first, second = (cells.run.logging for cells in make_cells(study, seeds=(1,))[:: len(study.arms)])
    assert (first.num_evaluation_images, first.evaluate_every_rounds) == (study.evaluation_images, 2)
    assert (second.num_evaluation_images, second.evaluate_every_rounds, second.num_interim_images) == (24, 0, 0)


@pytest.mark.parametrize("name", ["alignment", "diversity", "samples"])
def test_the_condition_template_1_has_the_hashes_of_a_study_without_conditions(name: str) -> None:
    study = read_study(name)
    cells = make_cells(study, seeds=(10,))[: len(study.arms)]
    without = make_cells(replace(study, conditions={}), seeds=(10,))
    assert [cell.key for cell in cells] == [cell.key for cell in without]


def test_the_samples_find_the_runs_of_template_1_that_they_had_without_conditions() -> None:
    cells = [cell for cell in make_cells(read_study("samples")) if cell.condition == "template 1"]
    assert [cell.key for cell in cells] == ["d7dfb82cb2d9-seed13", "bcdcfb89cf51-seed13", "8a2f6cd40daa-seed13"]
    assert all(read_result(result_file(RESULTS, cell), cell) for cell in cells)


@pytest.mark.parametrize("scale", ["", "sd14"])
def test_the_samples_have_trained_and_held_out_prompts_of_every_template(scale: str) -> None:
    study = read_study("samples").at_scale(scale)
    cells = make_cells(study)
    assert study.samples is not None
    assert list(study.samples.prompts) == list(study.conditions)
    shared = {name: dict(tables) for name, tables in read_study("generalization").at_scale(scale).conditions.items()}
    costs = ("held_out_prompts", "evaluation_images", "evaluate_every_images")
    ours = {name: {k: v for k, v in tables.items() if k not in costs} for name, tables in study.conditions.items()}
    assert ours == {name: tables for name, tables in shared.items() if tables.pop("held_out_prompts")}
    for number, cell in enumerate(cells[:: len(study.arms)], start=1):
        prompts = study.samples.prompts[cell.condition]
        small = "emoji-" if number > 1 else ""  # what the embedded world can show is a part of the paper's list
        expected = f"{'' if scale else small}template{number}-train"
        assert (cell.condition, cell.run.prompts, cell.seed) == (f"template {number}", expected, study.samples.seed)
        held_out = [prompt for prompt in prompts if prompt in load_prompts(f"{small}template{number}-test")]
        trained = [prompt for prompt in prompts if prompt in load_prompts(f"{small}template{number}-train")]
        assert len(trained) == 3
        assert len(held_out) == len(prompts) - 3 > 0


def test_samples_of_an_unknown_condition_and_conditions_without_prompts_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    head = 'title = "t"\ntext = "x"\n[arms.ours]\n'
    file.write_text(head + '[samples.prompts]\n"" = ["a cat"]\n', encoding="utf-8")
    assert read_study(str(file)).samples == Samples(prompts={"": ("a cat",)})
    conditions = (
        '[conditions.few]\n[scales.large]\nrecipe = "sd15"\nnum_images = 8\n[scales.large.conditions]\nmany = {}\n'
    )
    file.write_text(head + conditions + '[samples.prompts]\nfew = ["a cat"]\nmany = ["a cat"]\n', encoding="utf-8")
    assert read_study(str(file)).samples == Samples(prompts={"few": ("a cat",), "many": ("a cat",)})
    file.write_text(head + conditions + '[samples.prompts]\n"" = ["a cat"]\n', encoding="utf-8")
    with pytest.raises(UserError, match="'', which is not a condition; give one of: 'few', 'many'"):
        read_study(str(file))
    for prompts in ("{}", '{ "" = [] }'):
        file.write_text(f"{head}[samples]\nprompts = {prompts}\n", encoding="utf-8")
        with pytest.raises(UserError, match=r"samples\.prompts is empty"):
            read_study(str(file))


def grids_of(
    study: StudyFile, cells: Sequence[Cell], runner: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[tuple[str, list[str]]]]:
    """By file of a study's grids, the title and the row labels of each panel; every image is black."""

    def black(_model: str, prompts: Sequence[str], **_: object) -> GeneratedImages:
        return GeneratedImages(images=torch.zeros(len(prompts), 3, 4, 4), prompts=tuple(prompts))

    def read_panels(panels: Sequence[Callable[[Axes], None]], file: Path, **_: object) -> None:
        for panel in panels:
            axes = Figure().subplots()
            panel(axes)
            title = axes.get_title()
            shown.setdefault(file.name, []).append((title, [label.get_text() for label in axes.get_yticklabels()]))

    shown: dict[str, list[tuple[str, list[str]]]] = {}
    monkeypatch.setattr("b2diffurl.analysis.study.samples.sample", black)
    monkeypatch.setattr("b2diffurl.analysis.study.samples.save_panels", read_panels)
    save_samples(study, cells, runner, folder)
    return shown


def test_every_condition_with_an_adapter_has_its_grid_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = {"template 1": {}, "no prompts": {"objective": {"use": "dpo"}}, "no runs": {"reward": "bert:emoji"}}
    rows = ("a bear washing dishes", "a cat riding a bike")  # of template1-train and template1-test
    samples = Samples(prompts={"template 1": rows, "no runs": rows[:1]}, images_per_prompt=2, seed=1)
    study = make_study(conditions=conditions, samples=samples)
    cells, messages = make_cells(study), list[str]()
    runner = Runner(output=tmp_path / "runs", results=tmp_path, on_message=messages.append)
    for cell in cells:
        if cell.condition != "no runs" and cell.seed == 1:
            runner.directory(cell).lora.mkdir(parents=True)
    shown = grids_of(study, cells, runner, tmp_path, monkeypatch)
    labels = ["a\nbear\nwashing dishes", "a\ncat\nriding a bike\n(held out)"]
    assert shown == {"samples-template-1.png": [("base", labels), ("ours", []), ("DDPO", [])]}
    assert messages == [
        f"no grid of images of no runs: no run of seed 1 has its adapter in {tmp_path / 'runs'}",
    ]


def test_a_study_without_conditions_has_one_grid_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(samples=Samples(prompts={"": ("a bear washing dishes",)}, seed=0))
    cells, messages = make_cells(study), list[str]()
    runner = Runner(output=tmp_path / "runs", results=tmp_path, on_message=messages.append)
    assert grids_of(study, cells, runner, tmp_path, monkeypatch) == {}
    assert messages == [f"no grid of images: no run of seed 0 has its adapter in {tmp_path / 'runs'}"]
    runner.directory(cells[1]).lora.mkdir(parents=True)
    shown = grids_of(study, cells, runner, tmp_path, monkeypatch)
    assert shown == {"samples.png": [("base", ["a\nbear\nwashing dishes"]), ("DDPO", [])]}


def test_merging_replaces_a_component_and_merges_a_table() -> None:
    tables = to_tables(recipe("emoji-b2-paper"))
    merged = merge(tables, {"schedule": {"use": "full"}, "optimization": {"learning_rate": 0.5}})
    assert merged["schedule"] == {"use": "full"}
    assert merged["optimization"] == tables["optimization"] | {"learning_rate": 0.5}
    assert tables["schedule"]["use"] == "backward"


_CHOICES = ("sweep", "trust-region")  # the studies that choose settings


@pytest.mark.parametrize("name", sorted({*study_names()} - {*_CHOICES, "one-rate", "quickstart", "variants"}))
def test_every_study_of_the_paper_runs_on_stable_diffusion_too(name: str) -> None:
    """The others are about the embedded model."""
    small, large = read_study(name), read_study(name).at_scale("sd14")
    cells = make_cells(large)
    assert {cell.run.model for cell in cells} == {"CompVis/stable-diffusion-v1-4"}
    arms = {(cell.condition, cell.arm) for cell in make_cells(small)}
    rates = {(condition, arm) for condition, arm in arms if arm.endswith("2e-3")}  # arms of the embedded model only
    assert {(cell.condition, cell.arm) for cell in cells} == arms - rates
    assert {cell.seed for cell in cells} == ({large.samples.seed} if large.samples else {10, 11, 12})


def test_arms_that_differ_in_the_size_only_are_one_arm_at_another_scale() -> None:
    arms: dict[str, dict[str, object]] = {
        "a": {"optimization": {"learning_rate": 1e-3}},
        "same": {"seeds": [1]},
        "other": {"optimization": {"learning_rate": 1e-3, "lr_schedule": "linear"}},
    }
    study = make_study(arms=arms, scales={"large": Scale(recipe="sd15", num_images=256)})
    assert study.at_scale("large").arms == {"a": {}, "other": {"optimization": {"lr_schedule": "linear"}}}
    assert study.at_scale("").arms == arms


def test_learning_rates_and_evaluations_of_arms_are_those_of_the_embedded_model_only() -> None:
    """4e-3 is forty times the rate of the paper's recipe."""
    for name in ("evidence", "baselines"):
        runs = [cell.run for cell in make_cells(read_study(name).at_scale("sd14"))]
        assert {run.optimization.learning_rate for run in runs} == {1e-4}
        assert {run.logging.evaluate_every_rounds for run in runs} == {10}
    schedules = {
        cell.arm: cell.run.optimization.lr_schedule for cell in make_cells(read_study("evidence").at_scale("sd14"))
    }
    assert (schedules["B²"], schedules["DDPO"]) == ("linear", "constant")


def test_a_killed_run_loses_at_most_one_round() -> None:
    for name in study_names():
        assert {cell.run.logging.checkpoint_every_rounds for cell in make_cells(read_study(name))} == {1}


def test_settings_are_chosen_on_seeds_that_no_comparison_uses() -> None:
    """The protocol of docs/method.md: choices on seeds 0 to 2, results from 10. The quickstart compares nothing."""
    for name in _CHOICES:
        assert {cell.seed for cell in make_cells(read_study(name))} <= {0, 1, 2}
    for name in set(study_names()) - {*_CHOICES, "quickstart"}:
        assert min(cell.seed for cell in make_cells(read_study(name))) >= 10


def test_every_committed_result_belongs_to_a_study() -> None:
    studies = [read_study(name) for name in study_names()]
    sized = [replace(study, num_images=size) for study in studies for size in {study.num_images, 3072}]
    known = {cell.key.partition("-")[0] for study in sized for cell in make_cells(study)}
    files = (RESULTS / "runs").glob("*.json")
    assert not [file.name for file in files if file.name.partition("-")[0] not in known]


def test_the_sweep_has_the_same_settings_for_every_arm_of_the_evidence() -> None:
    sweep = read_study("sweep")
    evidence = [(arm.removesuffix(", 2e-3"), tables) for arm, tables in read_study("evidence").arms.items()]
    assert {arm for arm, _ in evidence} == set(sweep.arms)
    for arm, tables in evidence:
        others = ("optimization", "evaluate_every_images", "seeds")
        swept = {key: value for key, value in tables.items() if key not in others}
        assert swept == sweep.arms[arm], arm


def test_an_invalid_arm_is_named() -> None:
    with pytest.raises(UserError, match="arm 'ours': advantage"):
        make_cells(make_study(arms={"ours": {"advantage": {"use": "branch", "typo": 1}}}))


def finished_run(directory: RunDirectory, cell: Cell, *, accuracy: float) -> None:
    """Write the files of a finished run that a study reads."""
    directory.lora.mkdir(parents=True)
    directory.run_file.write_text(to_toml(cell.run), encoding="utf-8")
    content = {"before": {"scene_accuracy": 0.5}, "after": {"scene_accuracy": accuracy}, "num_images": 1440}
    (directory.path / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    costs = {"time/rollout_s": 1.0, "time/reward_s": 0.5, "time/update_s": 2.0, "network/rollout_evaluations": 10,
             "network/update_evaluations": 5, "reward/mean": 0.5}  # fmt: skip
    lines = [{"round": 1, "reward_queries": 256, **costs, "evaluation/scene_accuracy": 0.6},
             {"round": 2, "reward_queries": 512, **costs}]  # fmt: skip
    directory.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_points_have_the_costs_of_training_without_evaluation(tmp_path: Path) -> None:
    cell, directory = make_cells(make_study())[0], RunDirectory(tmp_path / "run")
    finished_run(directory, cell, accuracy=0.8)
    points = evaluation_points(directory)
    assert [(p.reward_queries, p.network_evaluations, p.seconds, p.num_images) for p in points] == [
        (0, 0, 0.0, 1440), (256, 15, 3.5, 1440), (512, 30, 7.0, 1440),
    ]  # fmt: skip
    assert [p.scores["scene_accuracy"] for p in points] == [0.5, 0.6, 0.8]


def test_finished_runs_become_results_and_are_not_repeated(tmp_path: Path) -> None:
    study = make_study(seeds=(0,))
    cells = make_cells(study)
    runner = Runner(output=tmp_path / "runs", results=tmp_path / "results")
    for cell in cells:
        finished_run(runner.directory(cell), cell, accuracy=0.8)
    results = runner.run(cells)
    assert len(results) == 2
    for cell in cells:  # the result alone is enough
        runner.directory(cell).run_file.unlink()
    assert runner.run(cells) == results
    assert read_result(result_file(tmp_path / "results", cells[0]), cells[0]) == results[cells[0].key]


def test_a_run_folder_with_other_settings_is_refused(tmp_path: Path) -> None:
    cells = make_cells(make_study(seeds=(0,)))
    runner = Runner(output=tmp_path / "runs", results=tmp_path / "results")
    finished_run(runner.directory(cells[0]), cells[1], accuracy=0.8)
    with pytest.raises(UserError, match="other settings"):
        runner.run(cells[:1])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}'])
def test_a_damaged_result_is_named(tmp_path: Path, content: str) -> None:
    cell = make_cells(make_study())[0]
    file = result_file(tmp_path, cell)
    file.parent.mkdir(parents=True)
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="delete it to repeat the run"):
        read_result(file, cell)


def test_results_are_written_and_read_back(tmp_path: Path) -> None:
    cell = make_cells(make_study())[0]
    written = result(cell, point(0, 0.5), point(512, 0.75))
    write_result(tmp_path / "a" / "b.json", written)
    assert read_result(tmp_path / "a" / "b.json", cell) == written


# Comparisons


def test_a_metric_is_read_where_another_first_reaches_a_value() -> None:
    points = [point(0, 0.5, 1.4), point(256, 0.7, 1.2), point(512, 0.9, 0.8), point(768, 0.6, 0.7)]
    assert value_at(points, "style_entropy", where="scene_accuracy", reaches=0.8) == pytest.approx(1.0)
    assert value_at(points, "reward_queries", where="scene_accuracy", reaches=0.6) == pytest.approx(128)
    assert value_at(points, "style_entropy", where="scene_accuracy", reaches=0.4) == 1.4
    assert value_at(points, "style_entropy", where="scene_accuracy", reaches=0.95) is None


def test_an_arm_is_read_where_it_reaches_what_the_other_has_at_its_end() -> None:
    values = {
        "ours": [[point(256, 0.6), point(512, 0.8)], [point(256, 0.6), point(512, 0.65)]],
        "DDPO": [[point(256, 0.9), point(512, 0.7)], [point(256, 0.5), point(512, 0.7)]],
    }
    cost = claim(metric="network_evaluations", kind="ratio", reaches="scene_accuracy", at_least=-math.inf, at_most=0.9)
    [decision] = comparison(make_study(), values).decide(cost)
    assert decision.interval is not None
    assert (decision.num_seeds, decision.interval.mean) == (1, pytest.approx(384 / 512))
    with pytest.raises(UserError, match="several metrics"):
        claim(reaches="scene_accuracy", at={"scene_accuracy": 0.5})


def test_arms_are_compared_at_equally_many_trunks() -> None:
    """As public code counts: four images of a branch group are one sample, and 512 images 128 of them."""
    values = {"ours": [[point(0, 0.5), point(512, 0.7)]], "DDPO": [[point(0, 0.5), point(512, 0.9)]]}
    [decision] = comparison(make_study(), values).decide(claim(at={"trunks": 128.0}))
    assert decision.interval is not None
    assert decision.interval.mean == pytest.approx(0.7 - 0.6)


def test_a_claim_about_several_arms_is_decided_for_each_pair() -> None:
    values = {"ours": [[point(512, 0.7)]], "DDPO": [[point(512, 0.5)]]}
    results = comparison(make_study(), values)
    decisions = results.decide(claim(arm=("ours", "DDPO"), against=("DDPO", "ours")))
    assert [(each.arm, each.against, each.interval and round(each.interval.mean, 9)) for each in decisions] == [
        ("ours", "DDPO", 0.2), ("ours", "ours", 0.0), ("DDPO", "DDPO", 0.0), ("DDPO", "ours", -0.2),
    ]  # fmt: skip
    assert "(scene_accuracy: DDPO - ours) | -0.200" in "\n".join(claims_table(decisions))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('arm = "our"', r"has 'our', which is not an arm \(did you mean 'ours'\?\); give one of: 'base', 'ours'"),
        ('against = ["base", "ddpo"]', "'test' has 'ddpo', which is not an arm; give one of: 'base', 'ours'"),
        ('condition = "long"', "'test' has 'long', which is not a condition"),
    ],
)
def test_claims_about_unknown_arms_and_conditions_are_refused(tmp_path: Path, change: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    lines = {"arm": 'arm = ["ours"]', "against": 'against = "base"'}
    lines[change.split()[0]] = change
    text = 'title = "t"\ntext = "x"\n[arms.ours]\n[[claims]]\ntext = "test"\nmetric = "clip_score"\nat_least = 0\n'
    file.write_text(text + "\n".join(lines.values()), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_study(str(file))


def test_claims_of_another_study_are_limited_to_the_arms_of_this_one(tmp_path: Path) -> None:
    arms = 'title = "t"\ntext = "x"\n[arms.ours]\n[arms.DDPO]\n'
    claims = [
        'text = "both"\narm = ["ours", "theirs"]\nagainst = ["DDPO", "base"]\n',
        'text = "an arm that is not here"\narm = "theirs"\nagainst = "DDPO"\n',
        'text = "a condition that is not here"\narm = "ours"\nagainst = "DDPO"\ncondition = "long"\n',
    ]
    bound = 'metric = "clip_score"\nat_least = 0\n'
    other, file = tmp_path / "other.toml", tmp_path / "mine.toml"
    tables = "".join(f"[[claims]]\n{text}{bound}" for text in claims)
    other.write_text(f"{arms}[arms.theirs]\n[conditions.long]\n{tables}", encoding="utf-8")
    own = f'[[claims]]\ntext = "own"\narm = "DDPO"\nagainst = "base"\n{bound}'
    file.write_text(f'claims_of = "{other}"\n{arms}{own}', encoding="utf-8")
    assert [(each.text, each.pairs) for each in read_study(str(file)).claims] == [
        ("both", [("ours", "DDPO"), ("ours", "base")]),
        ("own", [("DDPO", "base")]),
    ]
    other.write_text(f"{arms}{tables}", encoding="utf-8")  # without the arm that its claims name
    with pytest.raises(UserError, match="has 'theirs', which is not an arm"):
        read_study(str(file))
    file.write_text(f'claims_of = "evidenc"\n{arms}', encoding="utf-8")
    with pytest.raises(UserError, match=r"claims_of is 'evidenc' \(did you mean 'evidence'\?\)"):
        read_study(str(file))


def test_ratios_have_the_interval_of_their_logarithms() -> None:
    interval = ratio_interval([1.0, 2.0, 4.0], [2.0, 4.0, 4.0])
    assert interval.mean == pytest.approx(math.exp((2 * math.log(0.5) + 0) / 3))
    assert interval.low < interval.mean < interval.high


def claim(**changes: object) -> Claim:
    base = Claim(text="better", arm="ours", against="DDPO", metric="scene_accuracy", at_least=0.0)
    return replace(base, **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [((0.8, 0.81, 0.82), "holds"), ((0.5, 0.51, 0.52), "does not hold"), ((0.6, 0.9, 0.7), "not decided")],
)
def test_a_claim_is_decided_by_the_paired_interval(ours: Sequence[float], verdict: str) -> None:
    ddpo = (0.7, 0.71, 0.72)
    values = {"ours": [[point(512, x)] for x in ours], "DDPO": [[point(512, x)] for x in ddpo]}
    assert comparison(make_study(), values).decide(claim())[0].verdict == verdict


def test_a_claim_without_a_condition_is_decided_in_each() -> None:
    study = make_study(conditions={"a": {}, "b": {"objective": {"use": "dpo"}}}, claims=(claim(),), seeds=(0,))
    cells = make_cells(study)
    accuracies = {("a", "ours"): 0.8, ("a", "DDPO"): 0.7, ("b", "ours"): 0.6, ("b", "DDPO"): 0.7}
    results = {cell.key: result(cell, point(512, accuracies[cell.condition, cell.arm])) for cell in cells}
    decided = StudyResults(cells, results)
    differences = [decision.interval.mean for decision in decided.decide(claim()) if decision.interval]
    assert differences == pytest.approx([0.1, -0.1])
    assert [decision.claim.condition for decision in decided.decide(claim(condition="b"))] == ["b"]
    text = study_text(study, decided, command="b2diffurl study x")
    assert "| a: better (" in text
    assert "| b: better (" in text


def test_seeds_that_one_arm_lacks_do_not_count() -> None:
    values = {"ours": [[point(512, 0.8)], [point(512, 0.9)]], "DDPO": [[point(512, 0.7)]]}
    [decision] = comparison(make_study(), values).decide(claim())
    assert (decision.num_seeds, decision.verdict) == (1, "not decided")
    assert comparison(make_study(), {"ours": [], "DDPO": []}).decide(claim())[0].verdict == "no data"


def test_gains_are_measured_from_the_images_before_training() -> None:
    values = {
        "ours": [[point(0, 0.5 + s / 100), point(512, 0.8 + s / 100)] for s in range(3)],
        "DDPO": [[point(512, 0.7)] for _ in range(3)],
    }
    shown = comparison(make_study(), values)
    [decision] = shown.decide(claim(against="base", at_least=0.29))
    assert decision.verdict == "holds"
    assert decision.interval is not None
    assert decision.interval.mean == pytest.approx(0.3)
    assert [points[0].reward_queries for points in shown.seeds("", "DDPO").values()] == [0, 0, 0]


def test_stopped_runs_are_named_and_not_averaged() -> None:
    study = make_study(seeds=(0,))
    cells = make_cells(study)
    results = {cells[0].key: result(cells[0], point(256, 0.9), stopped="round 2: collapse"),
               cells[1].key: result(cells[1], point(512, 0.7))}  # fmt: skip
    text = study_text(study, StudyResults(cells, results), command="b2diffurl study x")
    assert "stopped: ours 0, round 2: collapse" in text
    assert "0.900" not in text


def test_the_page_has_means_intervals_claims_and_what_is_missing(tmp_path: Path) -> None:
    study = make_study(claims=(claim(),), baseline="DDPO")
    values = {"ours": [[point(512, x)] for x in (0.8, 0.82)], "DDPO": [[point(512, x)] for x in (0.7, 0.71, 0.75)]}
    text = write_tables(study, comparison(study, values), tmp_path, command="b2diffurl study x")
    assert "| ours | 2 | 512 | 128 | 1,024 | 1 | 0.810 ± 0.127 |" in text
    assert "| ours | 2 | +0.105 (+0.041 to +0.169)" in text
    assert "| **holds** |" in text
    assert "1 of the runs have no result" in text
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert (tmp_path / "cells.csv").read_text(encoding="utf-8").count("\n") == 6


def test_the_first_and_the_last_round_of_a_metric_are_shown_and_plotted(tmp_path: Path) -> None:
    study = make_study(round_metrics=("image/contrast",))
    cells = make_cells(study)
    results = {cell.key: result(cell, point(512, 0.8)) for cell in cells}
    contrasts = {"ours": ([0.25, 0.5], [0.25, 0.5], [0.25, None]), "DDPO": ([0.5, 0.25], [0.5, 0.5])}
    for cell in cells:
        if cell.seed < len(contrasts[cell.arm]):
            values = list(contrasts[cell.arm][cell.seed])
            results[cell.key] = replace(results[cell.key], rounds={"image/contrast": values, "reward/mean": [1.0, 2.0]})
    shown = StudyResults(cells, results)
    assert shown.rounds("", "ours", "image/contrast")[2] == [(256, 0.25), (512, None)]
    text = write_tables(study, shown, tmp_path, command="b2diffurl study x")
    columns = [f"image/contrast, {place}" for place in ("first round", "last round", "last minus first")]
    head = " | ".join(["| round metrics", "seeds", *columns]) + " |"
    assert text[text.index(head) :].splitlines()[2:] == [
        "| ours | 3 | 0.250 ± 0.000 | 0.500 ± 0.000 | +0.250 (+0.250 to +0.250) |",
        "| DDPO | 2 | 0.500 ± 0.000 | 0.375 ± 1.588 | -0.125 (-1.713 to +1.463) |",
    ]
    width = Image.open(tmp_path / "curves.png").width
    without = write_tables(replace(study, round_metrics=()), shown, tmp_path, command="b2diffurl study x")
    assert without == text[: text.index(head)].rstrip("\n") + "\n"
    assert width * 5 == Image.open(tmp_path / "curves.png").width * 6


def test_rounds_of_stopped_runs_and_of_results_without_them_do_not_count() -> None:
    study = make_study(seeds=(0, 1), round_metrics=("image/contrast", "typo"))
    cells = make_cells(study, [0])
    results = {cell.key: replace(result(cell, point(512, 0.8)), rounds={"image/contrast": [0.25]}) for cell in cells}
    results[cells[1].key] = replace(results[cells[1].key], rounds={})
    lines = study_text(study, StudyResults(cells, results), command="x").splitlines()
    assert "| ours | 1 | 0.250 | 0.250 | +0.000 | - | - | - |" in lines
    assert "| DDPO | 0 | - | - | - | - | - | - |" in lines
    results[cells[0].key] = replace(results[cells[0].key], stopped="round 2: collapse")
    assert StudyResults(cells, results).rounds("", "ours", "image/contrast") == {}


def test_the_plot_of_a_metric_of_rounds_has_the_scored_images_below_and_the_range_of_the_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(round_metrics=("image/contrast",), seeds=(0, 1))
    cells = make_cells(study)
    rounds = {0: [0.25, 0.5, None], 1: [0.5, None, None]}
    results = {
        cell.key: replace(result(cell, point(512, 0.8)), rounds={"image/contrast": list(rounds[cell.seed])})
        for cell in cells
    }

    def read_last_panel(panels: Sequence[Callable[[Axes], None]], _file: Path, **_: object) -> None:
        panels[-1](axes)

    axes = Figure().subplots()
    monkeypatch.setattr("b2diffurl.analysis.study.tables.save_panels", read_last_panel)
    write_tables(study, StudyResults(cells, results), tmp_path, command="b2diffurl study x")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("reward queries", "image/contrast")
    ours = axes.lines[0]
    assert [ours.get_label(), list(ours.get_xdata()), list(ours.get_ydata())] == ["ours", [256, 512], [0.375, 0.5]]  # pyright: ignore
    assert axes.collections[0].get_datalim(axes.transData).get_points().tolist() == [[256, 0.25], [512, 0.5]]


def test_the_study_of_hacking_shows_the_contrast_of_its_runs() -> None:
    study = read_study("hacking")
    cells = make_cells(study)
    found = {cell.key: stored for cell in cells if (stored := read_result(result_file(RESULTS, cell), cell))}
    results = StudyResults(cells, found)
    assert study.round_metrics == ("image/contrast",)
    for arm in study.arms:
        assert [len(rounds) for rounds in results.rounds("", arm, "image/contrast").values()] == [12, 12, 12]


def test_a_condition_without_results_is_not_drawn(tmp_path: Path) -> None:
    study = make_study(conditions={"first": {}, "second": {"reward": "jpeg-size:compressible"}})
    cells = make_cells(study)
    results = {cell.key: result(cell, point(512, 0.8)) for cell in cells if cell.condition == "first"}
    heights: list[int] = []
    for known in (results, {cell.key: result(cell, point(512, 0.8)) for cell in cells}):
        text = write_tables(study, StudyResults(cells, known), tmp_path, command="b2diffurl study x")
        assert ("No results yet." in text) == (known is results)
        heights.append(Image.open(tmp_path / "curves.png").height)
    assert heights[1] > 1.5 * heights[0]


def test_each_condition_has_the_metrics_that_its_judge_reports(tmp_path: Path) -> None:
    study = make_study(conditions={"CLIPScore": {}, "BERTScore": {"reward": "bert:emoji"}})
    cells = make_cells(study)
    scores = {"CLIPScore": {"clip_score": 0.5}, "BERTScore": {"bert_score": 0.5, "clip_score": 0.5}}
    results = {cell.key: result(cell, replace(point(512, 0.8), scores=scores[cell.condition])) for cell in cells}
    text = write_tables(study, StudyResults(cells, results), tmp_path, command="b2diffurl study x")
    headings = [line for line in text.splitlines() if line.startswith("| arm |")]
    assert [line.count("bert_score") for line in headings] == [0, 1]
    assert (tmp_path / "cells.csv").read_text(encoding="utf-8").splitlines()[0].endswith("clip_score,bert_score")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_claims_without_data_are_counted() -> None:
    study = make_study(claims=(claim(), claim(text="never", at={"scene_accuracy": 0.99}), claim(text="nor this one",
                       against="base")))  # fmt: skip
    values = {"ours": [[point(512, 0.8)]], "DDPO": [[point(512, 0.7)]]}
    text = study_text(study, comparison(study, values), command="b2diffurl study x")
    assert text.count("| better (") == 1
    assert text.endswith("Claims without data, because runs are missing or do not reach the value: 2.\n")
    none = study_text(make_study(claims=(claim(),)), comparison(study, {"ours": [], "DDPO": []}), command="x")
    assert "| claim |" not in none


def test_the_studies_of_the_paper_have_its_published_values() -> None:
    table1 = {(item.condition, item.arm): item.value for item in read_study("diversity").published}
    assert table1["template 1", "B² (paper)"] == 1.3127
    assert len(table1) == 9
