"""What a study compares: arms under conditions, over seeds. One TOML file, of which this module makes complete runs."""

import copy
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge

from b2diffurl.config import NonNegativeInt, PositiveInt, from_tables, read_toml, settings, to_tables
from b2diffurl.errors import UserError, did_you_mean
from b2diffurl.run.recipes import recipe
from b2diffurl.run.settings import Run

Tables = dict[str, Any]
BASE = "base"  # the arm that claims compare with to measure a gain: the model before training
_STUDIES = Path(__file__).parent / "studies"
_UNCOUNTED = {  # by table, the settings that change no number, or numbers by rounding only
    "logging": ("checkpoint_every_rounds", "num_checkpoints", "samples_every_rounds", "num_samples", "sample_prompts",
                "grid_side", "evaluate_before"),
    "rollout": ("chunk_size",),
    "optimization": ("micro_batch_size",),
}  # fmt: skip
_OF_THE_SIZE = ("recipe", "seeds", "evaluation_images", "evaluate_every_images")  # of an arm; the learning rate, too
_SEEDS = (10, 11, 12)
_OF_TRAINING = (  # settings on which the images before training do not depend
    "num_rounds", "reward_queries_per_round", "rollout", "schedule", "advantage", "selection", "objective", "lora",
    "optimization", "trust_region", "collapse",
)  # fmt: skip


