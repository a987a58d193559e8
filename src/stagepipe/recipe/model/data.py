"""Raw data, and the folds its labelled samples are split into."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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


class Dataset(Section):
    """Raw data: a layout and where it lies."""

    format: Literal["tgs", "siim", "folder", "synthetic", "synthetic_siim"]
    root: str | None = None
    """folder of the raw data, relative to the working directory or absolute; synthetic data has none"""
    classes: list[Name] = Field(default=["salt"], min_length=1)
    """one name: that class against background (sigmoid); several: one class a pixel (softmax), in index order"""
    ignore_index: Annotated[int, Field(strict=True, ge=0, le=255)] | None = None
    """mask value that counts in no loss and no metric; needs several classes"""
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

    @model_validator(mode="after")
    def _root(self) -> Dataset:
        if self.generated and self.root is not None:
            raise ValueError(f"root: the {self.format} format writes its own raw data; leave root out")
        if not self.generated and not self.root:
            raise ValueError(f"root: the {self.format} format reads raw data; write `root: path/to/data`")
        for name, default in (("synthetic", Synthetic()), ("synthetic_siim", SyntheticSiim())):
            if self.format != name and getattr(self, name) != default:
                raise ValueError(f"{name}: describes generated data; leave it out or write `format: {name}`")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: {', '.join(self.classes)} repeats a name; give each class its own")
        if self.ignore_index is not None and len(self.classes) == 1:
            raise ValueError("ignore_index: needs several classes; leave it out or list the classes")
        return self

    @property
    def generated(self) -> bool:
        """Whether the workflow itself writes the raw data."""
        return self.format in ("synthetic", "synthetic_siim")

    @property
    def outputs(self) -> int:
        """Channels of the logits: 1 for a single class, else one per class."""
        return len(self.classes)


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
