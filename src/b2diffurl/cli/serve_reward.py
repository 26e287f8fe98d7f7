"""`b2diffurl serve-reward X`: serve a reward over HTTP."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated

import tyro

from b2diffurl.cli.common import announce_device, parse, prepare
from b2diffurl.distributed import AUTO, check_device
from b2diffurl.rewards import RewardSettings, check_reward, load_reward
from b2diffurl.rewards.http import read_token
from b2diffurl.rewards.remote.settings import TOKEN_VARIABLE, ServerLimits


@dataclass(frozen=True, kw_only=True)
class ServeReward:
    """Serve a reward over HTTP to runs elsewhere; clients need the token in B2DIFFURL_REWARD_TOKEN, if it is set.

    Attributes:
        name: the reward, as in `b2diffurl train --reward`.
        host: address to listen on; any other than this machine's loopback needs a token.
        port: port to listen on; 0 picks a free one.
        limits: limits of one request.
        device: device of the reward's model, such as cpu or cuda; "auto" is the first of cuda, mps and cpu that there
            is.
        settings: settings of the rewards that have some.
    """

    name: tyro.conf.Positional[str]
    host: str = "127.0.0.1"
    port: int = 8009
    limits: ServerLimits = field(default_factory=ServerLimits)
    device: str = AUTO
    settings: Annotated[RewardSettings, tyro.conf.arg(name="")] = field(default_factory=RewardSettings)


def serve(words: list[str]) -> int:
    """Serve a reward until interrupted."""
    prepare()
    return run(parse(ServeReward, words, prog="b2diffurl serve-reward"))


def run(command: ServeReward) -> int:
    """Serve a reward until interrupted.

    Returns:
        The exit code.

    Raises:
        UserError: the reward is invalid, or the server cannot listen on the address.
    """
    server = import_module("b2diffurl.rewards.remote.server")  # needs the extra "serve", which --help does not
    token = read_token(TOKEN_VARIABLE)
    server.check_host(command.host, token=token)
    check_device(command.device)
    check_reward(command.name, command.settings)
    reward = load_reward(command.name, command.settings, device=announce_device(command.device))
    server.serve_reward(
        reward, name=command.name, host=command.host, port=command.port, token=token, limits=command.limits
    )
    return 0
