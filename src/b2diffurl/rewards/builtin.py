"""The built-in rewards, by the first word of their names. A new one is a module and a line here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from b2diffurl.rewards.bert.settings import BertSettings
from b2diffurl.rewards.facts import RewardFacts
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.remote.settings import RemoteSettings
from b2diffurl.rewards.settings import AestheticSettings, HPSv2Settings, OCRSettings, VLMSettings

if TYPE_CHECKING:
    from b2diffurl.rewards.spec import Term

# Each module has a constant REWARD, a RewardKind. Importing a module must be fast: it imports transformers, and
# whatever else is slow to import, only when its model is loaded.
BUILTIN_MODULES = {
    "clip": "b2diffurl.rewards.clip",
    "pickscore": "b2diffurl.rewards.pickscore",
    "hpsv2": "b2diffurl.rewards.hpsv2",
    "aesthetic": "b2diffurl.rewards.aesthetic",
    "vlm": "b2diffurl.rewards.vlm",
    "ocr": "b2diffurl.rewards.ocr",
    "bert": "b2diffurl.rewards.bert.reward",
    "jpeg-size": "b2diffurl.rewards.jpeg_size",
    "remote": "b2diffurl.rewards.remote.client",
}
REVISED = ("aesthetic", "hpsv2")  # their names may end in @REVISION
CUSTOM = "custom"
_CUSTOM_MODULE = "b2diffurl.rewards.custom"


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardSettings:
    """The settings of all rewards that have some, by the name of the reward.

    Attributes:
        bert: settings of the reward "bert".
        remote: settings of the rewards "remote:URL".
        aesthetic: settings of the reward "aesthetic".
        hpsv2: settings of the reward "hpsv2".
        vlm: settings of the rewards "vlm:QUESTION".
        ocr: settings of the reward "ocr".
    """

    bert: BertSettings = field(default_factory=BertSettings)
    remote: RemoteSettings = field(default_factory=RemoteSettings)
    aesthetic: AestheticSettings = field(default_factory=AestheticSettings)
    hpsv2: HPSv2Settings = field(default_factory=HPSv2Settings)
    vlm: VLMSettings = field(default_factory=VLMSettings)
    ocr: OCRSettings = field(default_factory=OCRSettings)

    @classmethod
    def of(cls, run: Any) -> "RewardSettings":
        """Return the settings in a `Run`, which has one table per reward."""
        return cls(**{setting.name: getattr(run, setting.name) for setting in fields(cls)})


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardKind:
    """How the rewards of one kind are checked and loaded.

    Attributes:
        forms: the names that it accepts, for error messages.
        check: raises UserError if the term is invalid; loads no model and sends no request.
        load: loads the reward of a valid term on a device; raises UserError if that fails.
        facts: what it needs, for `b2diffurl rewards`.
        check_prompts: raises UserError if the reward cannot score images of one of the prompts.
    """

    forms: str
    check: "Callable[[Term, RewardSettings], None]"
    load: "Callable[[Term, RewardSettings, torch.device | str], Reward]"
    facts: RewardFacts
    check_prompts: "Callable[[Sequence[str]], None]" = lambda _: None


def reward_kind(kind: str) -> RewardKind:
    """Import the module of a kind, a key of BUILTIN_MODULES or CUSTOM."""
    module = import_module(_CUSTOM_MODULE if kind == CUSTOM else BUILTIN_MODULES[kind])
    return module.REWARD


def reward_forms() -> str:
    """List the names of all rewards, for error messages."""
    return ", ".join(reward_kind(kind).forms for kind in (*BUILTIN_MODULES, CUSTOM))
