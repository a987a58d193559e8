"""Raw data, and the folds its labelled samples are split into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from stagepipe.recipe.model.section import Count, Integer, Name, Natural, Section, Share, Size


class Synthetic(Section):
    """A generated salt survey in the raw `tgs` layout."""

    train: Count = 160
    """labelled tiles"""
    test: Count = 80
    """unlabelled tiles"""
    size: Annotated[int, Field(strict=True, ge=32, le=1024)] = 101
    """tile edge in pixels"""
    empty: Share = 0.38
    """share of tiles without salt, about"""
    black: Share = 0.02
    """share of black tiles (no salt), about"""
    vertical: Share = 0.05
    """share of tiles whose salt border is vertical, about"""
    seed: Integer = 0


class SyntheticSiim(Section):
    """Generated chest films in the raw `siim` layout: DICOM files and run lengths."""

    train: Count = 60
    """labelled films"""
    second_stage: Natural = 0
    """labelled films that always train"""
    test: Count = 30
    """unlabelled films"""
    size: Annotated[int, Field(strict=True, ge=64, le=2048)] = 256
    """film edge in pixels"""
    positive: Share = 0.22
    """share of films with a collapse, about"""
    seed: Integer = 0


class SyntheticStreet(Section):
    """Generated street scenes in the raw `street` layout: JPEG images, colour masks and JSON attributes."""

    train: Count = 24
    """labelled frames"""
    test: Count = 8
    """unlabelled frames"""
    size: Size = (152, 240)
    """of a frame"""
    seed: Integer = 0


GENERATORS = {
    "synthetic": Synthetic(),
    "synthetic_siim": SyntheticSiim(),
    "synthetic_street": SyntheticStreet(),
}
"""Formats whose raw data the workflow writes itself, each the name of the key with its numbers; their defaults."""

Intensity = Annotated[int, Field(strict=True, ge=0, le=255)]


def _three(value: Any) -> Any:
    """The value if it is as long as a colour."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise ValueError("a colour is [red, green, blue], each of 0 to 255")
    return value


Colour = Annotated[tuple[Intensity, Intensity, Intensity], BeforeValidator(_three)]
"""red, green, blue"""


def _listed(value: Any) -> Any:
    """One colour as a list of one; ValueError for what is no list at all."""
    if not isinstance(value, list | tuple):
        raise ValueError("a colour is [red, green, blue], each of 0 to 255; write one, or a list of several")
    return [value] if value and isinstance(value[0], int) else value


RGB = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "minItems": 3, "maxItems": 3}
Colours = Annotated[
    list[Colour],
    BeforeValidator(_listed),
    Field(min_length=1),
    WithJsonSchema(
        {
            "anyOf": [RGB, {"type": "array", "items": RGB, "minItems": 1}],
            "description": "[red, green, blue], or several",
        }
    ),
]


