"""Tiles find their neighbours: synthetic panels exactly, the real tiles as the published mosaics say."""

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagepipe.data.panel import TILES, draw_panel
from stagepipe.postprocess.jigsaw.assembly import assemble
from stagepipe.postprocess.jigsaw.matching import BLOCK, USUAL, Facing, Side, borders, match
from stagepipe.postprocess.jigsaw.mosaics import find
from stagepipe.seeding import generator

HORIZONTAL, VERTICAL = (0, 1), (1, 0)


def grids_of(mosaics: pa.Table) -> list[dict[tuple[int, int], str]]:
    grids: dict[int, dict[tuple[int, int], str]] = {}
    for row in mosaics.to_pylist():
        grids.setdefault(row["mosaic"], {})[row["row"], row["column"]] = row["sample_id"]
    return list(grids.values())


def neighbours(grids: list[dict[tuple[int, int], str]], step: tuple[int, int]) -> set[tuple[str, str]]:
    pairs = set()
    for grid in grids:
        for (row, column), tile in grid.items():
            other = grid.get((row + step[0], column + step[1]))
            pairs |= {(tile, other)} if other else set()
    return pairs


def survey(panels: int, size: int = 48) -> tuple[np.ndarray, list[str]]:
    """Tiles of panels, each with a contrast of its own; ids name panel, row and column."""
    random = generator("test", "jigsaw")
    tiles, names = [], []
    for number in range(panels):
        panel, _ = draw_panel(generator("test", "jigsaw", number), size, ("dome", "layers", "wall")[number % 3])
        for row, column in np.ndindex(TILES, TILES):
            tile = panel[row * size : (row + 1) * size, column * size : (column + 1) * size]
            changed = (tile - 128) * random.uniform(0.6, 1.2) + random.uniform(100, 150)
            tiles.append(np.clip(np.rint(changed), 0, 255).astype(np.uint8))
            names.append(f"{number:02}{row}{column}")
    return np.stack(tiles), names


@pytest.fixture(scope="module")
def panels() -> tuple[np.ndarray, list[str]]:
    return survey(6)


def test_panels_are_put_together_exactly(panels: tuple[np.ndarray, list[str]]) -> None:
    tiles, names = panels
    expected = [{(r, c): f"{n:02}{r}{c}" for r, c in np.ndindex(TILES, TILES)} for n in range(6)]
    assert grids_of(find(tiles, names)) == expected


def test_neither_order_nor_contrast_matters(panels: tuple[np.ndarray, list[str]]) -> None:
    tiles, names = panels
    order = np.random.default_rng(0).permutation(len(tiles))
    faint = np.rint(tiles * 0.8 + np.arange(len(tiles))[:, None, None] % 50).astype(np.uint8)
    assert find(faint[order], [names[i] for i in order]).equals(find(tiles, names))


def test_tiles_need_not_be_square(panels: tuple[np.ndarray, list[str]]) -> None:
    tiles, names = panels
    wide = tiles.reshape(6, TILES, TILES // 2, 2, 48, 48).swapaxes(3, 4).reshape(-1, 48, 96)
    found = find(wide, [name for name in names if name[-1] in "02"])
    assert [len(grid) for grid in grids_of(found)] == [8] * 6


def test_black_and_lonely_tiles_lie_in_no_mosaic(panels: tuple[np.ndarray, list[str]]) -> None:
    tiles, names = panels
    with_others = np.concatenate([tiles, np.zeros((3, 48, 48), np.uint8), np.full((2, 48, 48), 90, np.uint8)])
    found = find(with_others, [*names, "b1", "b2", "b3", "c1", "c2"])
    assert found.equals(find(tiles, names))
    assert find(tiles[:1], names[:1]).num_rows == find(tiles[:0], []).num_rows == 0


def test_a_hole_does_not_part_a_mosaic(panels: tuple[np.ndarray, list[str]]) -> None:
    tiles, names = panels
    kept = [index for index, name in enumerate(names) if name not in {"0111", "0112", "0100"}]
    grid = next(g for g in grids_of(find(tiles[kept], [names[i] for i in kept])) if "0133" in g.values())
    assert grid == {(r, c): f"01{r}{c}" for r, c in np.ndindex(4, 4) if (r, c) not in {(1, 1), (1, 2), (0, 0)}}


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="expected \\[tiles, height, width\\]"):
        borders(np.zeros((2, 5, 1), np.uint8))
    with pytest.raises(ValueError, match="1 different ones for 2 tiles"):
        find(np.zeros((2, 5, 5), np.uint8), ["a", "a"])