@settings
class Claim:
    """A sentence that paired differences or ratios over seeds decide: it holds, does not hold, or is not decided.

    It is decided for each condition, each arm and each arm that these are compared with.

    Attributes:
        text: the sentence.
        arm: the arm that it is about, or several.
        against: the arm that it is compared with, or several; "base" is the model before training.
        metric: an evaluation metric, or reward_queries, trunks, network_evaluations or seconds.
        kind: whether arm - against or arm / against is compared with the bound.
        at_least: the claim holds if the whole interval is at or above this.
        at_most: the claim holds if the whole interval is at or below this.
        condition: the condition; "" for each of them.
        at: metric and value, such as {scene_accuracy = 0.8}: both arms are compared where they first reach it, by
            linear interpolation between evaluations; at the end if it is not given.
        reaches: metric of which arm reaches what against has at its end: arm is read there, and against at its end.
    """

    text: str
    arm: str | tuple[str, ...]
    against: str | tuple[str, ...]
    metric: str
    kind: Literal["difference", "ratio"] = "difference"
    at_least: float = -math.inf
    at_most: float = math.inf
    condition: str = ""
    at: dict[str, float] = field(default_factory=dict[str, float])
    reaches: str = ""

    def __post_init__(self) -> None:
        if (self.at_least > -math.inf) == (self.at_most < math.inf):
            raise UserError(f"claims: {self.text!r} needs at_least or at_most; give one of them.")
        if len(self.at) + bool(self.reaches) > 1:
            raise UserError(f"claims: {self.text!r} has several metrics in at and reaches; give one.")

    @property
    def sides(self) -> list[tuple[str, ...]]:
        """The arms, and those that they are compared with."""
        return [(name,) if isinstance(name, str) else name for name in (self.arm, self.against)]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every arm with every arm that it is compared with."""
        arms, others = self.sides
        return list(product(arms, others))


@settings
class Published:
    """A value that the paper reports.

    Attributes:
        arm: the arm as this study names it.
        metric: the metric as this study names it.
        value: the number.
        condition: the condition as this study names it.
        source: the table or figure that reports it.
    """

    arm: str
    metric: str
    value: float
    condition: str = ""
    source: str


@settings
class Scale:
    """Another size of the same study, such as Stable Diffusion on a GPU.

    The arms have their settings except those that belong to the size: recipe, seeds, evaluations, learning rate. Arms
    that differ only in these are one arm, the first.

    Attributes:
        recipe: recipe of every arm.
        num_images: images that are scored in a run.
        evaluate_every_images: scored images between evaluations during training; 0 for none.
        seeds: seeds of every arm.
        conditions: replaces the study's conditions if it is not empty.
    """

    recipe: str
    num_images: PositiveInt
    evaluate_every_images: NonNegativeInt = 0
    seeds: tuple[Annotated[int, Ge(0)], ...] = _SEEDS
    conditions: dict[str, Tables] = field(default_factory=dict[str, Tables])


@settings
class Samples:
    """Grids of images, one per condition: a row per prompt and a group of columns per arm, of equal noise.

    Attributes:
        prompts: prompts by condition; that of a study without conditions is "". Other conditions have no grid.
        images_per_prompt: images of each prompt and arm.
        seed: seed of the noise, and of the runs whose adapters are used.
    """

    prompts: dict[str, tuple[str, ...]]
    images_per_prompt: PositiveInt = 4
    seed: NonNegativeInt = 10

    def __post_init__(self) -> None:
        if not self.prompts or not all(self.prompts.values()):
            raise UserError("samples.prompts is empty or has a condition without prompts; give prompts, or remove it.")


@settings
class StudyFile:
    """A study as its TOML file gives it.

    Settings of arms and conditions are those of a run.toml; a table with another `use` replaces the recipe's, any other
    is merged with it. A condition's settings precede those of the arms. Both may have `evaluation_images` and
    `evaluate_every_images` of their own. An arm may have `seeds` of its own, and a condition `seeds` to which it limits
    those of its arms. Runs of several studies are shared if they have the same settings, evaluations included.

    Attributes:
        title: the study's title.
        text: what it shows, and which figure or table of the paper it repeats.
        recipe: recipe of the arms and conditions that give none.
        num_images: images that are scored in a run: the number of rounds follows from it.
        evaluation_images: images of the evaluations before and after training.
        interim_images: images of the evaluations during training.
        evaluate_every_images: scored images between evaluations during training; 0 for none.
        seeds: seeds of the arms that give none.
        arms: settings by arm.
        conditions: settings by condition, such as a prompt template; empty for one condition.
        grid: values by setting, such as "optimization.learning_rate"; every arm is trained with each combination.
        baseline: the arm that the table compares the others with; the first if it is "".
        claims: sentences to decide.
        claims_of: another study, by name or path: those of its own claims that are about arms and conditions of this
            one are decided here, too.
        published: what the paper reports.
        round_metrics: metrics of rounds that a result keeps, such as image/contrast, to show beside the evaluations.
        samples: grids of images, or nothing.
        scales: other sizes by name.
    """

    title: str
    text: str
    recipe: str = "emoji-b2-paper"
    num_images: PositiveInt = 1536
    evaluation_images: PositiveInt = 1440
    interim_images: PositiveInt = 360
    evaluate_every_images: NonNegativeInt = 0
    seeds: tuple[Annotated[int, Ge(0)], ...] = _SEEDS
    arms: dict[str, Tables]
    conditions: dict[str, Tables] = field(default_factory=dict[str, Tables])
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    baseline: str = ""
    claims: tuple[Claim, ...] = ()
    claims_of: str = ""
    published: tuple[Published, ...] = ()
    round_metrics: tuple[str, ...] = ()
    samples: Samples | None = None
    scales: dict[str, Scale] = field(default_factory=dict[str, Scale])

    def at_scale(self, name: str) -> "StudyFile":
        """Return the study at another of its sizes; "" for its own.

        Raises:
            UserError: there is no such size.
        """
        if not name:
            return self
        if name not in self.scales:
            raise UserError(f"scale is {name!r}; give one of: {', '.join(self.scales) or 'none, this study has no'}.")
        scale = self.scales[name]
        arms: dict[str, Tables] = {}
        for arm, tables in self.arms.items():
            if (settings := _without_size(tables)) not in arms.values():
                arms[arm] = settings
        return replace(
            self, recipe=scale.recipe, num_images=scale.num_images, grid={}, arms=arms,
            evaluate_every_images=scale.evaluate_every_images, seeds=scale.seeds,
            conditions=scale.conditions or self.conditions,
        )  # fmt: skip


def _without_size(tables: Tables) -> Tables:
    """Return the settings of an arm that hold for every model: without evaluations, seeds and the learning rate."""
    without = {key: value for key, value in tables.items() if key not in _OF_THE_SIZE}
    kept = {key: value for key, value in without.pop("optimization", {}).items() if key != "learning_rate"}
    return without | ({"optimization": kept} if kept else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run of a study.

    Attributes:
        condition: its condition; "" if the study has one only.
        arm: its arm, with the values of the grid.
        run: the complete run, with its seed.
    """

    condition: str
    arm: str
    run: Run

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.seed

    @property
    def key(self) -> str:
        """Name of the run's files: the hash of its settings without the seed, and the seed.

        Cells of several studies with equal settings have equal keys, so that their run is done once.
        """
        return f"{settings_hash(self.run)[:12]}-seed{self.seed}"

    @property
    def start(self) -> str:
        """Name of the evaluation before training: cells with equal ones share it, so that one of them makes it."""
        tables = changed_settings(self.run)
        tables["logging"] = {"num_evaluation_images": self.run.logging.num_evaluation_images}
        return _hash(tables, without=("recipe", *_OF_TRAINING))  # the seed is one of the settings


