"""What a report is made of, and the names of its pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stagepipe.recipe.model import Recipe

PICTURES = (
    "data_overview.png",
    "fold_balance.png",
    "learning_curves.png",
    "scores.png",
    "pseudolabels.png",
    "cases.png",
    "thresholds.png",
    "cost.png",
)
"""Names of the pictures, in the order of the page; every report has them all."""
MOSAICS_PICTURE = "mosaics.png"
"""one more picture, of a recipe with a jigsaw step"""
CONFUSION_PICTURE = "confusion.png"
"""one more picture, of a recipe with several classes"""


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made of."""

    name: str
    """name of the recipe"""
    recipe: Recipe
    samples: Path
    pixels: Path
    """the pixel store"""
    folds: Path
    faults: Path
    histories: Sequence[Path]
    """learning histories, one file a training job"""
    cases: Sequence[Path]
    """per-image scores: of every stage (its runs, `ensemble`, `all_empty`) and of the submission (`blend`)"""
    scores_csv: Path
    pseudolabels: Mapping[str, Path]
    """by the `stage` or `stage/run` that trains on them"""
    threshold_summary: Path
    """JSON: `chosen` and, of a single class, searched, best, in_sample, nested and by_fold"""
    thresholds: Path
    """score by threshold or triplet; empty for several classes"""
    blend_out_of_fold: Path
    """probability table"""
    blend_test: Path
    """probability table"""
    submission: Path
    confusions: Sequence[Path] = ()
    """pixels by true and predicted class: of every stage and of the submission, in the order of `cases`; only those of
    several classes are shown"""
    benchmarks: Sequence[Path] = ()
    """Snakemake's, under `benchmarks/<rule>/<stage>...` (a rule without stages: `benchmarks/<rule>.tsv`)"""
    blend: Path | None = None
    """JSON: the shares of the submission's blend, if they were searched"""
    emptiness: Sequence[Path] = ()
    """probability tables of the blend that decides which masks are empty, out of fold and test"""
    mosaics: Path | None = None
    """where each tile lies; this and the next two of a recipe with a jigsaw step, else none"""
    jigsaw: Path | None = None
    """masks that the rules put, or would put, in the place of predictions, of test tiles and of labelled ones"""
    jigsaw_effects: Path | None = None
    """scores of the labelled ones before and after"""
