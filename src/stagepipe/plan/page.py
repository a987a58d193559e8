"""A plan as a page for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from stagepipe.plan import Plan
from stagepipe.plan.summary import Line, Totals, assumptions, lines, totals

COLUMNS = ("stage", "rule", "jobs", "passes", "time", "disk")
AFTERWARDS = ("done", "passes", "took", "plan/took")
"""of the jobs that ran"""
UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def text(plan: Plan, gpus: int = 1, cores: int = 1) -> str:
    """The plan as a page for a terminal."""
    whole, rows = totals(plan, gpus, cores), lines(plan)
    return "\n".join([*_head(plan, whole), "", *_table(rows), "", *_foot(plan, whole, gpus, cores)]) + "\n"


def _head(plan: Plan, whole: Totals) -> list[str]:
    images, recipe, figures = plan.images, plan.recipe, plan.figures
    edges = f"{images.size[0]} x {images.size[1]}"
    stages = f"{len(recipe.stages)} stage{'s' if len(recipe.stages) > 1 else ''}"
    if figures is None:
        device = "no figures of this machine yet: --measure makes them, --device NAME takes stored ones"
    else:
        device = f"{figures.device}, {figures.source}"
        device += f", threads: {figures.threads}" if figures.training else ""
    return [
        f"{recipe.name}: {stages}, {whole.jobs} jobs, {whole.gpu_jobs} of them train or predict",
        f"images   {images.train:,} labelled, {images.test:,} to predict, {edges} ({images.source})",
        f"passes   {count(whole.train)} of training, {count(whole.validation)} of validation, "
        f"{count(whole.predict)} of prediction; {count(whole.flops)}FLOP",
        f"device   {device}",
    ]


def _table(rows: Sequence[Line]) -> list[str]:
    afterwards = any(row.took for row in rows)
    cells = [list(COLUMNS + AFTERWARDS * afterwards)]
    for row in rows:
        measured = "" if row.measured or row.seconds is None else "~"
        cell = [row.stage, row.rule, str(row.jobs), count(row.passes) if row.passes else ""]
        cell += [measured + duration(row.seconds), size(row.kept) if row.kept else ""]
        cells.append(cell + _afterwards(row) * afterwards)
    summed = [row.seconds for row in rows if row.seconds is not None]
    last = ["all", "", str(sum(row.jobs for row in rows)), ""]
    last += [duration(sum(summed) if len(summed) == len(rows) else None), size(sum(row.kept for row in rows))]
    cells.append(last + _afterwards_of_all(rows) * afterwards)
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(_aligned(line, widths)).rstrip() for line in cells]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    return [
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]


def _afterwards(row: Line) -> list[str]:
    if row.took is None:
        return ["", "", "", ""]
    passes = count(row.took.train) if row.took.train else ""
    return [str(row.took.jobs), passes, duration(row.took.seconds), _ratio(row.seconds_of_done, row.took.seconds)]


def _afterwards_of_all(rows: Sequence[Line]) -> list[str]:
    done = [(row, row.took) for row in rows if row.took]
    seconds = sum(took.seconds for _, took in done)
    planned = [row.seconds_of_done for row, _ in done if row.seconds_of_done is not None]
    ratio = _ratio(sum(planned), seconds) if len(planned) == len(done) else ""
    return [str(sum(took.jobs for _, took in done)), "", duration(seconds), ratio]


def _ratio(planned: float | None, took: float) -> str:
    return f"{planned / took:.2f}" if planned is not None and took > 0 else ""


def _foot(plan: Plan, whole: Totals, gpus: int, cores: int) -> list[str]:
    found = []
    if plan.figures:
        where = "on a GPU" if plan.figures.gpu else "of training and prediction"
        found.append(
            f"time     {duration(whole.gpu_seconds)} {where}, {duration(whole.other_seconds)} of other jobs; about "
            f"{duration(whole.wall_seconds)} with --gpus {gpus} --cores {cores}, if nothing waits"
        )
    found += [
        f"disk     {size(whole.kept)} kept, up to {size(whole.scratch)} more for each training while it runs",
        f"memory   {size(whole.gpu_memory)} of a GPU ({whole.gpu_memory_of}), {size(whole.host_memory)} of the host "
        f"({whole.host_memory_of})",
    ]
    return found + [f"assumed  {assumption}" for assumption in assumptions(plan)]


def count(number: float) -> str:
    """Three digits with k, M, G, T, P or E."""
    for unit, letter in UNITS:
        if number >= unit:
            return f"{_digits(number / unit)} {letter}"
    return _digits(number)


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def duration(seconds: float | None) -> str:
    """Three digits in seconds, minutes, hours or days; `-` if it isn't known."""
    if seconds is None:
        return "-"
    for unit, limit, letter in ((1, 100, "s"), (60, 100, "min"), (3600, 100, "h")):
        if seconds < unit * limit:
            return f"{_digits(seconds / unit)} {letter}"
    return f"{_digits(seconds / 86400)} d"


def size(number: float) -> str:
    """Bytes in MB, GB or TB."""
    for unit, letters in ((1e12, "TB"), (1e9, "GB")):
        if number >= unit:
            return f"{_digits(number / unit)} {letters}"
    return f"{_digits(number / 1e6)} MB"
