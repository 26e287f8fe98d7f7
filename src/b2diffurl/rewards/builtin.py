"""The built-in rewards, by the first word of their names. A new one is a module and a line here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

import torch

from b2diffurl.rewards.bert.settings import BertSettings
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.remote.settings import RemoteSettings

if TYPE_CHECKING:
    from b2diffurl.rewards.spec import Term

# Each module has a constant REWARD, a RewardKind. Importing a module must be fast: it imports transformers, and
# whatever else is slow to import, only when its model is loaded.
BUILTIN_MODULES = {
    "clip": "b2diffurl.rewards.clip",
    "pickscore": "b2diffurl.rewards.pickscore",
    "jpeg-size": "b2diffurl.rewards.jpeg_size",
    "bert": "b2diffurl.rewards.bert.reward",
    "remote": "b2diffurl.rewards.remote.client",
}
CUSTOM = "custom"
_CUSTOM_MODULE = "b2diffurl.rewards.custom"


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardOptions:
    """Settings that rewards are loaded with.

    Attributes:
        device: device of the models.
        bert: settings of the reward "bert".
        remote: settings of the rewards "remote:URL".
    """

    device: torch.device | str = "cpu"
    bert: BertSettings = field(default_factory=BertSettings)
    remote: RemoteSettings = field(default_factory=RemoteSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardKind:
    """How the rewards of one kind are checked and loaded.

    Attributes:
        forms: the names that it accepts, for error messages.
        check: raises UserError if the term is invalid; loads no model and sends no request.
        load: loads the reward of a valid term; raises UserError if that fails.
    """

    forms: str
    check: "Callable[[Term, RewardOptions], None]"
    load: "Callable[[Term, RewardOptions], Reward]"


def reward_kind(kind: str) -> RewardKind:
    """Import the module of a kind, a key of BUILTIN_MODULES or CUSTOM."""
    module = import_module(_CUSTOM_MODULE if kind == CUSTOM else BUILTIN_MODULES[kind])
    return module.REWARD


def reward_forms() -> str:
    """List the names of all rewards, for error messages."""
    return ", ".join(reward_kind(kind).forms for kind in (*BUILTIN_MODULES, CUSTOM))
