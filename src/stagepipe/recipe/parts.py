"""The part of a recipe that reaches one job, and nothing else.

A job gets its part as JSON and no other word of the recipe, so what is not in the part can't change its result, and
the text of the part is all that Snakemake has to compare. Defaults are left out of it: a new key of a newer version, or
a default written out, changes no part.
"""

from __future__ import annotations

from stagepipe.recipe.averages import EnsemblePart, stage_part
from stagepipe.recipe.model import (
    GENERATORS,
    Dataset,
    Folds,
    Network,
    Pad,
    Phase,
    Predict,
    Pseudolabels,
    Recipe,
    Run,
    Runtime,
    Section,
    Size,
    Synthetic,
    SyntheticSiim,
    SyntheticStreet,
    Whole,
)
from stagepipe.recipe.part import Part


class SynthesisePart(Part):
    """For the job that writes synthetic raw data."""

    synthetic: Synthetic | None = None
    synthetic_siim: SyntheticSiim | None = None
    synthetic_street: SyntheticStreet | None = None
    palette: dict[str, list[tuple[int, int, int]]] = {}
    """of street scenes"""


class IngestPart(Part):
    """For the job that verifies and decodes raw data."""

    dataset: Dataset
    listing: str = ""
    """SHA-256 over names and sizes of the raw files"""


class FoldsPart(Part):
    """For the job that splits folds."""

    folds: Folds


class TrainPart(Part):
    """For the job that trains one phase on one fold."""

    seed: int
    stage: str
    run: str
    fold: str
    """a number, or `shared`"""
    fold_count: int
    classes: list[str]
    evaluated: list[str] = []
    """classes that scores are the mean of (see `scored_classes`)"""
    ignore_index: int | None = None
    stored_channels: int
    network: Network
    phase: Phase


class MemberPart(Section):
    """One set of weights in a prediction."""

    phase: str
    member: str
    weight: float
    resize: Size | None = None
    pad: Pad | None = None


class PredictPart(Part):
    """For the job that predicts with all members of one run and fold."""

    stage: str
    run: str
    fold: str
    classes: list[str]
    stored_channels: int
    network: Network
    members: list[MemberPart]
    tta: list[str] = []
    predict: Predict = Predict(whole=Whole())
    black_is_empty: bool = False
    kept_classes: int | None = None
    """most probable classes of a pixel that tables keep; none: all"""


class PseudolabelsPart(Part):
    """For the job that selects pseudolabels."""

    seed: int
    pseudolabels: Pseudolabels
    fold_count: int
    ignore_index: int | None = None
    """of unsure pixels, where the rule says so"""
    source: EnsemblePart
    """how the source stage averages its test predictions"""


class ScorePart(Part):
    """For a job that scores out-of-fold predictions."""

    stage: str
    runs: list[str]
    """in the order of the inputs; `ensemble` is the stage's average"""
    classes: list[str]
    evaluated: list[str] = []
    """classes that scores are the mean of (see `scored_classes`)"""
    ignore_index: int | None = None


class CollectPart(Part):
    """For the job that collects scores."""

    scored: list[str] = []
    """of several classes, those that scores are the mean of"""


class ReportPart(Part):
    """For the job that writes the report: all of the recipe but how it runs."""

    recipe: Recipe


def synthesise_part(recipe: Recipe) -> SynthesisePart:
    """The numbers of the generator, and the colours of its masks."""
    name = recipe.dataset.format
    return SynthesisePart(**{name: getattr(recipe.dataset, name)}, palette=recipe.dataset.palette)


def ingest_part(recipe: Recipe, listing: str) -> IngestPart:
    """The dataset without the numbers of the generator (the generated files themselves are the input)."""
    return IngestPart(dataset=recipe.dataset.model_copy(update=GENERATORS | {"evaluated": []}), listing=listing)


