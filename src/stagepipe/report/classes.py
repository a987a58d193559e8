"""Several classes one by one: what is taken for what, and the scores of each over the pixels of all images."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stagepipe.report.collect import Collected
from stagepipe.report.markup import Cell, Swatch, figure, section, table
from stagepipe.report.style import ACCENT, INK, MUTED, PALE, blank, panels
from stagepipe.report.summaries import headline_run
from stagepipe.report.triptychs import class_colours, shown_classes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

READABLE = 20
"""classes whose shares are written into their cells at most"""
CELL = 0.38
"""inches of a cell's edge"""
NARROWEST, WIDEST = 3.5, 7.6
"""inches of all cells together"""


def confusion(found: Collected, stage: str, run: str | None) -> pd.DataFrame:
    """Pixels of a run, all folds together: rows are true classes without an ignored one, columns all predicted."""
    rows = found.confusions[(found.confusions["stage"] == stage) & (found.confusions["run"] == run)]
    pixels = rows.pivot_table(index="truth", columns="predicted", values="pixels", aggfunc="sum", fill_value=0)
    return pixels.reindex(index=shown_classes(found.recipe.dataset), columns=found.classes, fill_value=0).astype(int)


def class_scores(pixels: pd.DataFrame) -> pd.DataFrame:
    """Of each true class of a confusion: pixels, share of all, iou, precision, recall; not a number without pixels.

    IoU is that of all images' pixels together, I / (T + P - I).
    """
    common = pd.Series(np.diag(pixels[pixels.index]), index=pixels.index)
    true, predicted = pixels.sum(axis=1), pixels[pixels.index].sum(axis=0)
    parts = {"share": (true, true.sum()), "iou": (common, true + predicted - common)}
    parts |= {"precision": (common, predicted), "recall": (common, true)}
    ratios = {name: part / np.where(whole > 0, whole, np.nan) for name, (part, whole) in parts.items()}
    return pd.DataFrame({"pixels": true} | ratios)


def taken_for(pixels: pd.DataFrame, name: str) -> tuple[str, float] | None:
    """The class that most of a class's missed pixels are taken for, and its share of the class; None if none is."""
    row = pixels.loc[name]
    others = row.drop(name)
    return (str(others.idxmax()), float(others.max() / row.sum())) if others.sum() else None


def by_stage(found: Collected) -> dict[str, pd.DataFrame]:
    """Class scores of the run that speaks for each stage and the submission, where there are confusions."""
    stages = {stage: headline_run(found, stage) for stage in [*found.stages, "submission"]}
    matrices = {stage: confusion(found, stage, run) for stage, run in stages.items()}
    return {stage: class_scores(pixels) for stage, pixels in matrices.items() if pixels.to_numpy().any()}


# --------------------------------------------------------------------------------------------------------- the pictures


def confusion_matrix(found: Collected) -> "Figure":
    """What the submission's blend takes each class for, in per cent of the class's pixels."""
    pixels = confusion(found, "submission", headline_run(found, "submission"))
    if not pixels.to_numpy().any():
        whole, (axes,) = panels(1, 1, 10, 2)
        blank(axes, "no confusion of out-of-fold predictions")
        return whole
    shares = 100 * pixels.div(pixels.sum(axis=1).replace(0, np.nan), axis=0)[pixels.index]
    count = len(shares)
    side = min(WIDEST, max(CELL * count, NARROWEST))
    whole, (axes,) = panels(1, 1, 10, side + 1.3)
    _shades(axes, shares)
    if count <= READABLE:
        _write(axes, shares)
    _names(axes, found, shares)
    return whole


