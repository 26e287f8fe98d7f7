"""From the scheduler that a model was saved with to its DDIM chain."""

# diffusers types its configs as dicts.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from diffusers import DDIMScheduler

from b2diffurl.diffusion.ddim import DDIM, PredictionType
from b2diffurl.errors import UserError
from b2diffurl.models.model_files import config_location, loading
from b2diffurl.models.model_source import SUPPORTED, ModelSource

_DISTILLED = ("LCMScheduler", "TCDScheduler")


def ddim_scheduler(config: Mapping[str, Any], *, class_name: str, model: str) -> DDIMScheduler:
    """Return stock DDIM with the noise schedule of another scheduler.

    Args:
        config: the other scheduler's config.
        class_name: the other scheduler's class.
        model: the model's name, for messages.

    Raises:
        UserError: DDIM cannot use the schedule, or its steps would have no exact log-prob.
    """
    if "beta_schedule" not in config or class_name in _DISTILLED:
        raise UserError(
            f"model {model!r} has a {class_name}, whose noise schedule DDIM cannot use; supported is {SUPPORTED}."
        )
    # Stable Diffusion's values for keys that many configs leave out; DDIM's defaults would change the chain.
    unset = {key: False for key in ("clip_sample", "set_alpha_to_one") if key not in config}
    with loading(f"the scheduler of model {model!r}"):
        scheduler = DDIMScheduler.from_config(dict(config), **unset)
    assert isinstance(scheduler, DDIMScheduler)
    if scheduler.config.clip_sample or scheduler.config.thresholding:
        raise UserError(
            f"model {model!r} clips or thresholds its samples, which leaves no exact log-prob; use another model."
        )
    if scheduler.config.prediction_type not in get_args(PredictionType):
        raise UserError(
            f"model {model!r} has prediction_type {scheduler.config.prediction_type!r}; "
            f"supported is one of: {', '.join(get_args(PredictionType))}."
        )
    return scheduler


def ddim_chain(scheduler: DDIMScheduler, *, num_inference_steps: int, eta: float) -> DDIM:
    """Return the denoising chain with the timesteps of the scheduler's own schedule.

    Raises:
        UserError: the model has not that many timesteps.
    """
    num_timesteps = scheduler.config.num_train_timesteps
    message = (
        f"num_inference_steps is {num_inference_steps} but the model was trained on {num_timesteps} timesteps, and its "
        "scheduler cannot choose that many of them; give fewer."
    )
    if num_inference_steps > num_timesteps:
        raise UserError(message)
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps.clone().cpu()
    if int(timesteps.max()) >= num_timesteps:  # "leading" with an offset and as many steps as timesteps
        raise UserError(message)
    alpha = scheduler.alphas_cumprod.double()[timesteps]
    last = torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float64).reshape(1)
    return DDIM(
        timesteps=timesteps,
        alpha=alpha,
        alpha_prev=torch.cat([alpha[1:], last]),
        eta=eta,
        prediction_type=scheduler.config.prediction_type,
    )


def check_chain(source: ModelSource, *, num_inference_steps: int, eta: float, interval_length: int = 0) -> None:
    """Check the scheduler of a model that is on this machine, before the model is loaded; a hub model is not checked.

    Args:
        source: the model.
        num_inference_steps: T.
        eta: weight of the noise.
        interval_length: length of the first interval that is trained; 0 for no training.

    Raises:
        UserError: the scheduler is not supported, has too few timesteps, or adds no noise in the whole interval.
    """
    file = Path(source.location if source.is_hub else config_location(source)) / "scheduler" / "scheduler_config.json"
    if source.is_hub or not file.is_file():
        return
    with loading(f"model {source.name!r}"):
        config = json.loads(file.read_text(encoding="utf-8"))
        class_name = str(config.get("_class_name"))
    if source.index["_class_name"] == "StableDiffusionPipeline":
        config |= {"clip_sample": False, "steps_offset": 1}  # as that pipeline does when it is loaded
    scheduler = ddim_scheduler(config, class_name=class_name, model=source.name)
    chain = ddim_chain(scheduler, num_inference_steps=num_inference_steps, eta=eta)
    steps = range(num_inference_steps - interval_length, num_inference_steps)
    if steps and not any(chain.is_action(step) for step in steps):
        raise UserError(
            f"the first interval has {interval_length} of {num_inference_steps} steps, which add no noise with the "
            f"scheduler of model {source.name!r}, so there is nothing to train; give a longer first interval."
        )
