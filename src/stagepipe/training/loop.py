"""The training loop: one phase of one run on one fold, from its start weights to its members.

    train(part, inputs, outputs, ...)     # workflow/scripts/train.py calls this

Every random draw is keyed by (seed, stage, run, phase, fold, epoch, sample), the learning rate is a pure function of
the epoch and the scores so far, so progress is weights, optimiser state and a few numbers: a killed phase resumes and
ends with the bits of one that was never stopped.
"""

import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from stagepipe import optimizers, schedules, seeding
from stagepipe.artefacts import Provenance, read_table, save_weights, write_table
from stagepipe.augment import Augmentation
from stagepipe.data.store import PixelStore
from stagepipe.data.training import TrainingSamples, batches, select, window
from stagepipe.distributed import Replica, SharedOrders
from stagepipe.errors import TrainingError
from stagepipe.launch import INTERRUPTED
from stagepipe.locks import held
from stagepipe.recipe.parts import TrainPart
from stagepipe.runtime import Machine
from stagepipe.slurm import queue_again
from stagepipe.storage import publish
from stagepipe.training.average import estimate_statistics, mean_weights
from stagepipe.training.loss import phase_loss, prepare
from stagepipe.training.progress import Progress, StopSignal
from stagepipe.training.start import starting_network
from stagepipe.training.state import SharedState, TrainingState, Weights
from stagepipe.training.validation import Validation, Validator

LOG = logging.getLogger(__name__)
Batch = tuple[torch.Tensor, torch.Tensor]
"""uint8 images [B, H, W, K] and masks [B, H, W]"""


@dataclass(frozen=True)
class TrainInputs:
    """Files a phase reads."""

    samples: Path
    pixels: Path
    folds: Path
    pseudolabels: Path | None = None
    origin: Path | None = None
    """weights file of the phase it starts from, of any but `init: encoder`"""


@dataclass(frozen=True)
class TrainOutputs:
    """Files a phase writes."""

    weights: Path
    """members `0`, `1`, ... and `last`"""
    history: Path


def train(
    part: TrainPart,
    inputs: TrainInputs,
    outputs: TrainOutputs,
    state_folder: Path,
    machine: Machine,
    provenance: Provenance | None = None,
) -> None:
    """Train one phase on one fold and write its members and history.

    `state_folder` keeps progress between attempts; it must be another one for whatever trains differently.
    TrainingError names phase, epoch, batch and learning rate of a loss that is not a number, and a phase that has no
    weights to start from. Exits with status 75 after SIGTERM or SIGUSR1, when progress is saved; SIGUSR1 says that the
    job's time is nearly over, so SLURM is asked to queue it again.

    Of several `machine.ranks` all but the first end with SystemExit when all epochs are done; whoever started them has
    to hold the state folder.
    """
    ranks = machine.ranks
    with held(state_folder) if ranks.count == 1 else nullcontext():
        state = TrainingState(state_folder) if ranks.first else SharedState(state_folder)
        if state.finished():
            ranks.part()
        else:
            trainer = Trainer(part, inputs, state, machine)
            members = trainer.run()
            write_table(state.history, trainer.progress.table(part), provenance)
            save_weights(state.weights, members, provenance)
        state.clear()
        publish(state.history, outputs.history)
        publish(state.weights, outputs.weights)
        state.remove_finished_siblings()


