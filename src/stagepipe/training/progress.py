"""Where a training stands, which of its epochs become members, and the signals that ask it to stop."""

import signal
from dataclasses import dataclass, field
from types import FrameType

import pyarrow as pa

from stagepipe.recipe.model import Phase
from stagepipe.recipe.parts import TrainPart
from stagepipe.tables import HISTORY


@dataclass
class Progress:
    """Where training stands; everything that is saved besides weights and optimiser state."""

    epoch: int = 0
    """next epoch, counted over all cycles"""
    step: int = 0
    """next batch of that epoch"""
    loss_sum: float = 0.0
    """over the epoch's batches so far"""
    seconds: float = 0.0
    """spent on the epoch so far"""
    waited: float = 0.0
    """seconds of these that the loop waited for the loader; the device may have had work meanwhile"""
    history: list[list[float]] = field(default_factory=list)
    """epoch, lr, loss, score, seconds, images, waited of every finished epoch"""

    def __post_init__(self) -> None:
        if any(len(row) != 7 for row in self.history):
            raise ValueError("its history has other columns")

    def end_epoch(self, row: list[float]) -> None:
        """Note lr, loss, score, seconds and images of the epoch and go on to the next."""
        self.history.append([self.epoch, *row, self.waited])
        self.epoch, self.step, self.loss_sum, self.seconds, self.waited = self.epoch + 1, 0, 0.0, 0.0, 0.0

    def scores(self, first: int, last: int) -> list[float]:
        """Validation scores of the epochs first <= epoch < last."""
        return [row[3] for row in self.history if first <= row[0] < last]

    @property
    def last_epoch(self) -> int:
        """The last epoch trained."""
        return int(self.history[-1][0])

    def members(self, phase: Phase) -> list[int]:
        """Epochs whose weights go to prediction, best first (of equals the earlier) or in the order of the cycles."""
        if phase.select.end_of_cycle:
            ends = {row[0] // phase.epochs: row[0] for row in self.history}
            first = phase.select.end_of_cycle.skip
            return [int(ends[cycle]) for cycle in sorted(ends)][first : first + phase.member_count]
        count = phase.select.top.k if phase.select.top else 1
        return [int(row[0]) for row in sorted(self.history, key=lambda row: (-row[3], row[0]))[:count]]

    def kept(self, phase: Phase) -> set[int]:
        """Epochs whose weights are or may become members, or are the last."""
        return {*self.members(phase), self.last_epoch} if self.history else set()

    def table(self, part: TrainPart) -> pa.Table:
        """What happened in every epoch, of schema HISTORY."""
        rows = [
            {
                "stage": part.stage,
                "run": part.run,
                "phase": part.phase.name,
                "fold": part.fold,
                "cycle": int(epoch) // part.phase.epochs,
                "epoch": int(epoch),
                "lr": rate,
                "loss": loss,
                "score": score,
                "seconds": seconds,
                "images": int(images),
                "waited": waited,
            }
            for epoch, rate, loss, score, seconds, images, waited in self.history
        ]
        return pa.Table.from_pylist(rows, schema=HISTORY)


class StopSignal:
    """Notes SIGTERM and SIGUSR1, so that the loop can save and leave at the next step."""

    def __init__(self) -> None:
        self.received = 0
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number

    def restore(self) -> None:
        """Put back the handlers from before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
