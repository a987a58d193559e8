"""Which part of a recipe makes which artefact: the jobs of a recipe as a table, without Snakemake."""

from __future__ import annotations

from collections.abc import Iterator

from stagepipe.recipe.model import Phase, Recipe
from stagepipe.recipe.parts import (
    EnsemblePart,
    FoldsPart,
    Part,
    binarise_part,
    blend_weights,
    ingest_part,
    predict_part,
    pseudolabels_part,
    run_weights,
    score_part,
    train_part,
)

SPLITS = ("out_of_fold", "test")


def folds_of(recipe: Recipe, phase: Phase) -> list[str]:
    """Names of the folds a phase trains for."""
    return ["shared"] if phase.folds == "shared" else [str(fold) for fold in range(recipe.folds.count)]


def artefacts(recipe: Recipe, listing: str) -> Iterator[tuple[str, str, Part]]:
    """(rule, path below results/<name>, part) of every sealed artefact of the recipe."""
    ingest = ingest_part(recipe, listing)
    yield from (("ingest", f"data/{name}.parquet", ingest) for name in ("samples", "faults"))
    yield "split_folds", "data/folds.parquet", FoldsPart(folds=recipe.folds)
    for stage in recipe.stages:
        if stage.pseudolabels:
            yield "select_pseudolabels", f"{stage.name}/pseudolabels.parquet", pseudolabels_part(recipe, stage.name)
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
            ensemble = EnsemblePart(weights=list(run_weights(stage).values()), split=split)
            yield "ensemble", f"{stage.name}/ensemble/{split}.parquet", ensemble
        yield "score", f"{stage.name}/cases.parquet", score_part(recipe, stage.name)
    for split in SPLITS:
        blend = EnsemblePart(weights=list(blend_weights(recipe).values()), split=split)
        yield "ensemble", f"submission/{split}.parquet", blend
    for name in ("thresholds", "cases"):
        yield "binarise", f"submission/{name}.parquet", binarise_part(recipe)
