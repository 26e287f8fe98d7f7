"""A model bound to the sampler of a run."""

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.models.text_to_image import TextToImageModel
from b2diffurl.run.settings import Run


def bind_policy(model: TextToImageModel, run: Run) -> DenoisingPolicy:
    """Bind a model to the run's chain, guidance scale and unit of log-probs."""
    return DenoisingPolicy(
        denoiser=model,
        chain=model.ddim(num_inference_steps=run.sampler.num_inference_steps, eta=run.sampler.eta),
        guidance_scale=run.sampler.guidance_scale,
        log_prob_reduction=run.rollout.log_prob_reduction,
    )
