"""Learning rates of a run, by torch's own schedulers stepped round by round."""

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR


def rates(lr_schedule: str, *, num_rounds: int, warmup_rounds: int) -> list[float]:
    """Return the rate of every round for an optimizer at rate 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rest = num_rounds - warmup_rounds
    after = {
        "constant": lambda: ConstantLR(optimizer, factor=1.0),
        "linear": lambda: LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=rest),
        "cosine": lambda: CosineAnnealingLR(optimizer, T_max=rest),
    }[lr_schedule]
    warmup = LinearLR(optimizer, start_factor=1 / (warmup_rounds + 1), total_iters=max(1, warmup_rounds))
    scheduler = after()
    if warmup_rounds:
        scheduler = SequentialLR(optimizer, [warmup, scheduler], milestones=[warmup_rounds])
    else:
        optimizer.param_groups[0]["lr"] = 1.0
    out = []
    for _ in range(num_rounds):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out
