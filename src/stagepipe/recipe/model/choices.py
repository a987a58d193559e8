"""What a phase chooses from: augmentations, losses, optimisers, schedules, samplers, selections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from stagepipe.recipe.model.section import (
    Count,
    Flag,
    Inside,
    Name,
    Natural,
    NotNegative,
    Number,
    OneOf,
    Positive,
    Section,
    Share,
)


class Transform(Section):
    """One albumentations transform by class name with its arguments, or a block of several."""

    name: str
    arguments: dict[str, JsonValue] = {}
    transforms: list[Transform] = []
    """inner transforms of a block (OneOf, SomeOf, Sequential, ...)"""


AUGMENTATIONS = ("none", "tgs_bes", "tgs_phalanx", "tgs_5th", "tgs_15th", "siim", "street")
LOSSES = (
    "bce", "dice", "dice_per_image", "focal", "jaccard", "jaccard_log", "cross_entropy",
    "lovasz_hinge", "lovasz_hinge_elu", "lovasz_hinge_nonempty", "lovasz_softmax", "lovasz_softmax_all", "topology",
)  # fmt: skip
SIGMOID_LOSSES = {"bce", "lovasz_hinge", "lovasz_hinge_elu", "lovasz_hinge_nonempty", "topology"}
SOFTMAX_LOSSES = {"cross_entropy", "lovasz_softmax"}
WEIGHTED_LOSSES = {"cross_entropy", "focal", "jaccard_log"}
"""losses that take class weights"""
HEADS = ("empty", "nonempty", "auxiliary")


class LossTerm(Section):
    """One term of a weighted sum of losses."""

    weight: Positive = 1.0
    arguments: dict[str, Flag | Number] = {}
    """what the loss takes, for example {gamma: 2} of focal"""
    class_weights: dict[Name, NotNegative] = {}
    """of several classes, what the pixels (of jaccard_log: the term) of a class count; 1 for those that aren't named"""


def _loss_terms(value: Any) -> Any:
    """`bce` and `{bce: 0.5}` written out as terms."""
    if isinstance(value, str):
        value = {value: {}}
    if isinstance(value, dict):
        return {name: term if isinstance(term, dict | LossTerm) else {"weight": term} for name, term in value.items()}
    return value


Loss = Annotated[dict[Literal[LOSSES], LossTerm], BeforeValidator(_loss_terms), Field(min_length=1)]  # type: ignore[valid-type]


class Sgd(Section):
    """Stochastic gradient descent."""

    momentum: Share = 0.9
    nesterov: Flag = False
    weight_decay: NotNegative = 0.0


class Adam(Section):
    """Adam."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0


class AdamW(Section):
    """Adam with decoupled weight decay."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NotNegative = 0.01


class RmsProp(Section):
    """RMSprop."""

    alpha: Share = 0.9
    momentum: Share = 0.0
    weight_decay: NotNegative = 0.0


class Optimizer(OneOf):
    """The optimiser; every phase (and every cycle) starts with a fresh one."""

    sgd: Sgd | None = None
    adam: Adam | None = None
    adamw: AdamW | None = None
    rmsprop: RmsProp | None = None


class Constant(Section):
    """The learning rate stays."""


class Plateau(Section):
    """Multiply by `factor` after `patience` epochs without a better monitored score."""

    factor: Inside = 0.5
    patience: Count = 7
    floor: NotNegative = 0.0
    """lowest learning rate"""


class Cosine(Section):
    """floor + (lr - floor) (1 + cos(pi t / T)) / 2, t in epochs, T the epochs of a cycle or fewer."""

    floor: NotNegative = 0.0
    per: Literal["epoch", "step"] = "epoch"
    """`step`: t moves with every batch"""
    epochs: Count | None = None
    """T; none: the epochs of the cycle, so that the floor is reached at its end"""
    after: Literal["rise", "restart"] = "rise"
    """behind T epochs: `rise` climbs back to lr in T more, and so on (torch's CosineAnnealingLR), `restart` jumps back
    to lr and falls anew (Loshchilov and Hutter 2017, SGDR)"""
    stretch: Count = 1
    """each fall after a restart takes so many times as long as the one before"""

    @model_validator(mode="after")
    def _stretch_restarts(self) -> Cosine:
        if self.stretch > 1 and self.after == "rise":
            raise ValueError("stretch: only falls after a restart can take longer; write `after: restart`")
        return self


class OneCycle(Section):
    """Rise to lr during the first `warmup` share, then cosine down to lr / `final_factor` (Smith and Topin 2017)."""

    warmup: Inside = 0.3
    start_factor: Annotated[float, Field(strict=True, ge=1)] = 25.0
    final_factor: Annotated[float, Field(strict=True, ge=1)] = 1e4


class Step(Section):
    """Multiply by `factor` every `every` epochs."""

    factor: Inside = 0.1
    every: Count = 30


class Schedule(OneOf):
    """How the learning rate moves; with several cycles it starts anew in each."""

    constant: Constant | None = None
    plateau: Plateau | None = None
    cosine: Cosine | None = None
    one_cycle: OneCycle | None = None
    step: Step | None = None


class Shuffle(Section):
    """Every sample once an epoch, in a new order."""


class Replacement(Section):
    """Random draws with replacement, `passes` times as many as there are samples."""

    passes: Positive = 1.0


class Balanced(Section):
    """A fixed share of the draws has a non-empty mask; within each kind without replacement."""

    positive: Inside | tuple[Inside, Inside] = 0.5
    """that share; two numbers: it slides evenly from the phase's first epoch to its last"""
    length: Literal["samples", "positives"] = "samples"
    """an epoch has as many draws as there are `samples`, or all `positives` once and as many empty masks as their share
    leaves room for (SIIM 2019, 1st place)"""
    replacement: Flag = False
    """empty masks are drawn with replacement (SIIM 2019, 1st place, as published)"""


class Sampler(OneOf):
    """Which samples an epoch is made of."""

    shuffle: Shuffle | None = None
    replacement: Replacement | None = None
    balanced: Balanced | None = None


class Best(Section):
    """The epoch with the best monitored score."""


class Top(Section):
    """The `k` epochs with the best monitored scores."""

    k: Annotated[int, Field(strict=True, ge=1, le=100)] = 3
    average: Literal["probabilities", "weights"] = "probabilities"
    """`probabilities`: k members; `weights`: one member, the mean of their weights, its normalisation statistics
    estimated anew (Izmailov et al. 2018)"""


class EndOfCycle(Section):
    """The last epoch of every cycle but the first `skip`."""

    skip: Natural = 0
    count: Count | list[Count] | None = None
    """how many cycles after those; a list: one number a fold; none: all"""


class Select(OneOf):
    """Which weights of a phase become members."""

    best: Best | None = None
    top: Top | None = None
    end_of_cycle: EndOfCycle | None = None
