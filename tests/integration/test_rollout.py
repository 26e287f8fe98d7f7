"""Invariants 1, 2 and 3 of sampling, on the embedded model with an adapter that does something."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from b2diffurl import emoji
from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.algorithm.rollout import RolloutChunk
from b2diffurl.models.text_to_image import TextToImageModel
from tests.reference import schedule as twin
from tests.rounds import flat, ratio_error, sample_all

PROMPTS = ("a bear riding a bike", "a cat playing chess", "a cow washing dishes")
NUM_STEPS, TAU, K = 6, 4, 3


def bound(model: TextToImageModel, guidance_scale: float) -> DenoisingPolicy:
    chain = model.ddim(num_inference_steps=NUM_STEPS, eta=1.0)
    return DenoisingPolicy(denoiser=model, chain=chain, guidance_scale=guidance_scale)


def roll(
    policy: TextToImageModel, *, chunk_size: int = 64, guidance_scale: float = 1.0, num_branches: int = K
) -> RolloutChunk:
    return sample_all(
        bound(policy, guidance_scale), PROMPTS, interval_length=TAU, num_branches=num_branches, chunk_size=chunk_size
    )


@pytest.mark.parametrize(("guidance_scale", "batch_size"), [(1.0, 1), (1.0, 9), (3.0, 9)])
def test_replay_equals_rollout_at_every_step(policy: TextToImageModel, guidance_scale: float, batch_size: int) -> None:
    """Without guidance in any batch shape; guidance multiplies float32's rounding, so in the shape that sampled."""
    trajectories = roll(policy, guidance_scale=guidance_scale).trajectories
    assert ratio_error(bound(policy, guidance_scale), trajectories, batch_size=batch_size) <= 1e-6


def test_guidance_is_part_of_the_policy(policy: TextToImageModel) -> None:
    trajectories = flat(roll(policy, guidance_scale=3.0).trajectories)
    gaussian = bound(policy, 1.0).step(
        trajectories.latents[:, 0], trajectories.step_index[:1].expand(len(trajectories)),
        policy.encode(trajectories.prompts),
    )  # fmt: skip
    log_prob = gaussian.log_prob(trajectories.latents[:, 1])
    assert float((log_prob - trajectories.log_probs[:, 0]).abs().max()) > 1e-4


def test_branches_share_their_trunk_to_the_bit_and_then_differ(policy: TextToImageModel) -> None:
    trajectories = roll(policy).trajectories
    grouped = trajectories.latents
    assert grouped.shape == (len(PROMPTS), K, TAU + 1, *policy.latent_shape)
    assert trajectories.prompts == PROMPTS
    for members in grouped:
        assert torch.equal(members[0, 0], members[1, 0])
        assert torch.equal(members[0, 0], members[2, 0])
        for step in range(1, TAU + 1):
            assert float((members[0, step] - members[1, step]).abs().min(dim=0).values.max()) > 1e-3
    assert not torch.equal(grouped[0, 0, 0], grouped[1, 0, 0])


@pytest.mark.parametrize("chunk_size", [2, 64])
def test_branches_share_the_evaluation_of_their_first_step(policy: TextToImageModel, chunk_size: int) -> None:
    """The rollout counts the latents that pass through the UNet: one per trunk in the interval's first step."""
    latents: list[int] = []
    hook = policy.unet.register_forward_pre_hook(lambda _, inputs: latents.append(len(inputs[0])))
    try:
        chunk = roll(policy, chunk_size=chunk_size)
    finally:
        hook.remove()
    num_trunks = len(PROMPTS)
    assert sum(latents) == chunk.num_evaluations == num_trunks * (NUM_STEPS - TAU + 1) + num_trunks * K * (TAU - 1)


@pytest.mark.parametrize("tau_last", [1, 2, 3])
def test_an_end_that_is_not_trained_is_sampled_as_ever(policy: TextToImageModel, tau_last: int) -> None:
    """The images and the recorded steps are equal to the bit; only the records end earlier. Replay equals sampling."""
    bound_policy = bound(policy, 1.0)
    steps = twin.trained_steps(TAU, num_inference_steps=NUM_STEPS, tau_last=tau_last)
    whole, ended = (
        sample_all(bound_policy, PROMPTS, interval_length=TAU, num_branches=K, chunk_size=64, trained_steps=trained)
        for trained in (None, steps)
    )
    num_trained = TAU - tau_last
    assert torch.equal(whole.final_latents, ended.final_latents)
    assert ended.trajectories.step_index.tolist() == steps
    assert ended.trajectories.latents.shape[2] == num_trained + 1
    assert torch.equal(ended.trajectories.latents, whole.trajectories.latents[:, :, : num_trained + 1])
    assert torch.equal(ended.trajectories.log_probs, whole.trajectories.log_probs[:, :, :num_trained])
    assert ended.num_evaluations == whole.num_evaluations
    assert ratio_error(bound_policy, ended.trajectories, batch_size=9) <= 1e-6


