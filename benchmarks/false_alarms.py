"""False alarms of the collapse watch: how often it stops a model that does not change.

    python benchmarks/false_alarms.py --cache runs/false-alarms.json           # resampled rounds
    python benchmarks/false_alarms.py --real 300 --output runs/false-alarms    # real rounds, learning rate 1e-12

Resampled: the embedded model generates images in branch groups as the quickstart does, once; their rewards are kept in
the cache. A round takes its prompts in shuffled passes, as a run does, and for every trunk one of the prompt's branch
groups with replacement. `CollapseMonitor` sees these rounds in runs of 100; after an alarm the next run begins.

Real: runs of 12 rounds of 16 reward queries and 5 denoising steps, trained at a learning rate that changes nothing.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import b2diffurl
from b2diffurl.algorithm.collapse import Collapse, CollapseMonitor, contrast
from b2diffurl.algorithm.randomness import NoiseKey, prompt_rng
from b2diffurl.algorithm.records import Scores
from b2diffurl.algorithm.rollout import sample_branches
from b2diffurl.cli.environment import prepare_process
from b2diffurl.errors import RunStopped
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.prompts.lists import load_prompt_list, sample_prompts
from b2diffurl.rewards import load_reward, score_images
from b2diffurl.rewards.interface import Reward
from b2diffurl.run.binding import bind_policy
from b2diffurl.run.recipes import emoji_b2_paper
from b2diffurl.run.settings import Run

SIZES = (16, 64, 256)  # reward queries per round
NUM_BRANCHES = 4
RUN_LENGTH, REAL_RUN_LENGTH = 100, 12
REAL_QUERIES, REAL_STEPS, REAL_LEARNING_RATE = 16, 5, 1e-12


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return the mean pixel value of each image."""
    return images.mean(dim=(1, 2, 3))


def rewards_by_name() -> dict[str, Reward]:
    """Return the rewards that are measured."""
    return {"brightness": brightness, "clip:emoji": load_reward("clip:emoji")}


def score_base_images(num_groups: int, *, seed: int) -> dict[str, list[list[float]]]:
    """Generate branch groups, with the prompts in turn; return rewards and contrast, one list per branch group."""
    run = emoji_b2_paper()
    prompts = load_prompt_list(run.prompts).prompts
    policy = bind_policy(TextToImageModel.load(run.model), run)
    rewards = rewards_by_name()
    values: dict[str, list[list[float]]] = {name: [] for name in (*rewards, "contrast")}
    chunks = sample_branches(
        policy,
        [prompts[i % len(prompts)] for i in range(num_groups)],
        interval_length=run.schedule.interval_length(1, num_rounds=1, num_inference_steps=20),
        num_branches=NUM_BRANCHES,
        noise=NoiseKey(seed=seed, stream=1),
        chunk_size=64,
    )
    with torch.no_grad():
        for chunk in chunks:
            images = policy.denoiser.decode(chunk.final_latents.flatten(0, 1))
            repeated = [prompt for prompt in chunk.trajectories.prompts for _ in range(NUM_BRANCHES)]
            scores = {name: score_images(reward, images, repeated).scores for name, reward in rewards.items()}
            for name, scored in (scores | {"contrast": contrast(images)}).items():
                values[name] += scored.double().view(-1, NUM_BRANCHES).tolist()
    return values


def count_alarms(rewards: Tensor, contrasts: Tensor, *, num_prompts: int, queries: int, num_rounds: int) -> int:
    """Return the number of alarms in resampled rounds; row i of both tensors has the prompt i modulo `num_prompts`."""
    rng, per_prompt = np.random.default_rng(queries), len(rewards) // num_prompts
    prompts = [str(number) for number in range(num_prompts)]
    monitor, rounds_left, alarms = CollapseMonitor(config=Collapse()), RUN_LENGTH, 0
    for number in range(num_rounds):
        taken = sample_prompts(prompts, queries // NUM_BRANCHES, rng=prompt_rng(0, number))
        group = rng.integers(per_prompt, size=len(taken))  # of the prompt's branch groups, with replacement
        index = torch.from_numpy(np.array([int(prompt) for prompt in taken]) + num_prompts * group)
        rounds_left -= 1
        try:
            monitor.check_scores(Scores(rewards=rewards[index], contrast=contrasts[index]), round_number=number + 1)
        except RunStopped:
            alarms += 1
            rounds_left = 0
        if rounds_left == 0:
            monitor, rounds_left = CollapseMonitor(config=Collapse()), RUN_LENGTH
    return alarms


def print_resampled(cache: Path, *, num_groups: int, num_rounds: int, seed: int) -> None:
    """Print the false alarms of each reward and size."""
    if not cache.is_file():
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(score_base_images(num_groups, seed=seed)), encoding="utf-8")
    values = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in json.loads(cache.read_text()).items()}
    num_prompts = len(load_prompt_list(emoji_b2_paper().prompts).prompts)
    print(f"{values['contrast'].numel()} base images; {num_rounds} rounds each, in runs of {RUN_LENGTH}")
    print("| reward | queries per round | false alarms |\n|---|---|---|", flush=True)
    for name in values.keys() - {"contrast"}:
        for queries in SIZES:
            alarms = count_alarms(
                values[name], values["contrast"], num_prompts=num_prompts, queries=queries, num_rounds=num_rounds
            )
            print(f"| {name} | {queries} | {alarms} |", flush=True)


def real_run(seed: int, num_rounds: int) -> Run:
    """Return a run that changes nothing."""
    run = emoji_b2_paper()
    return replace(
        run,
        num_rounds=num_rounds,
        reward_queries_per_round=REAL_QUERIES,
        seed=seed,
        sampler=replace(run.sampler, num_inference_steps=REAL_STEPS),
        schedule=replace(run.schedule, tau_first=3),
        optimization=replace(run.optimization, learning_rate=REAL_LEARNING_RATE),
        logging=replace(run.logging, num_evaluation_images=0, num_samples=1, checkpoint_every_rounds=num_rounds),
    )


def print_real(num_rounds: int, output: Path) -> None:
    """Train runs that change nothing, as many of each reward, and print how many of them are stopped."""
    rewards = rewards_by_name()
    each = -(-num_rounds // len(rewards))
    for name, reward in rewards.items():
        alarms, done, started = 0, 0, time.perf_counter()
        for seed in range(-(-each // REAL_RUN_LENGTH)):
            length = min(REAL_RUN_LENGTH, each - seed * REAL_RUN_LENGTH)
            folder = output / f"{name.replace(':', '-')}-seed{seed}"
            try:
                b2diffurl.train(real_run(seed, length), output=folder, reward=reward, progress="none")
            except RunStopped as stop:
                alarms += 1
                print(f"{name}, seed {seed}: {stop}", flush=True)
            done += len((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        print(f"{name}: {done} real rounds, {alarms} alarms, {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("runs/false-alarms.json"))
    parser.add_argument("--num-groups", type=int, default=540, help="branch groups of 4 images")
    parser.add_argument("--num-rounds", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=int, default=0, help="number of real rounds instead, over all rewards")
    parser.add_argument("--output", type=Path, default=Path("runs/false-alarms"))
    arguments = parser.parse_args()
    prepare_process()
    if arguments.real:
        print_real(arguments.real, arguments.output)
    else:
        print_resampled(
            arguments.cache, num_groups=arguments.num_groups, num_rounds=arguments.num_rounds, seed=arguments.seed
        )


if __name__ == "__main__":
    main()
