"""Pictures of the largest mosaics that the tiles were cut from, with masks and with what the jigsaw rules changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stagepipe.data.store import PixelStore
from stagepipe.report.collect import Collected
from stagepipe.report.inputs import ReportInputs
from stagepipe.report.overlays import AGREED, WRONG, outline, paint, resized, rgb, submitted_masks, wanted_maps
from stagepipe.report.style import INK, blank, panels
from stagepipe.report.triptychs import Picture, hexadecimal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4
"""mosaics at most"""
WIDEST, HIGHEST = 1200, 640
"""pixels of a picture at most"""
NATURAL = 101
"""pixels of the longer side to which smaller tiles are enlarged, where there is room"""
LABELLED, REPLACED, FORMER = (58, 128, 245), WRONG, (255, 236, 120)
FRAME = 32
"""a tile's frame is this part of its side"""
LEGEND = {
    "mask: the label of a labelled tile, the prediction of others": AGREED,
    "frame: labelled tile": LABELLED,
    "frame and mask: put in by a rule": REPLACED,
    "line: the prediction before": FORMER,
}
DPI = 130


@dataclass(frozen=True)
class Mosaic:
    """One assembled mosaic to look at."""

    picture: Picture
    number: int
    """as in the table of mosaics"""
    tiles: int
    rows: int
    columns: int
    labelled: int
    replaced: int
    """test tiles whose mask a rule put in"""

    @property
    def title(self) -> str:
        """What is to be seen, in a line."""
        size = f"{self.tiles} tile{'s' * (self.tiles != 1)} in {self.rows} x {self.columns} cells"
        return f"Mosaic {self.number}: {size}, {self.labelled} labelled, {self.replaced} changed by a rule"


@dataclass(frozen=True)
class Tile:
    """One tile with the masks to draw, uint8 [H, W]."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    """none: a test tile without a prediction"""
    former: NDArray[np.uint8] | None = None
    """the prediction that a rule replaced; none: no rule did"""
    labelled: bool = False


def placed_tiles(found: Collected) -> pd.DataFrame:
    """Tiles of all mosaics with `replaced`: a test tile whose submitted mask comes from a rule."""
    rows = found.replacements
    replaced = rows.loc[rows["split"] == "test", "sample_id"]
    return found.mosaics.assign(replaced=found.mosaics["sample_id"].isin(replaced))


def chosen(tiles: pd.DataFrame) -> list[int]:
    """Numbers of the mosaics to show: the largest, and in any case the largest that a rule changed."""
    sizes = tiles.groupby("mosaic").agg(tiles=("sample_id", "size"), replaced=("replaced", "sum")).reset_index()
    order = sizes.sort_values(["tiles", "mosaic"], ascending=[False, True])
    changed = order[order["replaced"] > 0].head(1)
    kept = pd.concat([changed, order.drop(changed.index)]).head(SHOWN)
    return [int(number) for number in order["mosaic"] if number in set(kept["mosaic"])]


def show(inputs: ReportInputs, found: Collected) -> list[Mosaic]:
    """The mosaics to show, largest first; of the predictions only those of their tiles are kept."""
    placed = placed_tiles(found)
    numbers = chosen(placed)
    if not numbers:
        return []
    placed = placed[placed["mosaic"].isin(numbers)]
    wanted = set(placed.loc[~placed["labelled"], "sample_id"])
    maps = [(name, kept.copy()) for name, kept in wanted_maps(inputs.blend_test, wanted)]
    submitted, former = (submitted_masks(found, maps, wanted, replaced) for replaced in (True, False))
    store = PixelStore(inputs.pixels, found.table)
    places = {name: place for place, name in enumerate(found.table["sample_id"].to_pylist())}

    def tile(name: str, labelled: bool, replaced: bool) -> Tile:
        mask = store.mask(places[name]) if labelled else submitted.get(name)
        return Tile(store.image(places[name]), mask, former.get(name) if replaced else None, labelled)

    def mosaic(number: int) -> Mosaic:
        own = placed[placed["mosaic"] == number]
        rows, columns = (own[axis] - own[axis].min() for axis in ("row", "column"))
        tiles = list(map(tile, own["sample_id"], own["labelled"], own["replaced"]))
        return Mosaic(
            picture=assemble(dict(zip(zip(rows, columns, strict=True), tiles, strict=True))),
            number=number,
            tiles=len(tiles),
            rows=int(rows.max()) + 1,
            columns=int(columns.max()) + 1,
            labelled=sum(tile.labelled for tile in tiles),
            replaced=sum(tile.former is not None for tile in tiles),
        )

    return [mosaic(number) for number in numbers]


# -------------------------------------------------------------------------------------------------------------- drawing


def assemble(tiles: Mapping[tuple[int, int], Tile]) -> Picture:
    """Tiles by row and column, from 0, as one picture; cells without a tile stay white."""
    rows, columns = (max(place) + 1 for place in zip(*tiles, strict=True))
    height, width = (max(tile.image.shape[axis] for tile in tiles.values()) for axis in (0, 1))
    factor = min(WIDEST / (columns * width), HIGHEST / (rows * height), max(1.0, NATURAL / max(height, width)))
    # Whole pixels a cell, so that no seam is drawn where there is none.
    down, across = max(1, int(height * factor)), max(1, int(width * factor))
    picture = np.full((rows * down, columns * across, 3), 255, np.uint8)
    masks, put_in = np.zeros(picture.shape[:2], bool), np.zeros(picture.shape[:2], bool)
    frames: list[tuple[slice, slice, Tile]] = []
    for (row, column), tile in tiles.items():
        size = (max(1, tile.image.shape[0] * down // height), max(1, tile.image.shape[1] * across // width))
        area = slice(row * down, row * down + size[0]), slice(column * across, column * across + size[1])
        picture[area] = resized(rgb(tile.image), size, smooth=True)
        if tile.mask is not None:
            layer = masks if tile.former is None else put_in
            layer[area] = resized(tile.mask, size, smooth=False) > 0
        frames.append((*area, tile))
    picture = paint(picture, [(masks, AGREED), (put_in, REPLACED)])
    for down_slice, across_slice, tile in frames:
        _mark(picture[down_slice, across_slice], tile)
    return picture


def _mark(area: Picture, tile: Tile) -> None:
    """Frame a tile that is labelled or that a rule changed, and draw the line of the prediction that it replaced."""
    if tile.former is not None:
        area[outline(resized(tile.former, area.shape[:2], smooth=False) > 0)] = FORMER
    if tile.labelled or tile.former is not None:
        width = max(1, min(area.shape[:2]) // FRAME)
        frame = np.ones(area.shape[:2], bool)
        frame[width:-width, width:-width] = False
        area[frame] = LABELLED if tile.labelled else REPLACED


def drawn(shown: list[Mosaic]) -> "Figure":
    """All mosaics one below another, in one scale of pixels."""
    from matplotlib.patches import Patch

    if not shown:
        figure, axes = panels(1, 1, 10, 2)
        blank(axes[0], "no mosaics")
        return figure
    heights = [9.6 * mosaic.picture.shape[0] / WIDEST + 0.45 for mosaic in shown]
    figure, axes = panels(len(shown), 1, 10, sum(heights) + 0.6, heights=heights)
    for panel, mosaic in zip(axes, shown, strict=True):
        panel.set_axis_off()
        panel.set_anchor("NW")
        panel.imshow(mosaic.picture, interpolation="antialiased")
        panel.set_title(mosaic.title, fontsize=9, fontweight="normal", color=INK, pad=5)
    handles = [Patch(color=hexadecimal(colour), label=name) for name, colour in LEGEND.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=1)
    return figure