def study_names() -> tuple[str, ...]:
    """Return the names of the studies in the package."""
    return tuple(sorted(file.stem for file in _STUDIES.glob("*.toml")))


def read_study(name: str) -> StudyFile:
    """Read a study by name or path, with the claims that it takes from another one.

    Raises:
        UserError: there is no such study, or its file is invalid.
    """
    study = _read_file(name)
    if study.claims_of:
        other = _read_file(study.claims_of, setting="claims_of")
        _check_names(other)
        study = replace(study, claims=(*_claims_about(study, other.claims), *study.claims))
    _check_names(study)
    return study


def _read_file(name: str, *, setting: str = "study") -> StudyFile:
    file = Path(name)
    if not name.endswith(".toml"):
        if name not in study_names():
            raise UserError(
                f"{setting} is {name!r}{did_you_mean(name, study_names())}; give a TOML file or one of: "
                f"{', '.join(study_names())}."
            )
        file = _STUDIES / f"{name}.toml"
    return read_toml(file, StudyFile)


def _known_arms(study: StudyFile) -> list[str]:
    """Return the names that a claim may compare."""
    return [BASE, *(arm for arm, _ in _arms(study))]


def _known_conditions(study: StudyFile) -> list[str]:
    """Return the conditions that the study has at any of its sizes."""
    return [*(study.conditions or [""]), *(name for scale in study.scales.values() for name in scale.conditions)]


def _claims_about(study: StudyFile, claims: Sequence[Claim]) -> Iterator[Claim]:
    """Yield claims, limited to the arms and conditions of a study."""
    arms, conditions = _known_arms(study), ["", *_known_conditions(study)]
    for claim in claims:
        kept, others = [tuple(arm for arm in side if arm in arms) for side in claim.sides]
        if kept and others and claim.condition in conditions:
            yield replace(claim, arm=kept, against=others)


def _check_names(study: StudyFile) -> None:
    """Refuse arms that the study does not have, and conditions that it has at none of its sizes."""
    conditions, arms = _known_conditions(study), _known_arms(study)
    prompts = study.samples.prompts if study.samples else ()
    named = [("samples.prompts has", name, "a condition", conditions) for name in prompts]
    for claim in study.claims:
        where = f"claims: {claim.text!r} has"
        named += [(where, claim.condition, "a condition", ["", *conditions])]
        named += [(where, arm, "an arm", arms) for pair in claim.pairs for arm in pair]
    for where, name, kind, known in named:
        if name not in known:
            names = ", ".join(repr(name) for name in dict.fromkeys(known))
            raise UserError(f"{where} {name!r}, which is not {kind}{did_you_mean(name, known)}; give one of: {names}.")


def make_cells(study: StudyFile, seeds: Sequence[int] = ()) -> list[Cell]:
    """Return all runs of a study, seed by seed, so that arms alternate in time.

    Args:
        study: the study.
        seeds: instead of the study's own; empty for these.

    Raises:
        UserError: settings of an arm or a condition are invalid, or the images do not make whole rounds.
    """
    cells: list[Cell] = []
    starts: set[str] = set()
    arms = [(arm, *_pop_seeds(tables, where=f"arm {arm!r}")) for arm, tables in _arms(study)]
    conditions = [
        (name, *_pop_seeds(dict(tables), where=f"condition {name!r}"))
        for name, tables in (study.conditions or {"": {}}).items()
    ]
    for seed in dict.fromkeys(seeds or [seed for _, _, own in arms for seed in own or study.seeds]):
        for condition, condition_tables, limit in conditions:
            for arm, tables, own in arms:
                if not seeds and (seed not in (own or study.seeds) or (limit and seed not in limit)):
                    continue
                run = _make_run(study, [condition_tables, tables], where=f"{condition} {arm}".strip(), seed=seed)
                cell = Cell(condition=condition, arm=arm, run=run)
                is_first = cell.start not in starts
                starts.add(cell.start)
                cells.append(replace(cell, run=replace(run, logging=replace(run.logging, evaluate_before=is_first))))
    return cells


def _pop_seeds(tables: Tables, *, where: str) -> tuple[Tables, Sequence[int]]:
    """Return the tables of an arm or a condition without its seeds, and these; empty if it gives none."""
    if "seeds" not in tables:
        return tables, ()
    own = tables.pop("seeds")
    if not own or not all(isinstance(seed, int) and seed >= 0 for seed in own):
        raise UserError(f"{where}: seeds is {own!r}; give integers, 0 or more.")
    return tables, own


