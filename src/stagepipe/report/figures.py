"""Pictures of the data, the folds, the training and its cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stagepipe.report.collect import Collected
from stagepipe.report.style import ACCENT, BASELINE, INK, MUTED, PALE, SECOND, SERIES, blank, panels
from stagepipe.report.summaries import class_pixels, cost_table, fold_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {"with foreground": ACCENT, "labelled": ACCENT, "empty": SERIES[5], "black": INK, "not labelled": "#b9c4cb"}
"""What an image is, and its colour; a black image counts as black whatever its mask; masks of several classes aren't
empty."""


def data_overview(found: Collected) -> "Figure":
    """Images per split, mask sizes or class shares, image sizes."""
    from matplotlib.figure import Figure

    if found.single:
        figure, (splits, masks, sizes) = panels(1, 3, 10, 3.1, widths=[1, 1.25, 1])
        _mask_sizes(masks, found)
    else:
        # Names of many classes need height, so the others share a column.
        figure = Figure(figsize=(10, max(4.4, 0.23 * len(found.classes) + 0.8)))
        axes = figure.subplot_mosaic([["splits", "classes"], ["sizes", "classes"]])
        splits, sizes = axes["splits"], axes["sizes"]
        _class_shares(axes["classes"], found)
    _splits(splits, found)
    _sizes(sizes, found.samples)
    return figure


def _splits(axes: "Axes", found: Collected) -> None:
    samples = found.samples
    labelled = "with foreground" if found.single else "labelled"
    kind = np.where(samples["mask_path"].isna() & samples["empty"].isna(), "not labelled", labelled)
    if found.single:
        kind = np.where(samples["empty"].fillna(False).astype(bool), "empty", kind)
    kind = np.where(samples["black"], "black", kind)
    counts = pd.crosstab(samples["split"], kind).reindex(index=["test", "train"], fill_value=0)
    left = np.zeros(len(counts))
    for name, colour in KINDS.items():
        if name in counts:
            axes.barh(counts.index, counts[name], left=left, color=colour, label=name, height=0.55)
            left += counts[name].to_numpy()
    for place, total in enumerate(left):
        axes.annotate(f" {total:,.0f}", (total, place), va="center", color=INK)
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.set(title="Images", ylim=(-0.6, 1.6))
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.1), ncols=2, handlelength=1, columnspacing=1.2)


def _class_shares(axes: "Axes", found: Collected) -> None:
    shares = class_pixels(found, found.samples)
    if shares.isna().all():
        return blank(axes, "no masks")
    axes.set_title("Share of pixels per class, %")
    _horizontal(axes, found.classes, 100 * shares.to_numpy(), form=".2f")
    return None


def _mask_sizes(axes: "Axes", found: Collected) -> None:
    labelled = found.samples[found.samples["coverage"].notna()]
    if labelled.empty:
        return blank(axes, "no masks")
    share = labelled["foreground"].to_numpy()
    axes.hist(100 * share[share > 0], bins=list(np.linspace(0, 100, 26)), color=ACCENT, rwidth=0.9)
    axes.grid(axis="x", visible=False)
    axes.set(title=f"Mask size ({(share > 0).sum():,} not empty)", xlabel="foreground, % of the image", ylabel="images")
    axes.locator_params(axis="y", integer=True)
    return None


def _sizes(axes: "Axes", samples: pd.DataFrame) -> None:
    sizes = samples.groupby(["height", "width"]).size().sort_values(ascending=False)
    names = [f"{height} x {width}" for height, width in sizes.index[:6]]
    counts = sizes.to_list()[:6]
    if len(sizes) > 6:
        names, counts = [*names, f"{len(sizes) - 6} others"], [*counts, int(sizes.iloc[6:].sum())]
    axes.set_title("Image sizes, height x width")
    _horizontal(axes, names, np.array(counts), form=",.0f")


def _horizontal(axes: "Axes", names: Sequence[str], values: np.ndarray, form: str = ".1f") -> None:
    axes.barh(range(len(names)), values, color=ACCENT, height=min(0.62, 0.16 + 0.1 * len(names)))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 3) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.2)
    for place, value in enumerate(values):
        axes.annotate(f" {value:{form}}", (value, place), va="center", color=INK, fontsize=8.5)


def fold_balance(found: Collected) -> "Figure":
    """One small panel a quantity: bars per fold, a line at the value of all folds together."""
    table = fold_table(found)
    columns = [name for name in table.columns if name != "fold" and table[name].notna().any()]
    across = len(columns) if len(columns) <= 5 else 4
    rows = -(-len(columns) // across)
    figure, axes = panels(rows, across, 10, 2.2 * rows + 0.3)
    folds = table[table["fold"] != "all"]
    for panel, name in zip(axes, columns, strict=False):
        values = folds[name].astype(float)
        panel.bar(folds["fold"].astype(str), values, color=ACCENT, width=0.6)
        middle = values.mean() if name == "images" else float(table[name].iloc[-1])
        panel.axhline(middle, color=BASELINE, linewidth=1.2)
        panel.set_title(name)
        panel.set_xlabel("fold")
        panel.grid(axis="x", visible=False)
        panel.set_ylim(0, 1.15 * values.max() or 1) if values.min() >= 0 else None
    for panel in axes[len(columns) :]:
        panel.set_axis_off()
    return figure


# ------------------------------------------------------------------------------------------------------------- training


def learning_curves(found: Collected) -> "Figure":
    """A row a run: loss, validation score and learning rate over the epochs of all its phases, a line a fold."""
    runs = [(stage.name, run) for stage in found.recipe.stages for run in stage.runs]
    rows = [key for key in runs if ((found.history["stage"] == key[0]) & (found.history["run"] == key[1])).any()]
    if not rows:
        figure, axes = panels(1, 1, 10, 2)
        blank(axes[0], "no learning histories")
        return figure
    colours = _fold_colours(found)
    figure, axes = panels(len(rows), 3, 10, 2.15 * len(rows) + 0.5)
    for place, (stage, run) in enumerate(rows):
        history = found.history[(found.history["stage"] == stage) & (found.history["run"] == run)]
        _curves(axes[3 * place : 3 * place + 3], history.sort_values("position"), colours)
        axes[3 * place].set_ylabel(f"{stage}\n{run}", color=INK, fontweight="bold")
    for panel, name in zip(axes, ("training loss", "validation score", "learning rate"), strict=False):
        panel.set_title(name, pad=20)
    for panel in axes[-3:]:
        panel.set_xlabel("epoch")
    handles = [panels_line(colour, name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 10), handlelength=1.4)
    return figure


def panels_line(colour: str, name: str) -> object:
    """A legend entry of a fold."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, label=name if name == "shared" else f"fold {name}", linewidth=2)


