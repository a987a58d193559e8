"""The triplet of the submission: the score of all that were tried, and by how much the search flatters itself."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stagepipe.masks import read_rule
from stagepipe.report.collect import Collected
from stagepipe.report.markup import Cell, figure, section, table, text
from stagepipe.report.plots import sureness
from stagepipe.report.style import ACCENT, BASELINE, INK, PALE, panels
from stagepipe.report.summaries import in_words, mean_score, words
from stagepipe.scores import ALL_EMPTY
from stagepipe.triplets import Triplet

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure, SubFigure

MAPS = {1: (1, 1), 2: (1, 2), 3: (1, 3), 4: (2, 2)}
"""rows and columns of so many maps"""
MOST = 12
"""labels of a vertical axis, and rows of a map with written scores"""
WIDTH = 7
"""inches of all columns of maps together"""
CHARACTER = 0.075
"""inches of a digit of a label"""
SCORE = 0.36
"""inches that a written score is wide"""


def thresholds(found: Collected, histogram: NDArray[np.int64]) -> "Figure":
    """The score of every triplet that was tried; how sure the blend is (int64 [256] histogram of its pixels).

    A grid in which one number varies is a curve, two make a map, three a map for each of the bottoms around the best.
    """
    from matplotlib.figure import Figure

    varying = _varying(found)
    if not varying:
        alone, axes = panels(1, 1, 10, 3)
        sureness(axes[0], found, histogram)
        return alone
    if len(varying) < 3:
        whole = Figure(figsize=(10, 3.9))
        first, second = whole.subfigures(1, 2, squeeze=False, width_ratios=[1.25, 1]).flat
    else:
        rows, _ = MAPS[len(_layers(found, varying))]
        height = 0.8 + rows * (0.9 + 0.3 * min(found.curve["top"].nunique(), 8))
        whole = Figure(figsize=(10, height + 2.8))
        first, second = whole.subfigures(2, 1, squeeze=False, height_ratios=[height, 2.8]).flat
    draw = _line if len(varying) == 1 else _maps
    draw(first, found, varying)
    sureness(second.subplots(), found, histogram)
    return whole


def _doublets(found: Collected) -> bool:
    return bool((found.curve["top"] == found.curve["bottom"]).all())


def _varying(found: Collected) -> list[str]:
    """The numbers of a triplet that the grid varies; the top of doublets is their bottom."""
    names = ["area", "bottom"] if _doublets(found) else ["area", "top", "bottom"]
    return [name for name in names if found.curve[name].nunique() > 1]


def _best(found: Collected) -> Triplet:
    best = read_rule(found.threshold["best"])
    assert isinstance(best, Triplet)
    return best


def _others(found: Collected) -> dict[str, Triplet]:
    """By fold: the triplet that the other folds choose."""
    rules = {fold: read_rule(value) for fold, value in found.threshold["by_fold"].items()}
    return {fold: rule for fold, rule in rules.items() if isinstance(rule, Triplet)}


def _label(found: Collected, name: str) -> str:
    if name != "area":
        return "threshold" if _doublets(found) else f"{name} threshold"
    size = _best(found).size
    return "area in pixels" + (f" at {size[0]} x {size[1]}" if size else "")


# -------------------------------------------------------------------------------------------------------- the pictures


def _line(place: "SubFigure", found: Collected, varying: list[str]) -> None:
    """The score by the one number that varies."""
    axes, (name,) = place.subplots(), varying
    line = found.curve.sort_values(name)
    axes.plot(line[name], line["score"], "o-", color=ACCENT, ms=3.5, linewidth=1.6)
    best = getattr(_best(found), name)
    axes.axvline(best, color=INK, linewidth=1, linestyle=(0, (3, 2)), label=f"chosen {best:g}")
    for marker, colour, of in (("o", ACCENT, "in_sample"), ("D", BASELINE, "nested")):
        score = found.threshold[of]
        axes.plot([best], [score], marker, color=colour, ms=6.5, ls="", label=f"{of.replace('_', ' ')} {score:.4f}")
    title = "threshold" if _doublets(found) and name == "bottom" else name
    axes.set(title=f"Score by {title}", xlabel=_label(found, name), ylabel=words(found.metric))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, handlelength=1.2, columnspacing=1.2)


def _layers(found: Collected, varying: list[str]) -> dict[float, pd.DataFrame]:
    """Tables of scores, the second number by the first: one, or one by bottom, of the four around the best."""
    first, second, *third = varying
    best = _best(found).bottom
    if not third:
        return {best: _crossed(found.curve, first, second)}
    bottoms = sorted(found.curve["bottom"].unique().tolist())
    start = min(max(0, bottoms.index(best) - 1), max(0, len(bottoms) - max(MAPS)))
    whole = _crossed(found.curve, first, second)
    return {
        bottom: _crossed(found.curve[found.curve["bottom"] == bottom], first, second).reindex_like(whole)
        for bottom in bottoms[start : start + max(MAPS)]
    }


def _crossed(curve: pd.DataFrame, across: str, down: str) -> pd.DataFrame:
    # Grids for several image sizes may share numbers: their best is shown.
    return curve.pivot_table(index=down, columns=across, values="score", aggfunc="max")


def _maps(place: "SubFigure", found: Collected, varying: list[str]) -> None:
    """Scores of two numbers as colours, a panel for each layer."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    layers = _layers(found, varying)
    rows, columns = MAPS[len(layers)]
    panes = place.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    colours = LinearSegmentedColormap.from_list("scores", [PALE, "#8fbcc6", ACCENT, "#123f4d"])
    shades = Normalize(found.curve["score"].min(), found.curve["score"].max())
    legend: dict[str, Artist] = {}
    for axes, (bottom, layer) in zip(panes.flat, layers.items(), strict=True):
        edges = 1 if layer.size <= 200 else 0.3
        mesh = axes.pcolormesh(layer.to_numpy(), cmap=colours, norm=shades, edgecolors="white", linewidth=edges)
        axes.set_title(_title(found, varying, bottom), fontsize=9)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        _ticks(axes, layer, inches=WIDTH / columns)
        if len(layer.columns) * columns * SCORE < WIDTH and len(layer) <= MOST:
            _write(axes, layer, shades)
        legend |= _marks(axes, found, varying, bottom, layer)
    for axes in panes[-1]:
        axes.set_xlabel(_label(found, varying[0]))
    for axes in panes[:, 0]:
        axes.set_ylabel(_label(found, varying[1]))
    inches = place.bbox.height / place.dpi
    bar = place.colorbar(mesh, ax=panes, aspect=8 * (inches - 1), pad=0.02, label=words(found.metric))
    bar.outline.set_visible(False)
    names = sorted(legend)
    place.legend([legend[name] for name in names], names, loc="outside lower center", ncols=2)