def _arms(study: StudyFile) -> Iterator[tuple[str, Tables]]:
    """Yield every arm with every combination of the grid's values."""
    for arm, tables in study.arms.items():
        for values in product(*study.grid.values()):
            merged, name = copy.deepcopy(tables), arm
            for path, value in zip(study.grid, values, strict=True):
                merged = merge(merged, _nested(path.split("."), value))
                name += f", {path.split('.')[-1]} {value}"
            yield name, merged


def _nested(keys: Sequence[str], value: Any) -> Tables:
    return {keys[0]: _nested(keys[1:], value) if len(keys) > 1 else value}


def merge(tables: Tables, changes: Mapping[str, Any]) -> Tables:
    """Return tables with changes: nested tables are merged, but one with another `use` replaces the old one.

    >>> merge({"a": {"use": "x", "b": 1}, "c": 1}, {"a": {"use": "y"}, "c": 2})
    {'a': {'use': 'y'}, 'c': 2}
    >>> merge({"a": {"use": "x", "b": 1}}, {"a": {"d": 2}})
    {'a': {'use': 'x', 'b': 1, 'd': 2}}
    """
    merged = copy.deepcopy(tables)
    for key, change in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(change, dict):
            inner, changed = cast("Tables", old), cast("Tables", change)
            merged[key] = merge(inner, changed) if changed.get("use") in (None, inner.get("use")) else changed
        else:
            merged[key] = change
    return merged


def _make_run(study: StudyFile, changes: Sequence[Tables], *, where: str, seed: int) -> Run:
    tables: Tables = {}
    for change in changes:
        tables = merge(tables, change)
    base = recipe(str(tables.pop("recipe", study.recipe)))
    num_evaluation_images = int(tables.pop("evaluation_images", study.evaluation_images))
    every_images = int(tables.pop("evaluate_every_images", study.evaluate_every_images))
    try:
        run = from_tables(merge(to_tables(base), tables | {"seed": seed}), Run)
    except UserError as error:
        raise UserError(f"arm {where!r}: {error}") from error
    per_round = run.reward_queries_per_round
    if study.num_images % per_round:
        raise UserError(
            f"num_images is {study.num_images}, which is not a multiple of the {per_round} reward queries per round of "
            f"arm {where!r}; give one."
        )
    num_rounds = study.num_images // per_round
    every = max(1, every_images // per_round) if every_images else 0
    logging = replace(
        run.logging,
        num_evaluation_images=num_evaluation_images,
        num_interim_images=min(study.interim_images, num_evaluation_images) if every else 0,
        evaluate_every_rounds=every,
        samples_every_rounds=num_rounds,
        checkpoint_every_rounds=1,
        grid_side=0,
    )
    return replace(run, num_rounds=num_rounds, logging=logging)


def changed_settings(value: Any) -> Tables:
    """Return the settings that differ from their defaults, and those without a default, as nested tables."""
    assert is_dataclass(value)
    tables: Tables = {}
    for item in fields(value):
        current = getattr(value, item.name)
        default = item.default
        if is_dataclass(current) and not isinstance(current, type):
            changed = changed_settings(current)
            if current != default and hasattr(current, "use"):
                changed = {"use": str(getattr(current, "use"))} | changed  # noqa: B009 - typed as Any
            if changed:
                tables[item.name] = changed
        elif current != default:
            tables[item.name] = current
    return tables


def settings_hash(run: Run) -> str:
    """Return the SHA-256 of what decides a run's numbers: its changed settings without recipe, seed, files and batches.

    A new setting with a default does not change it.
    """
    tables = changed_settings(run)
    for table, names in _UNCOUNTED.items():
        counted = {name: value for name, value in tables.pop(table, {}).items() if name not in names}
        if counted:
            tables[table] = counted
    return _hash(tables, without=("recipe", "seed"))


def _hash(tables: Tables, *, without: Sequence[str]) -> str:
    counted = {name: value for name, value in tables.items() if name not in without}
    return hashlib.sha256(json.dumps(counted, sort_keys=True, default=str).encode()).hexdigest()


def slug(name: str) -> str:
    """Return a name as part of a file name.

    >>> slug("B², learning_rate 0.001")
    'b2-learning_rate-0.001'
    """
    return re.sub(r"[^a-z0-9._]+", "-", name.replace("²", "2").lower()).strip("-")
