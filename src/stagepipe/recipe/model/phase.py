"""One node of a run: where its weights come from, what it trains on and how."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from stagepipe.recipe.model.choices import (
    AUGMENTATIONS,
    HEADS,
    Adam,
    Best,
    Constant,
    EndOfCycle,
    Loss,
    Optimizer,
    Sampler,
    Schedule,
    Select,
    Shuffle,
    Transform,
)
from stagepipe.recipe.model.network import Pad
from stagepipe.recipe.model.section import Count, Flag, Name, Natural, NotNegative, Positive, Section, Share, Size
from stagepipe.recipe.model.triplet import TripletGrid

Monitor = Literal["mean_precision", "dice", "iou", "truth_iou", "dataset_iou"]


class Crop(Section):
    """Random windows of training images, as large as the network takes them."""

    size: Size
    class_aware: Share = 0.0
    """this share of the windows holds a pixel of a class drawn evenly among those of the mask, wherever it lies"""


class Phase(Section):
    """One node of a run: where its weights come from, what it trains on and how."""

    name: Name
    like: Name | None = None
    """an earlier phase of this run whose keys hold where this one is silent"""
    init: str | None = None
    """`encoder` (a fresh network), a phase of this run, or `stage/run/phase` of an earlier stage with the same network;
    none: the phase before, or `encoder` for the first"""
    init_weights: Literal["best", "last"] = "best"
    """which weights of the phase it starts from"""
    init_grown: Flag = False
    """that phase's network may be another, smaller one: what it has no weights of the same name and shape for starts
    fresh"""
    data: Literal["labels", "pseudolabels", "both"] = "labels"
    folds: Literal["each", "shared"] = "each"
    """`shared`: trained once, the same weights serve all folds; pseudolabels only, as labels would leak"""
    always_train: Flag = True
    """train on the samples of `folds.always_train` too"""
    exclude_black: Flag = False
    """leave images with one single value out of training and validation"""
    exclude_empty: Flag = False
    """leave samples with an empty mask out of training"""
    minimum_foreground: Natural = 0
    """pixels: leave samples with a smaller mask out of training and validation"""
    crop: Crop | None = None
    """train on random windows of the images; they are validated and predicted whole"""
    resize: Size | None = None
    """input size of this phase instead of the network's"""
    pad: Pad | None = None
    """padding of this phase instead of the network's"""
    batch: Count = 16
    accumulate: Count = 1
    """batches per optimiser step"""
    loss: Loss
    deep_supervision: dict[Literal[HEADS], Loss] = {}  # type: ignore[valid-type]
    """losses of a network's further heads, added to `loss`: `empty` says that the augmented mask has no foreground,
    `nonempty` gives pixels as the main head does (of networks made with `arguments: {deep_supervision: true}`), and so
    does `auxiliary` (of salt_15th)"""
    optimizer: Optimizer = Optimizer(adam=Adam())
    lr: Positive = 1e-3
    part_lr: dict[Name, Positive] = {}
    """learning rates of parts of the network, if others: `encoder`, or what the architecture names; each is scheduled
    by itself, between its own rate and the schedule's floor"""
    schedule: Schedule = Schedule(constant=Constant())
    clip_norm: Positive | None = None
    """largest norm of the gradient"""
    sampler: Sampler = Sampler(shuffle=Shuffle())
    augment: Literal[AUGMENTATIONS] | list[Transform] = "none"  # type: ignore[valid-type]
    epochs: Count
    """epochs of a cycle"""
    cycles: Count = 1
    """restarts of optimiser and schedule, keeping the weights"""
    early_stop: Count | None = None
    """end the cycle after so many epochs without a better score"""
    freeze_encoder: Natural = 0
    """first epochs in which the encoder's parameters stay"""
    select: Select = Select(best=Best())
    monitor: Monitor = "iou"
    """validation score that chooses members and drives plateau and early stop; of several classes `truth_iou` is the
    mean over images of the mean IoU of the classes that the truth has, `dataset_iou` the mean over classes of the IoU
    of all images' pixels together"""
    triplets: list[TripletGrid] = []
    """validation masks are made by each of these, and the best mean is the epoch's score (SIIM 2019, 1st place); none:
    they are p > 0.5"""
    member: NotNegative | None = None
    """weight of this phase's members in the run's average; 0: none; unset: 1 for the last phase, else 0"""

    @model_validator(mode="after")
    def _consistent(self) -> Phase:
        if self.folds == "shared" and self.data != "pseudolabels":
            raise ValueError(
                "folds: shared trains one network for all folds, so labels would leak; write data: pseudolabels"
            )
        if self.select.top and self.select.top.k > self.epochs * self.cycles:
            raise ValueError(
                f"select: top {self.select.top.k} of {self.epochs * self.cycles} epochs; write a smaller k"
            )
        if self.select.top and self.early_stop and self.select.top.k > self.early_stop + 1:
            raise ValueError(f"select: early_stop may end after {self.early_stop + 1} epochs; write top <= that")
        ends = self.select.end_of_cycle
        if ends and ends.skip >= self.cycles:
            raise ValueError(f"select: skips all {self.cycles} cycles; write skip < cycles")
        if ends and ends.count is not None:
            most = max(ends.count) if isinstance(ends.count, list) else ends.count
            if ends.skip + most > self.cycles:
                raise ValueError(f"select: skip {ends.skip} and count {most} exceed {self.cycles} cycles; write less")
        return self

    def for_fold(self, fold: str) -> Phase:
        """The phase as one fold has it: of numbers given fold by fold, its own."""
        ends = self.select.end_of_cycle
        if ends is None or not isinstance(ends.count, list):
            return self
        own = EndOfCycle(skip=ends.skip, count=ends.count[0 if fold == "shared" else int(fold)])
        return self.model_copy(update={"select": Select(end_of_cycle=own)})

    @property
    def member_count(self) -> int:
        """How many weights files the phase (as one fold has it) hands to prediction."""
        if self.select.top:
            return self.select.top.k if self.select.top.average == "probabilities" else 1
        ends = self.select.end_of_cycle
        if ends is None:
            return 1
        assert not isinstance(ends.count, list)
        return ends.count or self.cycles - ends.skip
