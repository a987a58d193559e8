"""Which part of a recipe makes which artefact: the jobs of a recipe as a table, without Snakemake."""

from __future__ import annotations

from collections.abc import Iterator

from stagepipe.recipe.averages import blend_part, stage_part, submission_part
from stagepipe.recipe.model import Phase, Recipe
from stagepipe.recipe.part import Part
from stagepipe.recipe.parts import (
    FoldsPart,
    ingest_part,
    predict_part,
    pseudolabel_sets,
    pseudolabels_part,
    score_part,
    train_part,
)
from stagepipe.recipe.submission_parts import binarise_part, jigsaw, jigsaw_part, mosaics_part, search_blend_part

SPLITS = ("out_of_fold", "test")


def folds_of(recipe: Recipe, phase: Phase) -> list[str]:
    """Names of the folds a phase trains for."""
    return ["shared"] if phase.folds == "shared" else [str(fold) for fold in range(recipe.folds.count)]


def artefacts(recipe: Recipe, listing: str) -> Iterator[tuple[str, str, Part]]:
    """(rule, path below results/<name>, part) of every sealed artefact of the recipe."""
    ingest = ingest_part(recipe, listing)
    yield from (("ingest", f"data/{name}.parquet", ingest) for name in ("samples", "faults"))
    yield "split_folds", "data/folds.parquet", FoldsPart(folds=recipe.folds)
    for owner in pseudolabel_sets(recipe):
        yield "select_pseudolabels", f"{owner}/pseudolabels.parquet", pseudolabels_part(recipe, owner)
    for stage in recipe.stages:
        for run, spec in stage.runs.items():
            for phase in spec.phases:
                for fold in folds_of(recipe, phase):
                    part = train_part(recipe, stage.name, run, phase.name, fold)
                    folder = f"{stage.name}/{run}/{phase.name}/fold_{fold}"
                    yield "train", f"{folder}/weights.safetensors", part
                    yield "train", f"{folder}/history.parquet", part
            for number in range(recipe.folds.count):
                predict = predict_part(recipe, stage.name, run, str(number))
                for split in SPLITS:
                    yield "predict", f"{stage.name}/{run}/fold_{number}/{split}.parquet", predict
        for split in SPLITS:
            yield "ensemble", f"{stage.name}/ensemble/{split}.parquet", stage_part(recipe, stage.name, split)
        for name in ("cases", "confusion"):
            yield "score", f"{stage.name}/{name}.parquet", score_part(recipe, stage.name)
    yield from _submission(recipe)


def _submission(recipe: Recipe) -> Iterator[tuple[str, str, Part]]:
    emptiness = recipe.submission.emptiness
    if recipe.submission.blend_search:
        yield "search_blend", "submission/blends.parquet", search_blend_part(recipe)
    for split in SPLITS:
        yield "ensemble", f"submission/{split}.parquet", submission_part(recipe, split)
        if emptiness:
            yield "ensemble", f"submission/emptiness/{split}.parquet", blend_part(recipe, emptiness.blend, split)
    if jigsaw(recipe):
        yield "find_mosaics", "data/mosaics.parquet", mosaics_part(recipe)
        yield "apply_jigsaw", "submission/jigsaw.parquet", jigsaw_part(recipe)
        yield "score_jigsaw", "submission/jigsaw_effects.parquet", binarise_part(recipe)
    for name in ("thresholds", "cases", "confusion"):
        yield "binarise", f"submission/{name}.parquet", binarise_part(recipe)