class Trainer:
    """Network, data and progress of one phase on one fold."""

    def __init__(self, part: TrainPart, inputs: TrainInputs, state: TrainingState, machine: Machine) -> None:
        self.part, self.phase, self.machine, self.state = part, part.phase, machine, state
        self.ranks = machine.ranks
        self.key = (part.seed, part.stage, part.run, part.phase.name, part.fold)
        samples = read_table(inputs.samples)
        self.store = PixelStore(inputs.pixels, samples)
        selection = select(part, samples, inputs.folds, inputs.pseudolabels)
        self.validator = Validator(part, samples, selection.validation, self.store, machine)
        augmentation = Augmentation(self.phase.augment, window(part, samples, selection.training))
        self.samples = TrainingSamples(selection.training, self.store, augmentation, self.key)
        empty = np.array([item.foreground == 0 for item in selection.training])
        epochs = self.phase.epochs * self.phase.cycles
        self.orders = SharedOrders(self.phase.sampler, empty, self.phase.batch, self.key, epochs, self.ranks)
        self.network = starting_network(part, self.key, inputs.origin, machine.device)
        prepare(part, self.network, machine.device)
        self.forward: Callable[[torch.Tensor], dict[str, torch.Tensor]] = machine.compiled(self.network.heads)
        # The same in one process; of several each has its own rows of every batch.
        self.replica = Replica(self.ranks, self.network, self.forward, ["logits", *self.phase.deep_supervision])
        self.base_rates = optimizers.base_rates(self.phase, self.network)
        self.optimizer = optimizers.build(self.phase, self.network)
        self.progress = Progress()

    @property
    def steps(self) -> int:
        """Batches of the current epoch; a sliding share of the sampler makes its epochs differ."""
        return self.orders.steps(self.progress.epoch)

    # --------------------------------------------------------------------------------------------------------- the loop

    def run(self) -> dict[str, Weights]:
        """Train all epochs that are not yet done and return the members: `0`, `1`, ... and `last`."""
        self._resume()
        stop = StopSignal()
        try:
            while not self._finished():
                self._train_cycle(self.progress.epoch // self.phase.epochs, stop)
            self.ranks.part()
            return self._members(stop)
        finally:
            stop.restore()
            self.state.wait()

    def _train_cycle(self, cycle: int, stop: StopSignal) -> None:
        end = (cycle + 1) * self.phase.epochs
        if self.progress.epoch == end - self.phase.epochs and self.progress.step == 0:
            self.optimizer = optimizers.build(self.phase, self.network)
        start = (self.progress.epoch, self.progress.step)
        self.state.wait()  # the loader forks its workers, which no thread should be in the middle of
        with closing(self._batches(start, end)) as data:
            while self.progress.epoch < end:
                self._train_epoch(data, stop)
                scores = self.progress.scores(end - self.phase.epochs, end)
                if schedules.should_stop(self.phase.early_stop, scores):
                    self.progress.epoch = end
                self._keep()

    def _batches(self, start: tuple[int, int], end: int) -> Generator[Batch, None, None]:
        pin = self.machine.device.type == "cuda"
        return batches(self.samples, self.orders, start, end, self.machine.workers, pin)

    def _train_epoch(self, data: Iterator[Batch], stop: StopSignal) -> None:
        """One epoch: train on its remaining batches, then validate."""
        phase, progress, began = self.phase, self.progress, time.monotonic()
        self.network.train()
        self.network.set_encoder_frozen(progress.epoch < phase.freeze_encoder)
        steps = self.steps
        # Losses stay on the device until the epoch ends: reading one would make the device wait for the host.
        losses = torch.full((steps,), math.nan, device=self.machine.device)
        first_step = progress.step
        for step in self._bar(range(first_step, steps), f"epoch {progress.epoch + 1}"):
            losses[step] = self.train_step(data, step, self._rates(step))
            if self._ends_group(step) and (asked := self.ranks.agreed(stop.received)):
                self._check(losses, first_step, step + 1)
                progress.step = step + 1
                progress.loss_sum += float(losses[first_step : step + 1].double().sum())
                progress.seconds += time.monotonic() - began
                self._keep()
                self._leave(asked)
        self._check(losses, first_step, steps)
        loss = (progress.loss_sum + float(losses[first_step:].double().sum())) / steps
        found = self.validate()
        seconds = progress.seconds + time.monotonic() - began
        rate, images = self._rates(steps - 1)[-1], self.orders.images(progress.epoch)
        progress.end_epoch([rate, loss, found.score, seconds, images])
        self.state.wait()  # so when a line of the log appears, the epoch of the line before is on the disk
        LOG.info(
            "epoch %d of %d: loss %.4f, %s, lr %.2e, %.0f images/s, %.0f %% of it waiting for data", progress.epoch,
            phase.epochs * phase.cycles, loss, self.validator.describe(found), rate, images / seconds,
            100 * progress.history[-1][-1] / seconds,
        )  # fmt: skip

    def train_step(self, data: Iterator[Batch], step: int, rates: Sequence[float]) -> torch.Tensor:
        """Forward, backward and, where a group of accumulated batches ends, an optimiser step. Returns the loss.

        `rates` are those of the optimiser's groups of parameters.
        """
        phase = self.phase
        asked = time.monotonic()
        batch = next(data)
        self.progress.waited += time.monotonic() - asked
        images, masks = (self.machine.to_device(tensor) for tensor in batch)
        # Dropout is the only draw on the device; its seed is the batch's own.
        torch.manual_seed(seeding.key("step", *self.key, self.progress.epoch, step, *self.ranks.key))
        size = self.orders.batch_size(self.progress.epoch)
        with self.replica.accumulating(self._ends_group(step)):
            with self.machine.autocast():
                heads = self.replica(images)
            whole = {name: self.ranks.gathered(head, size) for name, head in heads.items()}
            loss = phase_loss(self.part, self.network, whole, self.ranks.gathered(masks, size))
            self.replica.backward(loss, self._group_size(step))
        if self._ends_group(step):
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            if phase.clip_norm:
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), phase.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _rates(self, step: int) -> list[float]:
        """Learning rate of each group of parameters in a batch of the current epoch, the phase's own last."""
        phase, epoch = self.phase, self.progress.epoch
        first = epoch - epoch % phase.epochs
        scores, share = self.progress.scores(first, epoch), step / self.steps
        return [
            schedules.learning_rate(phase.schedule, base, epoch - first, share, phase.epochs, scores)
            for base in self.base_rates
        ]

    def _group_size(self, step: int) -> int:
        """Batches that make up this batch's optimiser step; at the end of an epoch there may be fewer left."""
        first = step - step % self.phase.accumulate
        return min(self.phase.accumulate, self.steps - first)

    def _ends_group(self, step: int) -> bool:
        """Whether the optimiser steps after this batch; in between, gradients are accumulating and nothing is saved."""
        return (step + 1) % self.phase.accumulate == 0 or step + 1 == self.steps

    def _check(self, losses: torch.Tensor, first: int, end: int) -> None:
        """TrainingError at the first loss of these batches that is not a finite number."""
        bad = torch.nonzero(~torch.isfinite(losses[first:end]))
        if len(bad):
            batch = first + int(bad[0])
            raise TrainingError(
                f"{self.part.stage}/{self.part.run}/{self.phase.name}, fold {self.part.fold}: the loss of epoch "
                f"{self.progress.epoch + 1}, batch {batch + 1} of {self.steps} is {float(losses[batch])} at learning "
                f"rate {self._rates(batch)[-1]:.3g}; write a smaller lr or a clip_norm"
            )

    def validate(self) -> Validation:
        """Score of the weights as they are over the held-out samples."""
        return self.validator.validate(self.network, self.forward)

    # ---------------------------------------------------------------------------------------------------------- members

    def _members(self, stop: StopSignal) -> dict[str, Weights]:
        epochs, last = self.progress.members(self.phase), self.progress.last_epoch
        if self.phase.select.top and self.phase.select.top.average == "weights":
            return {"0": self._averaged(epochs, stop), "last": self.state.load_epoch(last)}
        weights = {epoch: self.state.load_epoch(epoch) for epoch in {*epochs, last}}
        return {str(index): weights[epoch] for index, epoch in enumerate(epochs)} | {"last": weights[last]}

    def _averaged(self, epochs: list[int], stop: StopSignal) -> Weights:
        """Mean of the weights of several epochs, the best first, with statistics of that one's training batches."""
        self.network.module.load_state_dict(mean_weights([self.state.load_epoch(epoch) for epoch in epochs]))
        # An encoder that was frozen in all of them keeps its statistics.
        self.network.set_encoder_frozen(max(epochs) < self.phase.freeze_encoder)
        with self.machine.autocast():
            estimate_statistics(self.network, self.network.heads, self._images(epochs[0], stop))
        best = max(row[3] for row in self.progress.history)
        numbers = ", ".join(str(epoch + 1) for epoch in epochs)
        averaged = self.validator.describe(self.validate())
        LOG.info("mean weights of the epochs %s: %s; the best alone %.4f", numbers, averaged, best)
        return self._weights()

    def _images(self, epoch: int, stop: StopSignal) -> Iterator[torch.Tensor]:
        """The images of an epoch's batches as they were trained on, on the device."""
        with closing(self._batches((epoch, 0), epoch + 1)) as data:
            for step in self._bar(range(self.orders.steps(epoch)), "mean weights"):
                if stop.received:
                    self._leave(stop.received)
                torch.manual_seed(seeding.key("step", *self.key, epoch, step))
                yield self.machine.to_device(next(data)[0])

    # --------------------------------------------------------------------------------------------------------- progress

    def _finished(self) -> bool:
        return self.progress.epoch >= self.phase.epochs * self.phase.cycles

    def _weights(self) -> Weights:
        return self.network.module.state_dict()

    def _keep(self) -> None:
        self.state.keep(self.progress, self.phase, self.network.module, self.optimizer)

    def _resume(self) -> None:
        progress = self.state.resume(self.phase, self.network.module, self.optimizer)
        if progress is not None:
            self.progress = progress
            LOG.info("resuming, %s", self._position())

    def _leave(self, number: int) -> None:
        """End the process for that signal."""
        self.state.wait()
        self.ranks.part(INTERRUPTED)
        LOG.warning("%s: progress is saved, %s", signal.Signals(number).name, self._position())
        if number == signal.SIGUSR1:
            queue_again()
        raise SystemExit(INTERRUPTED)

    def _position(self) -> str:
        if self._finished():
            return "all epochs done"
        return f"epoch {self.progress.epoch + 1}, {self.progress.step} of {self.steps} batches done"

    def _bar(self, steps: range, doing: str) -> Any:
        last = f" {self.validator.describe(Validation(self.progress.history[-1][3]))}" if self.progress.history else ""
        label = f"{self.part.stage}/{self.part.run}/{self.phase.name} fold {self.part.fold} {doing}{last}"
        return tqdm(
            steps, desc=label, unit="batch", leave=False, disable=not (self.ranks.first and sys.stderr.isatty())
        )
