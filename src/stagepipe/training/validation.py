"""The score of an epoch: that of the held-out samples' masks, at one threshold or at the best of several triplets."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from stagepipe import metrics, triplets
from stagepipe.data.store import PixelStore, same_size_batches
from stagepipe.device_metrics import batch_counts, threshold_counts
from stagepipe.networks import SegmentationNetwork
from stagepipe.recipe.parts import TrainPart
from stagepipe.runtime import Machine
from stagepipe.triplets import Triplet


@dataclass(frozen=True)
class Validation:
    """What the held-out samples say of some weights."""

    score: float
    """mean monitored score"""
    triplet: Triplet | None = None
    """the one that the score is the best of, if there are any"""


class Validator:
    """Scores networks on the held-out samples of a phase and fold, each at its own size."""

    def __init__(
        self, part: TrainPart, samples: pa.Table, rows: Sequence[int], store: PixelStore, machine: Machine
    ) -> None:
        self.part, self.rows, self.store, self.machine = part, rows, store, machine
        self.triplets = triplets.expand(part.phase.triplets)
        empty = samples["empty"].take(pa.array(rows)).to_numpy(zero_copy_only=False)
        single = len(part.classes) == 1
        self.all_empty = float(empty.mean()) if single else None
        """score of masks that are all empty, of a single class: the share of samples whose mask is"""
        self.scored = None if single else metrics.scored_indices(part.classes, part.evaluated, part.ignore_index)
        """of several classes, those that the score is the mean of"""

    @torch.inference_mode()
    def validate(
        self, network: SegmentationNetwork, forward: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    ) -> Validation:
        """Score the network, `forward` being its `heads`: a single class at threshold 0.5 or at the triplets."""
        network.eval()
        ranks = self.machine.ranks
        counts, pixels = [], []
        own = ranks.own(ranks.padded(self.rows))
        for rows, images in same_size_batches(self.store, own, self._batch):
            masks = torch.from_numpy(np.stack([self.store.mask(row) for row in rows]))
            batch = self.machine.filled(torch.from_numpy(images), self._batch(*images.shape[1:3]))
            with self.machine.autocast():
                logits = forward(self.machine.to_device(batch))["logits"][: len(rows)]
            maps = network.restored(logits, *masks.shape[1:])
            counts.append(self._count(maps, self.machine.to_device(masks)))
            pixels += [masks[0].numel()] * len(rows)
        found, sizes = (ranks.gathered(own, len(self.rows)) for own in (torch.cat(counts), torch.tensor(pixels)))
        return self._score(found.cpu().numpy(), sizes.numpy())

    def _batch(self, height: int, width: int) -> int:
        """Images of that size in a batch: as many as while training, or as have its pixels if it trains on windows."""
        phase = self.part.phase
        images = -(-phase.batch // self.machine.ranks.count)
        return max(1, images * math.prod(phase.crop.size) // (height * width)) if phase.crop else images

    def _count(self, maps: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.triplets:
            return threshold_counts(maps, target, triplets.thresholds(self.triplets))
        return batch_counts(maps, target, 0.5, self.part.ignore_index)

    def _score(self, counts: np.ndarray, pixels: np.ndarray) -> Validation:
        """Score of counts int64 [N, classes or thresholds, 3] in images of so many pixels, int64 [N]."""
        monitor = self.part.phase.monitor
        if monitor == "dataset_iou":
            assert self.scored is not None
            return Validation(metrics.dataset_iou(counts, self.scored))
        if not self.triplets:
            return Validation(_mean(metrics.scores(counts, self.scored)[monitor]))
        intersection, truth, predicted = np.moveaxis(counts, 2, 0)
        means = triplets.image_scores(predicted, intersection, truth[:, 0], pixels, self.triplets, monitor).mean(axis=0)
        best = int(means.argmax())
        return Validation(float(means[best]), self.triplets[best])

    def describe(self, found: Validation) -> str:
        """For example `dice 0.8123 (all empty 0.7772) at top 0.75, area 1000, bottom 0.3`."""
        text = f"{self.part.phase.monitor} {found.score:.4f}"
        if self.all_empty is not None:
            text += f" (all empty {self.all_empty:.4f})"
        if found.triplet is not None:
            text += f" at top {found.triplet.top:g}, area {found.triplet.area}, bottom {found.triplet.bottom:g}"
        return text


def _mean(scores: np.ndarray) -> float:
    """Mean of the images that have a score (of `truth_iou` those whose truth has a scored class); 0 if none has."""
    found = scores[~np.isnan(scores)]
    return float(found.mean()) if len(found) else 0.0
