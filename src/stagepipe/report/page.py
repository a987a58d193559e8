"""Write the report: pictures as files, and one page that holds them all and needs nothing else."""

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagepipe.report import blend, cases, classes, figures, jigsaw, mosaics, plots, sections, triplets
from stagepipe.report.collect import Collected, collect
from stagepipe.report.inputs import CONFUSION_PICTURE, MOSAICS_PICTURE, PICTURES, ReportInputs
from stagepipe.report.markup import text
from stagepipe.report.mosaics import Mosaic
from stagepipe.report.overlays import Case, show
from stagepipe.report.provenance import provenance
from stagepipe.report.style import CSS, rendered, styled
from stagepipe.report.summaries import dataset_iou, headline_run, mean_score, words
from stagepipe.report.triptychs import painted_colours
from stagepipe.scores import ALL_EMPTY
from stagepipe.storage import atomic

CONTENTS = {
    "headline": "Scores at a glance",
    "data": "Data",
    "folds": "Folds",
    "curves": "Learning curves",
    "scores": "Scores in detail",
    "classes": "Classes",
    "pseudolabels": "Pseudolabels",
    "cases": "Cases",
    "mosaics": "Mosaics",
    "blend": "Blend",
    "threshold": "Threshold",
    "cost": "Time and cost",
    "provenance": "Provenance",
}
"""Titles by anchor; a page without several classes, mosaics or searched shares leaves theirs out."""


def write(inputs: ReportInputs, html: Path, pictures: Path) -> None:
    """Write the page to `html` and its pictures into the folder `pictures`.

    The pictures are those of PICTURES, of a recipe with several classes CONFUSION_PICTURE, and of one with a jigsaw
    step MOSAICS_PICTURE.

    The same inputs give the same bytes. ArtefactError names a damaged input. Probability tables are read a row group
    at a time and only the maps of what is shown are kept.
    """
    found = collect(inputs)
    shown, histogram = show(inputs, found)
    assembled = mosaics.show(inputs, found)
    drawn = draw(found, shown, histogram, assembled)
    for name, picture in drawn.items():
        with atomic(pictures / name) as temporary:
            temporary.write_bytes(picture)
    with atomic(html) as temporary:
        temporary.write_text(page(inputs, found, shown, assembled, drawn), encoding="utf-8")


def draw(
    found: Collected, shown: list[Case], histogram: NDArray[np.int64], assembled: list[Mosaic]
) -> dict[str, bytes]:
    """Every picture as PNG, by file name."""
    with styled():
        made = (
            figures.data_overview(found),
            figures.fold_balance(found),
            figures.learning_curves(found),
            plots.scores(found),
            plots.pseudolabels(found),
            plots.cases(found, shown),
            triplets.thresholds(found, histogram) if found.triplet else plots.thresholds(found, histogram),
            figures.cost(found),
        )
        # Strips of cases have few pixels of their own: finer would be larger, not sharper.
        reserved = [] if found.single else painted_colours(found.recipe.dataset)
        coarse: dict[str, Any] = {"cases.png": {"dpi": 100, "reserved": reserved}}
        pictures = {name: rendered(figure, **coarse.get(name, {})) for name, figure in zip(PICTURES, made, strict=True)}
        if not found.single:
            pictures[CONFUSION_PICTURE] = rendered(classes.confusion_matrix(found))
        if found.jigsaw_step:
            pictures[MOSAICS_PICTURE] = rendered(mosaics.drawn(assembled), dpi=mosaics.DPI)
        return pictures


