"""The model card that goes with an adapter: what it was made of, what it does, whose work it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from b2diffurl.models.source import EMOJI, is_checkpoint, is_hub_id, public_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """A work to cite.

    Attributes:
        key: of its BibTeX entry.
        title: as printed.
        authors: with " and " between them.
        year: of the first version.
        arxiv: its number there.
        part: what of it is in use.
    """

    key: str
    title: str
    authors: str
    year: int
    arxiv: str
    part: str

    @property
    def bibtex(self) -> str:
        """Its BibTeX entry."""
        return (
            f"@article{{{self.key},\n  title={{{self.title}}},\n  author={{{self.authors}}},\n"
            f"  journal={{arXiv preprint arXiv:{self.arxiv}}},\n  year={{{self.year}}}\n}}"
        )


B2_DIFFURL = Paper(
    key="hu2025towards",
    title="Towards Better Alignment: Training Diffusion Models with Reinforcement Learning Against Sparse Rewards",
    authors="Hu, Zijing and Zhang, Fengda and Chen, Long and Kuang, Kun and Li, Jiahui and Gao, Kaifeng and Xiao, Jun "
    "and Wang, Xin and Zhu, Wenwu",
    year=2025,
    arxiv="2503.11240",
    part="B²-DiffuRL: backward progressive training and branch-based sampling",
)
DDPO = Paper(
    key="black2023training",
    title="Training Diffusion Models with Reinforcement Learning",
    authors="Black, Kevin and Janner, Michael and Du, Yilun and Kostrikov, Ilya and Levine, Sergey",
    year=2023,
    arxiv="2305.13301",
    part="DDPO: denoising as a sequence of actions, the clipped objective",
)
LORA = Paper(
    key="hu2021lora",
    title="{LoRA}: Low-Rank Adaptation of Large Language Models",
    authors="Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean "
    "and Wang, Lu and Chen, Weizhu",
    year=2021,
    arxiv="2106.09685",
    part="LoRA: the adapter",
)
DDIM = Paper(
    key="song2020denoising",
    title="Denoising Diffusion Implicit Models",
    authors="Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
    year=2020,
    arxiv="2010.02502",
    part="DDIM: the denoising steps",
)
PAPERS = (B2_DIFFURL, DDPO, LORA, DDIM)


def model_card(
    *,
    base_model: str,
    recipe: str,
    reward: str,
    prompts: str,
    before: Mapping[str, float] | None = None,
    after: Mapping[str, float] | None = None,
    num_images: int | None = None,
    licence: str | None = None,
    papers: Sequence[Paper] = PAPERS,
) -> str:
    """Write the README.md of an adapter, with the Hugging Face hub's metadata on top.

    Args:
        base_model: the run's model; of a path only the last part is told.
        recipe: its name.
        reward: what was rewarded.
        prompts: what was drawn in training.
        before: numbers of the base model; given with `after`.
        after: the same numbers of the trained model.
        num_images: pictures that the numbers are of.
        licence: one sentence; by default that the base model's licence goes on.
        papers: to cite.
    """
    name = public_name(base_model)
    parts = [
        _metadata(base_model),
        f"# LoRA on {name}, trained by reinforcement learning\n",
        f"Made by b2diffurl, recipe `{recipe}`, with the reward `{reward}` on the prompts `{prompts}`. What the reward "
        "does not measure may have become worse.\n",
        _usage(base_model),
    ]
    if before is not None and after is not None:
        parts.append(_table(before, after, num_images))
    if licence is None:
        licence = f"The adapter is a change to {name} and comes under the licence of that model."
    parts += [f"## Licence\n\n{licence}\n", _citations(papers)]
    return "\n".join(parts)


def _metadata(base_model: str) -> str:
    lines = ["library_name: diffusers", "pipeline_tag: text-to-image"]
    lines += ["tags:", *(f"- {tag}" for tag in ("lora", "text-to-image", "reinforcement-learning", "b2diffurl"))]
    lines.append(f"license: {'ofl-1.1' if base_model == EMOJI else 'other'}")
    if is_hub_id(base_model):
        lines.append(f"base_model: {base_model}")
    return "\n".join(["---", *lines, "---", ""])


def _usage(base_model: str) -> str:
    imports, source = "from diffusers import DDIMScheduler, DiffusionPipeline", f'"{public_name(base_model)}"'
    load = "DiffusionPipeline.from_pretrained"
    if base_model == EMOJI:
        imports, source = imports + "\nfrom b2diffurl import emoji", "emoji.model_dir()"
    elif is_checkpoint(base_model):
        imports = "from diffusers import DDIMScheduler, StableDiffusionPipeline  # StableDiffusionXLPipeline for XL"
        load = "StableDiffusionPipeline.from_single_file"
    return (
        f"```python\n{imports}\n\npipe = {load}({source})\n"
        "config = pipe.scheduler.config\n"
        "pipe.scheduler = DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)\n"
        'pipe.load_lora_weights("DIRECTORY OR HUB ID OF THIS ADAPTER")\n'
        'pipe("a prompt", eta=1.0)\n```\n\n'
        'For PEFT alone: `PeftModel.from_pretrained(unet, "DIRECTORY/peft")`.\n'
    )


def _table(before: Mapping[str, float], after: Mapping[str, float], num_images: int | None) -> str:
    rows = [f"| {name} | {before[name]:.4f} | {after[name]:.4f} |" for name in before if name in after]
    of = "" if num_images is None else f"Of {num_images} pictures.\n\n"
    return "\n".join([f"## Before and after\n\n{of}| | before | after |", "|---|---|---|", *rows, ""])


def _citations(papers: Sequence[Paper]) -> str:
    parts = "\n".join(f"- {paper.part}: [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" for paper in papers)
    entries = "\n\n".join(paper.bibtex for paper in papers)
    return f"## Citation\n\n{parts}\n\n```bibtex\n{entries}\n```\n"
