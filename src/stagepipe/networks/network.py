"""A network behind its input geometry and input channels: what training and prediction see of it."""

from collections.abc import Iterable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from stagepipe.errors import RecipeError
from stagepipe.networks.geometry import Geometry
from stagepipe.networks.inputs import InputChannels

OTHER = "other"
"""part of a network that has no name of its own"""
HEADS = {
    "empty": "`arguments: {deep_supervision: true}` in a network that takes it",
    "nonempty": "`arguments: {deep_supervision: true}` in a network that takes it",
    "auxiliary": "`architecture: salt_15th`",
}
"""what to write for a network that has the head"""


class SegmentationNetwork(nn.Module):
    """A network (`module`), smp's or our own, behind its input geometry and input channels."""

    module: Any

    def __init__(
        self,
        module: nn.Module,
        geometry: Geometry,
        inputs: InputChannels,
        stored_channels: int,
        crop: tuple[int, int] | None = None,
        restore: Literal["probabilities", "logits"] = "probabilities",
    ):
        """`geometry` is that of whole images; with a `crop` training images have that size and stay as they are."""
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last)
        self.whole = geometry
        self.inputs = inputs
        self.stored_channels = stored_channels
        self.crop = crop
        self.restore = restore
        self._encoder_frozen = False

    @property
    def geometry(self) -> Geometry:
        """Geometry of the images that come now: in training mode that of crops, if there are any."""
        return self.whole.of_crops() if self.training and self.crop else self.whole

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 [B, H, W, K] -> logits [B, outputs, H', W'] on the padded grid.

        The dtype is the parameters' or autocast's. RecipeError if the architecture can't take the padded size,
        ValueError for another dtype, number of channels or, in training mode, size than that of the crops.
        """
        inputs = self._inputs(images)
        return self._checked(self.module(inputs), inputs)

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """Everything that has a loss: `logits` as `forward` gives them, and what `head_names` lists.

        `nonempty` (logits of the pixels alone) and `auxiliary` are of the logits' shape, `empty` [B, 1, 1, 1] is the
        logit of an empty mask.
        """
        if not self.head_names:
            return {"logits": self(images)}
        inputs = self._inputs(images)
        heads = self.module.heads(inputs)
        self._checked(heads["logits"], inputs)
        return heads

    def restored(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Logits [B, C, H', W'] on the padded grid -> float32 probabilities [B, C, height, width] of the image.

        Resized back are the probabilities or, of several classes and where the recipe says so, the logits before the
        softmax.
        """
        if self.restore == "logits":
            return probabilities(self.geometry.undo(logits.float(), height, width))
        return self.geometry.undo(probabilities(logits), height, width)

    @property
    def head_names(self) -> tuple[str, ...]:
        """What `heads` gives beside the logits; empty without further heads."""
        return getattr(self.module, "head_names", ())

    def check_heads(self, names: Iterable[str]) -> None:
        """RecipeError if a phase wants to train a head that the network doesn't have."""
        if absent := sorted(set(names) - set(self.head_names)):
            known = ", ".join(self.head_names) or "none"
            raise RecipeError(
                f"deep_supervision.{absent[0]}: {type(self.module).__name__} has no such head as it is made (heads: "
                f"{known}); leave it out, or write {HEADS[absent[0]]}"
            )

    def _inputs(self, images: Tensor) -> Tensor:
        """The module's input [B, channels, H', W'] in its parameters' dtype, channels last."""
        if images.dtype != torch.uint8 or images.shape[-1] != self.stored_channels:
            raise ValueError(
                f"images: {images.dtype} {list(images.shape)}; a network takes uint8 [B, H, W, {self.stored_channels}]"
            )
        height, width = images.shape[1:3]
        if not (self.training and self.crop):
            self.check_size(height, width)
        elif self.crop != (height, width):
            raise ValueError(f"images: {height} x {width}; in training they are crops of {list(self.crop)}")
        # without a resize the padding works on uint8, a quarter of the bytes
        pixels = self.geometry.apply(images.permute(0, 3, 1, 2))
        dtype = next(self.module.parameters()).dtype
        return self.inputs(pixels).to(dtype).contiguous(memory_format=torch.channels_last)

    def _checked(self, logits: Tensor, inputs: Tensor) -> Tensor:
        if logits.shape[-2:] != inputs.shape[-2:]:
            raise RecipeError(
                f"network: gives {list(logits.shape[-2:])} for an input of {list(inputs.shape[-2:])}; pad to a "
                f"multiple of {self._stride} and leave `upsampling` out of network.arguments"
            )
        return logits

    @property
    def divisor(self) -> int:
        """What the padded height and width must be multiples of; 1 if any size will do."""
        return self._stride if self.module.requires_divisible_input_shape else 1

    @property
    def _stride(self) -> int:
        """What our own architecture says that sizes are multiples of; of smp's the stride of the deepest map."""
        return int(self.module.divisor if hasattr(self.module, "divisor") else self.module.encoder.output_stride)

    def check_size(self, height: int, width: int) -> None:
        """RecipeError, with the pad to write, if the network can't take whole images of that size (before both)."""
        size = self.whole.padded_size(height, width)
        if better := self._fitting(*size):
            raise RecipeError(
                f"network: {type(self.module).__name__} takes heights and widths divisible by {self.divisor}, "
                f"the input is {size[0]} x {size[1]} after resize and pad; write `pad: {{to: {better}}}`"
            )

    def check_window(self, size: tuple[int, int], key: str) -> None:
        """RecipeError, with the size to write, if the network can't take windows of that size, which `key` asks for."""
        if better := self._fitting(*size):
            raise RecipeError(
                f"network: {type(self.module).__name__} takes heights and widths divisible by {self.divisor}, "
                f"{key} is {size[0]} x {size[1]}; write `size: {better}`"
            )

    def _fitting(self, height: int, width: int) -> list[int]:
        """The next larger size that the network takes, or nothing if it takes this one."""
        size = [-(-edge // self.divisor) * self.divisor for edge in (height, width)]
        return [] if size == [height, width] else size

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """All parameters: `encoder`, the parts that the architecture names, and the `other` ones; disjoint."""
        names = ["encoder", *getattr(self.module, "part_names", ())]
        parts: dict[str, list[nn.Parameter]] = {name: [] for name in [*names, OTHER]}
        for name, value in self.module.named_parameters():
            part = name.split(".")[0]
            parts[part if part in names else OTHER].append(value)
        return parts

    def check_parts(self, names: Iterable[str]) -> None:
        """RecipeError if a phase gives a learning rate to a part that the network doesn't have."""
        known = [name for name, parameters in self.parts().items() if parameters and name != OTHER]
        if absent := sorted(set(names) - set(known)):
            raise RecipeError(
                f"part_lr.{absent[0]}: {type(self.module).__name__} has no such part as it is made; "
                f"write one of {', '.join(known)}, and `lr` for all others"
            )

    def set_encoder_frozen(self, frozen: bool) -> None:
        """Keep the encoder as it is: no gradients, normalisation by its running statistics also in training mode."""
        self._encoder_frozen = frozen
        self.module.encoder.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.module.encoder.train(mode and not self._encoder_frozen)
        return self


def probabilities(logits: Tensor) -> Tensor:
    """float32 probabilities [B, C, H, W] of logits: sigmoid of a single class, softmax over several."""
    logits = logits.float()
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
