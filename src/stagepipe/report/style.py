"""How the report looks: colours, the settings of its pictures, its style sheet."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

Colour = tuple[int, int, int]
"""red, green, blue, 0..255"""

INK, MUTED, LINE, PALE = "#21303a", "#66757f", "#dfe5e9", "#eef2f4"
ACCENT, BASELINE, SECOND = "#20758a", "#c9743a", "#7b5fa0"
SERIES = ("#20758a", "#c9743a", "#7b5fa0", "#5c8f57", "#b34d58", "#b3952f", "#4a76b8", "#8a6a55")
"""Line and bar colours, in order."""
DPI = 144

MATPLOTLIB: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.4,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.09,
    "figure.constrained_layout.h_pad": 0.09,
}


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib with our settings alone, whatever the user's own are."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(MATPLOTLIB)
        yield


def panels(
    rows: int,
    columns: int,
    width: float,
    height: float,
    widths: Sequence[float] | None = None,
    heights: Sequence[float] | None = None,
    sharey: bool = False,
) -> "tuple[Figure, list[Axes]]":
    """A figure of `width` x `height` inches (at most 100 high) and its axes row by row, without any global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, min(height, 100.0)))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey, width_ratios=widths, height_ratios=heights)
    return figure, list(axes.flat)


def rendered(figure: "Figure", dpi: int = DPI, reserved: Sequence[Colour] = ()) -> bytes:
    """The figure as a small PNG that depends on nothing but what it shows (no date, no version)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL.Image import fromarray

    # `savefig` would draw it twice, once for the layout alone, and write a PNG only to read it again.
    figure.set_dpi(dpi)
    figure.set_facecolor("white")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return png(fromarray(np.asarray(canvas.buffer_rgba())[..., :3]), reserved)


def png(image: "Image", reserved: Sequence[Colour] = ()) -> bytes:
    """A PIL RGB image as PNG of at most 256 colours, `reserved` ones among them however few pixels have them."""
    from PIL.Image import Dither, Quantize

    free = 256 - len(reserved)
    few = image.quantize(free, method=Quantize.MEDIANCUT, dither=Dither.NONE)
    if reserved:
        few.putpalette([*(few.getpalette() or [])[: 3 * free], *chain.from_iterable(reserved)])
        few = image.quantize(palette=few, dither=Dither.NONE)
    buffer = BytesIO()
    few.save(buffer, "PNG")
    return buffer.getvalue()


def blank(axes: "Axes", text: str) -> None:
    """A panel with nothing to draw says so."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, fontsize=11, transform=axes.transAxes, wrap=True)


