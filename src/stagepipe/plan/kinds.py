"""Jobs that cost the same for each image: what tells them apart, and one example of each to measure.

Left out is what a step's time hardly depends on: weights, folds, learning rates, schedules, samplers, and the losses,
which take at most a twentieth of a step (docs/benchmarks.md), but for the topology-aware one.
"""

from __future__ import annotations

from collections.abc import Iterable

from stagepipe.plan.images import Images, Size
from stagepipe.plan.jobs import Job
from stagepipe.recipe.model import Network, Pad, Phase, Predict
from stagepipe.recipe.part import Part
from stagepipe.recipe.parts import MemberPart, PredictPart, TrainPart

COSTLY_LOSSES = {"topology"}
"""losses that are a network of their own"""


class TrainKind(Part):
    """What the time of a training step depends on."""

    network: Network
    phase: Phase
    outputs: int
    stored_channels: int
    size: Size


class PredictKind(Part):
    """What the time of a pass of prediction depends on."""

    network: Network
    resize: tuple[int, int] | None
    pad: Pad | None
    predict: Predict
    outputs: int
    stored_channels: int
    size: Size


def train_kind(part: TrainPart, images: Images) -> TrainKind:
    """The kind of a training on images of that size."""
    phase = part.phase
    losses = COSTLY_LOSSES & set(phase.loss)
    same = Phase.model_validate(
        {
            "name": "measured",
            "epochs": 1,
            "loss": {loss: {} for loss in sorted(losses) or ["bce"]},
            "deep_supervision": {head: "bce" for head in sorted(phase.deep_supervision)},
            **{key: getattr(phase, key) for key in ("resize", "pad", "crop", "batch", "accumulate", "augment")},
            "optimizer": phase.optimizer.choice,
        }
    )
    return TrainKind(
        network=_bare(part.network),
        phase=same,
        outputs=len(part.classes),
        stored_channels=part.stored_channels,
        size=images.size,
    )


def predict_kind(part: PredictPart, member: MemberPart, images: Images) -> PredictKind:
    """The kind of prediction by one of the members; windows go through it as they are."""
    whole = part.predict.whole is not None
    return PredictKind(
        network=_bare(part.network),
        resize=member.resize if whole else None,
        pad=member.pad if whole else None,
        predict=part.predict,
        outputs=len(part.classes),
        stored_channels=part.stored_channels,
        size=images.size,
    )


def _bare(network: Network) -> Network:
    return network.model_copy(update={"weights": None, "resize": None, "pad": None, "mask": "soft"})


def train_kinds(jobs: Iterable[Job], images: Images) -> dict[str, TrainPart]:
    """The first training of every kind, by the fingerprint of the kind."""
    found: dict[str, TrainPart] = {}
    for job in jobs:
        if isinstance(job.part, TrainPart):
            found.setdefault(train_kind(job.part, images).fingerprint(), job.part)
    return found


def predict_kinds(jobs: Iterable[Job], images: Images) -> dict[str, PredictPart]:
    """The first prediction of every kind with that member alone, by the fingerprint of the kind."""
    found: dict[str, PredictPart] = {}
    for job in jobs:
        if isinstance(job.part, PredictPart):
            for member in job.part.members:
                alone = job.part.model_copy(update={"members": [member]})
                found.setdefault(predict_kind(job.part, member, images).fingerprint(), alone)
    return found
