"""The recipe as types: every key, its type, its default and its bounds.

What has an order (stages, phases) is a list of named items; what has none (networks, runs) is a mapping, so that
sorting the keys of a recipe never changes it. Nothing here imports torch or OpenCV: the Snakefile reads recipes in
milliseconds.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stagepipe.recipe.model.choices import (
    AUGMENTATIONS,
    HEADS,
    LOSSES,
    SIGMOID_LOSSES,
    SOFTMAX_LOSSES,
    WEIGHTED_LOSSES,
    Adam,
    AdamW,
    Balanced,
    Best,
    Constant,
    Cosine,
    EndOfCycle,
    LossTerm,
    OneCycle,
    Optimizer,
    Plateau,
    Replacement,
    RmsProp,
    Sampler,
    Schedule,
    Select,
    Sgd,
    Shuffle,
    Step,
    Top,
    Transform,
)
from stagepipe.recipe.model.data import (
    GENERATORS,
    Dataset,
    Folds,
    Synthetic,
    SyntheticSiim,
    SyntheticStreet,
    scored_classes,
)
from stagepipe.recipe.model.network import Network, Normalise, Pad, WeightsFile
from stagepipe.recipe.model.phase import Crop, Phase
from stagepipe.recipe.model.section import Count, Flag, Integer, Name, Natural, OneOf, Section, Size
from stagepipe.recipe.model.stage import Predict, Pseudolabels, Run, SizeBin, Stage, Voting, Whole, Windows
from stagepipe.recipe.model.submission import (
    BlendSearch,
    Contours,
    Emptiness,
    Jigsaw,
    MinimumSize,
    Postprocess,
    Submission,
    Threshold,
)
from stagepipe.recipe.model.triplet import TripletGrid

__all__ = [
    "AUGMENTATIONS",
    "GENERATORS",
    "HEADS",
    "LOSSES",
    "SIGMOID_LOSSES",
    "SOFTMAX_LOSSES",
    "WEIGHTED_LOSSES",
    "Adam",
    "AdamW",
    "Balanced",
    "Best",
    "BlendSearch",
    "Constant",
    "Contours",
    "Cosine",
    "Crop",
    "Dataset",
    "Emptiness",
    "EndOfCycle",
    "Flag",
    "Folds",
    "Integer",
    "Jigsaw",
    "LossTerm",
    "MinimumSize",
    "Name",
    "Natural",
    "Network",
    "Normalise",
    "OneCycle",
    "OneOf",
    "Optimizer",
    "Pad",
    "Phase",
    "Plateau",
    "Postprocess",
    "Predict",
    "Pseudolabels",
    "Recipe",
    "Replacement",
    "RmsProp",
    "Run",
    "Runtime",
    "Sampler",
    "Schedule",
    "Section",
    "Select",
    "Sgd",
    "Shuffle",
    "Size",
    "SizeBin",
    "Stage",
    "Step",
    "Submission",
    "Synthetic",
    "SyntheticSiim",
    "SyntheticStreet",
    "Threshold",
    "Top",
    "Transform",
    "TripletGrid",
    "Voting",
    "WeightsFile",
    "Whole",
    "Windows",
    "scored_classes",
]


class Runtime(Section):
    """How jobs run on this machine. Nothing here is part of the result, so changing it re-runs nothing."""

    workers: Natural | Literal["auto"] = "auto"
    """data loader processes of a training job, for each of its devices"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    jobs_per_gpu: Integer = Field(1, ge=1, le=16)
    """jobs that may share a GPU; `--resources gpu=N` says how many run in all"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 where the hardware multiplies it"""
    compile: Flag | Literal["auto", "cuda_graphs"] = "auto"
    """`auto`: on CUDA, where one device trains. `cuda_graphs`: and its kernels launched together, which takes more
    memory and gains where small networks and batches leave the device waiting for launches"""
    deterministic: Flag = False
    """on CUDA: slower kernels that give the same bits every time (a CPU always does)"""


class Recipe(Section):
    """The only input besides raw data."""

    name: Name
    """results land in results/<name>/"""
    seed: Integer = 0
    code: Literal["warn", "rerun"] = "warn"
    """artefacts made by other code than today's: name them and go on, or make them anew"""
    dataset: Dataset
    folds: Folds = Folds()
    networks: dict[Name, Network] = Field(min_length=1)
    stages: list[Stage] = Field(min_length=1)
    submission: Submission
    kept_classes: Count | None = None
    """of several classes, how many of the most probable ones of a pixel probability tables keep, which bounds their
    size on disk; none: all"""
    runtime: Runtime = Runtime()

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)
