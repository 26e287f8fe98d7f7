"""The command `b2diffurl`: train, sample, evaluate, show.

Exit codes: 0 done; 1 the run stopped or something broke; 2 the user's mistake, in one sentence; 130 interrupted.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from b2diffurl.errors import RunStopped, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from b2diffurl.evaluation.evaluate import Pictures
    from b2diffurl.run import Run

T = TypeVar("T")

_HELP = """\
usage: b2diffurl COMMAND ...

Fine-tune text-to-image diffusion models by reinforcement learning (B²-DiffuRL).

  train RECIPE|run.toml   fine-tune a model; --help after the recipe lists every setting
  sample MODEL            draw pictures, with or without an adapter
  evaluate MODEL          judge a model: alignment and diversity
  study NAME              several runs, one table
  show RECIPE|run.toml    print the complete run as TOML

recipes: {recipes}
studies: {studies}

Begin with: b2diffurl train emoji-quickstart --output runs/first
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except UserError as error:
        print(f"b2diffurl: {error}", file=sys.stderr)
        return 2
    except RunStopped as stop:
        print(f"b2diffurl: {stop} The last good checkpoint stands.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("b2diffurl: interrupted; continue with --resume.", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train, "sample": _sample, "evaluate": _evaluate, "study": _study, "show": _show,
    }  # fmt: skip
    if not words or words[0] in ("-h", "--help"):
        from b2diffurl.recipes import RECIPES
        from b2diffurl.studies import STUDIES

        print(_HELP.format(recipes=", ".join(RECIPES), studies=", ".join(STUDIES)))
        return 0 if words else 2
    if words[0] == "--version":
        from b2diffurl import __version__

        print(__version__)
        return 0
    if words[0] not in commands:
        raise UserError(f"there is no command {words[0]!r}; give one of: {', '.join(commands)}.")
    return commands[words[0]](words[1:])


def _parse(cls: type[T], words: list[str], *, prog: str, default: T | None = None) -> T:
    """Read flags into settings; a mistake in a value is told in one sentence."""
    config = (tyro.conf.CascadeSubcommandArgs,)
    if default is None:
        return tyro.cli(cls, args=words, prog=prog, config=config)
    return tyro.cli(cls, args=words, prog=prog, default=default, config=config)


def _named_run(words: list[str], command: str) -> "Run":
    from b2diffurl.config import read_toml
    from b2diffurl.recipes import RECIPES, recipe
    from b2diffurl.run import Run

    if not words or words[0].startswith("-"):
        if words and words[0] in ("-h", "--help"):
            print(f"usage: b2diffurl {command} RECIPE|run.toml [flags]\nrecipes: {', '.join(RECIPES)}")
            raise SystemExit(0)
        raise UserError(f"`b2diffurl {command}` wants a recipe or a run.toml first; recipes: {', '.join(RECIPES)}.")
    name = words[0]
    return read_toml(Path(name), Run) if name.endswith(".toml") else recipe(name)


def _train(words: list[str]) -> int:
    from b2diffurl.run import Run

    base = _named_run(words, "train")

    @dataclass(frozen=True, kw_only=True)
    class Train:
        """Fine-tune a model.

        Attributes:
            run: every setting of the recipe.
            output: the run folder; the default is runs/RECIPE-seedSEED.
            resume: continue the run in that folder from its newest checkpoint.
            dry_run: check everything that can be checked without loading a model, print the run, and stop.
            tensorboard: write TensorBoard events into the run folder (extra: tensorboard).
            device: where the model runs, such as cpu or cuda.
        """

        run: Annotated[Run, tyro.conf.arg(name="")]
        output: Path | None = None
        resume: bool = False
        dry_run: bool = False
        tensorboard: bool = False
        device: str = "cpu"

    name = words[0]
    beside = Path(name).parent if name.endswith("run.toml") and "--resume" in words else None
    asked = _parse(Train, words[1:], prog=f"b2diffurl train {name}", default=Train(run=base, output=beside))
    run = asked.run
    output = asked.output or Path("runs") / f"{run.recipe}-seed{run.seed}"
    if asked.dry_run:
        from b2diffurl.config import to_toml
        from b2diffurl.run import check_run

        check_run(run)
        print(to_toml(run), end="")
        return 0
    return _do_train(run, output=output, resume=asked.resume, tensorboard=asked.tensorboard, device=asked.device)


