"""Small, plausible inputs of a report: what a finished run leaves behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import ndimage

from stagepipe import binarise, mean_scores, rle, scores, submission, tables
from stagepipe.artefacts import Provenance, write_table
from stagepipe.data import store
from stagepipe.masks import Sources, fix_threshold
from stagepipe.probabilities import ProbabilityWriter
from stagepipe.recipe import submission_parts
from stagepipe.recipe.load import validate
from stagepipe.report import ReportInputs

SALT = {
    "name": "salt_in_three_stages",
    "seed": 7,
    "dataset": {"format": "synthetic"},
    "folds": {"count": 3, "stratify": ["coverage", "depth"]},
    "networks": {"resnet34": {}, "resnext50": {"encoder": "resnext50_32x4d"}},
    "stages": [
        {
            "name": f"stage{number}",
            **({"pseudolabels": {"stage": f"stage{number - 1}", "minimum_confidence": 0.7}} if number > 1 else {}),
            "runs": {
                name: {
                    "defaults": {"loss": "bce", "epochs": 6},
                    "phases": [
                        {"name": "pretrain", **({"data": "pseudolabels", "folds": "shared"} if number > 1 else {})},
                        {"name": "finetune", "lr": 1e-4, "schedule": "cosine", "cycles": 2, "loss": "lovasz_hinge"},
                    ],
                }
                for name in ("resnet34", "resnext50")
            },
        }
        for number in (1, 2, 3)
    ],
    "submission": {"blend": {"stage2": 0.4, "stage3": 0.6}, "threshold": {"value": None}},
}
JIGSAW = SALT | {
    "name": "salt_jigsaw",
    "submission": SALT["submission"] | {"postprocess": [{"jigsaw": {"half_vertical_below": False}}]},
}
CHEST = {
    "name": "chest_triplets",
    "seed": 7,
    "dataset": {"format": "synthetic_siim", "classes": ["pneumothorax"]},
    "folds": {"count": 4},
    "networks": {"resnet34": {}},
    "stages": [{"name": "only", "runs": {"resnet34": {"phases": [{"name": "train", "loss": "bce", "epochs": 4}]}}}],
    "submission": {
        "blend": {"only": 1.0},
        "threshold": {"metric": "dice"},
        "triplets": [
            {
                "top": [0.55, 0.7, 0.85],
                "area": [10, 20, 40, 80, 120, 180, 240, 320, 450],
                "bottom": [0.2, 0.3, 0.4, 0.5],
                "size": 64,
            },
        ],
        "encode": "siim",
    },
}
"""A grid of 3 x 9 x 4 triplets."""
STREET = {
    "name": "street",
    "dataset": {
        "format": "folder",
        "root": "data/street",
        "classes": ["road", "building", "tree", "car", "sky"],
        "ignore_index": 255,
        "channels": "rgb",
    },
    "folds": {"count": 2},
    "networks": {"unet": {}},
    "stages": [
        {"name": "only", "runs": {"unet": {"phases": [{"name": "train", "loss": "cross_entropy", "epochs": 4}]}}}
    ],
    "submission": {"blend": {"only": 1.0}, "encode": "runs", "threshold": {"metric": "iou"}},
}


def build(
    folder: Path, tree: dict, sizes: list[tuple[int, int]], train: int = 40, test: int = 24, draw_mask=None
) -> ReportInputs:
    """Write all inputs of a report on the recipe `tree` below `folder`; image sizes repeat in turn.

    draw_mask: makes a mask of a random generator, height, width and number of classes; none: blobs.
    """
    recipe = validate(tree, "example")
    classes, folds, draw = recipe.dataset.classes, recipe.folds.count, np.random.default_rng(3)
    depth = recipe.dataset.channels == "gray"
    truths = _samples(folder, draw, sizes, train, test, 1 if depth else 3, len(classes), depth, draw_mask or _mask)
    fold_of = {name: place % folds for place, name in enumerate(name for name in truths if name.startswith("train"))}
    count = len(fold_of)
    split = pa.table({"sample_id": list(fold_of), "fold": list(fold_of.values()), "always_train": [False] * count})
    write_table(folder / "folds.parquet", split.cast(tables.FOLDS))
    faults = [["a17", "train/images/a17.png", "truncated", "412 bytes are missing at the end"],
              ["b<3>", "train/masks/b3.png", "not_binary", "holds the values 0, 17 and 255"]]  # fmt: skip
    columns = dict(zip(tables.FAULTS.names, zip(*faults, strict=True), strict=True))
    write_table(folder / "faults.parquet", pa.table(columns, schema=tables.FAULTS))
    noise = {stage.name: 1.6 - 0.25 * place for place, stage in enumerate(recipe.stages)} | {"submission": 1.0}
    cases, confusions = [], []
    for stage, level in noise.items():
        runs = ["blend"] if stage == "submission" else [*recipe.stage(stage).runs, "ensemble"]
        cases.append(folder / f"{stage}/cases.parquet")
        confusions.append(folder / f"{stage}/confusion.parquet")
        scored = []
        for place, run in enumerate(runs):
            maps = _maps(draw, truths, fold_of, len(classes), level)
            scored.append(_scored(stage, run, maps, truths, fold_of, recipe, all_empty=place == 0))
        write_table(cases[-1], pa.concat_tables([part.cases for part in scored]))
        write_table(confusions[-1], pa.concat_tables([part.confusion for part in scored]))
    scored_classes = recipe.dataset.scored if len(classes) > 1 else []
    mean_scores.write_summary(cases, confusions, scored_classes, folder / "scores.csv")
    # The submission comes last: its maps are the blend's.
    return dataclasses.replace(_finish(folder, recipe, truths, maps, draw, cases), confusions=confusions)


def add_mosaics(folder: Path, inputs: ReportInputs, grids: list, replaced: list, effects: list) -> ReportInputs:
    """Write the tables of a jigsaw step below `folder`.

    grids: rows of ids (None: hole) of each mosaic. replaced: (sample_id, rule, mask). effects: (rule, before, after) of
    the first labelled samples.
    """
    tiles = [
        {"mosaic": mosaic, "row": row, "column": column, "sample_id": name}
        for mosaic, grid in enumerate(grids)
        for row, names in enumerate(grid)
        for column, name in enumerate(names)
        if name is not None
    ]
    on = {name for name, value in submission_parts.jigsaw(inputs.recipe) if value is True}
    masks = []
    for name, rule, mask in sorted(replaced, key=lambda row: row[0]):
        lengths, values = rle.encode_runs(mask)
        size = {"height": mask.shape[0], "width": mask.shape[1]}
        runs = {"lengths": lengths.tolist(), "values": values.tolist()}
        fold = {"split": name[:-3], "fold": 0 if name.startswith("train") else None}
        row = {"sample_id": name, "rule": rule, "applied": rule in on, "source": "train000"}
        masks.append(row | fold | size | runs)
    scored = [
        {
            "sample_id": f"train{place:03}",
            "fold": 0,
            "rule": rule,
            "applied": rule in on,
            "before": before,
            "after": after,
        }
        for place, (rule, before, after) in enumerate(effects)
    ]
    paths = {name: folder / f"{name}.parquet" for name in ("mosaics", "jigsaw", "jigsaw_effects")}
    for (name, path), rows in zip(paths.items(), (tiles, masks, scored), strict=True):
        write_table(path, pa.Table.from_pylist(rows, schema=getattr(tables, name.upper())))
    return dataclasses.replace(inputs, **paths)


def _samples(folder, draw, sizes, train, test, channels, classes, depth, draw_mask):
    rows, truths = [], {}
    names = [f"test{place:03}" for place in range(test)] + [f"train{place:03}" for place in range(train)]
    with store.writing(folder / "pixels.bin") as append:
        for place, name in enumerate(names):
            height, width = sizes[place % len(sizes)]
            mask = draw_mask(draw, height, width, classes)
            black = place % 19 == 5
            image = np.zeros((height, width, channels), np.uint8) if black else _image(draw, mask, channels)
            mask = mask * 0 if black and classes == 1 else mask
            truths[name] = mask
            labelled = name.startswith("train")
            image_offset, image_crc32 = append(image)
            mask_offset, mask_crc32 = append(mask) if labelled else (None, None)
            shares = [float((mask == index).mean()) for index in (range(classes) if classes > 1 else [1])]
            rows.append({
                "sample_id": name, "split": name[:-3], "image_path": f"{name}.png", "height": height, "width": width,
                "mask_path": f"masks/{name}.png" if labelled else None, "channels": channels, "black": black,
                "image_offset": image_offset, "image_crc32": image_crc32, "mask_offset": mask_offset,
                "mask_crc32": mask_crc32, "empty": not mask.any() if labelled else None,
                "coverage": shares if labelled else None,
            } | ({"depth": int(draw.integers(50, 950))} if depth else {}))  # fmt: skip
    schema = tables.SAMPLES.append(pa.field("depth", pa.int64())) if depth else tables.SAMPLES
    samples = pa.Table.from_pylist(rows, schema=schema)
    write_table(folder / "samples.parquet", samples)
    return truths


def _mask(draw, height, width, classes):
    waves = ndimage.gaussian_filter(draw.normal(size=(max(classes, 1), height, width)), (0, height / 8, width / 8))
    if classes > 1:
        mask = waves.argmax(axis=0).astype(np.uint8)
        mask[:2] = 255
        return mask
    covered = draw.uniform(0.02, 0.98) if draw.random() > 0.35 else 1.0
    return (waves[0] > np.quantile(waves[0], covered)).astype(np.uint8)


def _image(draw, mask, channels):
    layers = 90 + 40 * np.sin(
        np.arange(mask.shape[0])[:, None] / 4 + ndimage.gaussian_filter(draw.normal(size=mask.shape), 9) * 30
    )
    tints = np.array([[0, 0, 0], [40, -20, 30], [-30, 40, 0], [60, 10, -40], [-20, 30, 70]])
    shades = layers[..., None] + tints[mask % 5, :channels] + draw.normal(size=(*mask.shape, channels)) * 12
    return np.clip(shades, 0, 255).astype(np.uint8)


def _predict(draw, mask, classes, level):
    """A map that resembles the truth the less the higher the level."""
    indices = range(classes) if classes > 1 else [1]
    planes = np.stack([(mask == index).astype(float) for index in indices])
    smooth = ndimage.gaussian_filter(planes, (0, 2, 2))
    blotches = ndimage.gaussian_filter(draw.normal(size=planes.shape), (0, 6, 6)) * 6 * level * draw.uniform(0.2, 1.6)
    logits = 8 * (smooth - 0.5) + 2.5 * blotches
    if classes == 1:
        return 1 / (1 + np.exp(-logits))
    exponents = np.exp(logits - logits.max(axis=0))
    return exponents / exponents.sum(axis=0)


def _maps(draw, truths, fold_of, classes, level):
    """Quantised maps of the labelled samples."""
    return {name: np.round(255 * _predict(draw, truths[name], classes, level)).astype(np.uint8) for name in fold_of}


def _scored(stage, run, maps, truths, fold_of, recipe, all_empty):
    dataset = recipe.dataset
    masks = ((name, binarise.apply(levels, 0.5 if len(levels) == 1 else None)) for name, levels in maps.items())
    rules = (dataset.classes, dataset.evaluated, dataset.ignore_index, all_empty)
    return scores.score(stage, run, fold_of, masks, truths.__getitem__, *rules)


def _finish(folder, recipe, truths, maps, draw, cases) -> ReportInputs:
    classes = len(recipe.dataset.classes)
    single = classes == 1
    for split in ("train", "test"):
        origin = Provenance(part="ab" * 32, code="ef" * 32, seed=7)
        with ProbabilityWriter(folder / f"blend/{split}.parquet", origin) as writer:
            for name, truth in truths.items():
                if name in maps and split == "train":
                    writer.add_quantised(name, maps[name])
                elif name.startswith(split):
                    writer.add(name, _predict(draw, truth, classes, 1.0))
    tests = [
        (name, np.where(truth == 255, 0, truth).astype(np.uint8))
        for name, truth in truths.items()
        if name[:4] == "test"
    ]
    file = folder / ("submission.csv" if single else "submission.json")
    submission.write(file, tests, recipe.submission.encode, None, recipe.dataset.classes)
    threshold, curve = folder / "threshold.json", folder / "thresholds.parquet"
    shape = 0.75 - 0.5 * (binarise.GRID - 0.43) ** 2
    rows = {"threshold": binarise.GRID, "score": shape} if single else {"threshold": [], "score": []}
    write_table(curve, pa.table(rows, schema=tables.THRESHOLDS))
    value = recipe.submission.threshold.value
    numbers = {"searched": value is None, "metric": "mean_precision", "best": 0.4294, "in_sample": 0.75}
    numbers |= {"nested": 0.7463, "by_fold": {"0": 0.4, "1": 0.43, "2": 0.45}}
    chosen = {"chosen": value or 0.4294} | numbers if single else {"chosen": None}
    threshold.write_text(json.dumps(chosen))
    if recipe.submission.triplets:
        sources = Sources(folder / "samples.parquet", folder / "blend/train.parquet")
        outputs = [threshold, curve, folder / "submission/blend.parquet", folder / "submission/blend_confusion.parquet"]
        fix_threshold(
            submission_parts.binarise_part(recipe), sources, folder / "pixels.bin", folder / "folds.parquet", *outputs
        )
    return ReportInputs(
        name=recipe.name,
        recipe=recipe,
        samples=folder / "samples.parquet",
        pixels=folder / "pixels.bin",
        folds=folder / "folds.parquet",
        faults=folder / "faults.parquet",
        histories=_histories(folder, recipe, draw),
        cases=cases,
        scores_csv=folder / "scores.csv",
        pseudolabels=_pseudolabels(folder, recipe, tests, draw),
        threshold_summary=threshold,
        thresholds=curve,
        blend_out_of_fold=folder / "blend/train.parquet",
        blend_test=folder / "blend/test.parquet",
        submission=file,
        benchmarks=_benchmarks(folder, recipe, draw),
    )


def _histories(folder, recipe, draw):
    paths = []
    for stage in recipe.stages:
        for run, spec in stage.runs.items():
            for phase in spec.phases:
                for fold in ["shared"] if phase.folds == "shared" else [str(f) for f in range(recipe.folds.count)]:
                    epochs = phase.epochs * phase.cycles
                    falling = np.exp(-np.arange(epochs) / 3) + 0.05 * draw.random(epochs)
                    rows = {
                        "stage": [stage.name] * epochs, "run": [run] * epochs, "phase": [phase.name] * epochs,
                        "fold": [fold] * epochs, "cycle": [epoch // phase.epochs for epoch in range(epochs)],
                        "epoch": list(range(epochs)), "loss": falling.tolist(), "score": (0.8 - 0.5 * falling).tolist(),
                        "lr": [phase.lr * (1 - (epoch % phase.epochs) / phase.epochs) for epoch in range(epochs)],
                        "seconds": [21.0] * epochs, "images": [640] * epochs, "waited": [0.21] * epochs,
                    }  # fmt: skip
                    paths.append(folder / stage.name / f"{run}.{phase.name}.{fold}.history.parquet")
                    write_table(paths[-1], pa.table(rows, schema=tables.HISTORY))
    return paths


def _pseudolabels(folder, recipe, tests, draw):
    paths = {}
    for stage in recipe.stages:
        if stage.pseudolabels:
            kept = []
            for name, mask in tests[: 2 * len(tests) // 3]:
                lengths, values = rle.encode_runs(mask)
                kept.append({
                    "sample_id": name, "confidence": float(draw.uniform(0.7, 1)), "source": stage.pseudolabels.stage,
                    "folds": list(range(recipe.folds.count)), "height": mask.shape[0], "width": mask.shape[1],
                    "lengths": lengths.tolist(), "values": values.tolist(),
                })  # fmt: skip
            paths[stage.name] = folder / stage.name / "pseudolabels.parquet"
            write_table(paths[stage.name], pa.Table.from_pylist(kept, schema=tables.PSEUDOLABELS))
    return paths


def _benchmarks(folder, recipe, draw):
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    jobs = {"ingest.tsv": 40, "submit.tsv": 9}
    jobs |= {
        f"train/{stage.name}/{run}.{fold}.tsv": 2200 for stage in recipe.stages for run in stage.runs for fold in "012"
    }
    jobs |= {f"predict/{stage.name}/{run}.tsv": 160 for stage in recipe.stages for run in stage.runs}
    paths = []
    for name, seconds in jobs.items():
        paths.append(folder / "benchmarks" / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        took, memory = seconds * draw.uniform(0.8, 1.2), draw.uniform(900, 3000)
        memory = "-" if name == "submit.tsv" else f"{memory:.1f}"
        paths[-1].write_text(f"{head}{took:.2f}\t0:01:00\t{memory}\t1\t1\t1\t0\t0\t99\t{took * 1.7:.2f}\n")
    return paths