def test_two_highest_and_margins_are_those_of_a_plain_search() -> None:
    random = np.random.default_rng(0)
    tiles = random.integers(0, 256, (2 * BLOCK + 37, 20, 20), dtype=np.uint8)
    sides = borders(tiles)
    facing = match(sides.right, sides.left)
    plain = sides.right.line @ sides.left.line.T
    np.fill_diagonal(plain, -1)
    assert np.allclose(facing.ahead_highest, -np.sort(-plain, axis=1)[:, :2].T, atol=1e-5)
    assert np.allclose(facing.behind_highest, -np.sort(-plain, axis=0)[:2], atol=1e-5)
    assert (facing.partner == plain.argmax(axis=1)).all()
    first, second = facing.links()
    assert [(a, b) for a, b in zip(first, second, strict=True)] == [
        (a, b) for a, b in enumerate(plain.argmax(axis=1)) if plain[:, b].argmax() == a
    ]
    others = plain.copy()
    others[first, second] = -1
    others = np.maximum(np.maximum(others[first].max(axis=1), others[:, second].max(axis=0)), USUAL)
    expected = 1 - np.sqrt((1 - plain[first, second]) / (1 - others))
    assert np.allclose(facing.margins(first, second), expected, atol=1e-4)


def random_facing(random: np.random.Generator, count: int) -> Facing:
    """Sides whose lines are a few repeated patterns: many likely and contradictory links."""
    patterns = random.normal(size=(6, 5))
    sides = []
    for _ in range(2):
        lines = patterns[random.integers(0, 6, count)] + random.uniform(0, 0.6) * random.normal(size=(count, 5))
        lines = (lines / np.linalg.norm(lines, axis=1, keepdims=True)).astype(np.float32)
        sides.append(Side(lines, lines[:, ::-1], np.zeros(count, np.float32)))
    return match(*sides)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_no_tile_or_cell_is_used_twice(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    grids = assemble(random_facing(random, count), random_facing(random, count))
    tiles = [tile for grid in grids for tile in grid.values()]
    assert len(tiles) == len(set(tiles)) and set(tiles) <= set(range(count))
    assert all(len(grid) > 1 for grid in grids)


# ------------------------------------------------------------------------------------------------------------ real data


@pytest.fixture(scope="module")
def real(real_data: Path) -> tuple[np.ndarray, list[str]]:
    files = sorted((real_data / "tgs").glob("*/images/*.png"))
    if not files:
        pytest.skip(f"no TGS tiles in {real_data}")
    return np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]), [file.stem for file in files]


@pytest.fixture(scope="module")
def published(real_data: Path) -> list[dict[tuple[int, int], str]]:
    content = json.loads((real_data / "tgs_mosaics.json").read_text())
    return [
        {(r, c): tile for r, row in enumerate(rows) for c, tile in enumerate(row) if tile} for rows in content.values()
    ]


def test_real_tiles_lie_as_published(real, published) -> None:
    """About half of the published pairs of two tiles are false, so recall is asked of the larger mosaics."""
    grids = grids_of(find(*real))
    for step in (HORIZONTAL, VERTICAL):
        found, known = neighbours(grids, step), neighbours(published, step)
        after, before = dict(known), {second: first for first, second in known}
        wrong = [(a, b) for a, b in found if after.get(a, b) != b or before.get(b, a) != a]
        large = neighbours([grid for grid in published if len(grid) > 2], step)
        assert wrong == []
        assert len(found & large) / len(large) >= 0.995
        assert len(found & known) / len(known) >= 0.99
        assert len(found - known) < 30
    assert 105 <= len(grids) <= 125 and len(grids[0]) == 94


def test_few_real_tiles_join_tiles_turned_by_half_a_turn(real) -> None:
    """Such tiles can't be neighbours; each copy's own right side is the original's left side upside down."""
    tiles, names = real
    turned = np.concatenate([tiles, tiles[:, ::-1, ::-1]])
    grids = grids_of(find(turned, [f"a{name}" for name in names] + [f"b{name}" for name in names]))
    pairs = neighbours(grids, HORIZONTAL) | neighbours(grids, VERTICAL)
    assert sum(a[0] != b[0] for a, b in pairs) <= 6 and len(pairs) > 9150
    false = [grid for grid in grids if len(grid) == 2 and len({tile[0] for tile in grid.values()}) == 2]
    assert len(false) <= 4
