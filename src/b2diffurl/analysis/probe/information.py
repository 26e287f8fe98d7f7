"""Information per reward query of each credit rule and each denoising step, without training (ours).

Adapters of trained runs give a direction in weight space that raises the reward: the mean change of the weights. The
*base* policy samples whole trajectories and branch groups, and the derivative of the log-prob of each of their steps
along the direction is a central difference: two forward passes per step and no backward pass. Each rule weights these
derivatives with its credit; `signal.py` has what is then computed.

Shapes: N trajectories, G branch groups of K, T denoising steps from the noisiest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.directional import trajectory_scores
from b2diffurl.algorithm.randomness import PROBE_STREAM, NoiseKey, prompt_rng
from b2diffurl.algorithm.records import Trajectories
from b2diffurl.algorithm.rollout import sample_branches
from b2diffurl.algorithm.selection import BestWorst
from b2diffurl.algorithm.step_weights import step_weights
from b2diffurl.analysis.probe.rules import ScoredGroups, branched_rules, unbranched_rules
from b2diffurl.analysis.probe.setup import Cost, Setup
from b2diffurl.analysis.probe.signal import Comparison, InformationTable, RuleInformation, information
from b2diffurl.distributed import AUTO, choose_device
from b2diffurl.errors import UserError
from b2diffurl.models.displacement import Displacement
from b2diffurl.prompts.lists import sample_prompts
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.resolve import ResolvedRun, resolve
from b2diffurl.run.settings import Run

_EPSILON = 0.1  # ours, in displacements: curvature changes a derivative by about its square


@dataclass(frozen=True, kw_only=True, slots=True)
class InformationSettings:
    """What to measure.

    Attributes:
        num_trajectories: N >= 2 trajectories without branches, for DDPO.
        num_groups: G >= 2 branch groups of the run's number of branches.
        tau: length of the interval of the branch groups; 0 for the run's first one.
        tau_last: number of last steps to leave out; 0 for the run's own, or 6 of 20 where the run has none.
    """

    num_trajectories: int = 2000
    num_groups: int = 500
    tau: int = 0
    tau_last: int = 0

    def checked(self, run: Run) -> "InformationSettings":
        """Return the settings with the run's own where they are 0.

        Raises:
            UserError: a number is out of range.
        """
        for name in ("num_trajectories", "num_groups"):
            if getattr(self, name) < 2:
                raise UserError(f"{name} is {getattr(self, name)}; give 2 or more, such as 500.")
        if run.rollout.num_branches < 2:
            raise UserError("rollout.num_branches is 1, but the rules of branch groups need at least 2; give 4.")
        if run.memory.base_dtype not in ("auto", "float32"):
            raise UserError(f"memory.base_dtype is {run.memory.base_dtype!r}; give float32 to measure a small change.")
        num_steps = run.sampler.num_inference_steps
        tau = self.tau or run.schedule.interval_length(1, num_rounds=run.num_rounds, num_inference_steps=num_steps)
        tau_last = self.tau_last or run.schedule.tau_last or round(0.3 * num_steps)
        if not 1 <= tau <= num_steps:
            raise UserError(f"tau is {tau}; give an interval length from 1 to {num_steps}.")
        if not 0 <= tau_last < tau:
            raise UserError(f"tau_last is {tau_last} but tau is {tau}; give at most {tau - 1}.")
        return InformationSettings(
            num_trajectories=self.num_trajectories, num_groups=self.num_groups, tau=tau, tau_last=tau_last
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Information:
    """The result of a measurement.

    Attributes:
        rules: every rule with every kind of step weights.
        unit: information of DDPO on all steps with the first kind of step weights, "even"; 1 if it is not above 0.
        comparisons: differences with their intervals, for every kind of step weights.
        own_weights: kind of the run's own step weights.
        steps: information per query of each step alone, by name of the rule; 0 where it is not trained.
        steps_error: its standard errors.
        settings: what was measured.
        num_branches: K.
        norm: Euclidean norm of the displacement that gave the direction.
        cost: what the measurement took.
    """

    rules: tuple[RuleInformation, ...]
    unit: float
    comparisons: tuple[Comparison, ...]
    own_weights: str
    steps: dict[str, tuple[float, ...]]
    steps_error: dict[str, tuple[float, ...]]
    settings: InformationSettings
    num_branches: int
    norm: float
    cost: Cost


def measure_information(
    run: Run | ResolvedRun,
    lora: Sequence[Path],
    settings: InformationSettings = InformationSettings(),
    *,
    device: torch.device | str = AUTO,
    reward: Reward | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Information:
    """Measure the information per query of each rule, at the base model.

    Args:
        run: the settings, or a run that `resolve` has checked. Its model, prompts, reward, sampler, number of branches
            and thresholds are used.
        lora: adapter folders of trained runs; their mean change of the weights is the direction.
        settings: what to measure.
        device: device of the model.
        reward: used instead of the run's own, from Python.
        on_progress: called with the number of finished images.

    Raises:
        UserError: a number is out of range, the run is invalid, or an adapter does not fit the model.
    """
    settings = settings.checked(run.run if isinstance(run, ResolvedRun) else run)
    resolved = run if isinstance(run, ResolvedRun) else resolve(run, own_reward=reward is not None)
    memory = replace(resolved.run.memory, base_dtype="float32")
    resolved = replace(resolved, run=replace(resolved.run, memory=memory))
    setup = Setup.load(resolved, lora=None, device=choose_device(device), reward=reward)
    run = setup.run
    displacement = Displacement.mean_of(setup.model, lora)
    cost = Cost().start()
    whole = run.sampler.num_inference_steps
    single = _Sampling(interval_length=whole, num_branches=1, num_groups=settings.num_trajectories, first_trunk=0)
    branched = _Sampling(
        interval_length=settings.tau,
        num_branches=run.rollout.num_branches,
        num_groups=settings.num_groups,
        first_trunk=settings.num_trajectories,
    )
    unbranched = single.score(setup, displacement, cost, on_progress)
    groups = branched.score(setup, displacement, cost, on_progress)
    return analyze(
        unbranched,
        groups,
        _step_weights(run.optimization.decided_variance, setup.policy.chain.sensitivity),
        paper=run.selection if isinstance(run.selection, BestWorst) else BestWorst(),
        own_weights=run.optimization.step_weights,
        settings=settings,
        norm=displacement.norm,
        cost=cost,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sampling:
    """One of the two samples.

    Attributes:
        interval_length: number of steps after the branch point.
        num_branches: branches per trunk.
        num_groups: number of trunks.
        first_trunk: number of the first trunk in the noise stream.
    """

    interval_length: int
    num_branches: int
    num_groups: int
    first_trunk: int

    def score(
        self, setup: Setup, displacement: Displacement, cost: Cost, on_progress: Callable[[int], None]
    ) -> ScoredGroups:
        """Sample, score the images, and take the derivative of every step."""
        run = setup.run
        prompts = sample_prompts(setup.train_prompts, self.num_groups, rng=prompt_rng(run.seed, 0))
        rewards, branches, trunks = list[Tensor](), list[Tensor](), list[Tensor]()
        for chunk in sample_branches(
            setup.policy,
            prompts,
            interval_length=self.interval_length,
            num_branches=self.num_branches,
            noise=NoiseKey(seed=run.seed, stream=PROBE_STREAM, first_trunk=self.first_trunk),
            chunk_size=run.rollout.chunk_size,
            keep_trunks=True,
        ):
            assert chunk.trunks is not None
            rewards.append(setup.score(chunk.final_latents, chunk.trajectories.prompts).rewards)
            for parts, trajectories in ((branches, chunk.trajectories), (trunks, chunk.trunks)):
                parts.append(_on_chain(setup, displacement, trajectories, cost))
            num_images = chunk.final_latents.shape[:2].numel()
            cost.add(num_images=num_images, num_evaluations=chunk.num_evaluations)
            on_progress(num_images)
        return ScoredGroups(
            prompts=tuple(prompts),
            rewards=torch.cat(rewards),
            branches=torch.cat(branches),
            trunks=torch.cat(trunks)[:, 0],
            interval_length=self.interval_length,
        )


def _on_chain(setup: Setup, displacement: Displacement, trajectories: Trajectories, cost: Cost) -> Tensor:
    """Return the derivatives of trajectories, with 0 at the steps that they lack; shape (G, K, T)."""
    scores = trajectories.log_probs.new_zeros((*trajectories.log_probs.shape[:2], setup.policy.chain.num_steps)).cpu()
    if len(trajectories.step_index):
        scores[:, :, trajectories.step_index] = trajectory_scores(
            setup.policy,
            trajectories,
            displacement.applied,
            epsilon=_EPSILON,
            batch_size=setup.run.rollout.chunk_size,
        )
        cost.add(num_evaluations=2 * setup.policy.evaluations_per_step * trajectories.log_probs.numel())
    return scores.double()


def _step_weights(decided_variance: Sequence[float], sensitivity: Float[Tensor, " T"]) -> dict[str, Tensor]:
    """Return the kinds of step weights that can be computed, over the whole chain."""
    kinds: dict[str, Tensor] = {"even": step_weights("even", sensitivity), "equal": step_weights("equal", sensitivity)}
    if decided_variance:
        kinds["probe"] = step_weights("probe", sensitivity, torch.tensor(decided_variance, dtype=torch.float64))
    return kinds


def analyze(
    unbranched: ScoredGroups,
    branched: ScoredGroups,
    kinds: dict[str, Tensor],
    *,
    paper: BestWorst,
    own_weights: str,
    settings: InformationSettings,
    norm: float,
    cost: Cost,
) -> Information:
    """Compute the information and the comparisons from derivatives and rewards.

    Args:
        unbranched: whole trajectories, for DDPO.
        branched: branch groups.
        kinds: weight of each denoising step, by name of the step weights.
        paper: selection of the paper's rule.
        own_weights: kind of the run's own step weights.
        settings: what was measured.
        norm: norm of the displacement.
        cost: what the measurement took.
    """
    singles = unbranched_rules(unbranched, num_partial_steps=unbranched.num_steps - settings.tau_last)
    pairs = branched_rules(branched, paper=paper, tau_last=settings.tau_last)
    table = InformationTable([singles, [rule for pair in pairs for rule in pair]], kinds)
    everything, first, last = singles
    compared = [(first, everything), (everything, last), *((short, whole) for whole, short in pairs)]
    compared += [(short, pairs[0][1]) for _, short in pairs[1:]] + [(short, everything) for _, short in pairs]
    by_step = {
        rule.name: information((rule.terms * rule.trained).numpy(), num_queries=rule.num_queries)
        for rule in (everything, *(whole for whole, _ in pairs))
    }
    return Information(
        rules=table.rows(),
        unit=unit if (unit := table.rows()[0].value) > 0 else 1.0,
        comparisons=tuple(table.compare(more, less, kind) for kind in kinds for more, less in compared),
        own_weights=own_weights,
        steps={name: tuple(sampled.value.tolist()) for name, sampled in by_step.items()},
        steps_error={name: tuple(sampled.std_error.tolist()) for name, sampled in by_step.items()},
        settings=settings,
        num_branches=branched.rewards.shape[1],
        norm=norm,
        cost=cost,
    )