@pytest.mark.parametrize("places", [(1,), (0, 2), (1, 3), (0, 2, 3)])
def test_steps_between_the_trained_ones_are_sampled_as_ever(policy: TextToImageModel, places: tuple[int, ...]) -> None:
    """The images are equal to the bit, the records are those of the trained steps, and replay equals sampling."""
    bound_policy = bound(policy, 1.0)
    steps = [NUM_STEPS - TAU + place for place in places]
    whole, some = (
        sample_all(bound_policy, PROMPTS, interval_length=TAU, num_branches=K, chunk_size=64, trained_steps=trained)
        for trained in (None, steps)
    )
    assert torch.equal(whole.final_latents, some.final_latents)
    assert some.trajectories.step_index.tolist() == steps
    assert torch.equal(some.trajectories.log_probs, whole.trajectories.log_probs[:, :, places])
    first, last = places[0], places[-1]
    assert torch.equal(some.trajectories.latents, whole.trajectories.latents[:, :, first : last + 2])
    assert ratio_error(bound_policy, some.trajectories, batch_size=9) <= 1e-6


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 7])
def test_chunk_size_changes_rounding_only(policy: TextToImageModel, chunk_size: int) -> None:
    whole, parts = roll(policy), roll(policy, chunk_size=chunk_size)
    torch.testing.assert_close(whole.trajectories.latents, parts.trajectories.latents, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(whole.trajectories.log_probs, parts.trajectories.log_probs, atol=1e-6, rtol=1e-6)
    assert whole.trajectories.prompts == parts.trajectories.prompts


def test_more_branches_leave_the_first_ones_alone(policy: TextToImageModel) -> None:
    few, many = roll(policy, num_branches=2), roll(policy, num_branches=3)
    few_grouped = few.final_latents
    many_grouped = many.final_latents
    torch.testing.assert_close(few_grouped, many_grouped[:, :2], atol=2e-5, rtol=1e-5)


def test_sampling_without_adapter_equals_the_stock_pipeline(policy: TextToImageModel) -> None:
    """The stock UNet and scheduler, stepped by hand with the same noise, give the same latents."""
    pipe = StableDiffusionPipeline.from_pretrained(emoji.model_dir())
    pipe.scheduler.set_timesteps(NUM_STEPS)
    key = NoiseKey(seed=3, stream=1)
    tokens = pipe.tokenizer([PROMPTS[0]], padding="max_length", return_tensors="pt")
    with policy.reference(), torch.no_grad():
        ours = roll(policy, num_branches=1).final_latents[0, 0]
        text = pipe.text_encoder(tokens.input_ids).last_hidden_state
        trunk = key.normal(trunk=0, branch=0, num=NUM_STEPS - TAU + 1, shape=policy.latent_shape)
        branch = key.normal(trunk=0, branch=1, num=TAU, shape=policy.latent_shape)
        x, noise = trunk[:1], torch.cat([trunk[1:], branch])
        for i, t in enumerate(pipe.scheduler.timesteps):
            eps = pipe.unet(x, t, encoder_hidden_states=text).sample
            x = pipe.scheduler.step(eps, t, x, eta=1.0, variance_noise=noise[i : i + 1]).prev_sample
    torch.testing.assert_close(ours, x[0], atol=1e-4, rtol=1e-4)


def test_noise_depends_on_seed_round_trunk_and_branch_alone() -> None:
    shape = (4, 8, 8)
    one = NoiseKey(seed=1, stream=2).normal(trunk=3, branch=1, num=2, shape=shape)
    assert torch.equal(one, NoiseKey(seed=1, stream=2, first_trunk=3).normal(trunk=0, branch=1, num=2, shape=shape))
    others = [
        NoiseKey(seed=2, stream=2).normal(trunk=3, branch=1, num=2, shape=shape),
        NoiseKey(seed=1, stream=3).normal(trunk=3, branch=1, num=2, shape=shape),
        NoiseKey(seed=1, stream=2).normal(trunk=4, branch=1, num=2, shape=shape),
        NoiseKey(seed=1, stream=2).normal(trunk=3, branch=2, num=2, shape=shape),
    ]
    assert not any(torch.equal(one, other) for other in others)
