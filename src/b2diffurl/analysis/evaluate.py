"""Evaluate the images of a model, with adapters or without: the functions behind `b2diffurl evaluate`.

Every model generates its images from the same prompts and the same noise, so that differences are paired.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from b2diffurl.analysis.sample import Generation, ImageGenerator
from b2diffurl.config import NonNegativeFloat, PositiveInt, settings
from b2diffurl.distributed import choose_device
from b2diffurl.emoji import is_embedded
from b2diffurl.errors import UserError
from b2diffurl.evaluation.generate import GeneratedImages
from b2diffurl.evaluation.judges import Judge, JudgeChoice, choose_judge, load_judge
from b2diffurl.evaluation.observations import PAIRWISE_DISTANCE, VENDI_SCORE, Observations, group_by_prompt
from b2diffurl.prompts.lists import PromptList, read_prompt_list
from b2diffurl.rewards import Reward, RewardSettings, check_reward, load_reward, score_images

BASE = "base"


@settings
class EvaluationSettings:
    """What is evaluated, and how certain the numbers are.

    Attributes:
        num_images: number of images per model, with the prompts in turn.
        judge: auto (the scene oracle for an embedded model on its prompts, else its CLIP; for other models the paper's
            ViT-H-14), clip (ViT-H-14), clip:MODEL, or none (rewards only).
        reward: rewards whose means are further metrics, by name as in training.
        adapter_scales: factors of what each adapter adds to the model: 1 as trained; 0 is the model without it.
        num_resamples: resamples of the bootstrap over prompts.
        confidence: probability that an interval contains its metric, above 0 and below 1.
    """

    num_images: PositiveInt = 900
    judge: str = "auto"
    reward: tuple[str, ...] = ()
    adapter_scales: tuple[NonNegativeFloat, ...] = (1.0,)
    num_resamples: Annotated[int, Ge(2)] = 1000
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95

    def metrics(
        self, *, model: str, prompts: Sequence[str], reward_settings: RewardSettings | None = None
    ) -> tuple[str, ...]:
        """Give the names of all metrics: of the judge, of rewards, and the diversity of the judge's features.

        Args:
            model: the model that will be evaluated.
            prompts: the prompts that will be evaluated.
            reward_settings: settings of the rewards; the defaults if None.

        Raises:
            UserError: as `find_judge`, or a reward is invalid.
        """
        for name in self.reward:
            check_reward(name, reward_settings)
        choice = find_judge(self.judge, model=model, prompts=prompts, has_rewards=bool(self.reward))
        names = [*choice.metrics, *self.reward]
        if choice.kind != "none":
            names.append(VENDI_SCORE)
            # Two images of every prompt, so that no resample of the prompts is without a pair.
            if min(Counter(prompts[i % len(prompts)] for i in range(self.num_images)).values()) > 1:
                names.append(PAIRWISE_DISTANCE)
        repeated = [name for name, num in Counter(names).items() if num > 1]
        if repeated:
            raise UserError(f"reward holds {repeated[0]!r} more than once; name each once.")
        return tuple(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A model with an adapter at a scale, or without one.

    Attributes:
        adapter: display name of the adapter.
        lora: adapter directory; None for the model without an adapter.
        scale: factor of what the adapter adds; 0 for the model without an adapter.
    """

    adapter: str
    lora: Path | None = None
    scale: float = 0.0

    @property
    def label(self) -> str:
        """Display name: that of the adapter, and its scale if that is not 1."""
        return self.adapter if self.scale in (0, 1) else f"{self.adapter} x {self.scale:g}"


def variants(loras: Sequence[Path], *, scales: Sequence[float] = (1.0,)) -> tuple[Variant, ...]:
    """List the model without an adapter, then every adapter at every scale above 0.

    Args:
        loras: adapter directories.
        scales: factors of what each adds.

    Raises:
        UserError: an adapter or a scale is repeated.

    >>> [variant.label for variant in variants([Path("runs/a/lora"), Path("runs/b/lora")], scales=(0.5, 1.0))]
    ['base', 'a x 0.5', 'a', 'b x 0.5', 'b']
    """
    for setting, values in (("lora", [str(lora) for lora in loras]), ("adapter_scales", scales)):
        repeated = [value for value, num in Counter(values).items() if num > 1]
        if repeated:
            raise UserError(f"{setting} holds {repeated[0]} more than once; give each once.")
    with_adapter = [
        Variant(adapter=name, lora=lora, scale=scale)
        for name, lora in zip(_short_names(loras), loras, strict=True)
        for scale in scales
        if scale > 0
    ]
    return (Variant(adapter=BASE), *with_adapter)


def _short_names(loras: Sequence[Path]) -> list[str]:
    """Name each adapter by its run folder, without the parts of the path that all share.

    >>> _short_names([Path("runs/b2/seed0/lora"), Path("runs/ddpo/seed0/lora")]), _short_names([Path("runs/b2/lora")])
    (['b2', 'ddpo'], ['b2'])
    """
    if not loras:
        return []
    parts = [(lora.parent if lora.name == "lora" else lora).absolute().parts for lora in loras]
    parts = parts if len(parts) > 1 else [path[-1:] for path in parts]
    while all(len(path) > 1 and path[0] == parts[0][0] for path in parts):
        parts = [path[1:] for path in parts]
    while all(len(path) > 1 and path[-1] == parts[0][-1] for path in parts):
        parts = [path[:-1] for path in parts]
    names = ["/".join(path) for path in parts]
    return names if len({*names, BASE}) > len(names) else [str(lora) for lora in loras]


