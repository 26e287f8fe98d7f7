"""The training loop around `algorithm.round.run_round`: build, resume, loop, finish, and fill the run folder."""

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock

import torch

from b2diffurl.algorithm.advantage import RewardHistory
from b2diffurl.algorithm.collapse import CollapseMonitor
from b2diffurl.algorithm.randomness import prompt_rng
from b2diffurl.algorithm.round import RoundResult, RoundState, Strategy, run_round
from b2diffurl.algorithm.update import Update, UpdateSettings
from b2diffurl.distributed import AUTO, Ranks, choose_device
from b2diffurl.errors import RewardFailed, RunStopped, UserError
from b2diffurl.evaluation.evaluator import Evaluator
from b2diffurl.evaluation.judges import Judge, JudgeChoice, load_judge
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.prompts.lists import sample_prompts
from b2diffurl.reporting import write_report
from b2diffurl.rewards import RewardSettings, load_reward, load_watched
from b2diffurl.rewards.custom import recorded_name
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.binding import bind_policy
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.disk import check_disk_space
from b2diffurl.run.log import RunLog
from b2diffurl.run.resolve import ResolvedRun, resolve
from b2diffurl.run.resume import check_directory
from b2diffurl.run.settings import Run
from b2diffurl.training.callbacks import Observer, ProgressReporter
from b2diffurl.training.checkpoint import (
    hash_initial_adapter,
    hash_prompts,
    hash_rewards,
    make_checkpoint,
    restore_checkpoint,
)
from b2diffurl.training.gallery import num_kept_groups, save_grid, save_groups, score_samples
from b2diffurl.training.idle import IdleWatch
from b2diffurl.training.image_scorer import ImageScorer
from b2diffurl.training.metrics import round_metrics
from b2diffurl.training.notes import opening_notes, with_dtype
from b2diffurl.training.outputs import RoundWriter, save_previews, write_results
from b2diffurl.training.scorer import Scoring

_LOADING = Lock()  # while the libraries load a model they patch torch, which other threads would see


