import re
from pathlib import Path

import pytest
from recipe_example import at, changed, recipe, tree

from stagepipe.errors import RecipeError
from stagepipe.recipe.load import validate

WARM = "stages.stage1.runs.small.phases.warm"
PRETRAIN = "stages.stage2.runs.first.phases.pretrain"
CYCLES = "stages.stage2.runs.first.phases.cycles"
AGAIN = "stages.stage2.runs.first.phases.again"
FIRST, SMALL = "stages.stage2.runs.first", "stages.stage1.runs.small"
SLICES = {"stage": "stage1", "disjoint": True, "bins": [{"per_fold": [1, 2]}]}
EXTRA = {"network": "small", "phases": [{"name": "a", "loss": "bce", "epochs": 1}]}


def faults(data):
    with pytest.raises(RecipeError) as error:
        validate(data, "r.yaml")
    return [line.removeprefix("r.yaml: ") for line in str(error.value).splitlines()]


def test_the_example_has_no_fault():
    assert recipe().name == "example"


@pytest.mark.parametrize(
    "key, values, message",
    [
        ("stages.stage1", {"name": "report"}, "stages.report: the workflow itself uses this name; write another"),
        ("stages.stage1", {"name": "train"}, "stages.train: the workflow itself uses this name"),
        ("stages.stage1.runs", {"ensemble": EXTRA}, "stages.stage1.runs.ensemble: the stage's average has this name"),
        (AGAIN, {"name": "fold_0"}, "fold_0.name: folders of folds have such names; write another"),
        (AGAIN, {"name": "cycles", "like": "pretrain"}, "first.phases: 2 phases are named cycles; give each its own n"),
        (AGAIN, {"init": "nothing"}, f"{AGAIN}.init: there is no earlier phase 'stage2/first/nothing'; write one of:"),
        (AGAIN, {"init": "again"}, f"{AGAIN}.init: there is no earlier phase 'stage2/first/again'"),
        (WARM, {"init": "tuned"}, f"{WARM}.init: there is no earlier phase 'stage1/small/tuned'; write one of: encode"),
        (WARM, {"init": "stage2/first/cycles"}, f"{WARM}.init: there is no earlier phase 'stage2/first/cycles'"),
        (AGAIN, {"init": "a/b"}, f"{AGAIN}.init: there is no earlier phase 'a/b'"),
        (AGAIN, {"init": "stage1/large/only"}, f"{AGAIN}.init: stage1/large/only trains the network large, this run s"),
        (PRETRAIN, {"init": "stage1/small/tuned"}, f"{PRETRAIN}.init: stage1/small/tuned is trained per fold, a share"),
        (AGAIN, {"init": "cycles", "init_weights": "best"}, f"{AGAIN}.init_weights: stage2/first/cycles keeps ends of"),
        (PRETRAIN, {"data": "labels"}, f"{PRETRAIN}.folds: shared trains one network for all folds, so labels would l"),
        (PRETRAIN, {"data": "both"}, f"{PRETRAIN}.folds: shared trains one network for all folds, so labels would lea"),
        (PRETRAIN, {"member": 1}, f"{PRETRAIN}.member: a phase shared by all folds has no out-of-fold predictions"),
        ("stages.stage2.pseudolabels", {"cross_fit": True}, f"{PRETRAIN}.folds: cross-fitted pseudolabels differ by f"),
        ("stages.stage2.pseudolabels", {"disjoint": True}, f"{PRETRAIN}.folds: disjoint pseudolabels differ by fold"),
        ("stages.stage2.pseudolabels", {"stage": "stage2"}, "stages.stage2.pseudolabels.stage: 'stage2' is not an ear"),
        ("stages.stage2.pseudolabels", {"stage": "stage9"}, "'stage9' is not an earlier stage; write one of: stage1"),
        ("stages.stage2", {"pseudolabels": None}, "stages.stage2: a phase trains on pseudolabels; write `pseudolabels"),
        ("stages.stage1", {"pseudolabels": {"stage": "stage0"}}, "write one of: none, this is the first stage"),
        ("stages.stage1.ensemble", {"smal": 1}, "stages.stage1.ensemble.smal: is no run of this stage; the runs are s"),
        ("stages.stage1", {"ensemble": {"small": 0}}, "stages.stage1.ensemble: the weights sum to 0; give at least on"),
        (CYCLES, {"member": 0}, None),
        ("stages.stage2.runs.first", {"network": "big"}, "stages.stage2.runs.first.network: 'big' is no network; the"),
        (WARM, {"loss": "cross_entropy"}, f"{WARM}.loss.cross_entropy: needs several dataset.classes; write bce or"),
        (WARM, {"exclude_empty": True, "sampler": "balanced"}, f"{WARM}.sampler: exclude_empty leaves no empty mask"),
        (WARM, {"minimum_foreground": 3, "sampler": "balanced"}, f"{WARM}.sampler: minimum_foreground leaves no empty"),
        (CYCLES, {"select": {"end_of_cycle": {"count": [3, 2]}}}, f"{CYCLES}.select.end_of_cycle.count: has 2 numbers"),
        (FIRST, {"pseudolabels": {"stage": "stage2"}}, f"{FIRST}.pseudolabels.stage: 'stage2' is not an earlier stage"),
        (FIRST, {"pseudolabels": SLICES}, f"{FIRST}.pseudolabels.bins.0.per_fold: has 2 numbers for 3 folds; write on"),
        (FIRST, {"pseudolabels": {"stage": "stage1", "disjoint": True}}, f"{PRETRAIN}.folds: disjoint pseudolabels d"),
        (FIRST, {"pseudolabels": {"stage": "stage1"}}, "stages.stage2.pseudolabels: no phase uses them; write `data:"),
        (SMALL, {"pseudolabels": {"stage": "stage1"}}, f"{SMALL}.pseudolabels: no phase uses them; write `data: pse"),
        ("submission", {"emptiness": {"blend": {"x": 1}}}, "submission.emptiness.blend.x: is neither a stage nor a st"),
        ("submission", {"postprocess": ["jigsaw", "jigsaw"]}, "submission.postprocess: has several jigsaw steps; writ"),
        ("networks.small.pad", {"to": 64}, "networks.small.pad.to: [64, 64] is smaller than resize [80, 80]; write at"),
        (WARM, {"resize": 128}, f"{WARM}.pad.to: [96, 96] is smaller than resize [128, 128]"),
        ("networks.small", {"normalise": {"mean": [0.1, 0.2]}}, "networks.small.normalise.mean: write 1 number, or 1"),
        ("submission", {"blend": {"stage3": 1}}, "submission.blend.stage3: is neither a stage nor a stage/run; there"),
        ("submission", {"blend": {"stage1/first": 1}}, "submission.blend.stage1/first: is neither a stage nor a stage"),
        ("dataset", {"classes": ["a", "b"]}, "dataset.classes: the tgs format marks one class, not 2; write one name"),
        ("dataset", {"format": "folder", "rle_size": 64}, "dataset.rle_size: the folder format has no run lengths"),
        (WARM, {"always_train": False}, f"{WARM}.always_train: there is no such group; name its column in `folds."),
        (WARM, {"schedule": {"cosine": {"stretch": 2}}}, f"{WARM}.schedule.cosine.stretch: only falls after a restart"),
        (WARM, {"triplets": [{"bottom": []}]}, f"{WARM}.triplets.0.bottom: is empty; write at least one number"),
        (WARM, {"sampler": {"balanced": {"positive": [0.5, 1.5]}}}, f"{WARM}.sampler.balanced.positive"),
        ("submission", {"triplets": [{"bottom": 0.3}]}, "submission.threshold.value: the triplets hold the thresholds"),
        ("submission", {"blend_search": {"step": 0.3}}, "submission.blend_search.step: 0.3 doesn't divide 1; write fo"),
        ("submission", {"blend_search": {"step": 0.0001}}, "submission.blend_search.step: 0.0001 and the triplets mak"),
        ("submission", {"blend_search": {}, "mean": "geometric"}, "submission.blend_search: only arithmetic means are"),
        ("dataset", {"synthetic_siim": {"test": 3}}, "synthetic_siim: describes generated data; leave it out or write"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_key(key, values, message):
    data = changed(key, values)
    if message is None:
        validate(data, "r.yaml")
    else:
        assert any(message in line for line in faults(data)), faults(data)


WORKFLOW = Path(__file__).resolve().parents[1] / "workflow" / "rules"
RULES = [name for path in WORKFLOW.glob("*.smk") for name in re.findall(r"(?m)^ *rule (\w+):", path.read_text())]


@pytest.mark.parametrize("name", ["all", "scores", "lock", "run", "raw", "data", "logs", "submission", *sorted(RULES)])
def test_reserved_names_of_stages(name):
    assert f"stages.{name}: the workflow itself uses this name; write another, for example stage_{name}" in faults(
        changed("stages.stage2", name=name)
    )


def test_the_search_of_a_blend_wants_runs_as_they_are():
    data = changed("stages.stage1.runs.large", rescale="minmax")
    at(data, "submission")["blend_search"] = {}
    assert faults(data) == [
        "submission.blend_search: stage1/large is rescaled; write `rescale: none` there, or leave the search out"
    ]


def test_two_stages_of_one_name():
    data = tree()
    data["stages"].append(data["stages"][0])
    assert faults(data) == ["stages: 2 stages are named stage1; give each its own name"]


def test_a_run_without_members():
    data = changed(CYCLES, member=0)
    at(data, AGAIN)["member"] = 0
    assert faults(data) == [
        "stages.stage2.runs.first: no phase has a member; write `member: 1` in the phases that predict"
    ]


def test_pseudolabels_that_nobody_uses():
    data = tree()
    del at(data, "stages.stage2.runs.first.phases")[0]
    assert faults(data) == [
        "stages.stage2.pseudolabels: no phase uses them; write `data: pseudolabels` or `data: both` in a phase"
    ]


def test_several_classes_need_their_losses_scores_and_encoding():
    data = tree() | {"dataset": {"format": "folder", "root": "x", "classes": ["sky", "road"], "channels": "rgb"}}
    at(data, WARM)["monitor"] = "mean_precision"
    at(data, "networks.small")["normalise"] = {"mean": [0, 0], "std": [1, 1, 1]}
    at(data, SMALL)["black_is_empty"] = True
    at(data, WARM)["deep_supervision"] = {"empty": "bce"}
    at(data, "submission").update({"postprocess": ["jigsaw"], "emptiness": {"blend": {"stage1": 1.0}}})
    at(data, "submission").update({"triplets": [{"bottom": 0.4}], "blend_search": {}, "size": 64})
    at(data, "submission")["postprocess"].append({"contours": {"area": 3}})
    at(data, WARM)["triplets"] = [{"bottom": 0.4}]
    found = faults(data)
    for message in [
        f"{WARM}.loss.bce: needs a single class; write cross_entropy or lovasz_softmax for several",
        f"{WARM}.monitor: mean_precision is defined for a single class; write iou or dice",
        "submission.encode: tgs encodes a single class; write runs for several",
        "submission.threshold: several classes take the most probable one; write {value: 0.5, metric: iou}",
        "networks.small.normalise.mean: write 1 number, or 3 for rgb images",
        f"{SMALL}.black_is_empty: is for a single class; leave it out for several",
        f"{WARM}.deep_supervision: its heads tell empty masks of a single class; leave it out for several",
        "submission.postprocess.jigsaw: is for a single class; leave it out for several",
        f"{WARM}.triplets: are thresholds of a single class; leave them out for several",
        "submission.postprocess.contours: is for a single class; leave it out for several",
        "submission.emptiness: is for a single class; leave it out for several",
        "submission.triplets: is for a single class; leave it out for several",
        "submission.blend_search: is for a single class; leave it out for several",
        "submission.size: is for a single class; leave it out for several",
    ]:
        assert message in found
    assert not any("normalise.std" in line for line in found)


def test_all_faults_come_at_once():
    data = changed("submission", blend={"x": 1})
    at(data, WARM)["init"] = "nobody"
    data["stages"][0]["ensemble"] = {"nobody": 1}
    assert len(faults(data)) == 3
