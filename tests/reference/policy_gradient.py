"""The policy gradient's loss of one step, -log pi A, and its slope."""


def loss(log_prob: float, advantage: float) -> float:
    """-log pi A."""
    return -log_prob * advantage


def gradient(advantage: float) -> float:
    """Derivative of the loss by `log_prob`."""
    return -advantage
