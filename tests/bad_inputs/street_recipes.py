"""Bad recipes of street scenes, and sound ones that don't fit their frames."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from stagepipe.data.street import scan
from stagepipe.data.training import Item, window
from stagepipe.errors import RecipeError
from stagepipe.folds import split
from stagepipe.recipe.load import load, validate
from stagepipe.recipe.model import Dataset, Folds
from stagepipe.recipe.parts import train_part
from tests.bad_inputs import BadInput
from tests.bad_inputs.raw_data import COLOURS, OPTIONS, built
from tests.data_layouts import SIZE
from tests.recipe_example import at, tree

RECIPE = "recipe.yaml"
SMALL = "stages.stage1.runs.small"
WARM = f"{SMALL}.phases.warm"
DATASET = {"format": "street", "root": "data/street"} | OPTIONS["street"]


def _tree() -> dict[str, Any]:
    """The example recipe over street scenes, none of its networks resizing."""
    recipe = tree()
    recipe["dataset"] = DATASET.copy()
    recipe["submission"] |= {"encode": "street", "threshold": {"value": 0.5, "metric": "iou"}}
    recipe["networks"] = {name: {"encoder": "resnet18", "weights": "imagenet"} for name in recipe["networks"]}
    runs = [run for stage in recipe["stages"] for run in stage["runs"].values()]
    for phase in chain.from_iterable(run["phases"] for run in runs):
        phase |= {"loss": "cross_entropy"}
    return recipe


def _recipe(name: str, key: str, values: dict[str, Any], *says: str) -> BadInput:
    """The recipe, sound before, with some values at a key."""

    def build(folder: Path) -> None:
        recipe = _tree()
        validate(recipe, RECIPE)
        at(recipe, key).update(values)
        (folder / RECIPE).write_text(yaml.safe_dump(recipe), encoding="utf-8")

    return BadInput(name, "recipe of street scenes", build, lambda f: load(f / RECIPE), RecipeError, (RECIPE, *says))


def _dataset(name: str, values: dict[str, Any], *says: str) -> BadInput:
    return _recipe(name, "dataset", values, *says)


def _palette(name: str, more: dict[str, Any], *says: str) -> BadInput:
    return _dataset(name, {"palette": COLOURS | more}, "dataset.palette", *says)


def _crop(name: str, crop: dict[str, Any], *says: str) -> BadInput:
    return _recipe(name, WARM, {"crop": crop}, f"{WARM}.crop", *says)


RECIPES: list[BadInput] = [
    _dataset("no palette", {"palette": {}}, "dataset.palette", "masks of the street format are colours; write one"),
    _palette("a palette with a colour of two classes", {"tree": [0, 0, 70]},
             "the colour [0, 0, 70] stands for two things; write each once"),
    _palette("a palette with a colour twice", {"tree": [[1, 2, 3], [1, 2, 3]]}, "the colour [1, 2, 3]", "write each"),
    _palette("a palette with one class more", {"sky": [0, 152, 225]}, "(sky); write the colours of each class"),
    _dataset("a palette without one of the classes", {"classes": ["road", "car", "tree", "sky"]},
             "dataset.palette", "(sky); write the colours of each class"),
    _palette("a class without a colour", {"car": []}, "dataset.palette.car", "is empty; write at least 1"),
    _palette("a colour with the value 256", {"car": [0, 0, 256]},
             "palette.car", "less than or equal to 255 (found 256)"),
    _palette("a colour below nought", {"car": [0, -1, 0]}, "palette.car", "greater than or equal to 0 (found -1)"),
    _palette("a colour as text", {"car": "#00008e"},
             "palette.car: a colour is [red, green, blue]", 'or a list of several (found "#00008e")'),
    _palette("a colour of two values", {"car": [0, 142]}, "palette.car.0: a colour is [red, green, blue]"),
    _palette("class indices in place of colours", {"road": 0, "car": 1, "tree": 2},
             "palette.road: a colour is [red, green, blue]", "several (found 0)", "palette.tree: a colour is"),
    _dataset("a palette of a single class", {"classes": ["car"], "palette": {"car": [0, 0, 142]}},
             "dataset.palette: needs several classes; write the background as one of them"),
    _dataset("a palette where masks have no colours", {"format": "tgs"},
             "dataset.palette: masks of the tgs format have no colours; leave it out"),
    _dataset("colours to ignore but no index for them", {"ignored_colours": [[0, 0, 0]]},
             "dataset.ignored_colours", "the ignore_index", "write both"),
    _dataset("a colour to ignore that a class has", {"ignored_colours": [[0, 0, 70]], "ignore_index": 255},
             "the colour [0, 0, 70] stands for two things; write each once"),
    _dataset("an ignore_index of 256", {"ignore_index": 256}, "dataset.ignore_index", "equal to 255 (found 256)"),
    _dataset("a score of an unknown class", {"evaluated": ["sky"]},
             "dataset.evaluated: sky is no class; write some of road, car, tree"),
    _dataset("drives without a gap", {"drive_gap": 0}, "dataset.drive_gap", "greater than or equal to 1 (found 0)"),
    _dataset("a size for run lengths", {"rle_size": [24, 24]}, "the street format has no run lengths; leave it out"),
    _dataset("generated scenes with a root", {"format": "synthetic_street"},
             "dataset.root: the synthetic_street format writes its own raw data; leave root out"),
    _dataset("numbers of generated scenes beside raw data", {"synthetic_street": {"train": 8}},
             "dataset.synthetic_street", "leave it out or write `format: synthetic_street`"),
    _crop("a crop without a size", {"class_aware": 0.5}, "size: is missing; write `size: ...`"),
    _crop("a crop of 0 pixels", {"size": 0}, "size", "greater than or equal to 1 (found 0)"),
    _crop("more class-aware windows than windows", {"size": 32, "class_aware": 2}, "less than or equal to 1 (found 2)"),
    _crop("a class in place of the share of its windows", {"size": 32, "class_aware": "car"},
          'class_aware: must be a number (found "car")'),
    _recipe("a crop of resized images", WARM, {"crop": {"size": 32}, "resize": 64},
            f"{WARM}.crop: is cut out of images as they are; leave `resize` out"),
    _recipe("voting parts of resized images", SMALL, {"predict": {"voting": {"size": 32}}, "defaults": {"resize": 64}},
            f"{SMALL}.predict.voting", "write `predict: whole`, or leave `resize` out"),
    _recipe("a weight of an unknown class", WARM, {"loss": {"cross_entropy": {"class_weights": {"sky": 2}}}},
            f"{WARM}.loss.cross_entropy.class_weights.sky: is no class; the classes are road, car, tree"),
    _recipe("a loss of a single class", WARM, {"loss": "bce"},
            f"{WARM}.loss.bce: needs a single class; write cross_entropy or lovasz_softmax for several"),
    _recipe("a score of a single class", WARM, {"monitor": "mean_precision"},
            f"{WARM}.monitor: mean_precision is defined for a single class; write iou or dice"),
    _recipe("a submission for a single class", "submission", {"encode": "tgs"},
            "submission.encode: tgs encodes a single class; write runs for several"),
    _recipe("rows of a street submission", "submission", {"rows": "rows.csv"},
            "submission.rows: a street submission is an object without an order; leave it out"),
    _recipe("as many kept classes as there are", "", {"kept_classes": 3},
            "kept_classes: 3 of 3 classes", "write fewer"),
]  # fmt: skip


# ----------------------------------------------------------------------------------------------- recipes and their data


def _samples(folder: Path) -> pa.Table:
    """Labelled samples of sound street scenes, with their drives and sizes."""
    found = scan(Dataset(**DATASET), folder / "raw").samples
    rows = [{"sample_id": s.sample_id, "split": s.split, **s.metadata} for s in found if s.split == "train"]
    return pa.Table.from_pylist([row | {"height": SIZE, "width": SIZE} for row in rows])


def _windows(folder: Path) -> object:
    recipe = _tree()
    at(recipe, WARM).update(crop={"size": [SIZE, SIZE + 1]})
    part = train_part(validate(recipe, RECIPE), "stage1", "small", "warm", "0")
    return window(part, _samples(folder), [Item(row, None, 0) for row in range(3)])


def _unfit(name: str, meet: Callable[[Path], object], *says: str) -> BadInput:
    """Sound street scenes that a sound recipe doesn't fit."""
    return BadInput(name, "recipe and street scenes", built("street", lambda root: None), meet, RecipeError, says)


UNFIT: list[BadInput] = [
    _unfit("folds grouped by drive, all frames of one drive",
           lambda folder: split(_samples(folder), Folds(count=2, group="drive")),
           "folds.group: column 'drive' has 1 distinct values", "write a smaller count or another column"),
    _unfit("folds grouped by an attribute that no frame has",
           lambda folder: split(_samples(folder), Folds(count=2, group="weather")),
           "folds.group: the samples table has no column 'weather'; write one of", "route, timeofday"),
    _unfit("a crop larger than a frame", _windows,
           "phase.crop: size [24, 25] is larger than s0, 24 x 24", "write a size that fits into every training image"),
]  # fmt: skip

STREET_RECIPES: list[BadInput] = RECIPES + UNFIT