class Trainer:
    """One run in one directory.

    Args:
        resolved: the run, checked.
        directory: the run directory, checked.
        device: device of the model.
        observers: callbacks for progress and metrics (metrics.jsonl is always written).
        reward: used instead of the run's own reward, from Python.
        ranks: the ranks that do the run together; all train, rank 0 writes.
        log: run.log; by default that of the directory.
        on_message: receives a warning about a run that trains nothing.
    """

    def __init__(
        self,
        resolved: ResolvedRun,
        *,
        directory: RunDirectory,
        device: torch.device | str = "cpu",
        observers: Sequence[Observer] = (),
        reward: Reward | None = None,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        log: RunLog | None = None,
        on_message: Callable[[str], None] = warnings.warn,
    ) -> None:
        run = resolved.run
        self.run = run
        self.resolved = resolved
        self.directory = directory
        self.ranks = ranks
        self.log = log or RunLog(directory)
        self.on_message = on_message
        self.idle = IdleWatch()
        self.rewards_sha256 = hash_rewards(resolved, reward)
        self.progress = ProgressReporter(observers=tuple(observers))
        self.model = TextToImageModel.load(
            resolved.model, device=device, memory=run.memory, negative_prompt=run.sampler.negative_prompt
        )
        self.model.add_lora(run.lora, seed=run.seed, source=resolved.initial_adapter)
        self.policy = bind_policy(self.model, run)
        self.reward = reward or load_reward(run.reward, RewardSettings.of(run), device=device)
        self.watched = load_watched(run.watch, RewardSettings.of(run), device=device)
        self.optimizer = _adamw(run, self.model)
        self.update = Update(
            self.policy, self.optimizer, run.objective, _settings(run, self.model), ranks=ranks, progress=self.progress
        )
        self.strategy = _strategy(run)
        self.evaluator = _evaluator(self, device)
        self.state = RoundState(
            history=RewardHistory(normalizer=run.advantage), monitor=CollapseMonitor(config=run.collapse)
        )
        self.reward_queries = 0
        self._restore()

    @property
    def rounds_done(self) -> int:
        """Number of completed rounds."""
        return len(self.state.past)

    def train(self) -> None:
        """Do all rounds that are not done yet, then write the adapter and the report.

        Raises:
            RunStopped: the run must not continue; the last good checkpoint is kept.
        """
        if self.ranks.is_main:
            self.directory.begin(self.run, prompts=self.resolved.prompt_list.prompts)
            self.directory.remove_old_checkpoints(
                last_round=self.rounds_done, num_kept=self.run.logging.num_checkpoints
            )
            self.directory.mark_stopped(None)
            self.directory.write_environment(self.model.device, num_processes=self.ranks.world_size)
        first_round = self.rounds_done + 1
        writer = RoundWriter.open(self.directory, self.log, first_round=first_round) if self.ranks.is_main else None
        try:
            if self.rounds_done == 0:
                self._save_previews(0)
            evaluation = self.directory.read_evaluation()
            if self.run.logging.evaluate_before and not (evaluation and evaluation.before):
                with self.model.initial():  # also if the file of a resumed run was lost
                    self._evaluate("before")
            while self.rounds_done < self.run.num_rounds:
                result = self._round(self.rounds_done + 1)
                self._log(result, writer)
                self._save(result.round_number)
        except RunStopped as stop:
            if self.ranks.is_main:
                self.directory.remove_checkpoints(first_round=stop.first_bad_round)
                self.directory.mark_stopped(stop)
                write_report(self.directory.path)
                if self.directory.has_checkpoint():
                    stop.add_note("The last good checkpoint is kept.")
            raise
        self._evaluate("after")
        if self.ranks.is_main:
            judge = self.evaluator.judge if self.evaluator.num_images else None
            score_samples(self.directory, self.resolved, reward=self.reward, judge=judge, log=self.log)
            write_results(self.directory, self.resolved, self.model, self.log)

    def _round(self, round_number: int) -> RoundResult:
        run = self.run
        rng = prompt_rng(run.seed, round_number)
        prompts = sample_prompts(self.resolved.train_prompts, run.num_trunks, rng=rng)
        try:
            first_image = self.ranks.shard(run.num_trunks).start * run.rollout.num_branches
            with Scoring(self.reward, watched=self.watched, first_image=first_image) as scoring:
                scorer = ImageScorer(
                    scoring,
                    decode=self.model.decode,
                    prompt_list=self.resolved.prompt_list,
                    num_branches=run.rollout.num_branches,
                    num_images=len(self.ranks.shard(run.num_trunks)) * run.rollout.num_branches,
                    round_number=round_number,
                    progress=self.progress,
                    num_kept_groups=num_kept_groups(run, round_number) if self.ranks.is_main else 0,
                )
                result = run_round(
                    self.policy,
                    self.update,
                    self.state,
                    self.strategy,
                    round_number=round_number,
                    prompts=prompts,
                    scorer=scorer,
                    ranks=self.ranks,
                )
            save_groups(self.directory, result, scorer.kept)
            return result
        except RewardFailed as failure:
            self._save_checkpoint()  # the completed rounds are still valid
            raise RunStopped(round_number=round_number, cause=f"the reward failed: {failure}") from failure

    def _log(self, result: RoundResult, writer: RoundWriter | None) -> None:
        run = self.run
        self.reward_queries += result.sampled.scores.rewards.numel()
        metrics = round_metrics(result, reward_queries=self.reward_queries)
        growth = run.schedule.metrics(
            num_rounds=run.num_rounds, num_inference_steps=self.policy.chain.num_steps, past=self.state.past
        )
        metrics |= {f"interval/{name}": value for name, value in growth.items()}
        every = run.logging.evaluate_every_rounds
        is_last = result.round_number == run.num_rounds
        if every and self.evaluator.num_images and result.round_number % every == 0 and not is_last:
            scores = self.evaluator.evaluate("evaluate", num_images=run.logging.num_interim_images or None)
            metrics |= {f"evaluation/{name}": value for name, value in scores.items()}
        if writer is not None:
            writer.write(result, metrics)
            self.progress.round_done(metrics)
            warning = self.idle.warning(result)
            if warning is not None:
                self.on_message(warning)

    def _evaluate(self, when: str) -> None:
        num_images = self.evaluator.num_images
        if num_images:
            metrics = self.evaluator.evaluate(f"evaluate {when}")
            if self.ranks.is_main:
                self.directory.write_evaluation(when, metrics, num_images=num_images, prompts=self.run.prompts)

    def _save(self, round_number: int) -> None:
        logging, is_last = self.run.logging, round_number == self.run.num_rounds
        if is_last or round_number % logging.samples_every_rounds == 0:
            self._save_previews(round_number)
        if is_last or round_number % logging.checkpoint_every_rounds == 0:
            self._save_checkpoint()

    def _save_previews(self, round_number: int) -> None:
        save_previews(
            self.directory, self.resolved, self.evaluator.policy(), round_number=round_number,
            reward_queries=self.reward_queries, ranks=self.ranks, progress=self.progress,
        )  # fmt: skip
        save_grid(
            self.directory, self.resolved, self.evaluator.policy(), round_number=round_number, ranks=self.ranks,
            progress=self.progress,
        )  # fmt: skip

    def _save_checkpoint(self) -> None:
        if self.ranks.is_main:
            checkpoint = make_checkpoint(
                self.resolved,
                self.model,
                self.update,
                self.state,
                reward_queries=self.reward_queries,
                rewards_sha256=self.rewards_sha256,
            )
            self.directory.save_checkpoint(checkpoint, num_kept=self.run.logging.num_checkpoints)

    def _restore(self) -> None:
        checkpoint = self.directory.load_checkpoint()
        if checkpoint is not None:
            restore_checkpoint(checkpoint, self.model, self.update, self.state)
            self.reward_queries = checkpoint.reward_queries


def _evaluator(trainer: Trainer, device: torch.device | str) -> Evaluator:
    run, resolved = trainer.run, trainer.resolved
    return Evaluator(
        policy=lambda: trainer.strategy.trained_policy(trainer.policy, trainer.state.past),
        load_judge=partial(_load_judge, resolved.judge, reward=trainer.reward, device=device),
        prompts=resolved.train_prompts,
        held_out=resolved.held_out_prompts,
        num_images=run.logging.num_evaluation_images if resolved.judge.kind != "none" else 0,
        seed=run.seed,
        chunk_size=run.rollout.chunk_size,
        ranks=trainer.ranks,
        progress=trainer.progress,
    )


