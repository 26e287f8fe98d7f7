"""The loop: sample, score, select, update, once a round; and the run folder it fills.

prompts -> trunks -> branches -> pictures -> rewards -> advantages -> selection -> objective -> optimizer steps
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import torch

from b2diffurl.algorithm.advantage import RewardHistory
from b2diffurl.algorithm.collapse import CollapseWatch
from b2diffurl.algorithm.records import PastRound
from b2diffurl.algorithm.schedule import Adaptive
from b2diffurl.algorithm.update import Update
from b2diffurl.diffusion.ddim import DDIM
from b2diffurl.distributed import Ranks
from b2diffurl.errors import RewardFailed, RunStopped, UserError
from b2diffurl.evaluation.generate import EVALUATION_STREAM, SAMPLES_STREAM, Pictures, draw_pictures
from b2diffurl.evaluation.judges import Judge, choose_judge, load_judge
from b2diffurl.models.policy import Policy
from b2diffurl.prompts.lists import load_prompt_list, split_prompts
from b2diffurl.reporting import write_report
from b2diffurl.reporting.model_card import write_card
from b2diffurl.rewards import load_reward, load_watched
from b2diffurl.rewards.custom import name_of
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.directory import RunFolder
from b2diffurl.run.resolve import ResolvedRun, resolve
from b2diffurl.run.settings import Run
from b2diffurl.training.callbacks import Metrics, Observer, Progress, RoundLines
from b2diffurl.training.checkpoint import (
    Checkpoint,
    forget_checkpoints,
    load_newest_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from b2diffurl.training.round_sampler import Drawing, Drawn


class Trainer:
    """One run in one folder.

    Args:
        run: what to do.
        folder: the run folder, checked.
        device: where the model runs.
        observers: who is told of progress and metrics, besides metrics.jsonl.
        reward: in place of the run's own, from Python.
        processes: that do the run together; they all train, number 0 writes.
    """

    def __init__(
        self,
        run: Run,
        *,
        folder: RunFolder,
        device: torch.device | str = "cpu",
        observers: Sequence[Observer] = (),
        reward: Reward | None = None,
        processes: Ranks = Ranks(),  # noqa: B008 - frozen
    ) -> None:
        self.run, self.folder, self.processes = run, folder, processes
        prompt_list = load_prompt_list(run.prompts)
        self.prompts, self.held_out = split_prompts(
            prompt_list.prompts,
            held_out_fraction=run.held_out_fraction,
            held_out_prompts=run.held_out_prompts,
            seed=run.seed,
        )
        self.policy = Policy.load(
            run.model, device=device, memory=run.memory, negative_prompt=run.sampler.negative_prompt
        )
        self.policy.add_lora(run.lora, seed=run.seed)
        self.ddim: DDIM = self.policy.ddim(num_inference_steps=run.sampler.num_inference_steps, eta=run.sampler.eta)
        self.judge_choice = choose_judge(
            run.judge, model=run.model, prompts=[*self.prompts, *self.held_out], reward="" if reward else run.reward
        )
        self.reward = reward or load_reward(run.reward, device=device, bert=run.bert, remote=run.remote)
        self.parameters = self.policy.trainable_parameters()
        config = run.optimization
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.history = RewardHistory(config=run.advantage)
        self.watch = CollapseWatch(config=run.collapse)
        self.past: list[PastRound] = []
        self.rounds_done, self.reward_queries = 0, 0
        self._restore()
        self.progress = Progress(observers=tuple(observers))
        self.drawing = Drawing(
            run=run,
            policy=self.policy,
            ddim=self.ddim,
            prompts=self.prompts,
            prompt_list=prompt_list,
            reward=self.reward,
            watched=load_watched(run.watch, device=device, bert=run.bert, remote=run.remote),
            processes=processes,
            progress=self.progress,
        )

    def train(self) -> None:
        """Do all rounds that are not done yet, then write the adapter and the report.

        Raises:
            RunStopped: the run must not go on; the last checkpoint stands.
        """
        if self.processes.is_main:
            self.folder.begin(self.run)
            self.folder.mark_stopped(None)
            self.folder.write_environment(self.policy.device)
            first_round = self.rounds_done + 1
            self.metrics_lines = RoundLines(self.folder.metrics_file, first_round=first_round)
            self.score_lines = RoundLines(self.folder.scores_file, first_round=first_round)
        try:
            if self.rounds_done == 0:
                self._look(0)
                self._evaluate("before")
            while self.rounds_done < self.run.num_rounds:
                self._round()
        except RunStopped as stop:
            if self.processes.is_main:
                forget_checkpoints(self.folder.checkpoints, first_round=stop.first_bad_round)
                self.folder.mark_stopped(stop)
                write_report(self.folder.path)
            raise
        self._evaluate("after")
        if self.processes.is_main:
            self.policy.save_lora(self.folder.lora)
            write_card(
                self.folder.lora,
                self.run,
                evaluation=self.folder.read_evaluation(),
                metrics_file=self.folder.metrics_file,
            )
            write_report(self.folder.path)

    # One round

    def _round(self) -> None:
        run, round_index = self.run, self.rounds_done + 1
        num_steps = run.schedule.num_steps(
            self.rounds_done, num_rounds=run.num_rounds, num_inference_steps=self.ddim.num_steps, past=self.past
        )
        evaluations = self.policy.num_evaluations
        drawn = self._draw_round(num_steps, round_index)
        of_rollout = self.policy.num_evaluations - evaluations
        trajectories, rewards = drawn.trajectories, drawn.scores.rewards.double()
        self.watch.after_sampling(rewards, drawn.contrast, round_index=round_index)
        num_branches = run.rollout.num_branches
        advantages = self.history.advantages(rewards, trajectories.prompts, num_branches=num_branches)
        selection = run.selection.select(advantages, trajectories.prompts, num_branches=num_branches)
        started, update = time.perf_counter(), self._update()
        self.progress.phase("update", update.num_single_steps(trajectories, selection))
        updated = update(trajectories, advantages, selection, seed=run.seed, round_index=round_index)
        ended, of_update = time.perf_counter(), self.policy.num_evaluations - evaluations - of_rollout
        self.watch.after_update(updated, round_index=round_index)
        self.rounds_done, self.reward_queries = round_index, self.reward_queries + len(rewards)
        pair_fraction = len(selection.pairs) / run.num_trunks
        self.past.append(PastRound(num_steps=num_steps, pair_fraction=pair_fraction))
        judged = self._judge_on_the_way(round_index)
        metrics: Metrics = {
            "round": round_index,
            "reward_queries": self.reward_queries,
            "interval/length": num_steps,
            "interval/pair_fraction": pair_fraction,
            **self._verdict(),
            "reward/mean": float(rewards.mean()),
            "reward/std": float(rewards.std(correction=0)),
            "advantage/zero_fraction": float((advantages == 0).float().mean()),
            "selection/num_trajectories": len(selection),
            "selection/num_pairs": len(selection.pairs),
            **updated,
            **{f"reward/{name}/mean": float(values.double().mean()) for name, values in drawn.scores.parts.items()},
            "image/contrast": drawn.contrast,
            "network/rollout_evaluations": sum(self.processes.gather(of_rollout)),
            "network/update_evaluations": sum(self.processes.gather(of_update)),
            "time/rollout_s": drawn.rollout_seconds,
            "time/reward_s": drawn.reward_seconds,
            "time/update_s": ended - started,
            **judged,
        }
        if self.processes.is_main:
            self.metrics_lines.append([metrics])
            self.score_lines.append(drawn.lines(round_index))
            self.progress.round_done(metrics)
        self._keep(round_index)

    def _verdict(self) -> Metrics:
        """Whether an adaptive interval grows after the rounds done, and why."""
        if not isinstance(self.run.schedule, Adaptive):
            return {}
        verdict = self.run.schedule.verdict(
            num_rounds=self.run.num_rounds, num_inference_steps=self.ddim.num_steps, past=self.past
        )
        return {"interval/growth_reason": int(verdict)}

    def _draw_round(self, num_steps: int, round_index: int) -> Drawn:
        try:
            return self.drawing(num_steps=num_steps, round_index=round_index)
        except RewardFailed as failure:
            self._save_checkpoint()  # of the rounds done, which are as good as before
            raise RunStopped(round_index=round_index, cause=f"the reward failed: {failure}") from failure

    def _update(self) -> Update:
        return Update(
            policy=self.policy,
            parameters=self.parameters,
            optimizer=self.optimizer,
            ddim=self.ddim,
            objective=self.run.objective,
            config=self.run.optimization,
            trust_region=self.run.trust_region,
            guidance_scale=self.run.sampler.guidance_scale,
            log_prob_reduction=self.run.rollout.log_prob_reduction,
            log_kl_to_reference=self.run.logging.kl_to_reference,
            replay_first=self.run.memory.base_dtype != "float32",
            processes=self.processes,
            on_progress=self.progress.advance,
        )

    # What is kept

    def _keep(self, round_index: int) -> None:
        records, last = self.run.logging, round_index == self.run.num_rounds
        if last or round_index % records.samples_every_rounds == 0:
            self._look(round_index)
        if last or round_index % records.checkpoint_every_rounds == 0:
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        """Keep what the rounds done have made."""
        if not self.processes.is_main:
            return
        state = {
            "history": self.history.rounds,
            "watch": self.watch.state(),
            "past": [asdict(done) for done in self.past],
        }
        checkpoint = Checkpoint(
            round_index=self.rounds_done,
            reward_queries=self.reward_queries,
            adapter=self.policy.adapter_state(),
            optimizer=optimizer_tensors(self.optimizer, self.parameters),
            state=state,
        )
        save_checkpoint(self.folder.checkpoints, checkpoint, num_kept=self.run.logging.num_checkpoints)

    def _restore(self) -> None:
        checkpoint = load_newest_checkpoint(self.folder.checkpoints)
        if checkpoint is None:
            return
        self.policy.load_adapter_state(checkpoint.adapter)
        load_optimizer_tensors(self.optimizer, self.parameters, checkpoint.optimizer)
        self.history.rounds = checkpoint.state["history"]
        self.watch.load_state(checkpoint.state["watch"])
        self.past = [PastRound(**done) for done in checkpoint.state["past"]]
        self.rounds_done, self.reward_queries = checkpoint.round_index, checkpoint.reward_queries

    def _look(self, round_index: int) -> None:
        """Sample the fixed prompts from the fixed noise."""
        num_samples = min(self.run.logging.num_samples, len(self.prompts))
        spread = self.prompts[:: len(self.prompts) // num_samples][:num_samples]
        pictures = self._draw(spread, num_samples, stream=SAMPLES_STREAM)
        if self.processes.is_main:
            self.folder.write_samples(pictures, round_index=round_index)

    def _draw(self, prompts: Sequence[str], num_images: int, *, stream: int) -> Pictures:
        """Draw pictures, every process its share; all get all."""
        mine = self.processes.share(num_images)
        drawn = draw_pictures(
            self.policy,
            self.ddim,
            prompts,
            num_images=num_images,
            only=mine,
            guidance_scale=self.run.sampler.guidance_scale,
            seed=self.run.seed,
            stream=stream,
            chunk_size=self.run.rollout.chunk_size,
            on_progress=self.progress.advance,
        )
        parts = self.processes.gather(drawn)
        return Pictures(
            images=torch.cat([part.images for part in parts]),
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
        )

    def _evaluate(self, when: str) -> None:
        num_images = self.run.logging.num_evaluation_images
        if num_images and self.judge_choice.kind != "none":
            numbers = self._judge(f"evaluate {when}")
            if self.processes.is_main:
                self.folder.write_evaluation(when, numbers, num_images=num_images, prompts=self.run.prompts)

    def _judge_on_the_way(self, round_index: int) -> Metrics:
        every = self.run.logging.evaluate_every_rounds
        if (
            every == 0
            or self.judge_choice.kind == "none"
            or (round_index % every and round_index != self.run.num_rounds)
        ):
            return {}
        return {f"evaluation/{name}": value for name, value in self._judge("evaluate").items()}

    def _judge(self, phase: str) -> dict[str, float]:
        """Judge pictures of the training prompts and of those held out, always from the same noise."""
        found = self._judge_prompts(self.prompts, phase)
        if self.held_out:
            others = self._judge_prompts(self.held_out, f"{phase}, held out")
            found |= {f"held_out_{name}": value for name, value in others.items()}
        return found

    def _judge_prompts(self, prompts: Sequence[str], phase: str) -> dict[str, float]:
        num_images = self.run.logging.num_evaluation_images
        self.progress.phase(phase, len(self.processes.share(num_images)))
        pictures = self._draw(prompts, num_images, stream=EVALUATION_STREAM)
        mine = self._judge_images(pictures.images, pictures.prompts) if self.processes.is_main else {}
        return self.processes.gather(mine)[0]

    @cached_property
    def _judge_images(self) -> Judge:
        """The judge, loaded at its first use."""
        return load_judge(self.judge_choice, reward=self.reward, device=self.policy.device)


def train(
    run: Run | ResolvedRun,
    *,
    output: Path | str,
    resume: bool = False,
    device: torch.device | str = "cpu",
    observers: Sequence[Observer] = (),
    reward: Reward | None = None,
    processes: Ranks = Ranks(),  # noqa: B008 - frozen
) -> Path:
    """Fine-tune a model.

    Args:
        run: the settings, or a run that `resolve` has checked; `recipes` has complete ones.
        output: the run folder, made if it is not there.
        resume: continue the run that the folder holds from its newest checkpoint.
        device: where the model runs.
        observers: who is told of progress and metrics.
        reward: a function (images, prompts) -> scores, in place of the run's own; run.toml gets its name.
        processes: that do the run together, from `join_ranks`; every one of them calls this.

    Returns:
        The run folder.

    Raises:
        UserError: something in the run cannot be; told before a model is loaded where that is possible.
        RunStopped: the run must not go on; the last checkpoint stands.
    """
    output = Path(output)
    resolved = run if isinstance(run, ResolvedRun) else resolve(run, own_reward=reward is not None)
    run = resolved.run
    if reward is not None:
        run = replace(run, reward=name_of(reward))
    if run.num_trunks < processes.num:
        raise UserError(
            f"reward_queries_per_round is {run.reward_queries_per_round}, which makes {run.num_trunks} trunks for "
            f"{processes.num} processes; raise it, so that each has one."
        )
    resolved.check_prompt_lengths()
    folder = RunFolder(output)
    processes.together(lambda: folder.check(run, resume=resume))
    Trainer(run, folder=folder, device=device, observers=observers, reward=reward, processes=processes).train()
    return output