def _title(found: Collected, varying: list[str], bottom: float) -> str:
    if len(varying) == 3:
        return f"bottom {bottom:g}"
    if _doublets(found):
        return "Score of doublets"
    (fixed,) = {"area", "top", "bottom"} - set(varying)
    return f"{fixed} {getattr(_best(found), fixed):,g}"


def _ticks(axes: "Axes", layer: pd.DataFrame, inches: float) -> None:
    """Names of columns and rows; of more than have room (columns in so many inches) every second, third, ..."""
    for axis, values in ((axes.xaxis, layer.columns), (axes.yaxis, layer.index)):
        names = [f"{value:,g}" for value in values]
        room = MOST if axis is axes.yaxis else int(inches / (CHARACTER * (max(map(len, names)) + 1)))
        step = -(-len(names) // room)
        axis.set_ticks(np.arange(0, len(names), step) + 0.5, names[::step])


def _write(axes: "Axes", layer: pd.DataFrame, shades: "Normalize") -> None:
    """Scores in their cells."""
    for (row, column), score in np.ndenumerate(layer.to_numpy()):
        colour = "white" if shades(score) > 0.45 else INK
        if not np.isnan(score):
            axes.text(column + 0.5, row + 0.5, f"{score:.4f}", ha="center", va="center", fontsize=7, color=colour)


def _marks(
    axes: "Axes", found: Collected, varying: list[str], bottom: float, layer: pd.DataFrame
) -> "dict[str, Artist]":
    """A frame round the best triplet, a dot at those that are best without one of the folds; by name."""
    from matplotlib.patches import Rectangle

    def corner(triplet: Triplet) -> tuple[int, int]:
        across, down = (getattr(triplet, name) for name in varying[:2])
        return layer.columns.tolist().index(across), layer.index.tolist().index(down)

    marks: dict[str, Artist] = {}
    best, others = _best(found), set(_others(found).values())
    here = [corner(triplet) for triplet in others if len(varying) == 2 or triplet.bottom == bottom]
    if here:
        x, y = np.array(here).T
        (marks["best without one of the folds"],) = axes.plot(x + 0.88, y + 0.84, "o", color=BASELINE, ms=3.5)
    if best.bottom == bottom:
        frame = Rectangle(corner(best), 1, 1, fill=False, edgecolor=BASELINE, linewidth=2, clip_on=False, zorder=3)
        marks["best"] = axes.add_patch(frame)
    return marks


# --------------------------------------------------------------------------------------------------------- the section


def threshold(found: Collected, drawn: dict[str, bytes]) -> str:
    """The triplet in words, and by how much a search flatters itself."""
    alt = "Score of every triplet that was tried; histogram of out-of-fold probabilities"
    picture = figure(drawn["thresholds.png"], alt, _caption(found))
    return section("threshold", "Threshold", picture, _flattery(found), _choices(found))


def _caption(found: Collected) -> str:
    varying = _varying(found)
    parts = ["The histogram shows where the probabilities of out-of-fold predictions lie, and the thresholds."]
    if varying:
        parts.insert(0, "The score of all out-of-fold predictions together, of each triplet that was tried.")
    if len(varying) == 3:
        bottoms, shown = found.curve["bottom"].nunique(), len(_layers(found, varying))
        parts.insert(1, f"{shown} of {bottoms} bottom thresholds are shown." if shown < bottoms else "")
    if varying and found.recipe.submission.postprocess:
        parts.append("Masks are not postprocessed yet.")
    return " ".join(filter(None, parts))


def _flattery(found: Collected) -> str:
    assert found.triplet is not None
    in_sample, nested = float(found.threshold["in_sample"]), float(found.threshold["nested"])
    mask = f"A mask is what is <strong>{escape(in_words(found.triplet))}</strong>"
    empty = f"Empty masks everywhere score {text(mean_score(found, 'submission', ALL_EMPTY))}."
    if not found.threshold["searched"]:
        return f"<p>The recipe fixes the triplet. {mask}. It scores {text(in_sample)}. {empty}</p>"
    return (
        f"<p>The search tried {len(found.curve):,} triplets. {mask}. It scores {text(in_sample)} on the predictions it "
        f"is chosen on, but {text(nested)} when each fold is scored with the triplet that the other folds choose. "
        f"<strong>The search flatters itself by {in_sample - nested:.4f}.</strong> {empty}</p>"
    )


def _choices(found: Collected) -> str:
    """What all folds together choose, and all but one."""
    if not found.threshold["searched"]:
        return ""
    choices = {"all folds": _best(found)} | {f"all but fold {fold}": rule for fold, rule in _others(found).items()}
    rows: list[list[Cell]] = [
        [name, f"{triplet.top:g}", triplet.area, f"{triplet.bottom:g}"] for name, triplet in choices.items()
    ]
    return table(["chosen on", "top", "area", "bottom"], rows, marks=["strong", *[""] * (len(choices) - 1)])