def _do_train(run: "Run", *, output: Path, resume: bool, tensorboard: bool, device: str) -> int:
    _prepare()
    from rich.console import Console

    from b2diffurl.console import ConsoleObserver
    from b2diffurl.run import check_run
    from b2diffurl.tracker import Observer, TensorBoard

    check_run(run)
    console = Console()
    console.print(
        f"{run.recipe}: {run.num_rounds} rounds of {run.reward_queries_per_round} reward queries into {output}"
    )
    from b2diffurl.trainer import train

    with ConsoleObserver(console, num_rounds=run.num_rounds) as shown:
        observers: list[Observer] = [shown]
        if tensorboard:
            observers.append(TensorBoard(output / "tensorboard"))
        train(run, output=output, resume=resume, device=device, observers=observers)
    _print_before_after(console, output / "evaluation.json")
    console.print(f"adapter  {output / 'lora'}\nreport   {output / 'report.html'}", highlight=False, soft_wrap=True)
    return 0


def _prepare() -> None:
    from b2diffurl.models.quiet import disable_progress_bars
    from b2diffurl.process import prepare_process

    prepare_process()
    disable_progress_bars()


def _print_before_after(console: "Console", file: Path) -> None:
    if not file.is_file():
        return
    from rich.table import Table

    found = json.loads(file.read_text(encoding="utf-8"))
    table = Table("", "before", "after", "change", title=f"{found['num_images']} pictures of {found['prompts']}")
    for name, before in found["before"].items():
        after = found["after"][name]
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    console.print(table)


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """What `sample` and `evaluate` share.

    Attributes:
        model: "emoji", a local diffusers directory, or a hub id.
        lora: adapter folder of a run.
        prompts: a named list such as template1-test, a .txt file, or (several words allowed) prompts themselves.
        seed: of the noise.
        num_inference_steps: denoising steps.
        eta: weight of the noise of each DDIM step.
        guidance_scale: of classifier-free guidance; by default the recipe's for "emoji" (1), else 5.
        device: where the model runs.
    """

    model: tyro.conf.Positional[str]
    prompts: tuple[str, ...] = ("template1-train",)
    lora: Path | None = None
    seed: int = 0
    num_inference_steps: int = 20
    eta: float = 1.0
    guidance_scale: float | None = None
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Sample(_Pictures):
    """Draw pictures into a folder: one PNG a picture, a grid, and prompts.json.

    Attributes:
        output: folder for the pictures, made if it is not there.
        num_images: pictures; by default one a prompt.
    """

    output: Annotated[Path, tyro.conf.arg()]
    num_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Pictures):
    """Judge a model's pictures: alignment and diversity.

    Attributes:
        num_images: pictures to judge, the prompts in turn.
        metrics: which numbers; by default all that this model and these prompts have.
        clip: the CLIP model of clip_score; by default the embedded one for "emoji", else the paper's ViT-H-14.
        json: file to write the numbers to.
    """

    num_images: int = 900
    metrics: tuple[str, ...] = ()
    clip: str | None = None
    json: Path | None = None


def _sample(words: list[str]) -> int:
    asked = _parse(Sample, words, prog="b2diffurl sample")
    if asked.output.exists() and (not asked.output.is_dir() or any(asked.output.iterdir())):
        raise UserError(f"output {asked.output} is there and not an empty folder; give another folder.")
    pictures = _draw(asked, num_images=asked.num_images)
    from b2diffurl.images import grid, to_pil

    asked.output.mkdir(parents=True, exist_ok=True)
    images = [to_pil(image) for image in pictures.images]
    for index, image in enumerate(images):
        image.save(asked.output / f"{index:04d}.png")
    grid(images, num_columns=12).save(asked.output / "grid.png")
    (asked.output / "prompts.json").write_text(json.dumps(pictures.prompts, indent=1), encoding="utf-8")
    print(f"{len(images)} pictures in {asked.output}, all of them in {asked.output / 'grid.png'}")
    return 0


