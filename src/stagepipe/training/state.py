"""What a killed training resumes from: a side directory that no rule declares, held by one process.

It holds one file of progress, weights and optimiser state, and one weights file per epoch that is or may become a
member. Files are written before the progress that names them and removed after, so a kill at any moment leaves a state
that is whole. Training goes on while they are written: hundreds of megabytes an epoch, which on a fast device takes as
long as an epoch of a small data set.
"""

import copy
import hashlib
import io
import logging
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stagepipe.artefacts import load_weights, save_weights, verify
from stagepipe.background import Behind
from stagepipe.errors import ArtefactError, TrainingError
from stagepipe.recipe.model import Phase
from stagepipe.storage import atomic
from stagepipe.training.progress import Progress

LOG = logging.getLogger(__name__)
Weights = dict[str, torch.Tensor]


class TrainingState:
    """Save and load the progress of one phase in its side directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._progress = folder / "progress.pt"
        self.weights = folder / "weights.safetensors"
        """members of a finished phase, to be published"""
        self.history = folder / "history.parquet"
        self._writing = Behind()

    def save(self, progress: dict[str, Any]) -> None:
        """Write progress: tensors, numbers, strings, lists and dicts only."""
        buffer = io.BytesIO()
        torch.save(progress, buffer)
        with atomic(self._progress) as temporary:
            temporary.write_bytes(hashlib.sha256(buffer.getbuffer()).digest() + buffer.getbuffer())

    def load(self) -> dict[str, Any] | None:
        """The saved progress; None, with a warning if it is damaged, where training starts from the beginning.

        TrainingError if it is whole but something else than `save` writes, such as a pickle of objects.
        """
        if not self._progress.exists():
            return None
        content = self._progress.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            LOG.warning("%s: is damaged; training starts from the beginning", self._progress)
            return None
        try:
            return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
        # torch's own unpickler ends in whatever the bytes lead it to.
        except (UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise TrainingError(f"{self._progress}: holds no progress of a training; delete {self.folder}") from error

    def keep(self, progress: Progress, phase: Phase, module: nn.Module, optimizer: Optimizer) -> None:
        """Save where training goes on, and remove weights of epochs that won't become members.

        Returns when what was kept before is on the disk and this is copied; `wait` waits for this, too.
        """
        weights = _copied(module.state_dict())
        saved = {"progress": copy.deepcopy(vars(progress)), "weights": weights}
        self._writing.do(self._write, saved | {"optimizer": _copied(optimizer.state_dict())}, progress.kept(phase))

    def wait(self) -> None:
        """Wait until all that was kept is on the disk; raises what went wrong, such as a StorageError."""
        self._writing.wait()

    def _write(self, saved: dict[str, Any], kept: set[int]) -> None:
        progress = saved["progress"]
        if progress["history"] and progress["step"] == 0:  # an epoch has just ended
            self.save_epoch(int(progress["history"][-1][0]), saved["weights"])
        self.save(saved)
        self.prune(kept)

    def resume(self, phase: Phase, module: nn.Module, optimizer: Optimizer) -> Progress | None:
        """Give network and optimiser what was saved and return the progress.

        None if there is nothing, or, with a warning, not all of it: training starts from the beginning. TrainingError
        if another version of the code saved it, under `code: warn`, and it doesn't fit.
        """
        saved = self.load()
        if saved is None:
            return None
        try:
            progress = Progress(**saved["progress"])
            if not self.whole(progress.kept(phase)):
                return None
            module.load_state_dict(saved["weights"])
            optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise TrainingError(f"{self.folder}: doesn't fit this version ({error}); delete the folder") from error
        return progress

    def finished(self) -> bool:
        """Whether the phase has ended here before (its driver may have died before it knew), its files being whole."""
        if not self.weights.exists():
            return False
        try:
            verify(self.weights)
            verify(self.history)
        except ArtefactError as error:
            LOG.warning("%s", error)
            return False
        return True

    def clear(self) -> None:
        """Remove what only an unfinished phase needs."""
        self._progress.unlink(missing_ok=True)
        self.prune(set())

    def remove_finished_siblings(self) -> None:
        """Remove what the same phase and fold finished under other recipes: their files have been replaced."""
        for other in self.folder.parent.iterdir():
            if other != self.folder and (other / self.weights.name).exists():
                shutil.rmtree(other)

    def save_epoch(self, epoch: int, weights: Weights) -> None:
        """Keep the weights of an epoch."""
        save_weights(self._path(epoch), {"epoch": weights})

    def load_epoch(self, epoch: int) -> Weights:
        """Weights of a kept epoch; ArtefactError names a damaged file."""
        self.wait()
        return load_weights(self._path(epoch), "epoch")

    def whole(self, epochs: set[int]) -> bool:
        """Whether the weights of all these epochs can be read."""
        try:
            for epoch in epochs:
                self.load_epoch(epoch)
        except ArtefactError as error:
            LOG.warning("%s; training starts from the beginning", error)
            return False
        return True

    def prune(self, kept: set[int]) -> None:
        """Remove the weights of all other epochs, and what a kill left half-written."""
        keep = {self._path(epoch) for epoch in kept}
        for path in self.folder.iterdir():
            if path.suffix == ".part":
                shutil.rmtree(path)
            elif path.name.startswith("epoch_") and path not in keep:
                path.unlink()

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:05d}.safetensors"


class SharedState(TrainingState):
    """The state as those of several ranks have it that leave writing to the first."""

    def keep(self, progress: Progress, phase: Phase, module: nn.Module, optimizer: Optimizer) -> None:
        """Nothing."""


def _copied(values: Any) -> Any:
    """A nest of dicts and lists with all its tensors copied to the host."""
    if isinstance(values, torch.Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, dict):
        return {key: _copied(value) for key, value in values.items()}
    return [_copied(value) for value in values] if isinstance(values, list) else values