class Dataset(Section):
    """Raw data: a layout and where it lies."""

    format: Literal["tgs", "siim", "street", "folder", "synthetic", "synthetic_siim", "synthetic_street"]
    root: str | None = None
    """folder of the raw data, relative to the working directory or absolute; synthetic data has none"""
    classes: list[Name] = Field(default=["salt"], min_length=1, max_length=255)
    """one name: that class against background (sigmoid); several: one class a pixel (softmax), in index order"""
    ignore_index: Annotated[int, Field(strict=True, ge=0, le=255)] | None = None
    """mask value that counts in no loss and no metric; needs several classes"""
    evaluated: list[Name] = []
    """of several classes, those that scores are the mean of and that a submission holds; none: all but
    the ignored one"""
    palette: dict[Name, Colours] = {}
    """masks are RGB images: the exact colour, or colours, of each class; none: masks hold class indices"""
    ignored_colours: list[Colour] = []
    """colours of a mask that become the ignore_index"""
    drive_gap: Count = 100
    """of the `street` format: frames of a route and time of day belong to another drive where `frameIndex` jumps by
    more than this (column `drive`)"""
    channels: Literal["gray", "rgb"] = "gray"
    """what is stored of an image; `gray` reads an RGB file with three equal channels as one"""
    faults: Literal["strict", "quarantine"] = "strict"
    """faulty files: `strict` stops with all of them listed, `quarantine` goes on without them and says so"""
    limit: Count | None = None
    """at most so many images of each split, the first by id: a trial of a recipe on a corner of the data"""
    rle_size: Size | None = None
    """image size that run lengths of masks are written for: in an image of another size the mask is resized and set
    where above one half; none: the image's own"""
    synthetic: Synthetic = Synthetic()
    synthetic_siim: SyntheticSiim = SyntheticSiim()
    synthetic_street: SyntheticStreet = SyntheticStreet()

    @model_validator(mode="after")
    def _root(self) -> Dataset:
        if self.generated and self.root is not None:
            raise ValueError(f"root: the {self.format} format writes its own raw data; leave root out")
        if not self.generated and not self.root:
            raise ValueError(f"root: the {self.format} format reads raw data; write `root: path/to/data`")
        for name, default in GENERATORS.items():
            if self.format != name and getattr(self, name) != default:
                raise ValueError(f"{name}: describes generated data; leave it out or write `format: {name}`")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: {', '.join(self.classes)} repeats a name; give each class its own")
        if self.ignore_index is not None and len(self.classes) == 1:
            raise ValueError("ignore_index: needs several classes; leave it out or list the classes")
        return self

    @model_validator(mode="after")
    def _evaluated(self) -> Dataset:
        if self.evaluated and len(self.classes) == 1:
            raise ValueError("evaluated: there is one class; leave it out")
        possible = scored_classes(self.classes, [], self.ignore_index)
        if wrong := sorted(set(self.evaluated) - set(possible)):
            what = "has the ignore_index" if wrong[0] in self.classes else "is no class"
            raise ValueError(f"evaluated: {wrong[0]} {what}; write some of {', '.join(possible)}")
        if len(set(self.evaluated)) < len(self.evaluated):
            raise ValueError(f"evaluated: {', '.join(self.evaluated)} repeats a name; write each once")
        return self

    @model_validator(mode="after")
    def _palette(self) -> Dataset:
        if self.format in ("street", "synthetic_street") and not self.palette:
            raise ValueError(f"palette: masks of the {self.format} format are colours; write one, or several, a class")
        if self.palette and self.format not in ("street", "synthetic_street", "folder"):
            raise ValueError(f"palette: masks of the {self.format} format have no colours; leave it out")
        if self.palette and set(self.palette) != set(self.classes):
            wrong = ", ".join(sorted(set(self.palette) ^ set(self.classes)))
            raise ValueError(f"palette: gives other names than classes ({wrong}); write the colours of each class")
        if self.palette and len(self.classes) == 1:
            raise ValueError("palette: needs several classes; write the background as one of them")
        if self.ignored_colours and (self.ignore_index is None or not self.palette):
            raise ValueError("ignored_colours: become the ignore_index in masks with a palette; write both")
        colours = [colour for several in self.palette.values() for colour in several] + self.ignored_colours
        if repeated := sorted({colour for colour in colours if colours.count(colour) > 1}):
            raise ValueError(f"palette: the colour {list(repeated[0])} stands for two things; write each once")
        return self

    @property
    def generated(self) -> bool:
        """Whether the workflow itself writes the raw data."""
        return self.format in GENERATORS

    @property
    def outputs(self) -> int:
        """Channels of the logits: 1 for a single class, else one per class."""
        return len(self.classes)

    @property
    def scored(self) -> list[str]:
        """Names of the classes that scores are the mean of."""
        return scored_classes(self.classes, self.evaluated, self.ignore_index)


def scored_classes(classes: Sequence[str], evaluated: Sequence[str], ignore_index: int | None) -> list[str]:
    """Names of the classes that scores are the mean of: those evaluated, or all but the one that is ignored."""
    return list(evaluated) or [name for index, name in enumerate(classes) if index != ignore_index]


class Folds(Section):
    """How labelled samples are split for cross-validation."""

    count: Annotated[int, Field(strict=True, ge=2, le=100)] = 5
    stratify: list[str] = []
    """columns of the samples table whose values every fold gets in equal shares; numeric ones are binned"""
    bins: Annotated[int, Field(strict=True, ge=2)] = 10
    """quantile bins of a numeric stratification column"""
    group: str | None = None
    """column whose equal values stay in one fold"""
    deal: str | None = None
    """column by which all samples, test ones too, are sorted and dealt out in turn (TGS salt 2018, 1st place: depth)"""
    file: str | None = None
    """CSV with columns id (or fname, a file name) and fold, instead of a split of our own; rows of other ids are passed
    over, and the fold of a sample that always trains isn't read"""
    always_train: str | None = None
    """boolean column: true rows train in every fold and never validate"""
    seed: Integer = 0

    @model_validator(mode="after")
    def _file_or_rule(self) -> Folds:
        if self.file and (self.stratify or self.group or self.deal):
            raise ValueError("file: the split comes from a file; leave stratify, group and deal out")
        if self.deal and (self.stratify or self.group):
            raise ValueError("deal: fixes the split alone; leave stratify and group out")
        return self
