"""Which works a run rests on. Their BibTeX entries are papers.bib."""

import re
from dataclasses import dataclass
from pathlib import Path

from b2diffurl.algorithm.schedule import Full
from b2diffurl.rewards import parse_reward
from b2diffurl.run.settings import Run

_FILE = Path(__file__).with_name("papers.bib")
_ARXIV = re.compile(r"arXiv:([\d.]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """A work, and what of it is in use.

    Attributes:
        key: of its entry in papers.bib.
        part: for people.
    """

    key: str
    part: str

    @property
    def bibtex(self) -> str:
        """Its entry."""
        text = _FILE.read_text(encoding="utf-8")
        start = text.index(f"@article{{{self.key},")
        return text[start : text.index("\n}", start) + 2]

    @property
    def arxiv(self) -> str:
        """Its number on arXiv."""
        found = _ARXIV.search(self.bibtex)
        assert found is not None
        return found[1]


_B2 = Paper(key="hu2025towards", part="B²-DiffuRL: backward progressive training and branch-based sampling")
_DENOISING_AS_ACTIONS = Paper(key="black2023training", part="DDPO: denoising as a sequence of actions")
_ADAPTER = Paper(key="hu2021lora", part="LoRA: the adapter")
_STEPS = Paper(key="song2020denoising", part="DDIM: the denoising steps")
_GUIDANCE = Paper(key="ho2022classifier", part="classifier-free guidance")
_OBJECTIVES = {
    "dpok": (Paper(key="fan2023dpok", part="DPOK: the objective"),),
    "dpo": (
        Paper(key="rafailov2023direct", part="DPO: the objective"),
        Paper(key="yang2023using", part="D3PO: DPO on denoising steps"),
    ),
}
_REWARDS = {
    "clip": Paper(key="hessel2021clipscore", part="CLIPScore: a reward"),
    "pickscore": Paper(key="kirstain2023pick", part="PickScore: a reward"),
    "bert": Paper(key="zhang2019bertscore", part="BERTScore: a reward"),
}


def papers_of(run: Run) -> list[Paper]:
    """The works to cite for a run: of its strategy, objective, rewards, adapter and sampler, no others."""
    plain = run.rollout.num_branches == 1 and isinstance(run.schedule, Full)
    kinds = dict.fromkeys(term.kind for term in parse_reward(run.reward))
    return [
        *([] if plain else [_B2]),
        _DENOISING_AS_ACTIONS,
        *_OBJECTIVES.get(run.objective.use, ()),
        *(_REWARDS[kind] for kind in kinds if kind in _REWARDS),
        _ADAPTER,
        _STEPS,
        *([_GUIDANCE] if run.sampler.guidance_scale > 1 else []),
    ]
