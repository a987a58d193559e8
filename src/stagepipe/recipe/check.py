"""What types alone can't say of a recipe: references that must exist, orders that must hold, sizes that must fit."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from stagepipe.recipe.model import (
    SIGMOID_LOSSES,
    SOFTMAX_LOSSES,
    WEIGHTED_LOSSES,
    BlendSearch,
    LossTerm,
    Pad,
    Phase,
    Pseudolabels,
    Recipe,
    Run,
    Stage,
    Submission,
)
from stagepipe.recipe.parts import uses_pseudolabels

RESERVED = {
    "all", "raw", "data", "logs", "state", "code", "benchmarks", "submission", "report", "scores", "lock", "run",
    "synthesise", "ingest", "split_folds", "train", "predict", "ensemble", "score", "select_pseudolabels",
    "blend", "blend_emptiness", "binarise", "submit", "collect_scores", "find_mosaics", "apply_jigsaw", "score_jigsaw",
    "search_blend",
}  # fmt: skip
"""Names of targets, rules, and of files and folders of the results: no stage may take them."""
SEVERAL_CLASSES = ("folder", "street", "synthetic_street")
"""formats whose masks may have several classes"""
MOST_BLENDS = 10_000_000
"""combinations of shares and triplets that a search goes through; each takes 8 bytes a fold"""


def faults(recipe: Recipe) -> list[str]:
    """Every fault of a recipe, one line each: the key, what was found, what to write instead."""
    found = [*_repeated(recipe), *_dataset_faults(recipe)]
    for position, stage in enumerate(recipe.stages):
        found += _stage_faults(recipe, stage, position)
    return found + list(_submission_faults(recipe)) + list(_network_faults(recipe))


def _repeated(recipe: Recipe) -> Iterator[str]:
    for name, count in Counter(stage.name for stage in recipe.stages).items():
        if count > 1:
            yield f"stages: {count} stages are named {name}; give each its own name"
        if name in RESERVED:
            yield f"stages.{name}: the workflow itself uses this name; write another, for example stage_{name}"


def _dataset_faults(recipe: Recipe) -> Iterator[str]:
    dataset = recipe.dataset
    if dataset.format not in SEVERAL_CLASSES and len(dataset.classes) > 1:
        yield (
            f"dataset.classes: the {dataset.format} format marks one class, not {len(dataset.classes)}; "
            "write one name, or use the folder format"
        )
    if dataset.format in SEVERAL_CLASSES and dataset.rle_size:
        yield f"dataset.rle_size: the {dataset.format} format has no run lengths; leave it out"
    if recipe.kept_classes is not None and recipe.kept_classes >= dataset.outputs:
        yield (
            f"kept_classes: {recipe.kept_classes} of {dataset.outputs} classes leaves nothing out; "
            "write fewer, or leave it out"
        )


def _stage_faults(recipe: Recipe, stage: Stage, position: int) -> Iterator[str]:
    where = f"stages.{stage.name}"
    if stage.pseudolabels:
        yield from _pseudolabel_faults(recipe, stage.pseudolabels, position, f"{where}.pseudolabels")
        if not any(uses_pseudolabels(run) and not run.pseudolabels for run in stage.runs.values()):
            yield f"{where}.pseudolabels: no phase uses them; write `data: pseudolabels` or `data: both` in a phase"
    elif any(uses_pseudolabels(run) and not run.pseudolabels for run in stage.runs.values()):
        yield f"{where}: a phase trains on pseudolabels; write `pseudolabels: {{stage: ...}}` in the stage"
    for name in set(stage.ensemble) - set(stage.runs):
        yield f"{where}.ensemble.{name}: is no run of this stage; the runs are {', '.join(stage.runs)}"
    if stage.ensemble and sum(stage.ensemble.values()) <= 0:
        yield f"{where}.ensemble: the weights sum to 0; give at least one run a positive weight"
    for name, run in stage.runs.items():
        if name == "ensemble":
            yield f"{where}.runs.ensemble: the stage's average has this name; write another"
        yield from _run_faults(recipe, stage, position, run, f"{where}.runs.{name}")


def _pseudolabel_faults(recipe: Recipe, spec: Pseudolabels, position: int, where: str) -> Iterator[str]:
    earlier = [stage.name for stage in recipe.stages[:position]]
    if spec.stage not in earlier:
        yield (
            f"{where}.stage: {spec.stage!r} is not an earlier stage; "
            f"write one of: {', '.join(earlier) or 'none, this is the first stage'}"
        )
    if spec.ignore_unsure and recipe.dataset.ignore_index is None:
        yield f"{where}.ignore_unsure: the dataset has no ignore_index for them; write one, or leave this out"
    for number, size_bin in enumerate(spec.bins):
        if isinstance(size_bin.per_fold, list):
            yield from _fold_list_faults(recipe, size_bin.per_fold, f"{where}.bins.{number}.per_fold")


def _fold_list_faults(recipe: Recipe, numbers: Sequence[object], where: str) -> Iterator[str]:
    """Of numbers that are given fold by fold."""
    if len(numbers) != recipe.folds.count:
        yield f"{where}: has {len(numbers)} numbers for {recipe.folds.count} folds; write one a fold, or one for all"


def _run_faults(recipe: Recipe, stage: Stage, position: int, run: Run, where: str) -> Iterator[str]:
    if run.network not in recipe.networks:
        yield f"{where}.network: {run.network!r} is no network; the networks are {', '.join(recipe.networks)}"
    for name, count in Counter(phase.name for phase in run.phases).items():
        if count > 1:
            yield f"{where}.phases: {count} phases are named {name}; give each its own name"
    if run.black_is_empty and recipe.dataset.outputs > 1:
        yield f"{where}.black_is_empty: is for a single class; leave it out for several"
    if not run.predict.whole:
        yield from _predict_faults(recipe, run, where)
    if run.pseudolabels:
        yield from _pseudolabel_faults(recipe, run.pseudolabels, position, f"{where}.pseudolabels")
        if not uses_pseudolabels(run):
            yield f"{where}.pseudolabels: no phase uses them; write `data: pseudolabels` or `data: both` in a phase"
    if not any(phase.member for phase in run.phases):
        yield f"{where}: no phase has a member; write `member: 1` in the phases that predict"
    for index, phase in enumerate(run.phases):
        here = f"{where}.phases.{phase.name}"
        if re.fullmatch(r"fold_\w+", phase.name):
            yield f"{here}.name: folders of folds have such names; write another"
        yield from _phase_faults(recipe, phase, here)
        yield from _crop_faults(recipe, run, phase, here)
        if phase.folds == "shared":
            yield from _shared_faults(phase, run.pseudolabels or stage.pseudolabels, here)
        yield from _origin_faults(recipe, position, run, index, here)


def _predict_faults(recipe: Recipe, run: Run, where: str) -> Iterator[str]:
    """Of an image that is predicted in parts."""
    network, key = recipe.networks.get(run.network), f"{where}.predict.{run.predict.choice}"
    sizes = [phase.resize or (network and network.resize) for phase in run.phases if phase.member]
    if any(sizes):
        yield f"{key}: parts are cut out of images as they are; write `predict: whole`, or leave `resize` out"
    if run.predict.voting and recipe.dataset.outputs == 1:
        yield f"{key}: labels of several classes vote; write windows for a single class"


def _crop_faults(recipe: Recipe, run: Run, phase: Phase, where: str) -> Iterator[str]:
    network = recipe.networks.get(run.network)
    if phase.crop and (phase.resize or (network and network.resize)):
        yield f"{where}.crop: is cut out of images as they are; leave `resize` out, or crop by `augment`"


def _phase_faults(recipe: Recipe, phase: Phase, where: str) -> Iterator[str]:
    single = recipe.dataset.outputs == 1
    if set(phase.deep_supervision) - {"auxiliary"} and not single:
        yield f"{where}.deep_supervision: its heads tell empty masks of a single class; leave it out for several"
    ends = phase.select.end_of_cycle
    if ends and isinstance(ends.count, list):
        yield from _fold_list_faults(recipe, ends.count, f"{where}.select.end_of_cycle.count")
    yield from _loss_faults(recipe, phase.loss, f"{where}.loss")
    for head, terms in phase.deep_supervision.items():
        yield from _loss_faults(recipe, terms, f"{where}.deep_supervision.{head}")
    if not single and phase.monitor == "mean_precision":
        yield f"{where}.monitor: mean_precision is defined for a single class; write iou or dice"
    if single and phase.monitor in ("truth_iou", "dataset_iou"):
        yield f"{where}.monitor: {phase.monitor} is defined for several classes; write iou or dice"
    if not single and phase.triplets:
        yield f"{where}.triplets: are thresholds of a single class; leave them out for several"
    if not phase.always_train and recipe.folds.always_train is None:
        yield f"{where}.always_train: there is no such group; name its column in `folds.always_train`, or leave it out"
    if (phase.exclude_empty or phase.minimum_foreground) and phase.sampler.balanced:
        left_out = "exclude_empty" if phase.exclude_empty else "minimum_foreground"
        yield f"{where}.sampler: {left_out} leaves no empty mask to balance with; leave out one of the two"


def _loss_faults(recipe: Recipe, terms: Mapping[str, LossTerm], where: str) -> Iterator[str]:
    single = recipe.dataset.outputs == 1
    for loss, term in terms.items():
        if single and loss in SOFTMAX_LOSSES:
            yield f"{where}.{loss}: needs several dataset.classes; write bce or lovasz_hinge for a single class"
        if not single and loss in SIGMOID_LOSSES:
            yield f"{where}.{loss}: needs a single class; write cross_entropy or lovasz_softmax for several"
        if term.class_weights and (single or loss not in WEIGHTED_LOSSES):
            yield (
                f"{where}.{loss}.class_weights: are for several classes, of {', '.join(sorted(WEIGHTED_LOSSES))}; "
                "leave them out"
            )
        for name in sorted(set(term.class_weights) - set(recipe.dataset.classes)):
            known = ", ".join(recipe.dataset.classes)
            yield f"{where}.{loss}.class_weights.{name}: is no class; the classes are {known}"


def _shared_faults(phase: Phase, pseudolabels: Pseudolabels | None, where: str) -> Iterator[str]:
    """Of a phase that is trained once for all folds."""
    if phase.member:
        yield (
            f"{where}.member: a phase shared by all folds has no out-of-fold predictions; write member: 0 and let a "
            "phase with folds: each start from it"
        )
    if pseudolabels and pseudolabels.cross_fit:
        yield f"{where}.folds: cross-fitted pseudolabels differ by fold; write folds: each, or cross_fit: false"
    if pseudolabels and pseudolabels.disjoint:
        yield f"{where}.folds: disjoint pseudolabels differ by fold; write folds: each, or disjoint: false"


def _origin_faults(recipe: Recipe, position: int, run: Run, index: int, where: str) -> Iterator[str]:
    phase = run.phases[index]
    if phase.init == "encoder" or phase.init is None:
        if phase.init_grown:
            yield f"{where}.init_grown: there is nothing to grow from; write the phase in `init`, or leave it out"
        return
    stage = recipe.stages[position]
    before = {f"{stage.name}/{name}/{p.name}": (r, p) for name, r in stage.runs.items() if r is run
              for p in run.phases[:index]}  # fmt: skip
    for s in recipe.stages[:position]:
        before |= {f"{s.name}/{name}/{p.name}": (r, p) for name, r in s.runs.items() for p in r.phases}
    if phase.init not in before:
        earlier = ", ".join(["encoder", *before])
        yield f"{where}.init: there is no earlier phase {phase.init!r}; write one of: {earlier}"
        return
    origin_run, origin = before[phase.init]
    if origin_run.network != run.network and not phase.init_grown:
        yield (
            f"{where}.init: {phase.init} trains the network {origin_run.network}, this run {run.network}; "
            "write a phase of the same network, encoder, or `init_grown: true` if this network is that one, grown"
        )
    if phase.folds == "shared" and origin.folds == "each":
        yield f"{where}.init: {phase.init} is trained per fold, a shared phase can't start from it; write folds: each"
    if phase.init_weights == "best" and origin.select.end_of_cycle:
        yield f"{where}.init_weights: {phase.init} keeps ends of cycles, no best epoch; write init_weights: last"


def _submission_faults(recipe: Recipe) -> Iterator[str]:
    submission = recipe.submission
    known = [stage.name for stage in recipe.stages]
    known += [f"{stage.name}/{run}" for stage in recipe.stages for run in stage.runs]
    blends = {"blend": submission.blend}
    if submission.emptiness:
        blends["emptiness.blend"] = submission.emptiness.blend
    for where, blend in blends.items():
        for key in set(blend) - set(known):
            yield f"submission.{where}.{key}: is neither a stage nor a stage/run; there are {', '.join(known)}"
    if sum(step.jigsaw is not None for step in submission.postprocess) > 1:
        yield "submission.postprocess: has several jigsaw steps; write one"
    if submission.triplets and submission.threshold.value != 0.5:
        yield "submission.threshold.value: the triplets hold the thresholds; leave it out"
    if submission.encode == "street" and submission.rows:
        yield "submission.rows: a street submission is an object without an order; leave it out"
    if submission.blend_search:
        yield from _blend_search_faults(recipe, submission.blend_search)
    if recipe.dataset.outputs > 1:
        yield from _several_classes_faults(submission)


def _blend_search_faults(recipe: Recipe, search: BlendSearch) -> Iterator[str]:
    where = "submission.blend_search"
    if abs(1 / search.step - round(1 / search.step)) > 1e-6:
        yield f"{where}.step: {search.step:g} doesn't divide 1; write for example 0.1, 0.05 or 0.25"
    elif _blends_and_rules(recipe, search) > MOST_BLENDS:
        yield f"{where}.step: {search.step:g} and the triplets make too many combinations; write a larger step"
    if recipe.submission.mean != "arithmetic":
        yield f"{where}: only arithmetic means are searched; write `mean: arithmetic`, or leave it out"
    for key in recipe.submission.blend:
        stage, _, name = key.partition("/")
        for spec in recipe.stages:
            for run, made in spec.runs.items():
                if spec.name == stage and name in ("", run) and made.rescale != "none":
                    yield f"{where}: {stage}/{run} is rescaled; write `rescale: none` there, or leave the search out"


def _blends_and_rules(recipe: Recipe, search: BlendSearch) -> int:
    """How many sums of scores a search keeps for each fold, about."""
    stages = {stage.name: len(stage.runs) for stage in recipe.stages}
    runs = sum(1 if "/" in key else stages.get(key, 1) for key in recipe.submission.blend)
    grids = [(grid.top, grid.area, grid.bottom) for grid in recipe.submission.triplets]
    rules = sum(math.prod(len(side) if isinstance(side, list) else 1 for side in grid) for grid in grids)
    return math.comb(round(1 / search.step) + runs - 1, runs - 1) * max(1, rules)


def _several_classes_faults(submission: Submission) -> Iterator[str]:
    """What only a single class can have."""
    steps = {step.choice for step in submission.postprocess} & {"jigsaw", "contours"}
    found = [f"postprocess.{step}" for step in sorted(steps)]
    found += [key for key in ("emptiness", "triplets", "blend_search", "size") if getattr(submission, key)]
    yield from (f"submission.{key}: is for a single class; leave it out for several" for key in found)
    if submission.encode not in ("runs", "street"):
        yield f"submission.encode: {submission.encode} encodes a single class; write runs for several"
    if submission.threshold.value is None or submission.threshold.metric == "mean_precision":
        yield "submission.threshold: several classes take the most probable one; write {value: 0.5, metric: iou}"


def _network_faults(recipe: Recipe) -> Iterator[str]:
    stored = 1 if recipe.dataset.channels == "gray" else 3
    for name, network in recipe.networks.items():
        if not isinstance(network.normalise, str):
            for key in ("mean", "std"):
                copies = network.channels.count("image")
                if len(getattr(network.normalise, key)) not in (1, stored, stored * copies):
                    enough = " or ".join(map(str, sorted({stored, stored * copies})))
                    images = recipe.dataset.channels
                    yield f"networks.{name}.normalise.{key}: write 1 number, or {enough} for {images} images"
        if network.restore == "logits" and recipe.dataset.outputs == 1:
            yield f"networks.{name}.restore: logits are for several classes; leave it out for a single class"
        yield from _pad_faults(network.pad, network.resize, f"networks.{name}")
    for stage in recipe.stages:
        for run_name, run in stage.runs.items():
            for phase in run.phases if run.network in recipe.networks else ():
                network = recipe.networks[run.network]
                if phase.resize or phase.pad:
                    where = f"stages.{stage.name}.runs.{run_name}.phases.{phase.name}"
                    yield from _pad_faults(phase.pad or network.pad, phase.resize or network.resize, where)


def _pad_faults(pad: Pad | None, resize: tuple[int, int] | None, where: str) -> Iterator[str]:
    if pad and resize and any(to < size for to, size in zip(pad.to, resize, strict=True)):
        yield f"{where}.pad.to: {list(pad.to)} is smaller than resize {list(resize)}; write at least that"
