"""The part of a recipe that reaches one job, and nothing else.

A job gets its part as JSON and no other word of the recipe, so what is not in the part can't change its result, and
the text of the part is all that Snakemake has to compare. Defaults are left out of it: a new key of a newer version, or
a default written out, changes no part.
"""

from __future__ import annotations

import hashlib
import json

from stagepipe.recipe.model import (
    Dataset,
    Folds,
    Network,
    Pad,
    Phase,
    Pseudolabels,
    Recipe,
    Runtime,
    Section,
    Size,
    Stage,
    Submission,
    Synthetic,
    Threshold,
)


class Part(Section):
    """Base of all parts."""

    def text(self) -> str:
        """Canonical JSON: sorted keys, no defaults, no spaces."""
        plain = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def fingerprint(self) -> str:
        """SHA-256 of the text; artefacts carry it and their readers check it."""
        return hashlib.sha256(f"{type(self).__name__} {self.text()}".encode()).hexdigest()


class SynthesisePart(Part):
    """For the job that writes synthetic raw data."""

    synthetic: Synthetic


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


class EnsemblePart(Part):
    """For a job that averages the tables of several runs."""

    weights: list[float]
    """one per run"""
    split: str


class PseudolabelsPart(Part):
    """For the job that selects pseudolabels."""

    seed: int
    pseudolabels: Pseudolabels
    fold_count: int
    weights: list[float]
    """of the source stage's runs, in the order of the inputs"""


class ScorePart(Part):
    """For a job that scores out-of-fold predictions."""

    stage: str
    runs: list[str]
    """in the order of the inputs; `ensemble` is the stage's average"""
    classes: list[str]
    ignore_index: int | None = None


class CollectPart(Part):
    """For the job that collects scores: nothing of the recipe."""


class ReportPart(Part):
    """For the job that writes the report: all of the recipe but how it runs."""

    recipe: Recipe


class BinarisePart(Part):
    """For the job that fixes the threshold."""

    submission: Submission
    classes: list[str]
    ignore_index: int | None = None


class SubmitPart(Part):
    """For the job that writes the submission."""

    submission: Submission
    classes: list[str]


def ingest_part(recipe: Recipe, listing: str) -> IngestPart:
    """The dataset without the numbers of the generator (the generated files themselves are the input)."""
    return IngestPart(dataset=recipe.dataset.model_copy(update={"synthetic": Synthetic()}), listing=listing)


def train_part(recipe: Recipe, stage: str, run: str, phase: str, fold: str) -> TrainPart:
    """What training one phase on one fold depends on; the member's weight in the average is not part of it."""
    spec = recipe.stage(stage).runs[run]
    chosen = spec.phase(phase)
    network = recipe.networks[spec.network]
    # One place for the input size, the phase's: the network's own is no reason to train again where it isn't used.
    size = {"resize": chosen.resize or network.resize, "pad": chosen.pad or network.pad}
    unused = {"resize": None, "pad": None} | ({} if chosen.init == "encoder" else {"weights": None})
    return TrainPart(
        seed=recipe.seed,
        stage=stage,
        run=run,
        fold=fold,
        fold_count=recipe.folds.count,
        classes=recipe.dataset.classes,
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
        for phase in spec.phases
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
        network=network.model_copy(update={"weights": None, "resize": None, "pad": None}),
        members=members,
        tta=list(recipe.stage(stage).tta),
    )


def run_weights(stage: Stage) -> dict[str, float]:
    """Share of each run with a weight in the stage's average, sorted by name; they sum to 1, so 1:1 and 2:2 agree."""
    ratios = stage.ensemble or dict.fromkeys(stage.runs, 1.0)
    total = sum(ratios.values())
    return {run: ratios[run] / total for run in sorted(stage.runs) if ratios.get(run, 0) > 0}


def pseudolabels_part(recipe: Recipe, stage: str) -> PseudolabelsPart:
    """The selection rule of a stage and the source stage's weights."""
    spec = recipe.stage(stage).pseudolabels
    assert spec is not None
    weights = run_weights(recipe.stage(spec.stage))
    return PseudolabelsPart(
        seed=recipe.seed, pseudolabels=spec, fold_count=recipe.folds.count, weights=list(weights.values())
    )


def blend_weights(recipe: Recipe) -> dict[tuple[str, str], float]:
    """Share of every (stage, run) in the submission; a stage's share is split by its ensemble's ratios."""
    shares: dict[tuple[str, str], float] = {}
    for key, share in sorted(recipe.submission.blend.items()):
        stage, _, run = key.partition("/")
        ratios = {run: 1.0} if run else run_weights(recipe.stage(stage))
        for name, ratio in ratios.items():
            shares[stage, name] = shares.get((stage, name), 0.0) + share * ratio
    return shares


def score_part(recipe: Recipe, stage: str) -> ScorePart:
    """Which tables of a stage are scored."""
    runs = [*sorted(recipe.stage(stage).runs), "ensemble"]
    return ScorePart(stage=stage, runs=runs, classes=recipe.dataset.classes, ignore_index=recipe.dataset.ignore_index)


def binarise_part(recipe: Recipe) -> BinarisePart:
    """The threshold, its postprocessing and nothing of how rows are encoded."""
    kept = {key: getattr(recipe.submission, key) for key in ("threshold", "black_is_empty", "postprocess")}
    return BinarisePart(
        submission=Submission(blend={"any": 1.0}, **kept),
        classes=recipe.dataset.classes,
        ignore_index=recipe.dataset.ignore_index,
    )


def submit_part(recipe: Recipe) -> SubmitPart:
    """Postprocessing and encoding; the threshold comes from its own job."""
    submission = recipe.submission.model_copy(update={"blend": {"any": 1.0}, "threshold": Threshold()})
    return SubmitPart(submission=submission, classes=recipe.dataset.classes)


def report_part(recipe: Recipe) -> ReportPart:
    """All of the recipe but how it runs."""
    return ReportPart(recipe=recipe.model_copy(update={"runtime": Runtime(), "code": "warn"}))


def stored_channels(recipe: Recipe) -> int:
    """Channels of the pixel store."""
    return {"gray": 1, "rgb": 3}[recipe.dataset.channels]