def page(
    inputs: ReportInputs, found: Collected, shown: list[Case], assembled: list[Mosaic], drawn: dict[str, bytes]
) -> str:
    """The whole page as HTML."""
    body = {
        "headline": headline(found),
        "data": sections.data(found, drawn),
        "folds": sections.folds(found, drawn),
        "curves": sections.curves(found, drawn),
        "scores": sections.scores(found, drawn),
        **({} if found.single else {"classes": classes.classes(found, drawn)}),
        "pseudolabels": sections.pseudolabels(found, drawn),
        "cases": cases.cases(found, shown),
        **({"mosaics": jigsaw.section(found, assembled)} if found.jigsaw_step else {}),
        **({"blend": blend.blend(found)} if found.blend else {}),
        "threshold": triplets.threshold(found, drawn) if found.triplet else sections.threshold(found, drawn),
        "cost": sections.cost(found, drawn),
        "provenance": provenance(inputs, found),
    }
    links = "".join(f'<li><a href="#{anchor}">{escape(CONTENTS[anchor])}</a></li>' for anchor in body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(inputs.name)} &ndash; stagepipe report</title>\n'
        f'<style>{CSS}</style>\n</head>\n<body>\n<div class="page">\n{_header(inputs, found)}\n'
        f'<nav aria-label="Contents"><ol>{links}</ol></nav>\n<main>\n{"".join(body.values())}\n'
        "<footer>Written by stagepipe. The page holds all it shows and loads nothing.</footer>\n"
        "</main>\n</div>\n</body>\n</html>\n"
    )


def _header(inputs: ReportInputs, found: Collected) -> str:
    counts = found.samples["split"].value_counts()
    stages = len(found.stages)
    runs = sum(len(stage.runs) for stage in found.recipe.stages)
    what = f"one class, {found.classes[0]}" if found.single else f"{len(found.classes)} classes"
    evaluated = len(found.recipe.dataset.evaluated)
    what += f", {evaluated} of them evaluated" if evaluated else ""
    parts = [
        f"{stages} stage{'s' * (stages > 1)}",
        f"{runs} run{'s' * (runs > 1)}",
        f"{found.recipe.folds.count} folds",
        f"{counts.get('train', 0):,} labelled and {counts.get('test', 0):,} test images",
        what,
    ]
    return f'<header><h1>{escape(inputs.name)}</h1><p class="lead">{escape(" · ".join(parts))}</p></header>'


def headline(found: Collected) -> str:
    """Score of every stage, and the submission's rows; beside it the all-empty score, or the IoU of all pixels."""
    tiles = "".join(_tile(found, stage) for stage in [*found.stages, "submission"])
    beside = (
        "The orange mark is what empty masks everywhere would score."
        if found.single
        else "The IoU of an image is the mean over the classes that its truth has. That of all pixels counts the "
        "pixels of all images together, class by class."
    )
    return (
        f'<section id="headline"><div class="tiles">{tiles}{_submission_tile(found)}</div>'
        f"<p>{words(found.metric)} of out-of-fold predictions (each stage&rsquo;s ensemble, the submission&rsquo;s "
        f"blend), the mean over all labelled images. {beside}</p></section>"
    )


def _tile(found: Collected, stage: str) -> str:
    run = headline_run(found, stage)
    if run is None:
        return ""
    score = mean_score(found, stage, run)
    other = mean_score(found, stage, ALL_EMPTY) if found.single else dataset_iou(found, stage, run)
    filled, mark = (f"{100 * value:.1f}%" if 0 <= value <= 1 else "0" for value in (score, other))
    marked = f'<u style="left:{mark}"></u>' if found.single else ""
    beside = "all-empty" if found.single else words("dataset_iou")
    return (
        f'<div class="tile"><span class="name">{escape(stage)}</span><b>{text(score, 3)}</b>'
        f'<div class="bar"><i style="width:{filled}"></i>{marked}</div><span>{beside} {text(other, 3)}</span></div>'
    )


def _submission_tile(found: Collected) -> str:
    tests = int((found.samples["split"] == "test").sum())
    rows, empty = found.submission["rows"], found.submission.get("empty")
    verdict = f"rows, one for each of {tests:,} test images" if rows == tests else f"rows for {tests:,} test images"
    share = f"<span>{empty / rows:.0%} of them empty</span>" if empty is not None and rows else ""
    return (
        f'<div class="tile"><span class="name">submission file</span><b>{rows:,}</b><span>{verdict}</span>{share}</div>'
    )