def _strategy(run: Run) -> Strategy:
    return Strategy(
        schedule=run.schedule,
        selector=run.selection,
        num_branches=run.rollout.num_branches,
        num_rounds=run.num_rounds,
        chunk_size=run.rollout.chunk_size,
        seed=run.seed,
        train_trunk=run.rollout.train_trunk,
        trunk_weight=run.rollout.trunk_weight,
        adapter_interval=run.lora.interval,
    )


def _adamw(run: Run, model: TextToImageModel) -> torch.optim.AdamW:
    config = run.optimization
    return torch.optim.AdamW(
        model.trainable_parameters().values(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )


def _settings(run: Run, model: TextToImageModel) -> UpdateSettings:
    return UpdateSettings(
        optimization=run.optimization,
        trust_region=run.trust_region,
        log_kl_to_reference=run.logging.kl_to_reference,
        replay_first=model.unet.dtype != torch.float32,
    )


def as_path(output: object) -> Path:
    """Return the path of a run folder.

    Raises:
        UserError: it is not one, which untyped code can give.
    """
    if not isinstance(output, str | Path):
        raise UserError(f"output is {output!r}, which is not a path; give the run folder.")
    return Path(output)


@contextmanager
def _own_torch_modes() -> Generator[None]:
    """Return a context in which the caller's grad mode, inference mode, default dtype and device do not apply."""
    dtype, cpu = torch.get_default_dtype(), torch.device("cpu")
    default_device = nullcontext() if torch.get_default_device() == cpu else cpu
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(mode=False), torch.enable_grad(), default_device:
            yield
    finally:
        torch.set_default_dtype(dtype)


def _load_judge(choice: JudgeChoice, *, reward: Reward, device: torch.device | str) -> Judge:
    with _LOADING:
        return load_judge(choice, reward=reward, device=device)


@_own_torch_modes()
def train(
    run: Run | ResolvedRun,
    *,
    output: Path | str,
    resume: bool = False,
    device: torch.device | str = AUTO,
    observers: Sequence[Observer] = (),
    reward: Reward | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    on_message: Callable[[str], None] = warnings.warn,
) -> Path:
    """Fine-tune a model.

    Args:
        run: the settings, or a run that `resolve` has checked; `recipes` has complete ones.
        output: the run folder, created if it does not exist.
        resume: continue the run in that folder from its newest checkpoint.
        device: device of the model, such as cpu or cuda; "auto" is the first of cuda, mps and cpu that there is.
        observers: callbacks for progress and metrics.
        reward: a function (images, prompts) -> scores, used instead of the run's own; run.toml gets its name.
        ranks: the ranks that do the run together, from `join_ranks`; each of them calls this function.
        on_message: receives a sentence if a damaged checkpoint is skipped, the lock of an ended process taken over, the
            source of a reward has changed, or a run trains nothing. run.log has these sentences too.

    Returns:
        The run folder.

    Raises:
        UserError: the run is invalid; raised before loading a model where possible.
        RunStopped: the run must not continue; the last good checkpoint, if there is one, is kept.
    """
    resolved = run if isinstance(run, ResolvedRun) else resolve(run, own_reward=reward is not None)
    if reward is not None:
        resolved = replace(resolved, run=replace(resolved.run, reward=recorded_name(reward)))
    device, directory = choose_device(device), RunDirectory(as_path(output))
    opening = opening_notes(resolved, directory, device=device, resume=resume)
    resolved, _ = with_dtype(resolved, directory, device=device, resume=resume)
    run = resolved.run
    if run.num_trunks < ranks.world_size:
        raise UserError(
            f"reward_queries_per_round is {run.reward_queries_per_round}, which makes {run.num_trunks} trunks for "
            f"{ranks.world_size} processes; raise it, so that each has one."
        )
    resolved.check_prompt_lengths()
    check_disk_space(directory.path, resolved)
    log = RunLog(directory)

    def report(message: str) -> None:
        log.write(message)
        on_message(message)

    with ExitStack() as stack:
        with ranks.fail_together():
            if ranks.is_main:
                stack.enter_context(directory.lock(on_message=report))
            notes = check_directory(
                directory,
                run,
                resume=resume,
                prompts_sha256=hash_prompts(resolved),
                rewards_sha256=hash_rewards(resolved, reward),
                init_sha256=hash_initial_adapter(resolved),
                on_message=report,
            )
        if ranks.is_main:
            stack.enter_context(log.recording())
            for line in opening:
                log.write(line)
            for note in notes:
                report(note)
        with _LOADING:
            trainer = Trainer(
                resolved,
                directory=directory,
                device=device,
                observers=observers,
                reward=reward,
                ranks=ranks,
                log=log,
                on_message=report,
            )
        if ranks.is_main:
            directory.add_notes(notes)
        trainer.train()
    return directory.path
