"""The members of a run on the device: all views of a batch of images through all of them, averaged."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from stagepipe.artefacts import load_weights
from stagepipe.networks import SegmentationNetwork, build
from stagepipe.recipe.parts import PredictPart
from stagepipe.runtime import Machine
from stagepipe.views import View, views

PIXELS_PER_BATCH = {"cpu": 1 << 17, "cuda": 1 << 24}
"""Network input pixels in flight, all views counted; a batch holds at least one view of one image. More are no faster:
on the CPU, where a U-Net on a resnet34 takes 1.3 to 1.7 kB of memory a pixel, or on a GPU, where fewer are taken if
memory is short."""
PROBED_PIXELS = 1 << 20
"""Network input pixels that are predicted to find how much memory of a GPU each takes."""


class Ensemble:
    """The members of one run and fold on the device, averaged by weight."""

    def __init__(self, part: PredictPart, weights: dict[str, Path], machine: Machine) -> None:
        self._machine, self.device = machine, machine.device
        self._views = views(part.tta)
        total = sum(member.weight for member in part.members)
        self._shares = [member.weight / total for member in part.members]
        self._networks: list[SegmentationNetwork] = []
        window = part.predict.windows or part.predict.voting
        for member in part.members:
            # Windows go through as they are, as large as the network takes them.
            geometry = (None, None) if window else (member.resize, member.pad)
            network = build(part.network, len(part.classes), part.stored_channels, *geometry, pretrained=False)
            if window:
                network.check_window(window.size, f"predict.{part.predict.choice}.size")
            network.module.load_state_dict(load_weights(weights[member.phase], member.member))
            network.to(machine.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
            self._networks.append(network)
        # Of networks that differ in nothing but their weights, the first is compiled for all.
        self._forward = machine.compiled(_logits)
        self._most: int | None = None

    def batch_size(self, height: int, width: int) -> int:
        """Images a batch, so that all views of one member stay within the device's budget."""
        return max(1, self._views_in_flight(height, width) // len(self._views))

    def _views_in_flight(self, height: int, width: int) -> int:
        """How many images or views of that size go through a network at once."""
        if self._most is None:
            self._most = self._pixels_in_flight(height, width)
        return max(1, self._most // self._largest(height, width)[0])

    def _largest(self, height: int, width: int) -> tuple[int, SegmentationNetwork]:
        """The network that makes the largest input of an image of that size, and how many pixels it has."""
        sizes = [math.prod(network.geometry.padded_size(height, width)) for network in self._networks]
        return max(zip(sizes, self._networks, strict=True), key=lambda pair: pair[0])

    def _pixels_in_flight(self, height: int, width: int) -> int:
        """The device's budget; found by predicting black images of that size, where memory may not reach."""
        device, most = self._machine.device.type, PIXELS_PER_BATCH[self._machine.device.type]
        if device == "cpu":
            return most
        pixels, network = self._largest(height, width)
        images = torch.zeros(max(1, PROBED_PIXELS // pixels), height, width, network.stored_channels, dtype=torch.uint8)

        def probe() -> None:
            with torch.inference_mode(), self._machine.autocast():
                network.restored(network(self._machine.to_device(images)), height, width)

        return min(most, self._machine.affordable(probe, len(images) * pixels))

    @torch.inference_mode()
    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities float32 [B, C, H, W] of images uint8 [B, H, W, K]: mean over views, weighted over members.

        They are on the device, which may be still at work on them, and not numbers where a network gives none.
        """
        count, images = len(images), self._machine.to_device(images)
        images = self._machine.filled(images, self.batch_size(*images.shape[1:3]))
        total: torch.Tensor | None = None
        for network, share in zip(self._networks, self._shares, strict=True):
            for stack in self._stacks(images):
                batch = torch.cat([view.apply(images) for view in stack])
                with self._machine.autocast():
                    logits = self._forward(network, batch)
                maps = network.restored(logits, batch.shape[1], batch.shape[2])
                del logits
                for view, view_maps in zip(stack, maps.split(len(images)), strict=True):
                    weighted = view.undo(view_maps) * (share / len(self._views))
                    total = weighted if total is None else total.add_(weighted)
        assert total is not None
        return total[:count]

    def _stacks(self, images: torch.Tensor) -> Iterator[list[View]]:
        """Views that go through a network together: of one shape, and within the budget."""
        most = max(1, self._views_in_flight(*images.shape[1:3]) // len(images))
        # Quarter turns of an oblong image have another shape.
        for _, group in itertools.groupby(self._views, key=lambda view: tuple(view.apply(images[:1]).shape)):
            alike = list(group)
            yield from (alike[start : start + most] for start in range(0, len(alike), most))


def _logits(network: SegmentationNetwork, images: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = network(images)
    return logits
