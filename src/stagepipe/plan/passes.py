"""Image passes: how often an image goes through a network, in training, validation and prediction.

Epochs are counted to their end: where a phase may stop early its passes are an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stagepipe import windows
from stagepipe.data.training import EpochOrders
from stagepipe.plan.images import Images, Size
from stagepipe.recipe.model import Predict, Pseudolabels, Recipe
from stagepipe.recipe.parts import PredictPart, TrainPart
from stagepipe.views import views

CONFIDENT = {0.5: 0.951, 0.8: 0.922, 0.9: 0.882, 0.95: 0.814, 0.97: 0.730, 0.99: 0.436, 1.0: 0.0}
"""Share of the test images that aren't black whose confidence is at least so much: of the 17,570 tiles of the published
pseudolabels of TGS salt 2018, 1st place, round 1"""


@dataclass(frozen=True)
class Rows:
    """What one training reads in an epoch."""

    train: int
    empty: int
    """of these, with an empty mask"""
    validation: int


@dataclass(frozen=True)
class Training:
    """Passes of one training."""

    epochs: int
    steps: int
    train: int
    validation: int


@dataclass(frozen=True)
class Prediction:
    """Passes of one prediction with all its members and views."""

    images: int
    maps: int
    """views of windows that one member takes in all"""
    members: int

    @property
    def passes(self) -> int:
        """Network inputs in all."""
        return self.maps * self.members


def confident_share(minimum: float) -> float:
    """Share of test images that are at least so confident, as published of TGS salt (`CONFIDENT`), interpolated."""
    return float(np.interp(minimum, list(CONFIDENT), list(CONFIDENT.values())))


def pseudolabelled(spec: Pseudolabels, images: Images, fold: str, folds: int, confident: float | None = None) -> int:
    """Pseudolabels that a fold trains on: counted where the recipe says how many, else an assumed share.

    `confident` is the share of images that are confident; none: as published of TGS salt.
    """
    usable = images.test * (1 - images.black * spec.exclude_black)
    if spec.keep == "confident":
        usable *= confident_share(spec.minimum_confidence) if confident is None else confident
    if spec.disjoint and fold != "shared":
        usable /= folds
    wanted = [_of_bin(size_bin.per_fold, fold) for size_bin in spec.bins]
    if wanted and None not in wanted:
        usable = min(usable, sum(number for number in wanted if number is not None))
    return round(usable)


def _of_bin(per_fold: int | list[int | None] | None, fold: str) -> int | None:
    """How many of a bin a fold takes; where it takes what the others leave, as many as these on average."""
    if not isinstance(per_fold, list):
        return per_fold
    known = [number for number in per_fold if number is not None]
    own = per_fold[int(fold)] if fold.isdigit() else None
    return own if own is not None else round(sum(known) / max(1, len(known)))


def rows(recipe: Recipe, part: TrainPart, images: Images, confident: float | None = None) -> Rows:
    """Rows of a training, as `stagepipe.data.training.select` would find them in data of these shares."""
    phase, folds = part.phase, part.fold_count
    dealt = images.train - images.always_train
    always = images.always_train if phase.always_train else 0
    labels = dealt - round(dealt / folds) + always if phase.data != "pseudolabels" else 0
    pseudolabels = 0
    spec = recipe.stage(part.stage).runs[part.run].pseudolabels or recipe.stage(part.stage).pseudolabels
    if phase.data != "labels" and spec:
        pseudolabels = pseudolabelled(spec, images, part.fold, folds, confident)
    # Black labelled images are empty, and so are nearly all masks that a network makes of them.
    black = images.black if phase.exclude_black else 0.0
    already = black if spec and spec.exclude_black else 0.0
    usable = labels * (1 - black) + pseudolabels * (1 - max(0.0, black - already))
    empty = usable * max(0.0, images.empty - black) / max(1e-9, 1 - black)
    validation = dealt / folds * (1 - black)
    if phase.minimum_foreground:
        validation *= (1 - images.empty) / max(1e-9, 1 - black)
    if phase.minimum_foreground or phase.exclude_empty:
        usable, empty = usable - empty, 0.0
    return Rows(max(1, round(usable)), min(round(empty), round(usable)), max(1, round(validation)))


def training(recipe: Recipe, part: TrainPart, images: Images, confident: float | None = None) -> Training:
    """Passes of a training, its draws counted as the training itself counts them."""
    found, phase = rows(recipe, part, images, confident), part.phase
    empty = np.arange(found.train) < found.empty
    epochs = phase.epochs * phase.cycles
    orders = EpochOrders(phase.sampler, empty, phase.batch, (), epochs)
    drawn = [(orders.images(epoch), orders.steps(epoch)) for epoch in range(epochs)]
    train, steps = (sum(numbers) for numbers in zip(*drawn, strict=True))
    once = Training(epochs, steps, train, found.validation * epochs)
    if phase.select.top and phase.select.top.average == "weights":
        # An epoch of images for the statistics of the mean weights, and their own validation.
        once = replace(once, validation=once.validation + orders.images(0) + found.validation)
    return once


def windows_of(how: Predict, size: Size) -> int:
    """Network inputs that one view of an image of that size comes to."""
    if how.windows:
        whole = (max(size[0], how.windows.size[0]), max(size[1], how.windows.size[1]))
        return len(windows.overlapping(whole, how.windows.size, how.windows.overlap))
    if how.voting:
        return sum(len(places) for places in windows.tilings(size, how.voting.size, how.voting.grids))
    return 1


def prediction(part: PredictPart, images: Images, folds: int) -> Prediction:
    """Passes of the out-of-fold and test images of one run and fold."""
    count = round((images.train - images.always_train) / folds) + images.test
    return Prediction(count, count * len(views(part.tta)) * windows_of(part.predict, images.size), len(part.members))
