"""The publications to cite for a run. Their BibTeX entries are in papers.bib."""

import re
from dataclasses import dataclass
from pathlib import Path

from b2diffurl.algorithm.schedule import Full
from b2diffurl.rewards import parse_reward
from b2diffurl.run.settings import Run

_FILE = Path(__file__).with_name("papers.bib")
_ARXIV = re.compile(r"arXiv:([\d.]+)")


@dataclass(frozen=True, slots=True)
class Citation:
    """One publication.

    Attributes:
        key: key of the entry in papers.bib.
        component: the part of a run that is based on it: "method", "always" or "guidance", "objective:USE" with the
            TOML name of an objective, or "reward:KIND" with the kind of a reward term.
        description: what it contributed.
    """

    key: str
    component: str
    description: str

    @property
    def bibtex(self) -> str:
        """The BibTeX entry."""
        text = _FILE.read_text(encoding="utf-8")
        start = text.index(f"@article{{{self.key},")
        return text[start : text.index("\n}", start) + 2]

    @property
    def arxiv(self) -> str:
        """The arXiv identifier."""
        match = _ARXIV.search(self.bibtex)
        assert match is not None
        return match[1]


# A new objective or reward adds one line here and its entry to papers.bib. The order is that of the model card.
_CITATIONS = (
    Citation("hu2025towards", "method", "B²-DiffuRL: backward progressive training and branch-based sampling"),
    Citation("black2023training", "always", "DDPO: denoising as a sequence of actions"),
    Citation("fan2023dpok", "objective:dpok", "DPOK: the objective"),
    Citation("rafailov2023direct", "objective:dpo", "DPO: the objective"),
    Citation("yang2023using", "objective:dpo", "D3PO: DPO on denoising steps"),
    Citation("hessel2021clipscore", "reward:clip", "CLIPScore: a reward"),
    Citation("kirstain2023pick", "reward:pickscore", "PickScore: a reward"),
    Citation("zhang2019bertscore", "reward:bert", "BERTScore: a reward"),
    Citation("hu2021lora", "always", "LoRA: the adapter"),
    Citation("song2020denoising", "always", "DDIM: the denoising steps"),
    Citation("ho2022classifier", "guidance", "classifier-free guidance"),
)


def citations_of(run: Run) -> list[Citation]:
    """Return the publications on which a run's method, objective, rewards, adapter and sampler are based."""
    components = {"always", f"objective:{run.objective.use}"}
    components |= {f"reward:{term.kind}" for term in parse_reward(run.reward)}
    if run.rollout.num_branches > 1 or not isinstance(run.schedule, Full):
        components.add("method")
    if run.sampler.guidance_scale > 1:
        components.add("guidance")
    return [citation for citation in _CITATIONS if citation.component in components]
