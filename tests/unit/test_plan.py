"""The cost of a run: counted by hand, and compared with the counts of a run."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from b2diffurl.algorithm.collapse import Collapse
from b2diffurl.algorithm.forward import Forward
from b2diffurl.algorithm.objectives import DPO
from b2diffurl.algorithm.records import StepInterval
from b2diffurl.algorithm.rollout import Rollout
from b2diffurl.algorithm.schedule import Backward, Full
from b2diffurl.algorithm.selection import All
from b2diffurl.algorithm.spaced import Spaced
from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.algorithm.update import Optimization
from b2diffurl.analysis.advice import advise
from b2diffurl.analysis.plan import (
    estimate_memory,
    fit,
    model_shape,
    round_cost,
    round_costs,
    run_evaluations,
)
from b2diffurl.analysis.storage import hub_models, run_disk_bytes
from b2diffurl.cli import main
from b2diffurl.models import Memory
from b2diffurl.run.disk import needed_bytes
from b2diffurl.run.recipes import RECIPES, recipe
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Run, Sampler
from b2diffurl.training.trainer import train

_GIB = 2**30


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


LAST_14 = StepInterval(14, tuple(range(6, 20)))
LAST_14_BUT_6 = StepInterval(14, tuple(range(6, 14)))


def test_a_round_counted_by_hand() -> None:
    """64 trunks of 6 steps and the branches' first; 13 steps of 256 branches; of 128 selected 14, 21 measured again."""
    run = recipe("emoji-b2-paper")
    cost = round_cost(run, model_shape("emoji"), interval=LAST_14)
    assert (cost.trunk_evaluations, cost.branch_evaluations) == (64 * 7, 256 * 13)
    assert cost.most_update_evaluations == (128 + 21) * 14
    assert cost.latent_bytes == 256 * 15 * 4 * 8 * 8 * 4
    assert [interval.length for interval in run.intervals()] == [14 + i * 7 // 18 for i in range(18)]


def test_steps_that_are_not_trained_cost_no_update() -> None:
    """Of 14 steps 8 are trained; sampling costs what it did."""
    run, shape = recipe("emoji-b2-paper"), model_shape("emoji")
    whole = round_cost(run, shape, interval=LAST_14)
    ended = round_cost(
        replace(run, schedule=Backward(tau_last=6)), shape, interval=StepInterval(14, tuple(range(6, 14)))
    )
    assert ended.rollout_evaluations == whole.rollout_evaluations
    assert ended.most_update_evaluations == (128 + 21) * 8
    assert ended.latent_bytes == 256 * 9 * 4 * 8 * 8 * 4
    assert replace(run, schedule=Backward(tau_max=16)).intervals()[-1] == StepInterval(16, tuple(range(4, 20)))


def test_spaced_steps_keep_the_states_between_them() -> None:
    """Of 20 steps 10 are trained, from the second to the last: 20 states."""
    run = replace(recipe("emoji-ddpo"), schedule=Spaced(num_trained=10))
    cost = round_cost(run, model_shape("emoji"), interval=run.intervals()[0])
    assert cost.num_trained_steps == 10
    assert cost.latent_bytes == 256 * 20 * 4 * 8 * 8 * 4
    assert cost.most_update_evaluations == (256 + 42) * 10


def test_guidance_and_the_reference_cost_evaluations() -> None:
    run, shape = recipe("emoji-b2-paper"), model_shape("emoji")
    plain = round_cost(run, shape, interval=LAST_14)
    guided = round_cost(replace(run, sampler=Sampler(guidance_scale=3.0)), shape, interval=LAST_14)
    assert guided.rollout_evaluations == 2 * plain.rollout_evaluations
    assert guided.most_update_evaluations == 2 * plain.most_update_evaluations
    dpo = round_cost(replace(run, objective=DPO()), shape, interval=LAST_14)
    assert dpo.most_update_evaluations == (2 * 128 + 2 * 10) * 14


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"sampler": Sampler(num_inference_steps=6, guidance_scale=2.0)}, marks=pytest.mark.slow),
        pytest.param(
            {"rollout": Rollout(num_branches=1), "schedule": Full(), "selection": All()}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"rollout": Rollout(num_branches=2, chunk_size=3), "selection": All(), "objective": DPO()},
            marks=pytest.mark.slow,
        ),
        pytest.param({"selection": All(), "memory": Memory(base_dtype="bfloat16")}, marks=pytest.mark.slow),
        {"selection": All(), "schedule": Backward(tau_first=3, tau_last=2, tau_max=4)},
        pytest.param(
            {"rollout": Rollout(num_branches=1), "schedule": Forward(tau_first=3), "selection": All()},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"rollout": Rollout(num_branches=1), "schedule": Spaced(num_trained=2), "selection": All()},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["quickstart", "guided", "vanilla", "dpo", "bfloat16", "ended", "forward", "spaced"],
)
def test_a_run_counts_what_the_plan_predicts(
    changes: dict[str, object], tmp_path: Path, small_run: Callable[..., Run], prompts_file: Path
) -> None:
    calm = Optimization(learning_rate=1e-6, num_minibatches=2, num_inner_epochs=2)
    blind = Collapse(max_reward_drop=1e9, max_contrast_factor=1e9)  # two small rounds say nothing
    run = small_run(
        prompts=str(prompts_file), optimization=calm, trust_region=TrustRegion(max_kl=1e6), collapse=blind, **changes
    )
    folder = train(run, output=tmp_path / "run", reward=brightness)
    intervals = run.intervals()
    for line, interval in zip(metrics_of(folder), intervals, strict=True):
        cost = round_cost(run, model_shape("emoji"), interval=interval)
        assert line["interval/length"] == interval.length
        assert line["interval/num_trained_steps"] == cost.num_trained_steps == len(interval.trained)
        assert line["network/rollout_evaluations"] == cost.rollout_evaluations
        exact = isinstance(run.selection, All)
        if exact and not run.objective.needs.pairs:
            assert line["network/update_evaluations"] == cost.most_update_evaluations
        assert line["network/update_evaluations"] <= cost.most_update_evaluations


