"""Prediction: all members of a run and fold, all views, in one pass over the data, straight into quantised tables."""

import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from stagepipe.artefacts import Provenance, load_weights, read_table
from stagepipe.data.store import PixelStore, same_size_batches
from stagepipe.errors import TrainingError
from stagepipe.networks import SegmentationNetwork, build, probabilities
from stagepipe.probabilities import STEPS, ProbabilityWriter
from stagepipe.recipe.parts import PredictPart
from stagepipe.runtime import Machine

LOG = logging.getLogger(__name__)
PIXELS_PER_BATCH = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Network input pixels in flight, all views counted; a batch holds at least one image."""


@dataclass(frozen=True)
class View:
    """A quarter turn (counter-clockwise, after the flips) and flips: lossless, so undone exactly."""

    turns: int = 0
    vertical: bool = False
    horizontal: bool = False

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images [B, H, W, K]."""
        flipped = images.flip([axis for axis, flip in ((1, self.vertical), (2, self.horizontal)) if flip])
        return flipped.rot90(self.turns, (1, 2))

    def undo(self, maps: torch.Tensor) -> torch.Tensor:
        """Turn maps [B, C, H, W] back."""
        turned = maps.rot90(-self.turns, (2, 3))
        return turned.flip([axis for axis, flip in ((2, self.vertical), (3, self.horizontal)) if flip])


def views(tta: Sequence[str]) -> list[View]:
    """The plain view and all combinations of hflip, vflip and rot90 (a quarter turn more) that are asked for."""
    turns = (0, 1) if "rot90" in tta else (0,)
    vertical = (False, True) if "vflip" in tta else (False,)
    horizontal = (False, True) if "hflip" in tta else (False,)
    return [View(*choice) for choice in itertools.product(turns, vertical, horizontal)]


class Ensemble:
    """The members of one run and fold on the device, averaged by weight."""

    def __init__(self, part: PredictPart, weights: dict[str, Path], machine: Machine) -> None:
        self._machine = machine
        self._views = views(part.tta)
        total = sum(member.weight for member in part.members)
        self._shares = [member.weight / total for member in part.members]
        self._networks: list[SegmentationNetwork] = []
        for member in part.members:
            network = build(
                part.network, len(part.classes), part.stored_channels, member.resize, member.pad, pretrained=False
            )
            network.module.load_state_dict(load_weights(weights[member.phase], member.member))
            network.to(machine.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
            self._networks.append(network)
        self._forward = [torch.compile(network) if machine.compile else network for network in self._networks]

    def batch_size(self, height: int, width: int) -> int:
        """Images a batch, so that all views of one member stay within the device's budget."""
        largest = max(
            padded[0] * padded[1] for padded in (n.geometry.padded_size(height, width) for n in self._networks)
        )
        return max(1, PIXELS_PER_BATCH[self._machine.device.type] // (largest * len(self._views)))

    @torch.inference_mode()
    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities float32 [B, C, H, W] of images uint8 [B, H, W, K]: mean over views, weighted over members."""
        images = self._machine.to_device(images)
        # Quarter turns of an oblong image have another shape, so they are a batch of their own.
        stacks = [
            list(group)
            for _, group in itertools.groupby(self._views, key=lambda view: tuple(view.apply(images[:1]).shape))
        ]
        total: torch.Tensor | float = 0.0
        for network, forward, share in zip(self._networks, self._forward, self._shares, strict=True):
            for stack in stacks:
                batch = torch.cat([view.apply(images) for view in stack])
                with self._machine.autocast():
                    logits = forward(batch)
                maps = network.geometry.undo(probabilities(logits), batch.shape[1], batch.shape[2])
                for view, view_maps in zip(stack, maps.split(len(images)), strict=True):
                    total = total + view.undo(view_maps) * (share / len(self._views))
        assert isinstance(total, torch.Tensor)
        return total


def predict(
    part: PredictPart,
    samples: Path,
    pixels: Path,
    folds: Path,
    weights: dict[str, Path],
    outputs: dict[str, Path],
    machine: Machine,
    provenance: Provenance | None = None,
) -> None:
    """Write the `out_of_fold` and `test` tables of one run and fold.

    `weights` maps the phases that have members to their files, `outputs` the two splits to the tables to write. The
    out-of-fold table holds the samples whose fold this is, which no member has seen the label of. Maps of black images
    are all 0 where the run says so. TrainingError if a network gives values that are no numbers.
    """
    table = read_table(samples)
    store = PixelStore(pixels, table)
    ensemble = Ensemble(part, weights, machine)
    split = read_table(folds)
    held_out = {
        sample_id
        for sample_id, fold, always in zip(*(split[name].to_pylist() for name in split.column_names), strict=True)
        if fold == int(part.fold) and not always
    }
    ids = table["sample_id"].to_pylist()
    black = table["black"].to_pylist() if part.black_is_empty else [False] * len(ids)
    rows = {
        "out_of_fold": [row for row, sample_id in enumerate(ids) if sample_id in held_out],
        "test": [row for row, name in enumerate(table["split"].to_pylist()) if name == "test"],
    }
    for name, path in outputs.items():
        label = f"{part.stage}/{part.run} fold {part.fold} {name}"
        with ProbabilityWriter(path, provenance) as writer:
            for row, quantised in _quantised(ensemble, store, rows[name], label):
                writer.add_quantised(ids[row], np.zeros_like(quantised) if black[row] else quantised)
        LOG.info("%s: %d images, %d members, %d views", label, len(rows[name]), len(part.members), len(views(part.tta)))


def _quantised(ensemble: Ensemble, store: PixelStore, rows: list[int], label: str) -> Iterator[tuple[int, np.ndarray]]:
    """Row numbers and uint8 maps [C, H, W]."""
    bar = tqdm(total=len(rows), desc=label, unit="image", leave=False, disable=not sys.stderr.isatty())
    for batch, images in same_size_batches(store, rows, ensemble.batch_size):
        maps = ensemble.predict(torch.from_numpy(images))
        if not bool(maps.isfinite().all()):
            raise TrainingError(f"{label}: the network gives values that are no numbers; train with a smaller lr")
        # round(255 p), halves up, as probabilities.quantise does it
        quantised = (maps * STEPS + 0.5).to(torch.uint8).cpu().numpy()
        yield from zip(batch, quantised, strict=True)
        bar.update(len(batch))
    bar.close()