def _shades(axes: "Axes", shares: pd.DataFrame) -> None:
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    steps = ["#ffffff", "#b9d7dd", ACCENT, "#123f4d"]
    colours = LinearSegmentedColormap.from_list("shares", steps).with_extremes(bad=PALE)
    # The square root keeps a confusion of a few per cent in sight.
    shades = axes.pcolormesh(
        shares.to_numpy(), cmap=colours, norm=PowerNorm(0.5, 0, 100), edgecolors="white", linewidth=0.8
    )
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_anchor("W")
    beside = axes.inset_axes((1.03, 0.2, 0.025, 0.6))
    bar = axes.figure.colorbar(shades, cax=beside, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("% of the true class's pixels")
    bar.outline.set_visible(False)


def _write(axes: "Axes", shares: pd.DataFrame) -> None:
    """Per cent in their cells; what rounds to nothing is left out."""
    for (row, column), share in np.ndenumerate(shares.to_numpy()):
        if share >= 0.5:
            colour = "white" if share > 20 else INK
            place = (column + 0.5, row + 0.5)
            axes.text(*place, f"{share:.0f}", ha="center", va="center", fontsize=7.5, color=colour)


def _names(axes: "Axes", found: Collected, shares: pd.DataFrame) -> None:
    """Names of rows and columns; those that are evaluated are bold."""
    places, size = np.arange(len(shares)) + 0.5, 8.5 if len(shares) <= READABLE else 6
    step = max(1, -(-len(shares) // 70))
    axes.set_yticks(places[::step], shares.index[::step], fontsize=size)
    axes.set_xticks(
        places[::step], shares.columns[::step], rotation=45, ha="right", rotation_mode="anchor", fontsize=size
    )
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        evaluated = label.get_text() in found.recipe.dataset.evaluated
        label.set(fontweight="bold" if evaluated else "normal", color=INK if evaluated else MUTED)
    axes.set_ylabel("truth")
    axes.set_xlabel("prediction of the submission's blend")


# --------------------------------------------------------------------------------------------------------- the section


def classes(found: Collected, drawn: dict[str, bytes]) -> str:
    """The confusion matrix and a table of the classes."""
    several = by_stage(found)
    if not several:
        return section("classes", "Classes", "<p>There are no out-of-fold predictions to tell classes apart by.</p>")
    bold = "Classes that are evaluated are bold. " if found.recipe.dataset.evaluated else ""
    caption = (
        "Each row is a true class, all its pixels of all labelled images: what per cent of them the submission&rsquo;s "
        f"blend takes for the class of a column. {bold}Shares below one half of a per cent are not written."
    )
    alt = "Matrix of true by predicted classes in per cent of the true class"
    meaning = (
        "<p>Share is that of the truth&rsquo;s pixels. IoU is that of all pixels together: where truth and prediction "
        "agree on the class, as a share of where one of them has it. Precision is the share of what is predicted that "
        "is right, recall the share of the truth that is found.</p>"
    )
    return section("classes", "Classes", figure(drawn["confusion.png"], alt, caption), _table(found, several), meaning)


def _table(found: Collected, several: dict[str, pd.DataFrame]) -> str:
    last = list(several)[-1]
    pixels, own = confusion(found, last, headline_run(found, last)), several[last]
    colours = dict(zip(found.classes, class_colours(found.recipe.dataset), strict=True))
    rows: list[list[Cell]] = []
    for name in own.index:
        values = (float(scores.loc[name, "iou"]) for scores in several.values())
        most = taken_for(pixels, name)
        confused = None if most is None else f"{most[0]} {most[1]:.1%}"
        share = f"{own.loc[name, 'share']:.2%}"
        parts = (float(own.loc[name, part]) for part in ("precision", "recall"))
        rows.append([Swatch(name, colours[name]), share, *values, *parts, confused])
    scored = found.recipe.dataset.scored
    means = (float(scores.loc[scored, "iou"].mean()) for scores in several.values())
    rows.append(["mean of bold ones" if found.recipe.dataset.evaluated else "mean", None, *means, None, None, None])
    marks = ["strong" if name in found.recipe.dataset.evaluated else "" for name in own.index] + ["strong"]
    ious = [f"IoU {stage}" for stage in several]
    head = ["class", "share", *ious, "precision", "recall", "mostly taken for"]
    return table(head, rows, digits=3, marks=marks)
