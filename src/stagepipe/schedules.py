"""Learning rate and early stop as pure functions of where training is and which scores it has seen.

Nothing is remembered between calls, so a resumed run needs no scheduler state. Numbers only; no torch.
"""

import math
from collections.abc import Sequence

from stagepipe.recipe.model import Cosine, OneCycle, Plateau, Schedule


def learning_rate(
    schedule: Schedule, lr: float, epoch_in_cycle: int, step_share: float, epochs: int, scores: Sequence[float]
) -> float:
    """The learning rate of a step.

    `lr` is the phase's, or that of a part of its network; `epoch_in_cycle` counts from 0; `step_share` (0..1) is the
    share of the epoch's steps already made; `epochs` is the length of the cycle; `scores` are the monitored scores
    (higher is better) of this cycle's finished epochs.
    """
    now = epoch_in_cycle + step_share
    if schedule.plateau:
        return _plateau(schedule.plateau, lr, scores[:epoch_in_cycle])
    if schedule.cosine:
        time = now if schedule.cosine.per == "step" else epoch_in_cycle
        return _annealed(schedule.cosine, lr, time, epochs)
    if schedule.one_cycle:
        return _one_cycle(schedule.one_cycle, lr, now / epochs)
    if schedule.step:
        return lr * schedule.step.factor ** (epoch_in_cycle // schedule.step.every)
    return lr


def should_stop(early_stop: int | None, scores: Sequence[float]) -> bool:
    """Whether the last `early_stop` epochs of this cycle brought no better score; never if `early_stop` is None."""
    return early_stop is not None and _epochs_since_best(scores) >= early_stop


def _epochs_since_best(scores: Sequence[float]) -> int:
    """Finished epochs after the first best one; a score that is not a number is never better."""
    best, since = -math.inf, 0
    for score in scores:
        best, since = (score, 0) if score > best else (best, since + 1)
    return since


def _annealed(cosine: Cosine, lr: float, time: float, epochs: int) -> float:
    """Cosine from lr to the floor in T epochs, T the schedule's own or the cycle's; then a rise or restarts.

    The rise has period 2 T as torch.optim.lr_scheduler.CosineAnnealingLR, the restarts are those of
    CosineAnnealingWarmRestarts with T_0 = T and T_mult = stretch.
    """
    fall = cosine.epochs or epochs
    while cosine.after == "restart" and time >= fall:
        time, fall = time - fall, fall * cosine.stretch
    return _cosine(lr, cosine.floor, time / fall)


def _cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` at share 0 to `end` at share 1, and on beyond that."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _plateau(plateau: Plateau, lr: float, scores: Sequence[float]) -> float:
    """Replay the scores: after `patience` epochs in a row without a better one the rate falls, the count starts anew.

    As Keras' ReduceLROnPlateau (mode max, min_delta 0) counts; torch's of the same name waits one epoch longer.
    """
    best, bad_epochs = -math.inf, 0
    for score in scores:
        best, bad_epochs = (score, 0) if score > best else (best, bad_epochs + 1)
        if bad_epochs >= plateau.patience:
            lr, bad_epochs = min(lr, max(lr * plateau.factor, plateau.floor)), 0
    return lr


def _one_cycle(cycle: OneCycle, lr: float, share: float) -> float:
    """Cosine from lr / start_factor up to lr at share `warmup`, then cosine down to lr / final_factor at share 1.

    Both flanks are cosines as in torch.optim.lr_scheduler.OneCycleLR, whose `final_div_factor` is relative to the
    start.
    """
    if share < cycle.warmup:
        return _cosine(lr / cycle.start_factor, lr, share / cycle.warmup)
    return _cosine(lr, lr / cycle.final_factor, (share - cycle.warmup) / (1 - cycle.warmup))
