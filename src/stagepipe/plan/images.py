"""How many images a recipe reads, and of what kind: from what is there of its data, or as they were published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stagepipe.errors import DataError, RecipeError
from stagepipe.recipe.model import Dataset, Recipe

if TYPE_CHECKING:
    import pyarrow as pa

Size = tuple[int, int]
"""height and width in pixels"""


@dataclass(frozen=True)
class Images:
    """What a plan knows of the data."""

    train: int
    """labelled images"""
    test: int
    """images to predict"""
    size: Size
    source: str
    """where the numbers come from, in words"""
    empty: float = 0.0
    """share of labelled images whose mask is empty; 0 for several classes"""
    black: float = 0.0
    """share of images with one single value; those of labelled ones are empty"""
    always_train: int = 0
    """labelled images that train in every fold and validate in none"""


PUBLISHED = {
    # 1,562 of 4,000 masks are empty; 80 labelled and 430 other tiles are black
    "tgs": Images(4000, 18000, (101, 101), "TGS salt 2018 as published", empty=0.39, black=0.023),
    # 10,675 films and 1,372 of the first stage's test set, which always train
    "siim": Images(12047, 3205, (1024, 1024), "SIIM-ACR 2019 as published", empty=0.78, always_train=1372),
    "street": Images(2243, 649, (1216, 1936), "Signate street scenes 2018 as published"),
    "camvid_small": Images(92, 21, (360, 480), "the part of CamVid in docs/recipes.md"),
}
"""By format, or by recipe where the format is everybody's; from the contests, and the authors' tables of folds"""


def images_of(
    recipe: Recipe, given: tuple[int, int] | None = None, size: Size | None = None, folder: Path = Path()
) -> Images:
    """Images of a recipe whose results lie below `folder`.

    The first of these that is there: the numbers `given` (labelled and other ones); the samples table of an earlier
    run; the generator's numbers; the raw files; the published numbers of the format. `size` replaces what is found.
    RecipeError where nothing is known, DataError or ArtefactError where what is there can't be read.
    """
    found = _found(recipe, given, size, folder)
    limit = recipe.dataset.limit
    if limit and given is None:
        found = replace(found, train=min(found.train, limit), test=min(found.test, limit))
    if recipe.folds.always_train is None:
        found = replace(found, always_train=0)
    found = replace(found, always_train=min(found.always_train, found.train))
    return replace(found, size=size or found.size)


def _found(recipe: Recipe, given: tuple[int, int] | None, size: Size | None, folder: Path) -> Images:
    dataset = recipe.dataset
    usual = _generated(dataset) or PUBLISHED.get(recipe.name) or PUBLISHED.get(dataset.format)
    if given:
        known = size or (usual.size if usual else None)
        if known is None:
            raise RecipeError(f"--images: how large are those of the {dataset.format} format? Write --size H W, too")
        base = replace(usual, size=known) if usual else Images(0, 0, known, "")
        return replace(base, train=given[0], test=given[1], source="--images")
    table = folder / "results" / recipe.name / "data" / "samples.parquet"
    if table.is_file():
        from stagepipe.artefacts import read_table

        return _ingested(read_table(table), recipe.folds.always_train, str(table))
    if dataset.root and Path(dataset.root).is_dir():
        return _listed(dataset, Path(dataset.root), recipe.folds.always_train, usual)
    if usual is None:
        raise RecipeError(
            f"dataset.root: {dataset.root} is no folder, and no numbers of the {dataset.format} format are known; "
            "write --images TRAIN TEST and --size H W"
        )
    return usual


def _generated(dataset: Dataset) -> Images | None:
    """What a generator will write."""
    if not dataset.generated:
        return None
    numbers = getattr(dataset, dataset.format)
    size = numbers.size if isinstance(numbers.size, tuple) else (numbers.size, numbers.size)
    second = getattr(numbers, "second_stage", 0)
    positive = getattr(numbers, "positive", None)
    return Images(
        numbers.train + second,
        numbers.test,
        size,
        f"dataset.{dataset.format}",
        empty=getattr(numbers, "empty", 0.0) if positive is None else 1 - positive,
        black=getattr(numbers, "black", 0.0),
        always_train=second,
    )


def _ingested(samples: pa.Table, always: str | None, source: str) -> Images:
    """The numbers of a samples table; the size is that of most images."""
    import pandas as pd

    frame = samples.to_pandas()
    labelled = frame[frame["split"] == "train"]
    sizes: pd.Series = frame.groupby(["height", "width"]).size()
    height, width = sizes.idxmax()
    empty = labelled["empty"].astype(float).mean()
    return Images(
        len(labelled),
        len(frame) - len(labelled),
        (int(height), int(width)),
        source,
        empty=0.0 if pd.isna(empty) else float(empty),
        black=float(frame["black"].mean()),
        always_train=int(labelled[always].sum()) if always in labelled else 0,
    )


def _listed(dataset: Dataset, root: Path, always: str | None, usual: Images | None) -> Images:
    """The numbers of the raw files; what kinds of masks there are is taken as published."""
    from stagepipe.data.decode import image_size
    from stagepipe.data.formats import scan

    samples = scan(dataset, root).samples
    if not samples:
        raise DataError(f"dataset.root: {root} holds no images; `stagepipe check` says what is expected there")
    train = [sample for sample in samples if sample.split == "train"]
    size = image_size(samples[0].image)
    base = usual or Images(0, 0, size, "")
    return replace(
        base,
        train=len(train),
        test=len(samples) - len(train),
        size=size,
        source=f"files of {root}",
        always_train=sum(bool(sample.metadata.get(always)) for sample in train) if always else 0,
    )
