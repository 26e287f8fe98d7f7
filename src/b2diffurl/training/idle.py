"""Warns once about a run that trains nothing, with the cause: equal rewards, the floor, the thresholds, or no pairs."""

from b2diffurl.algorithm.round import RoundResult

NUM_ROUNDS = 3  # ours


class IdleWatch:
    """Counts rounds in a row without an update.

    A round whose optimizer step the trust region reverts is not one of them: `CollapseMonitor` counts those.
    """

    def __init__(self) -> None:
        self._rounds = 0
        self._has_warned = False

    def warning(self, result: RoundResult) -> str | None:
        """Return the warning, one sentence, after the third round in a row without an update; later on None."""
        self._rounds = self._rounds + 1 if result.update.step_scale is None else 0
        if self._rounds < NUM_ROUNDS or self._has_warned:
            return None
        self._has_warned = True
        return f"nothing was trained in {self._rounds} rounds in a row: {idle_cause(result)}."


def idle_cause(result: RoundResult) -> str:
    """Return why a round has trained nothing, and how to change that."""
    rewards, advantages = result.sampled.scores.rewards, result.advantages
    low, high = float(rewards.min()), float(rewards.max())
    if low == high:
        return f"all rewards of round {result.round_number} are {low:.6g}; use a reward that differs between images"
    if not bool(advantages.any()):
        return (
            f"the rewards of round {result.round_number}, {low:.6g} to {high:.6g}, differ too little within a prompt, "
            "so that all advantages are 0; subtract a constant from the reward, or lower advantage.std_floor"
        )
    if len(result.selection):
        return "no pair was selected; use more branches, or thresholds closer to 0"
    return (
        f"the advantages of round {result.round_number}, {float(advantages.min()):.3g} to "
        f"{float(advantages.max()):.3g}, are all within the thresholds of the selection; give thresholds closer to 0, "
        "or more reward queries per prompt"
    )
