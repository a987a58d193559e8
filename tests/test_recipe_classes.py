"""What only a recipe of several classes says: palettes, evaluated classes, crops, windows, class weights."""

import pytest
from recipe_example import at, changed, tree

from stagepipe.errors import RecipeError
from stagepipe.recipe.load import validate
from stagepipe.recipe.model import Dataset, Predict, scored_classes
from stagepipe.recipe.parts import ingest_part, pseudolabels_part, train_part

COLOURS = {"sky": [0, 0, 255], "road": [[1, 2, 3], [4, 5, 6]], "car": [9, 9, 9]}
STREET = {"format": "street", "root": "data", "channels": "rgb", "classes": [*COLOURS], "palette": COLOURS}
WARM, SMALL = "stages.stage1.runs.small.phases.warm", "stages.stage1.runs.small"
LOSS = {"loss": "cross_entropy", "monitor": "iou"}


def street(*changes):
    """The example recipe over street scenes, with some keys changed."""
    several = [("dataset", STREET), ("submission", {"encode": "street", "threshold": {"value": 0.5, "metric": "iou"}})]
    places = [f"stages.stage1.runs.small.phases.{name}" for name in ("warm", "tuned")]
    places += ["stages.stage1.runs.large.phases.only"]
    places += [f"stages.stage2.runs.first.phases.{name}" for name in ("pretrain", "cycles", "again")]
    return several + [(place, LOSS) for place in places] + list(changes)


def made(*changes):
    data = tree()
    for key, values in street(*changes):
        at(data, key).update(values)
    return validate(data, "r.yaml")


def test_a_palette_may_give_a_class_several_colours():
    dataset = Dataset(**STREET)
    assert dataset.palette["road"] == [(1, 2, 3), (4, 5, 6)] and dataset.palette["car"] == [(9, 9, 9)]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"palette": {}}, "palette: masks of the street format are colours"),
        ({"palette": {**COLOURS, "tree": [7, 7, 7]}}, r"palette: gives other names than classes \(tree\)"),
        ({"palette": {**COLOURS, "car": [0, 0, 255]}}, r"palette: the colour \[0, 0, 255\] stands for two things"),
        ({"palette": {**COLOURS, "car": [0, 0, 256]}}, "less than or equal to 255"),
        ({"format": "tgs"}, "palette: masks of the tgs format have no colours"),
        ({"classes": ["sky"], "palette": {"sky": [1, 1, 1]}}, "palette: needs several classes"),
        ({"ignored_colours": [[7, 7, 7]]}, "ignored_colours: become the ignore_index"),
        ({"ignored_colours": [[9, 9, 9]], "ignore_index": 255}, "stands for two things"),
        ({"evaluated": ["tree"]}, "evaluated: tree is no class"),
        ({"evaluated": ["road"], "ignore_index": 1}, "evaluated: road has the ignore_index; write some of sky, car"),
        ({"evaluated": ["sky", "sky"]}, "repeats a name"),
    ],
)
def test_a_dataset_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        Dataset(**STREET | values)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"windows": {"size": 32, "overlap": 1.0}}, "less than 1"),
        ({"voting": {"size": [64, 4], "grids": 5}}, "grids: 5 are more than a tile of .* can be shifted; write fewer"),
        ({"voting": {"size": 512, "grids": 256}}, "less than or equal to 100"),
        ({"whole": {}, "voting": {"size": 8}}, "has 2 choices"),
    ],
)
def test_a_way_of_prediction_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        Predict(**values)


def test_masks_hold_no_more_classes_than_a_byte():
    with pytest.raises(ValueError, match="at most 255 items"):
        Dataset(format="folder", root="data", classes=[f"c{index}" for index in range(256)])


def test_scores_leave_out_the_ignored_class():
    assert scored_classes(["a", "b", "c"], [], 2) == ["a", "b"]
    assert scored_classes(["a", "b", "c"], [], 255) == ["a", "b", "c"]
    assert scored_classes(["a", "b", "c"], ["c"], 255) == ["c"]


@pytest.mark.parametrize(
    "key, values, message",
    [
        ("", {"kept_classes": 3}, "kept_classes: 3 of 3 classes leaves nothing out"),
        ("dataset", {"rle_size": 8}, "dataset.rle_size: the street format has no run lengths"),
        (SMALL, {"predict": {"windows": {"size": 32}}}, f"{SMALL}.predict.windows: parts are cut out of images as the"),
        (WARM, {"crop": {"size": 32}}, f"{WARM}.crop: is cut out of images as they are; leave `resize` out"),
        (WARM, {"monitor": "mean_precision"}, f"{WARM}.monitor: mean_precision is defined for a single class"),
        (WARM, {"deep_supervision": {"empty": "focal"}}, f"{WARM}.deep_supervision: its heads tell empty masks"),
        (WARM, {"deep_supervision": {"auxiliary": "bce"}}, f"{WARM}.deep_supervision.auxiliary.bce: needs a single cl"),
        (WARM, {"loss": {"topology": 1}}, f"{WARM}.loss.topology: needs a single class"),
        (WARM, {"loss": {"dice": {"class_weights": {"car": 2}}}}, f"{WARM}.loss.dice.class_weights: are for several"),
        (WARM, {"loss": {"focal": {"class_weights": {"bus": 2}}}}, "class_weights.bus: is no class; the classes are s"),
        ("stages.stage2.pseudolabels", {"ignore_unsure": True}, "pseudolabels.ignore_unsure: the dataset has no ignor"),
        ("stages.stage2.runs.first.phases.pretrain", {"init_grown": True}, "init_grown: there is nothing to grow from"),
        ("submission", {"rows": "sample.csv"}, "submission.rows: a street submission is an object without an order"),
        ("submission", {"encode": "tgs"}, "submission.encode: tgs encodes a single class; write runs for several"),
    ],
)
def test_a_recipe_refuses(key, values, message):
    with pytest.raises(RecipeError) as error:
        made((key, values))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "key, values, message",
    [
        (WARM, {"monitor": "truth_iou"}, f"{WARM}.monitor: truth_iou is defined for several classes"),
        (SMALL, {"predict": {"voting": {"size": 32}}}, f"{SMALL}.predict.voting: labels of several classes vote"),
        ("networks.small", {"restore": "logits"}, "networks.small.restore: logits are for several classes"),
        (WARM, {"loss": {"focal": {"class_weights": {"salt": 2}}}}, f"{WARM}.loss.focal.class_weights: are for severa"),
        ("dataset", {"evaluated": ["salt"]}, "dataset.evaluated: there is one class; leave it out"),
    ],
)
def test_a_recipe_of_a_single_class_refuses(key, values, message):
    with pytest.raises(RecipeError) as error:
        validate(changed(key, values), "r.yaml")
    assert message in str(error.value)


def test_what_reaches_a_job():
    recipe = made(("dataset", {"evaluated": ["car"], "ignore_index": 255}), ("", {"kept_classes": 2}))
    assert ingest_part(recipe, "").dataset.evaluated == []
    assert train_part(recipe, "stage1", "small", "warm", "0").evaluated == ["car"]
    assert pseudolabels_part(recipe, "stage2").ignore_index is None
    unsure = made(("dataset", {"ignore_index": 255}), ("stages.stage2.pseudolabels", {"ignore_unsure": True}))
    assert pseudolabels_part(unsure, "stage2").ignore_index == 255
