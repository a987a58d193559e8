"""Pictures of the scores, the pseudolabels, the chosen cases and the threshold."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stagepipe.binarise import Rule
from stagepipe.report.classes import by_stage
from stagepipe.report.collect import COVERAGE_BINS, Collected
from stagepipe.report.overlays import PANES, Case
from stagepipe.report.style import ACCENT, BASELINE, INK, MUTED, SECOND, SERIES, blank, panels
from stagepipe.report.summaries import headline_run, mean_score, score_table, words
from stagepipe.report.triptychs import IGNORED, class_colours, hexadecimal, shown_classes
from stagepipe.scores import ALL_EMPTY
from stagepipe.triplets import Triplet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = [colour for colour in SERIES if colour != BASELINE]
COLUMNS = 6
"""of the legend of classes"""
LONGEST = 32
"""characters of an id above a strip; of a longer one its end, which tells the ids of DICOM files apart"""


def scores(found: Collected) -> "Figure":
    """Left: every fold, the mean and the all-empty score of each run. Right: the score by mask size, or by class."""
    table = score_table(found)
    rows = table[table["run"] != ALL_EMPTY]
    if rows.empty:
        figure, axes = panels(1, 1, 10, 2)
        blank(axes[0], "no scores")
        return figure
    lines = len(rows) if found.single else max(len(rows), 0.55 * len(found.classes))
    figure, axes = panels(1, 2, 10, max(3.6, 0.42 * lines + 1.5), widths=[1, 1.05])
    _by_run(axes[0], found, rows)
    (_by_size if found.single else _by_class)(axes[1], found)
    return figure


def _by_run(axes: "Axes", found: Collected, rows: pd.DataFrame) -> None:
    folds = score_table(found, ["fold"])
    for place, row in enumerate(rows.itertuples()):
        own = folds[_of(folds, row.stage, row.run)]
        mean = getattr(row, found.metric)
        fold, middle, baseline = ("fold", "mean", "all-empty") if place == 0 else ("", "", "")
        axes.plot(own[found.metric], [place] * len(own), "o", color=ACCENT, ms=5, alpha=0.5, mew=0, label=fold)
        axes.plot([mean], [place], "|", color=INK, ms=15, mew=2.2, label=middle)
        if found.single:
            empty = mean_score(found, row.stage, ALL_EMPTY)
            axes.plot([empty, mean], [place, place], color=ACCENT, alpha=0.25, linewidth=5, solid_capstyle="butt")
            axes.plot([empty], [place], "D", color=BASELINE, ms=5, label=baseline)
        axes.annotate(f"{mean:.3f}", (mean, place), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{row.stage} · {row.run}" for row in rows.itertuples()])
    axes.set(ylim=(len(rows) - 0.4, -0.8), title=f"{words(found.metric)} per run")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.07), ncols=3, handletextpad=0.3)


def _by_size(axes: "Axes", found: Collected) -> None:
    bins = score_table(found, ["bin"]).astype({"bin": str})
    known = [name for name in COVERAGE_BINS if (bins["bin"] == name).any()]
    runs = [(stage, headline_run(found, stage)) for stage in [*found.stages, "submission"]]
    lines = {(stage, run): bins[_of(bins, stage, run)].set_index("bin").reindex(known) for stage, run in runs if run}
    for place, ((stage, run), line) in enumerate(lines.items()):
        axes.plot(known, line[found.metric], "o-", color=LINES[place % len(LINES)], ms=4, label=f"{stage} · {run}")
    empty = bins[bins["run"] == ALL_EMPTY].groupby("bin")[found.metric].mean().reindex(known)
    axes.plot(known, empty, "D--", color=BASELINE, ms=4, label="all-empty")
    counts = line["images"].fillna(0).astype(int)
    axes.set_xticks(range(len(known)), [f"{name}\n{counts[name]:,}" for name in known], fontsize=7.5)
    axes.set(title=f"{words(found.metric)} by true mask size", ylim=(-0.04, 1.04))
    axes.set_xlabel("foreground share of the image, and number of images")
    axes.legend(loc="best", fontsize=8)


def _by_class(axes: "Axes", found: Collected) -> None:
    """IoU of every class over the pixels of all images: of the submission a bar, of each stage a dot."""
    scores = {stage: table["iou"] for stage, table in by_stage(found).items()}
    if not scores:
        return blank(axes, "no confusion of out-of-fold predictions")
    *stages, last = scores
    names = scores[last].index
    places = np.arange(len(names))
    axes.barh(places, scores[last], height=0.7, color=ACCENT, alpha=0.3, label=last)
    for place, stage in enumerate(stages):
        axes.plot(scores[stage], places, "o", color=LINES[place % len(LINES)], ms=4, mew=0, label=stage)
    axes.set_yticks(places, names)
    for label in axes.get_yticklabels():
        evaluated = label.get_text() in found.recipe.dataset.evaluated
        label.set(fontweight="bold" if evaluated else "normal", color=INK if evaluated else MUTED)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), title="IoU of all pixels per class")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.05), ncols=4, handletextpad=0.4)
    return None


def _of(table: pd.DataFrame, stage: object, run: object) -> "pd.Series[bool]":
    return (table["stage"] == stage) & (table["run"] == run)


# --------------------------------------------------------------------------------------------------------- pseudolabels


def pseudolabels(found: Collected) -> "Figure":
    """A row a stage or run: how confident the kept masks are, how large, and how many each fold may see."""
    owners = [owner for owner in found.pseudolabel_sets if (found.pseudolabels["owner"] == owner).any()]
    if not owners:
        figure, axes = panels(1, 1, 10, 2)
        used = bool(found.pseudolabel_sets)
        blank(
            axes[0],
            "no test image was confident enough to keep" if used else "no stage of this recipe trains on pseudolabels",
        )
        return figure
    figure, axes = panels(len(owners), 3, 10, 2.5 * len(owners) + 0.3)
    for place, owner in enumerate(owners):
        _kept(axes[3 * place : 3 * place + 3], found, owner)
    return figure


def _kept(axes: "list[Axes]", found: Collected, owner: str) -> None:
    rows = found.pseudolabels[found.pseudolabels["owner"] == owner]
    lowest = max(0.0, float(rows["confidence"].min()) - 0.02)
    axes[0].hist(rows["confidence"], bins=list(np.linspace(lowest, 1, 26)), color=ACCENT, rwidth=0.9)
    axes[0].set(title=f"{len(rows):,} masks kept", xlabel="confidence")
    axes[0].set_ylabel(owner.replace("/", "\n"), color=INK, fontweight="bold")
    if found.single:
        share = 100 * rows[found.classes[0]]
        axes[1].hist(share[share > 0], bins=list(np.linspace(0, 100, 21)), color=SECOND, rwidth=0.9)
        axes[1].set(title=f"mask size ({(share == 0).sum():,} empty)", xlabel="foreground, % of the image")
    else:
        places, size = range(len(found.classes)), 7.5 if len(found.classes) <= 12 else 6
        axes[1].bar(places, 100 * rows[found.classes].mean(), color=SECOND, width=0.6)
        axes[1].set_xticks(places, found.classes, rotation=90, fontsize=size)
        axes[1].set(title="share of pixels per class, %")
    seen = rows["folds"].explode().value_counts().sort_index()
    axes[2].bar([str(fold) for fold in seen.index], seen.to_numpy(), color=SERIES[3], width=0.6)
    axes[2].set(title="may be seen by fold", xlabel="fold")
    for panel in axes:
        panel.grid(axis="x", visible=False)
    for panel in axes[:2] if found.single else axes[:1]:
        panel.locator_params(axis="y", integer=True)
    axes[2].locator_params(axis="y", integer=True)


# ------------------------------------------------------------------------------------------------------------ threshold


def thresholds(found: Collected, histogram: NDArray[np.int64]) -> "Figure":
    """Of a single class the score by threshold; how sure the blend is (int64 [256] histogram of its pixels)."""
    if found.curve.empty:
        figure, axes = panels(1, 1, 10, 3)
        sureness(axes[0], found, histogram)
        return figure
    figure, axes = panels(1, 2, 10, 3.5, widths=[1.25, 1])
    panel, summary = axes[0], found.threshold
    chosen = float(summary["chosen"])
    label = f"{'chosen' if summary['searched'] else 'fixed'} {chosen:.3g}"
    panel.plot(found.curve["threshold"], found.curve["score"], color=ACCENT, linewidth=2)
    panel.axvline(chosen, color=INK, linewidth=1, linestyle=(0, (3, 2)), label=label)
    for marker, colour, name in (("o", ACCENT, "in_sample"), ("D", BASELINE, "nested")):
        label = f"best {name.replace('_', ' ')} {summary[name]:.4f}"
        panel.plot([summary["best"]], [summary[name]], marker, color=colour, ms=6.5, ls="", label=label)
    panel.set(title="Score by threshold", xlabel="threshold", ylabel=words(summary["metric"]))
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, handlelength=1.2, columnspacing=1.2)
    sureness(axes[1], found, histogram)
    return figure


def sureness(axes: "Axes", found: Collected, histogram: NDArray[np.int64]) -> None:
    """Where the probabilities of the blend lie (int64 [256] histogram), and its thresholds."""
    share = 100 * histogram.reshape(32, 8).sum(axis=1) / max(histogram.sum(), 1)
    axes.bar((np.arange(32) + 0.5) / 32, share, width=0.9 / 32, color=SECOND)
    axes.set_yscale("log")
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("% of pixels")
    axes.set_title("How sure the blend is")
    axes.set_xlabel(
        "out-of-fold probability of " + ("foreground" if len(found.classes) == 1 else "the likeliest class")
    )
    cuts = _cuts(found.chosen_threshold)
    for name, threshold in cuts.items():
        axes.axvline(threshold, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        # The lower one's name stands on its left, so that two that are close stay apart.
        side = "right" if threshold == min(cuts.values()) else "left"
        above = axes.get_xaxis_transform()
        axes.text(threshold, 0.98, f" {name} ", ha=side, va="top", fontsize=8, transform=above)


def _cuts(rule: Rule) -> dict[str, float]:
    """Thresholds by what is written beside them."""
    if isinstance(rule, Triplet):
        return {"": rule.top} if rule.top == rule.bottom else {"bottom": rule.bottom, "top": rule.top}
    return {} if rule is None else {"": rule}


# ---------------------------------------------------------------------------------------------------------------- cases


def cases(found: Collected, shown: list[Case]) -> "Figure":
    """All strips with their scores, in two columns; of several classes in one, above the colours of the classes."""
    if not shown:
        figure, axes = panels(1, 1, 10, 2)
        blank(axes[0], "no out-of-fold predictions to show")
        return figure
    # White on the right and one scale for all: a pair of panes is as large as those of a triple.
    width = max(case.strip.shape[1] for case in shown)
    strips = [
        np.pad(case.strip, ((0, 0), (0, width - case.strip.shape[1]), (0, 0)), constant_values=255) for case in shown
    ]
    across = 2 if found.single else 1
    starts = range(0, len(strips), across)
    tallest = [max(strip.shape[0] for strip in strips[start : start + across]) for start in starts]
    heights = [9.6 / across * pixels / width + 0.42 for pixels in tallest]
    legend = 0.0 if found.single else 0.25 * -(-len(found.classes) // COLUMNS) + 0.2
    figure, axes = panels(len(heights), across, 10, sum(heights) + 0.3 + legend, heights=heights)
    for panel in axes:
        panel.set_axis_off()
        panel.set_anchor("NW")
    for panel, case, strip in zip(axes, shown, strips, strict=False):
        panel.imshow(strip, interpolation="antialiased")
        score = "" if case.score is None else f"  {words(found.metric)} {case.score:.2f}"
        score += f"  worst {case.worst_class[0]} {case.worst_class[1]:.2f}" if case.worst_class else ""
        name = case.sample_id if len(case.sample_id) <= LONGEST else f"…{case.sample_id[1 - LONGEST :]}"
        panel.set_title(f"{case.kind}  {name}{score}", fontsize=8.5, fontweight="normal", pad=4, color=MUTED)
    figure.suptitle(" | ".join(PANES[found.single]), color=MUTED, fontsize=9)
    if not found.single:
        _class_legend(figure, found)
    return figure


def _class_legend(figure: "Figure", found: Collected) -> None:
    from matplotlib.patches import Patch

    colours = zip(found.classes, class_colours(found.recipe.dataset), strict=True)
    shown = set(shown_classes(found.recipe.dataset))
    patches = [Patch(color=hexadecimal(colour), label=name) for name, colour in colours if name in shown]
    if found.recipe.dataset.ignore_index is not None:
        light, dark = map(hexadecimal, IGNORED)
        patches.append(Patch(facecolor=light, edgecolor=dark, hatch="////", label="not counted"))
    figure.legend(handles=patches, loc="outside lower center", ncols=COLUMNS, handlelength=1)
