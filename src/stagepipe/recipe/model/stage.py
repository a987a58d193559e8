"""Stages: runs that train on the same data, their ensemble, and the pseudolabels they may use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stagepipe.recipe.model.phase import Phase
from stagepipe.recipe.model.section import Count, Flag, Name, NotNegative, OneOf, Section, Share, Size


class SizeBin(Section):
    """A bin of mask sizes and how many of it are kept."""

    above: Share = 0.0
    """mask share of the image, exclusive (0 with `empty: true` is the empty bin)"""
    up_to: Share = 1.0
    """inclusive"""
    empty: Flag = False
    """the bin of empty masks; above and up_to are not looked at"""
    minimum_confidence: Share | None = None
    """this bin's own bound"""
    every: Count = 1
    """keep every so many of the bin, at random"""
    per_fold: Count | list[Count | None] | None = None
    """samples per fold; a list: one number a fold, null what the others leave; none: all of the bin"""


class Pseudolabels(Section):
    """Which test predictions of an earlier stage become training masks."""

    stage: Name
    """the earlier stage whose ensemble labels the test images"""
    keep: Literal["confident", "all"] = "confident"
    minimum_confidence: Share = 0.9
    low: Share = 0.2
    high: Share = 0.8
    """a pixel is sure if p < low or p > high; of several classes if its highest p > high"""
    exclude_black: Flag = False
    bins: list[SizeBin] = []
    """keep by mask size"""
    disjoint: Flag = False
    """every fold trains on its own slice of the pseudolabels"""
    cross_fit: Flag = False
    """fold k sees masks made only by networks that never saw fold k's labels; false, the published way, leaks mildly"""
    ignore_unsure: Flag = False
    """of several classes: pixels that aren't sure get the dataset's ignore_index"""

    @model_validator(mode="after")
    def _order(self) -> Pseudolabels:
        if self.low > self.high:
            raise ValueError(f"low: {self.low} is above high ({self.high}); write low <= high")
        if any(b.per_fold for b in self.bins) and not self.disjoint:
            raise ValueError("bins: per_fold counts need `disjoint: true`")
        if any(isinstance(b.per_fold, list) and b.per_fold.count(None) > 1 for b in self.bins):
            raise ValueError("bins: per_fold leaves the rest to several folds; write null for one of them")
        return self


class Whole(Section):
    """The whole image at once."""


class Windows(Section):
    """Overlapping windows, their probabilities averaged."""

    size: Size
    """of a window; at the right and bottom ends the last ones are moved inward"""
    overlap: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.5
    """least share of its height and width that a window has in common with the next"""
    weight: Literal["gaussian", "even"] = "gaussian"
    """`gaussian`: a window's pixels count exp(-d^2 / 2), d the distance from its centre in units of a quarter of its
    height and width; `even`: all alike"""


class Voting(Section):
    """Tilings without overlap, each shifted against the one before; their labels vote (Signate street scenes 2018)."""

    size: Size
    """of a tile; grid i of g starts i / g of it later, and the image is padded by a tile of its border pixels"""
    grids: Annotated[int, Field(strict=True, ge=1, le=100)] = 5

    @model_validator(mode="after")
    def _steps(self) -> Voting:
        if self.grids > min(self.size):
            raise ValueError(
                f"grids: {self.grids} are more than a tile of {list(self.size)} can be shifted; write fewer"
            )
        return self


class Predict(OneOf):
    """How an image is taken through the networks of a run."""

    whole: Whole | None = None
    windows: Windows | None = None
    voting: Voting | None = None


class Run(Section):
    """One network trained in one stage."""

    network: Name
    phases: list[Phase] = Field(min_length=1)
    pseudolabels: Pseudolabels | None = None
    """instead of the stage's"""
    predict: Predict = Predict(whole=Whole())
    """how images are taken through the network; what a phase is validated on is always the whole image"""
    black_is_empty: Flag = False
    """an image with one single value is predicted empty, whatever the network says"""
    rescale: Literal["none", "minmax"] = "none"
    """`minmax`: stretch the run's average over folds so that its lowest value over all images is 0 and its highest 1
    (phalanx, TGS salt 2018)"""

    def phase(self, name: str) -> Phase:
        """The phase of that name."""
        return next(phase for phase in self.phases if phase.name == name)


class Stage(Section):
    """Runs that train on the same data, their ensemble, and the pseudolabels they may use."""

    name: Name
    pseudolabels: Pseudolabels | None = None
    runs: dict[Name, Run] = Field(min_length=1)
    ensemble: dict[Name, NotNegative] = {}
    """ratio of each run in the stage's average; none: all alike"""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    """of probabilities, over runs and folds"""
    tta: list[Literal["hflip", "vflip", "rot90"]] = ["hflip"]
    """views averaged at prediction besides the plain one: hflip and vflip combine, rot90 adds quarter turns"""
