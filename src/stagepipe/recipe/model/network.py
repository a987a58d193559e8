"""Networks with their input geometry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from stagepipe.recipe.model.section import Number, Positive, Section, Size


class Pad(Section):
    """Padding around the resized image, split evenly; an odd pixel goes to the bottom and the right."""

    to: Size
    mode: Literal["reflect", "edge", "symmetric", "zero"] = "reflect"
    """`reflect` leaves the border pixel out (OpenCV's reflect-101), `symmetric` repeats it, `edge` replicates it"""


class WeightsFile(Section):
    """Encoder weights from a local safetensors file."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Normalise(Section):
    """(x / 255 - mean) / std; one number serves all stored channels, or one each, or one each in every copy that the
    network takes of the image."""

    mean: list[Number] = Field(default=[0.0], min_length=1)
    std: list[Positive] = Field(default=[1.0], min_length=1)


class Network(Section):
    """A network with its input geometry."""

    architecture: str = "unet"
    """any architecture of segmentation_models_pytorch, lower case, or one of our own salt_*, siim_* and street_*"""
    encoder: str | None = "resnet34"
    """any encoder of segmentation_models_pytorch; none for an architecture that has no choice of it"""
    weights: Literal["imagenet"] | WeightsFile | None = None
    """encoder weights: `imagenet`, a local file with its checksum, or none (random)"""
    arguments: dict[str, JsonValue] = {}
    """further arguments of the architecture, for example {decoder_attention_type: scse}"""
    resize: Size | None = None
    """bilinear resize before padding; none keeps the size of the image"""
    pad: Pad | None = None
    mask: Literal["soft", "hard"] = "soft"
    """a mask of one class after a resize: `soft` keeps its blended border, `hard` sets pixels above one half"""
    restore: Literal["probabilities", "logits"] = "probabilities"
    """of several classes, what is resized bilinearly back to the size of the image; after `logits` comes the softmax"""
    channels: list[Literal["image", "row_ramp", "product"]] = Field(default=["image"], min_length=1)
    """input channels: the stored ones, a ramp 0..1 from top to bottom, the mean of the stored ones times the ramp"""
    normalise: Literal["imagenet", "none"] | Normalise = Normalise()
    """`imagenet`: its mean and standard deviation (three copies of a gray image have one each, one its averages);
    `none`: pixels as stored, 0..255, for a network that begins with a batch normalisation"""
