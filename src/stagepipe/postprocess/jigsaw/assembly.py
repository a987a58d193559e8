"""Mosaics from links between tiles: grids that grow together where the seams between them agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stagepipe.postprocess.jigsaw.matching import Facing

Cell = tuple[int, int]
Grid = dict[Cell, int]
Seam = tuple[Cell, int, int]
"""(step, tile, tile that lies a step further)"""

ALONE = -0.13
"""What the margin of a single seam, less its plainness, must reach. Of 6,200 real tiles among as many turned by half a
turn, which can't be neighbours of theirs, few pairs are then false.
The command `python -m benchmarks --only jigsaw` counts them."""

DOUBT = 0.3
"""What is added to a seam's margin before it speaks for or against a join of several seams: on real tiles nearly all
true seams have a margin above -0.3, nearly all arbitrary ones one below."""

PROOF = 0.3
"""What the sum of margin + DOUBT over several seams must reach; chosen on real tiles and decoys, like ALONE."""

WORST = -0.5
"""A worse margin says no more: a few damaged borders must not keep two large mosaics apart."""

ALIKE = 0.55
"""What the correlation of several seams must exceed on average. Among few tiles, arbitrary seams stand out too."""

RIGHT, DOWN = (0, 1), (1, 0)


class Link(NamedTuple):
    """Two tiles that are each other's best match."""

    step: Cell
    first: int
    second: int
    margin: float
    correlation: float
    plainness: float


def assemble(horizontal: Facing, vertical: Facing) -> list[Grid]:
    """Grids (row, column) -> tile of two or more tiles that belong together; no tile or cell is used twice.

    Links are tried from the surest to the weakest, over and over, since what joined before adds seams to a link that
    was too weak alone. Rows and columns may be negative.
    """
    table = Table({RIGHT: horizontal, DOWN: vertical})
    links = links_of(horizontal, RIGHT) + links_of(vertical, DOWN)
    table.values.update({link[:3]: (link.margin, link.correlation) for link in links})
    waiting = sorted(links, key=lambda link: (link.plainness - link.margin, link))
    joined = True
    while joined:
        refused = [link for link in waiting if not table.join(link)]
        joined = len(refused) < len(waiting)
        waiting = refused
    return [grid for grid in table.grids.values() if len(grid) > 1]


def links_of(facing: Facing, step: Cell) -> list[Link]:
    """All pairs of tiles that are each other's best match in one direction."""
    first, second = facing.links()
    of_pairs = (facing.margins, facing.correlations, facing.plainness)
    columns = (first, second, *(of_pair(first, second) for of_pair in of_pairs))
    return [Link(step, *numbers) for numbers in zip(*(column.tolist() for column in columns), strict=True)]


class Table:
    """All tiles, each in a grid of its own at first."""

    def __init__(self, facing: dict[Cell, Facing]) -> None:
        count = len(facing[RIGHT].partner)
        self.facing = facing
        self.grids: dict[int, Grid] = {tile: {(0, 0): tile} for tile in range(count)}
        self.home = list(range(count))
        self.cell: list[Cell] = [(0, 0)] * count
        self.values: dict[Seam, tuple[float, float]] = {}
        self.refused: dict[Link, tuple[int, int]] = {}

    def join(self, link: Link) -> bool:
        """Put the grids of both tiles together, so that the link is a seam, if all seams speak for it.

        True also if both lie in one grid already, whether or not they are neighbours there.
        """
        home, away = self.home[link.first], self.home[link.second]
        if home == away:
            return True
        sizes = len(self.grids[home]), len(self.grids[away])
        if self.refused.get(link) == sizes:  # nothing is new since then: grids only grow
            return False
        row, column = (self.cell[link.first][i] + link.step[i] - self.cell[link.second][i] for i in range(2))
        if sizes[0] < sizes[1]:
            home, away, row, column = away, home, -row, -column
        moved = {(r + row, c + column): tile for (r, c), tile in self.grids[away].items()}
        grid = self.grids[home]
        if not moved.keys().isdisjoint(grid) or not self.fits(link, _seams(grid, moved)):
            self.refused[link] = sizes
            return False
        grid.update(moved)
        del self.grids[away]
        for cell, tile in moved.items():
            self.home[tile], self.cell[tile] = home, cell
        return True

    def fits(self, link: Link, seams: list[Seam]) -> bool:
        """Whether the seams that a join would make, the link among them, speak for it."""
        if len(seams) == 1:
            return link.margin - link.plainness >= ALONE
        for step, facing in self.facing.items():
            new = [seam for seam in seams if seam[0] == step and seam not in self.values]
            if new:
                first, second = np.array([seam[1:] for seam in new]).T
                margins = np.nan_to_num(facing.margins(first, second), nan=-DOUBT)
                correlations = facing.correlations(first, second)
                self.values.update(zip(new, zip(margins.tolist(), correlations.tolist(), strict=True), strict=True))
        values = [self.values[seam] for seam in seams]
        stand_out = sum(max(margin, WORST) + DOUBT for margin, _ in values) >= PROOF
        return stand_out and sum(correlation for _, correlation in values) > ALIKE * len(values)


def _seams(grid: Grid, moved: Grid) -> list[Seam]:
    """Pairs of neighbours of which one lies in each grid."""
    found = []
    for (row, column), tile in moved.items():
        for step in (RIGHT, DOWN):
            before = grid.get((row - step[0], column - step[1]))
            after = grid.get((row + step[0], column + step[1]))
            found += [(step, before, tile)] if before is not None else []
            found += [(step, tile, after)] if after is not None else []
    return found
