"""What the image scorer refuses to score."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from b2diffurl.errors import RunStopped
from b2diffurl.prompts.lists import load_prompt_list
from b2diffurl.training.image_scorer import ImageScorer
from b2diffurl.training.scorer import Scoring
from tests.rounds import bind, sample_all, sample_round


def never(images: Tensor, prompts: Sequence[str]) -> Tensor:
    raise AssertionError((images, prompts))


@pytest.mark.parametrize(("where", "what"), [("latents", "latents"), ("decoder", "images")])
def test_images_that_are_not_finite_stop_the_run(where: str, what: str) -> None:
    sampled = sample_round()
    chunk = sample_all(
        bind(sampled.policy, sampled.ddim), ["a cat riding a bike"], interval_length=2, num_branches=2, chunk_size=4
    )
    if where == "latents":
        chunk = replace(chunk, final_latents=torch.full_like(chunk.final_latents, float("inf")))

    def decode(latents: Tensor) -> Tensor:
        images = latents[:, :1].expand(-1, 3, -1, -1).clone()
        return images if where == "latents" else images / 0

    with Scoring(never, watched={}) as scoring:
        scorer = ImageScorer(
            scoring, decode=decode, prompt_list=load_prompt_list("template1-train"), num_branches=2, num_images=2,
            round_number=7,
        )  # fmt: skip
        with pytest.raises(RunStopped, match=rf"^Stopped in round 7: the final {what} are not finite; lower ") as stop:
            scorer.submit(chunk)
    assert stop.value.first_bad_round == 6