def _evaluate(words: list[str]) -> int:
    asked = _parse(Evaluate, words, prog="b2diffurl evaluate")
    from b2diffurl.evaluation.evaluate import EMOJI_METRICS, GENERAL_METRICS, check_metrics, is_emoji_world, judge
    from b2diffurl.models import EMOJI

    in_emoji_world = asked.model == EMOJI and is_emoji_world(_prompts(asked.prompts))
    metrics = asked.metrics or (EMOJI_METRICS if in_emoji_world else GENERAL_METRICS)
    check_metrics(metrics, emoji_world=in_emoji_world)
    if asked.json is not None and not asked.json.parent.is_dir():
        raise UserError(f"json is {asked.json}, whose folder is not there; make it first.")
    pictures = _draw(asked, num_images=asked.num_images)
    from b2diffurl.rewards.clip import CLIPScore
    from b2diffurl.trainer import default_clip

    clip = CLIPScore(asked.clip or default_clip(asked.model), device=asked.device)
    found = judge(pictures, metrics, clip=clip)
    for name, value in found.items():
        print(f"{name:<16} {value:.4f}")
    if asked.json is not None:
        told = {"model": asked.model, "lora": str(asked.lora) if asked.lora else None, "num_images": asked.num_images}
        told |= {"prompts": list(asked.prompts), "seed": asked.seed, "guidance_scale": _guidance(asked)}
        asked.json.write_text(json.dumps(told | found, indent=2) + "\n", encoding="utf-8")
    return 0


def _draw(asked: _Pictures, *, num_images: int | None) -> "Pictures":
    from b2diffurl.models import check_lora, resolve_model
    from b2diffurl.run import Sampler

    prompts = _prompts(asked.prompts)
    guidance_scale = _guidance(asked)
    Sampler(num_inference_steps=asked.num_inference_steps, eta=asked.eta, guidance_scale=guidance_scale)
    if num_images is not None and num_images < 1:
        raise UserError(f"num_images is {num_images}; give 1 or more.")
    resolve_model(asked.model)
    if asked.lora is not None:
        check_lora(asked.lora)
    _prepare()
    from rich.console import Console
    from rich.progress import Progress

    from b2diffurl.evaluation.evaluate import draw_pictures
    from b2diffurl.models.policy import Policy, check_prompts, load_tokenizer

    check_prompts(load_tokenizer(asked.model), prompts)
    policy = Policy.load(asked.model, device=asked.device)
    if asked.lora is not None:
        policy.load_lora(asked.lora)
    ddim = policy.ddim(num_inference_steps=asked.num_inference_steps, eta=asked.eta)
    total = num_images or len(prompts)
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        bar = progress.add_task("sampling", total=total)
        return draw_pictures(
            policy, ddim, prompts, num_images=total, guidance_scale=guidance_scale, seed=asked.seed,
            on_progress=lambda num: progress.advance(bar, num),
        )  # fmt: skip


def _prompts(asked: tuple[str, ...]) -> tuple[str, ...]:
    """A named list, a file, or the prompts themselves."""
    from b2diffurl.prompts import load_prompts, named_lists

    if not asked or not all(prompt.strip() for prompt in asked):
        raise UserError("prompts is empty; give a named list, a .txt file, or prompts in quotes.")
    if len(asked) == 1 and (asked[0] in named_lists() or asked[0].endswith(".txt") or Path(asked[0]).exists()):
        return load_prompts(asked[0])
    return asked


def _guidance(asked: _Pictures) -> float:
    from b2diffurl.models import EMOJI
    from b2diffurl.recipes import EMOJI_GUIDANCE_SCALE
    from b2diffurl.run import Sampler

    if asked.guidance_scale is not None:
        return asked.guidance_scale
    return EMOJI_GUIDANCE_SCALE if asked.model == EMOJI else Sampler().guidance_scale


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Train the runs of a study and print its table; runs that are finished are not done again.

    Attributes:
        name: of the study.
        output: its folder.
        seeds: of every arm.
        num_jobs: runs at a time.
    """

    name: tyro.conf.Positional[str]
    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    num_jobs: int = 1


def _study(words: list[str]) -> int:
    from b2diffurl.studies import run_study

    asked = _parse(StudyCommand, words, prog="b2diffurl study")
    print(run_study(asked.name, output=asked.output, seeds=asked.seeds, num_jobs=asked.num_jobs, tell=print))
    return 0


def _show(words: list[str]) -> int:
    from b2diffurl.config import to_toml

    run = _named_run(words, "show")
    if len(words) > 1:
        raise UserError(f"`b2diffurl show` takes one recipe; {' '.join(words[1:])!r} is too much.")
    print(to_toml(run), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