def _fold_colours(found: Collected) -> dict[str, str]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    names = sorted(set(found.history["fold"]) - {"shared"}, key=lambda name: (len(name), name))
    spread = colormaps["viridis"](np.linspace(0.08, 0.82, max(len(names), 1)))
    shared = {"shared": INK} if "shared" in set(found.history["fold"]) else {}
    return shared | {name: to_hex(colour) for name, colour in zip(names, spread, strict=False)}


def _curves(axes: "Sequence[Axes]", history: pd.DataFrame, colours: dict[str, str]) -> None:
    starts = history.groupby("phase", sort=False)["position"].min().sort_values()
    for panel, column in zip(axes, ("loss", "score", "lr"), strict=True):
        for (fold, _), line in history.groupby(["fold", "phase"], sort=False):
            marker = "o" if len(line) == 1 else None
            panel.plot(line["position"] + 1, line[column], color=colours[fold], linewidth=1.1, marker=marker, ms=3)
        for start in starts.iloc[1:]:
            panel.axvline(start + 0.5, color=MUTED, linewidth=0.7, linestyle=(0, (2, 2)))
        steep = column != "score" and 0 < 50 * history[column].min() < history[column].max()
        panel.set_yscale("log" if steep else "linear")
        panel.set_xlim(0.5, history["position"].max() + 1.5)
        panel.locator_params(axis="x", integer=True)
    _name_phases(axes[0], starts, history["position"].max() + 1)


def _name_phases(panel: "Axes", starts: pd.Series, epochs: int) -> None:
    """Names of the phases above the panel, shortened to the room each has."""
    ends = [*starts.iloc[1:], epochs]
    for (name, start), end in zip(starts.items(), ends, strict=True):
        letters = max(2, int(42 * (end - start) / epochs))
        text = str(name) if len(str(name)) <= letters else f"{str(name)[: letters - 1]}…"
        place = (start + 0.6, 1.02)
        panel.text(*place, text, transform=panel.get_xaxis_transform(), color=MUTED, fontsize=7.5)


# ----------------------------------------------------------------------------------------------------------------- cost


def cost(found: Collected) -> "Figure":
    """Wall hours and CPU hours per stage and rule, and the largest memory of a job."""
    table = cost_table(found)
    if table.empty:
        figure, axes = panels(1, 1, 10, 2)
        blank(axes[0], "no benchmark files")
        return figure
    names = [f"{row.stage} · {row.rule}" if row.stage else row.rule for row in table.itertuples()]
    figure, axes = panels(1, 2, 10, 0.31 * len(names) + 1.4, sharey=True, widths=[1.5, 1])
    places = np.arange(len(names))
    unit, factor = ("hours", 1.0) if table["wall"].max() >= 0.5 else ("minutes", 60.0)
    axes[0].barh(places - 0.18, factor * table["wall"], height=0.34, color=ACCENT, label="wall clock")
    axes[0].barh(places + 0.18, factor * table["cpu"], height=0.34, color=SECOND, alpha=0.55, label="CPU")
    axes[0].set(title=f"Time of all jobs, {unit}", ylim=(len(names) - 0.4, -0.6))
    axes[0].set_yticks(places, names)
    figure.legend(loc="outside lower center", ncols=2)
    axes[1].barh(places, table["memory"], height=0.5, color=BASELINE)
    axes[1].set_title("Peak memory of a job, GiB")
    for panel in axes:
        panel.grid(axis="y", visible=False)
    for place in places[::2]:
        for panel in axes:
            panel.axhspan(place - 0.5, place + 0.5, color=PALE, zorder=0, linewidth=0)
    return figure
