"""What a checkpoint stores of a run, and how it is restored."""

import hashlib
import json
from dataclasses import asdict

import torch
from torch import Tensor

from b2diffurl.algorithm.records import PastRound
from b2diffurl.algorithm.round import RoundState
from b2diffurl.algorithm.update import Update
from b2diffurl.config import to_toml
from b2diffurl.models.adapted_unet import AdaptedUNet
from b2diffurl.rewards.builtin import CUSTOM
from b2diffurl.rewards.custom import hash_source
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.checkpoint import Checkpoint
from b2diffurl.run.resolve import ResolvedRun


def make_checkpoint(
    resolved: ResolvedRun,
    model: AdaptedUNet,
    update: Update,
    state: RoundState,
    *,
    reward_queries: int,
    rewards_sha256: dict[str, str],
) -> Checkpoint:
    """Return the state of a run after its completed rounds."""
    return Checkpoint(
        round_number=len(state.past),
        reward_queries=reward_queries,
        adapter=model.adapter_state(),
        optimizer=optimizer_tensors(update.optimizer, model.trainable_parameters()),
        earlier=update.earlier.tensors(),
        state={
            "history": state.history.rounds,
            "monitor": state.monitor.state(),
            "past": [asdict(done) for done in state.past],
            "earlier_prompts": update.earlier.prompts(),
        },
        settings=to_toml(resolved.run),
        prompts_sha256=hash_prompts(resolved),
        rewards_sha256=rewards_sha256,
        init_sha256=hash_initial_adapter(resolved),
    )


def hash_prompts(resolved: ResolvedRun) -> str:
    """Return the sha256 of the prompts of a run, in order, with their metadata."""
    metadata = {prompt: dict(entries) for prompt, entries in resolved.prompt_list.metadata.items()}
    content: list[object] = [resolved.train_prompts, resolved.held_out_prompts, metadata]
    if resolved.sample_prompts:
        content.append(resolved.sample_prompts)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def hash_initial_adapter(resolved: ResolvedRun) -> str:
    """Return the sha256 of the adapter that a run starts from, or "" for a new one."""
    return "" if resolved.initial_adapter is None else resolved.initial_adapter.sha256


def hash_rewards(resolved: ResolvedRun, reward: Reward | None) -> dict[str, str]:
    """Return the sha256 of the source file of each custom reward of a run, by name.

    Args:
        resolved: the run.
        reward: the reward from Python, if there is one.
    """
    terms = (*resolved.reward_terms, *resolved.watched_terms)
    hashes = {term.name: hash_source(term.name) for term in terms if term.kind == CUSTOM}
    if reward is not None:
        hashes[resolved.run.reward] = hash_source(reward)
    return {name: value for name, value in hashes.items() if value is not None}


def restore_checkpoint(checkpoint: Checkpoint, model: AdaptedUNet, update: Update, state: RoundState) -> None:
    """Restore what `make_checkpoint` stored."""
    model.load_adapter_state(checkpoint.adapter)
    load_optimizer_tensors(update.optimizer, model.trainable_parameters(), checkpoint.optimizer)
    update.earlier.load(checkpoint.earlier, checkpoint.state.get("earlier_prompts", []))
    state.history.rounds = checkpoint.state["history"]
    state.monitor.load_state(checkpoint.state["monitor"])
    state.past = [PastRound(**done) for done in checkpoint.state["past"]]


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    """Return a copy of AdamW's state as "NAME/KEY" -> tensor; empty before the first step."""
    return {
        f"{name}/{key}": value.detach().clone()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], tensors: dict[str, Tensor]
) -> None:
    """Restore the state that `optimizer_tensors` returned."""
    for full_name, value in tensors.items():
        name, key = full_name.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][key] = value.clone() if key == "step" else value.clone().to(parameter.device)