def test_memory_grows_with_precision_and_shrinks_with_checkpointing() -> None:
    run = recipe("paper-template1-clip")
    shape = model_shape(run.model)
    base = estimate_memory(run, shape)
    full = estimate_memory(replace(run, memory=Memory(base_dtype="float32")), shape)
    saving = estimate_memory(replace(run, memory=Memory(base_dtype="bfloat16", gradient_checkpointing=True)), shape)
    assert base is not None
    assert full is not None
    assert saving is not None
    assert saving.total < base.total < full.total
    assert base.total < 16 * _GIB
    assert estimate_memory(recipe("emoji-b2-paper"), model_shape("emoji")) is None


def test_sizes_are_chosen_for_the_available_memory() -> None:
    run = recipe("paper-template1-clip")
    shape = model_shape(run.model)
    small, large = (fit(run, shape, memory_bytes=float(gib * _GIB)) for gib in (12, 80))
    assert small is not None
    assert large is not None
    assert small.optimization.micro_batch_size < large.optimization.micro_batch_size
    for fitting, gib in ((small, 12), (large, 80)):
        estimate = estimate_memory(fitting, shape)
        assert estimate is not None
        assert 0.4 * gib * _GIB < estimate.total <= 0.8 * gib * _GIB
    assert fit(run, shape, memory_bytes=2.0 * _GIB) is None


def test_the_smallest_sizes_may_take_all_of_the_memory() -> None:
    run = recipe("paper-template1-clip")
    run = replace(
        run, rollout=replace(run.rollout, chunk_size=4), optimization=replace(run.optimization, micro_batch_size=1)
    )
    shape = model_shape(run.model)
    estimate = estimate_memory(run, shape)
    assert estimate is not None
    assert fit(run, shape, memory_bytes=float(estimate.total)) == run
    assert fit(run, shape, memory_bytes=estimate.total - 1.0) is None


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_can_be_planned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("".join(f"a cat, {i}\n" for i in range(10)), encoding="utf-8")
    assert main(["plan", name, "--memory-gib", "24"]) == 0
    out = capsys.readouterr().out
    assert "network evaluations, branches" in out
    assert name.startswith("emoji") or "For 24 GiB: --rollout.chunk-size" in out


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan"])
def test_no_memory_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "sdxl", "--memory-gib", value]) == 2
    assert capsys.readouterr().err.startswith("b2diffurl: memory_gib is ")


def test_advice_lowers_the_estimate_and_says_what_suffices() -> None:
    """Every change that is printed is estimated again: a reward on another machine, then nothing else helps."""
    run = replace(recipe("sd15"), prompts="template1-train", reward="clip")
    shape = model_shape(run.model)
    helped = advise(run, shape, memory_bytes=8.0 * _GIB)
    assert [flags.split()[0] for flags, _ in helped.changes] == ["--reward"]
    assert helped.fits
    hopeless = advise(run, shape, memory_bytes=4.0 * _GIB)
    assert not hopeless.fits
    assert hopeless.sufficient_gib == 8
    assert hopeless.smallest > max(after for _, after in hopeless.changes) > 4.0 * _GIB
    whole = replace(run, memory=Memory(base_dtype="float32"))
    changes = advise(whole, shape, memory_bytes=8.0 * _GIB).changes
    assert [flags.split()[0] for flags, _ in changes] == ["--memory.base-dtype", "--reward"]
    sizes = [after for _, after in changes]
    assert sizes == sorted(sizes, reverse=True)


def test_evaluations_of_a_whole_run() -> None:
    """18 rounds; 360 images before and after, and 16 previews before, after 6, 12 and 18, of 20 steps each."""
    run = recipe("emoji-b2-paper")
    shape = model_shape("emoji")
    cost = run_evaluations(run, shape)
    assert cost.images == (2 * 360 + 16 * 4) * 20
    assert cost.sampling == sum(each.rollout_evaluations for each in round_costs(run, shape))


def test_the_download_and_the_disk_of_a_run() -> None:
    run = replace(recipe("sd15"), prompts="template1-train", reward="pickscore + 0.5*jpeg-size:compressible")
    resolved = resolve(run)
    assert hub_models(resolved) == [run.model, "yuvalkirstain/PickScore_v1"]
    assert hub_models(resolve(recipe("emoji-b2-paper"))) == []
    assert hub_models(resolve(replace(recipe("emoji-b2-paper"), reward="bert:emoji"))) == []
    adapter = 4 * 1_594_368
    previews = 8 * 2 * 512**2  # at least
    assert run_disk_bytes(resolved, model_shape(run.model)) > needed_bytes(resolved) + 11 * adapter + previews


def test_measuring_prints_the_time_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sampler.num-inference-steps", "4", "--schedule.tau-first", "2", "--rollout.chunk-size", "4"]
    words += ["--optimization.micro-batch-size", "4", "--device", "cpu"]
    assert main(["plan", "emoji-b2-paper", "--measure", *words]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("device   cpu: ")
    for fragment in (
        "Measured on cpu: ",
        "4 images at a time",
        "micro-batch of 4",
        "The whole run on this machine: about",
    ):
        assert fragment in " ".join(out.split())
    assert not any(tmp_path.iterdir())
