"""The training loop around `algorithm.round.run_round`: build, resume, loop, finish, and fill the run folder."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from b2diffurl.algorithm.advantage import RewardHistory
from b2diffurl.algorithm.collapse import CollapseMonitor
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import PREVIEW_STREAM, NoiseKey
from b2diffurl.algorithm.records import PastRound
from b2diffurl.algorithm.round import RoundResult, RoundState, Strategy, run_round
from b2diffurl.algorithm.update import Update, UpdateSettings
from b2diffurl.distributed import Ranks
from b2diffurl.errors import RewardFailed, RunStopped, UserError
from b2diffurl.evaluation.evaluator import Evaluator
from b2diffurl.evaluation.generate import GeneratedImages, generate_images
from b2diffurl.evaluation.judges import choose_judge, load_judge
from b2diffurl.models.policy import Policy, check_prompts, load_tokenizers
from b2diffurl.prompts.lists import draw_prompts, load_prompt_list, load_prompts, split_prompts
from b2diffurl.reporting import write_report
from b2diffurl.reporting.model_card import write_card
from b2diffurl.rewards import load_reward, load_watched
from b2diffurl.rewards.custom import name_of
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.checkpoint import Checkpoint
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.round_lines import RoundLines
from b2diffurl.run.settings import Run, check_run
from b2diffurl.training.callbacks import Observer, ProgressReporter
from b2diffurl.training.checkpoint import load_optimizer_tensors, optimizer_tensors
from b2diffurl.training.image_scorer import ImageScorer
from b2diffurl.training.metrics import round_metrics, score_lines
from b2diffurl.training.scorer import Scoring


class Trainer:
    """One run in one folder.

    Args:
        run: the settings.
        folder: the run folder, checked.
        device: device of the model.
        observers: callbacks for progress and metrics (metrics.jsonl is always written).
        reward: used instead of the run's own reward, from Python.
        ranks: the ranks that do the run together; all train, rank 0 writes.
    """

    def __init__(
        self,
        run: Run,
        *,
        folder: RunDirectory,
        device: torch.device | str = "cpu",
        observers: Sequence[Observer] = (),
        reward: Reward | None = None,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    ) -> None:
        self.run = run
        self.folder = folder
        self.ranks = ranks
        self.progress = ProgressReporter(observers=tuple(observers))
        self.prompt_list = load_prompt_list(run.prompts)
        self.prompts, held_out = split_prompts(self.prompt_list.prompts, run.held_out, seed=run.seed)
        self.model = Policy.load(
            run.model, device=device, memory=run.memory, negative_prompt=run.sampler.negative_prompt
        )
        self.model.add_lora(run.lora, seed=run.seed)
        self.policy = DenoisingPolicy(
            denoiser=self.model,
            chain=self.model.ddim(num_inference_steps=run.sampler.num_inference_steps, eta=run.sampler.eta),
            guidance_scale=run.sampler.guidance_scale,
            log_prob_reduction=run.rollout.log_prob_reduction,
        )
        choice = choose_judge(
            run.judge, model=run.model, prompts=[*self.prompts, *held_out], reward="" if reward else run.reward
        )
        self.reward = reward or load_reward(run.reward, device=device, bert=run.bert, remote=run.remote)
        self.watched = load_watched(run.watch, device=device, bert=run.bert, remote=run.remote)
        self.optimizer = _adamw(run, self.model)
        self.update = Update(
            self.policy,
            self.optimizer,
            run.objective,
            UpdateSettings(
                optimization=run.optimization,
                trust_region=run.trust_region,
                log_kl_to_reference=run.logging.kl_to_reference,
                replay_first=run.memory.base_dtype != "float32",
            ),
            ranks=ranks,
            progress=self.progress,
        )
        self.strategy = Strategy(
            schedule=run.schedule,
            selector=run.selection,
            num_branches=run.rollout.num_branches,
            num_rounds=run.num_rounds,
            chunk_size=run.rollout.chunk_size,
            seed=run.seed,
        )
        self.evaluator = Evaluator(
            policy=self.policy,
            load_judge=partial(load_judge, choice, reward=self.reward, device=device),
            prompts=self.prompts,
            held_out=held_out,
            num_images=run.logging.num_evaluation_images if choice.kind != "none" else 0,
            seed=run.seed,
            chunk_size=run.rollout.chunk_size,
            ranks=ranks,
            progress=self.progress,
        )
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
            self.folder.begin(self.run)
            self.folder.mark_stopped(None)
            self.folder.write_environment(self.model.device)
        first_round = self.rounds_done + 1
        metrics_lines = self.folder.open_metrics(first_round=first_round) if self.ranks.is_main else None
        lines = self.folder.open_scores(first_round=first_round) if self.ranks.is_main else None
        try:
            if self.rounds_done == 0:
                self._save_previews(0)
                self._evaluate("before")
            while self.rounds_done < self.run.num_rounds:
                result = self._round(self.rounds_done + 1)
                self._log(result, metrics_lines, lines)
                self._save(result.round_number)
        except RunStopped as stop:
            if self.ranks.is_main:
                self.folder.remove_checkpoints(first_round=stop.first_bad_round)
                self.folder.mark_stopped(stop)
                write_report(self.folder.path)
            raise
        self._evaluate("after")
        if self.ranks.is_main:
            self.model.save_lora(self.folder.lora)
            evaluation, rounds = self.folder.read_evaluation(), self.folder.read_metrics()
            write_card(self.folder.lora, self.run, evaluation=evaluation, rounds=rounds)
            write_report(self.folder.path)

    def _round(self, round_number: int) -> RoundResult:
        run = self.run
        prompts = draw_prompts(self.prompts, run.num_trunks, seed=run.seed, round_index=round_number)
        try:
            first_image = self.ranks.shard(run.num_trunks).start * run.rollout.num_branches
            with Scoring(self.reward, watched=self.watched, first_image=first_image) as scoring:
                scorer = ImageScorer(
                    scoring,
                    decode=self.model.decode,
                    prompt_list=self.prompt_list,
                    num_branches=run.rollout.num_branches,
                    num_images=len(self.ranks.shard(run.num_trunks)) * run.rollout.num_branches,
                    progress=self.progress,
                )
                return run_round(
                    self.policy,
                    self.update,
                    self.state,
                    self.strategy,
                    round_number=round_number,
                    prompts=prompts,
                    scorer=scorer,
                    ranks=self.ranks,
                )
        except RewardFailed as failure:
            self._save_checkpoint()  # the completed rounds are still valid
            raise RunStopped(round_index=round_number, cause=f"the reward failed: {failure}") from failure

    def _log(self, result: RoundResult, metrics_lines: RoundLines | None, lines: RoundLines | None) -> None:
        run = self.run
        self.reward_queries += result.sampled.scores.rewards.numel()
        metrics = round_metrics(result, reward_queries=self.reward_queries)
        growth = run.schedule.metrics(
            num_rounds=run.num_rounds, num_inference_steps=self.policy.chain.num_steps, past=self.state.past
        )
        metrics |= {f"interval/{name}": value for name, value in growth.items()}
        every = run.logging.evaluate_every_rounds
        is_last = result.round_number == run.num_rounds
        if every and self.evaluator.num_images and (is_last or result.round_number % every == 0):
            metrics |= {f"evaluation/{name}": value for name, value in self.evaluator.evaluate("evaluate").items()}
        if metrics_lines is not None and lines is not None:
            metrics_lines.append([metrics])
            lines.append(score_lines(result))
            self.progress.round_done(metrics)

    def _evaluate(self, when: str) -> None:
        num_images = self.evaluator.num_images
        if num_images:
            metrics = self.evaluator.evaluate(f"evaluate {when}")
            if self.ranks.is_main:
                self.folder.write_evaluation(when, metrics, num_images=num_images, prompts=self.run.prompts)

    def _save(self, round_number: int) -> None:
        logging, is_last = self.run.logging, round_number == self.run.num_rounds
        if is_last or round_number % logging.samples_every_rounds == 0:
            self._save_previews(round_number)
        if is_last or round_number % logging.checkpoint_every_rounds == 0:
            self._save_checkpoint()

    def _save_previews(self, round_number: int) -> None:
        """Generate the preview images from fixed prompts and noise."""
        num_samples = min(self.run.logging.num_samples, len(self.prompts))
        own = generate_images(
            self.policy,
            self.prompts[:: len(self.prompts) // num_samples][:num_samples],
            num_images=num_samples,
            noise=NoiseKey(seed=self.run.seed, stream=PREVIEW_STREAM),
            shard=self.ranks.shard(num_samples),
            chunk_size=self.run.rollout.chunk_size,
            on_progress=self.progress.advance,
        )
        previews = GeneratedImages.join(self.ranks.gather(own))
        if self.ranks.is_main:
            self.folder.write_samples(previews, round_index=round_number)

    def _save_checkpoint(self) -> None:
        if not self.ranks.is_main:
            return
        state = {
            "history": self.state.history.rounds,
            "monitor": self.state.monitor.state(),
            "past": [asdict(done) for done in self.state.past],
        }
        checkpoint = Checkpoint(
            round_index=self.rounds_done,
            reward_queries=self.reward_queries,
            adapter=self.model.adapter_state(),
            optimizer=optimizer_tensors(self.optimizer, self.model.trainable_parameters()),
            state=state,
        )
        self.folder.save_checkpoint(checkpoint, num_kept=self.run.logging.num_checkpoints)

    def _restore(self) -> None:
        checkpoint = self.folder.load_checkpoint()
        if checkpoint is None:
            return
        self.model.load_adapter_state(checkpoint.adapter)
        load_optimizer_tensors(self.optimizer, self.model.trainable_parameters(), checkpoint.optimizer)
        self.state.history.rounds = checkpoint.state["history"]
        self.state.monitor.load_state(checkpoint.state["monitor"])
        self.state.past = [PastRound(**done) for done in checkpoint.state["past"]]
        self.reward_queries = checkpoint.reward_queries


def _adamw(run: Run, model: Policy) -> torch.optim.AdamW:
    config = run.optimization
    return torch.optim.AdamW(
        model.trainable_parameters().values(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )


def train(
    run: Run,
    *,
    output: Path | str,
    resume: bool = False,
    device: torch.device | str = "cpu",
    observers: Sequence[Observer] = (),
    reward: Reward | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> Path:
    """Fine-tune a model.

    Args:
        run: the settings; `recipes` has complete ones.
        output: the run folder, created if it does not exist.
        resume: continue the run in that folder from its newest checkpoint.
        device: device of the model.
        observers: callbacks for progress and metrics.
        reward: a function (images, prompts) -> scores, used instead of the run's own; run.toml gets its name.
        ranks: the ranks that do the run together, from `join_ranks`; each of them calls this function.

    Returns:
        The run folder.

    Raises:
        UserError: the run is invalid; raised before loading a model where possible.
        RunStopped: the run must not continue; the last good checkpoint is kept.
    """
    output = Path(output)
    check_run(run, own_reward=reward is not None)
    if reward is not None:
        run = replace(run, reward=name_of(reward))
    if run.num_trunks < ranks.world_size:
        raise UserError(
            f"reward_queries_per_round is {run.reward_queries_per_round}, which makes {run.num_trunks} trunks for "
            f"{ranks.world_size} processes; raise it, so that each has one."
        )
    check_prompts(load_tokenizers(run.model), load_prompts(run.prompts))
    folder = RunDirectory(output)
    ranks.run_on_all_ranks(lambda: folder.check(run, resume=resume))
    Trainer(run, folder=folder, device=device, observers=observers, reward=reward, ranks=ranks).train()
    return output