def evaluate(
    model: str,
    prompts: str | Sequence[str],
    *,
    lora: Path | str | None = None,
    num_images: int = 900,
    seed: int = 0,
    judge: str = "auto",
    generation: Generation = Generation(),  # noqa: B008 - frozen
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """Generate images and compute the metrics of a judge: alignment and diversity, higher is better.

    `compare` evaluates several adapters, with intervals.

    Args:
        model: "emoji", "emoji-objects", a local diffusers directory, a .safetensors checkpoint file, or a hub id.
        prompts: prompts, or the name of a list or the path of a prompts file.
        lora: adapter directory of a run.
        num_images: number of images, with the prompts in turn.
        seed: seed of the noise.
        judge: "auto", "clip" or "clip:MODEL"; see `find_judge`.
        generation: sampler, precision and device.
        on_progress: called with the number of images that have been completed since the last call.

    Returns:
        The metrics by name.

    Raises:
        UserError: an argument is invalid, or the model, the adapter or the prompts cannot be found.
    """
    listed = read_prompt_list([prompts] if isinstance(prompts, str) else prompts)
    choice = find_judge(judge, model=model, prompts=listed.prompts)
    only = Variant(adapter=BASE) if lora is None else Variant(adapter=str(lora), lora=Path(lora), scale=1.0)
    (observed,) = observe(
        model, listed, [only], evaluation=EvaluationSettings(num_images=num_images, judge=judge), seed=seed,
        generation=generation, on_progress=on_progress,
    )  # fmt: skip
    return {name: observed.metric(name) for name in choice.metrics}


def observe(
    model: str,
    prompts: PromptList,
    variants: Sequence[Variant],
    *,
    evaluation: EvaluationSettings,
    seed: int = 0,
    generation: Generation = Generation(),  # noqa: B008 - frozen
    reward_settings: RewardSettings | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Observations]:
    """Generate the images of each variant, once and from the same noise, and observe them.

    Args:
        model: as for `evaluate`.
        prompts: the prompts, and metadata for rewards that take it.
        variants: the variants; at least one.
        evaluation: what is evaluated.
        seed: seed of the noise.
        generation: sampler, precision and device.
        reward_settings: settings of the rewards; the defaults if None.
        on_progress: called with the number of images that have been completed since the last call.

    Returns:
        One per variant: what the judge observes, and the scores of the rewards.

    Raises:
        UserError: as `evaluate`.
    """
    texts = prompts.prompts
    choice = find_judge(evaluation.judge, model=model, prompts=texts, has_rewards=bool(evaluation.reward))
    for name in evaluation.reward:
        check_reward(name, reward_settings)
    adapters = list(dict.fromkeys(variant.lora for variant in variants if variant.lora is not None))
    generator = ImageGenerator.load(
        model, texts, loras=adapters, num_images=evaluation.num_images, seed=seed, generation=generation
    )
    images = (generator.generate(lora=each.lora, scale=each.scale, on_progress=on_progress) for each in variants)
    if len(variants) == 1:  # the model's memory is free before the judge is loaded
        images = iter([next(images)])
        del generator
    device = choose_device(generation.device)
    observer: _Observer | None = None
    observations: list[Observations] = []
    for generated in images:
        observer = observer or _Observer.load(choice, evaluation.reward, settings=reward_settings, device=device)
        observations.append(observer.observe(generated, prompts))
    return observations


@dataclass(frozen=True, kw_only=True, slots=True)
class _Observer:
    """A loaded judge, if there is one, and the rewards by name."""

    judge: Judge | None
    rewards: dict[str, Reward]

    @classmethod
    def load(
        cls, choice: JudgeChoice, names: Sequence[str], *, settings: RewardSettings | None, device: str
    ) -> "_Observer":
        rewards = {name: load_reward(name, settings, device=device) for name in names}
        has_judge = choice.kind != "none"
        judge = load_judge(choice, others=[*rewards.values()], device=device) if has_judge else None
        return cls(judge=judge, rewards=rewards)

    def observe(self, generated: GeneratedImages, prompts: PromptList) -> Observations:
        images, texts = generated.images, generated.prompts
        metadata = prompts.metadata_of(texts)
        scores = {
            name: score_images(reward, images, texts, metadata, name=name).scores
            for name, reward in self.rewards.items()
        }
        if self.judge is None:
            return Observations(groups=group_by_prompt(texts), scores=scores)
        observed = self.judge.observe(images, texts)
        return replace(observed, scores={**observed.scores, **scores})


def find_judge(judge: str, *, model: str, prompts: Sequence[str], has_rewards: bool = False) -> JudgeChoice:
    """Choose the judge of a model without a run.

    Args:
        judge: "auto" (for an embedded model the scene oracle and its CLIP on its prompts, else its CLIP; for other
            models the paper's ViT-H-14), "clip" (ViT-H-14), "clip:MODEL", or "none".
        model: as for `evaluate`.
        prompts: the prompts that will be evaluated.
        has_rewards: whether rewards are metrics, so that "none" leaves some.

    Raises:
        UserError: the judge needs a run, or it is "none" and there are no rewards.
    """
    reward = f"clip:{model}" if is_embedded(model) else "clip"  # what "auto" uses if the scene oracle does not fit
    choice = choose_judge(judge, model=model, prompts=prompts, reward=reward)
    if choice.kind not in ("emoji", "clip") and not (choice.kind == "none" and has_rewards):
        raise UserError(f"judge is {judge!r}, which needs a run; give auto, clip or clip:MODEL.")
    return choice
