"""What a run will download and what it will keep on disk, in bytes."""

from b2diffurl.analysis.plan import Shape, num_previews, round_costs
from b2diffurl.emoji import is_embedded
from b2diffurl.models.download import download_bytes
from b2diffurl.models.model_source import is_hub_id
from b2diffurl.rewards.clip import VIT_H_14
from b2diffurl.rewards.pickscore import PICKSCORE_V1
from b2diffurl.rewards.spec import Term
from b2diffurl.run.disk import OTHER_BYTES, needed_bytes
from b2diffurl.run.resolve import ResolvedRun

_PNG_BYTES_PER_PIXEL = 2.0  # ours: 3 bytes, of which PNG saves about a third on photographs


def hub_models(resolved: ResolvedRun) -> list[str]:
    """Return the hub ids of the models that a run loads: model, reward, watched rewards and judge."""
    run = resolved.run
    names = [run.model]
    for term in (*resolved.reward_terms, *resolved.watched_terms):
        names += _models_of(term, captioner="" if run.bert.base_url else run.bert.captioner, encoder=run.bert.encoder)
    if resolved.judge.clip:
        names += _models_of(Term(name=resolved.judge.clip), captioner="", encoder="")
    return [name for name in dict.fromkeys(names) if is_hub_id(name)]


def _models_of(term: Term, *, captioner: str, encoder: str) -> list[str]:
    match term.kind:
        case "clip":
            return [term.rest or VIT_H_14]
        case "pickscore":
            return [term.rest or PICKSCORE_V1]
        case "bert":
            return [] if is_embedded(term.rest) else [captioner, encoder]
        case _:
            return []


def run_download_bytes(resolved: ResolvedRun, *, endpoint: str | None = None) -> int | None:
    """Return the bytes that a run will download; None where the hub does not give them.

    Args:
        resolved: the run.
        endpoint: address of the hub; by default that of huggingface_hub.
    """
    sizes = [download_bytes(name, endpoint=endpoint) for name in hub_models(resolved)]
    return None if None in sizes else sum(size or 0 for size in sizes)


def run_disk_bytes(resolved: ResolvedRun, shape: Shape) -> int:
    """Estimate the bytes of a run folder: checkpoints, adapter, preview images, and what replay keeps.

    The adapter of a model on this machine is counted from its layers, that of a family from the family's sizes.
    """
    run = resolved.run
    needed = needed_bytes(resolved)
    if needed == OTHER_BYTES and shape.family is not None:
        adapter = round(4 * shape.family.adapter_parameters * run.lora.rank / 8)
        needed += adapter * (3 * (run.logging.num_checkpoints + 1) + 2)
    pixels = (8 * shape.latent_size) ** 2
    replayed = max(cost.replayed_latent_bytes for cost in round_costs(run, shape))
    images = num_previews(run) * pixels * _PNG_BYTES_PER_PIXEL
    return round(needed + images + replayed * (run.logging.num_checkpoints + 1))
