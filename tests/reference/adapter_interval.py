"""One trajectory with the adapter interval (ours): the base network takes the first steps, the adapted one the last."""

from collections.abc import Callable, Sequence

from tests.reference import ddim

Network = Callable[[list[float], int], list[float]]


def sample(
    x: list[float],
    noise: Sequence[list[float]],
    *,
    base: Network,
    adapted: Network,
    interval_length: int,
    alpha: Sequence[float],
    alpha_prev: Sequence[float],
) -> list[list[float]]:
    """Return x_T and the latents after every step, given x_T and the noise of every step."""
    num_steps = len(noise)
    states = [x]
    for step in range(num_steps):
        is_on = num_steps - step <= interval_length
        output = adapted(states[-1], step) if is_on else base(states[-1], step)
        mean, var = ddim.transition(output, states[-1], alpha=alpha[step], alpha_prev=alpha_prev[step], eta=1.0)
        states.append([m + var**0.5 * z for m, z in zip(mean, noise[step], strict=True)])
    return states