def train_part(recipe: Recipe, stage: str, run: str, phase: str, fold: str) -> TrainPart:
    """What training one phase on one fold depends on; the member's weight in the average is not part of it."""
    spec = recipe.stage(stage).runs[run]
    chosen = spec.phase(phase).for_fold(fold)
    network = recipe.networks[spec.network]
    # One place for the input size, the phase's: the network's own is no reason to train again where it isn't used.
    size = {"resize": chosen.resize or network.resize, "pad": chosen.pad or network.pad}
    fresh = chosen.init == "encoder" or chosen.init_grown
    unused = {"resize": None, "pad": None} | ({} if fresh else {"weights": None})
    return TrainPart(
        seed=recipe.seed,
        stage=stage,
        run=run,
        fold=fold,
        fold_count=recipe.folds.count,
        classes=recipe.dataset.classes,
        evaluated=recipe.dataset.evaluated,
        ignore_index=recipe.dataset.ignore_index,
        stored_channels=stored_channels(recipe),
        network=network.model_copy(update=unused),
        phase=chosen.model_copy(update=size | {"member": None}),
    )


def predict_part(recipe: Recipe, stage: str, run: str, fold: str) -> PredictPart:
    """All members of a run and how they are averaged."""
    spec = recipe.stage(stage).runs[run]
    network = recipe.networks[spec.network]
    members = [
        MemberPart(
            phase=phase.name,
            member=str(index),
            weight=phase.member,
            resize=phase.resize or network.resize,
            pad=phase.pad or network.pad,
        )
        for phase in (phase.for_fold(fold) for phase in spec.phases)
        if phase.member
        for index in range(phase.member_count)
    ]
    return PredictPart(
        stage=stage,
        run=run,
        fold=fold,
        classes=recipe.dataset.classes,
        stored_channels=stored_channels(recipe),
        # Weights files bring all parameters, members their input size.
        network=network.model_copy(update={"weights": None, "resize": None, "pad": None, "mask": "soft"}),
        members=members,
        tta=list(recipe.stage(stage).tta),
        predict=spec.predict,
        kept_classes=recipe.kept_classes,
        black_is_empty=spec.black_is_empty,
    )


def pseudolabel_sets(recipe: Recipe) -> dict[str, Pseudolabels]:
    """Every set of pseudolabels by the `stage` or `stage/run` that trains on it."""
    sets: dict[str, Pseudolabels] = {}
    for stage in recipe.stages:
        if stage.pseudolabels and any(uses_pseudolabels(run) and not run.pseudolabels for run in stage.runs.values()):
            sets[stage.name] = stage.pseudolabels
        sets |= {f"{stage.name}/{name}": run.pseudolabels for name, run in stage.runs.items() if run.pseudolabels}
    return sets


def uses_pseudolabels(run: Run) -> bool:
    """Whether a phase of the run trains on pseudolabels."""
    return any(phase.data != "labels" for phase in run.phases)


def pseudolabels_part(recipe: Recipe, owner: str) -> PseudolabelsPart:
    """The selection rule of a `stage` or `stage/run` and how the source stage averages."""
    spec = pseudolabel_sets(recipe)[owner]
    return PseudolabelsPart(
        seed=recipe.seed,
        pseudolabels=spec,
        fold_count=recipe.folds.count,
        ignore_index=recipe.dataset.ignore_index if spec.ignore_unsure else None,
        source=stage_part(recipe, spec.stage, "test"),
    )


def score_part(recipe: Recipe, stage: str) -> ScorePart:
    """Which tables of a stage are scored."""
    runs = [*sorted(recipe.stage(stage).runs), "ensemble"]
    dataset = recipe.dataset
    return ScorePart(
        stage=stage, runs=runs, classes=dataset.classes, evaluated=dataset.evaluated, ignore_index=dataset.ignore_index
    )


def collect_part(recipe: Recipe) -> CollectPart:
    """Which classes scores are the mean of."""
    return CollectPart(scored=recipe.dataset.scored if recipe.dataset.outputs > 1 else [])


def report_part(recipe: Recipe) -> ReportPart:
    """All of the recipe but how it runs."""
    return ReportPart(recipe=recipe.model_copy(update={"runtime": Runtime(), "code": "warn"}))


def stored_channels(recipe: Recipe) -> int:
    """Channels of the pixel store."""
    return {"gray": 1, "rgb": 3}[recipe.dataset.channels]