CSS = """
:root { --ink: #21303a; --muted: #5d6c76; --line: #dfe5e9; --pale: #f1f4f6; --accent: #20758a; --baseline: #c9743a;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", Georgia, "DejaVu Serif", serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1.5rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: #fbfbf9; color: var(--ink); font: 16px/1.6 var(--sans); }
.page { display: grid; grid-template: "nav header" auto "nav main" 1fr / 12.5rem minmax(0, 58rem); column-gap: 3.5rem;
  justify-content: center; padding: 3rem 2rem 6rem; }
header { grid-area: header; } main { grid-area: main; min-width: 0; }
nav { grid-area: nav; position: sticky; top: 3rem; align-self: start; font-size: .88rem; }
nav p { margin: 0 0 .6rem; color: var(--muted); }
nav ol { list-style: none; margin: 0; padding: 0; border-left: 1px solid var(--line); }
nav a { display: block; padding: .22rem 0 .22rem .9rem; color: var(--ink); text-decoration: none; }
nav a:hover, nav a:focus { color: var(--accent); }
h1, h2, h3 { font-family: var(--serif); line-height: 1.2; font-weight: 600; text-wrap: balance; }
h1 { font-size: 2.5rem; margin: 0 0 .6rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.65rem; margin: 4.2rem 0 .7rem; padding-top: 1.3rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.12rem; margin: 2.2rem 0 .5rem; }
p { max-width: 42rem; margin: .6rem 0 1rem; }
.lead { font-size: 1.13rem; color: var(--muted); max-width: 44rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.8rem, 1fr)); gap: 1rem;
  margin: 2rem 0 1.2rem; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 1.05rem 1.2rem 1.15rem; }
.tile b { display: block; font: 600 2.1rem/1.15 var(--serif); font-variant-numeric: lining-nums tabular-nums; }
.tile span { display: block; color: var(--muted); font-size: .86rem; line-height: 1.45; overflow-wrap: anywhere; }
.tile .name { color: var(--ink); font-weight: 600; margin-bottom: .3rem; }
.bar { position: relative; height: 6px; border-radius: 3px; background: var(--pale); margin: .75rem 0 .6rem; }
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--accent); }
.bar u { position: absolute; top: -4px; width: 3px; height: 14px; margin-left: -1px; border-radius: 1px;
  background: var(--baseline); }
figure { margin: 1.6rem 0 2rem; }
.plate { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: .8rem; overflow-x: auto; }
.plate img { display: block; width: 100%; height: auto; min-width: 40rem; }
.mosaic .plate { width: fit-content; max-width: 100%; }
.mosaic img { width: auto; min-width: 0; max-width: max(100%, 40rem); }
figcaption { color: var(--muted); font-size: .9rem; line-height: 1.5; max-width: 46rem; margin-top: .7rem; }
.table { overflow-x: auto; margin: 1rem 0 1.4rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: lining-nums tabular-nums; min-width: 55%; }
th, td { text-align: right; padding: .38rem .9rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--muted); font-weight: 500; border-bottom-color: #b9c4cb; vertical-align: bottom; }
th.text, td.text { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
td.wide { white-space: normal; min-width: 16rem; }
tr.quiet td { color: var(--baseline); }
tr.strong td { font-weight: 600; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 1.1rem 1.4rem; margin: 1rem 0 1.6rem; }
.cases.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.cases.wide { grid-template-columns: minmax(0, 1fr); }
.cases.wide img { width: auto; max-width: 100%; }
.cases figure { margin: 0; }
.cases img { display: block; width: 100%; height: auto; border-radius: 4px; }
.cases figcaption { margin-top: .3rem; font-size: .84rem; overflow-wrap: anywhere; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .6rem 0 .8rem; padding: 0; list-style: none;
  font-size: .88rem; color: var(--muted); }
.swatch { display: inline-block; width: .85em; height: .85em; border-radius: 2px; margin-right: .45em;
  vertical-align: -.06em; }
.stripes { background: repeating-linear-gradient(135deg, #464646 0 2px, #afafaf 2px 4px); }
.note { background: #fdf4ec; border-left: 3px solid var(--baseline); padding: .7rem 1.1rem;
  border-radius: 0 6px 6px 0; margin: 1.2rem 0; max-width: 46rem; }
.note p { margin: .2rem 0; }
details { border-top: 1px solid var(--line); padding: .3rem 0; }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: .45rem 0; font-weight: 600; }
pre { background: var(--pale); padding: 1rem 1.2rem; border-radius: 8px; overflow-x: auto;
  font: .82rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
code { font: .86em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
footer { color: var(--muted); font-size: .86rem; margin-top: 4rem; }
@media (max-width: 62rem) {
  .page { display: block; padding: 1.6rem 1.1rem 4rem; max-width: 58rem; margin: 0 auto; }
  nav { position: static; margin: 1.4rem 0 0; border-bottom: 1px solid var(--line); padding-bottom: 1.2rem;
  margin-bottom: 1.8rem; }
  nav ol { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; border: 0; }
  nav a { padding: .2rem 0; color: var(--accent); }
  h1 { font-size: 2rem; } h2 { font-size: 1.4rem; margin-top: 3rem; }
}
@media (max-width: 30rem) { body { font-size: 15.5px; } .tiles { grid-template-columns: 1fr 1fr; gap: .7rem; }
  .tile { padding: .8rem .9rem; } .tile b { font-size: 1.65rem; } }
@media print { nav { display: none; } .page { display: block; padding: 0; } .plate img { min-width: 0; }
  figure, tr { break-inside: avoid; } }
"""
