"""Finding mosaics: 22,000 synthetic tiles, the real TGS tiles, and links that are false by construction.

Set STAGEPIPE_DATA to a folder that holds `tgs` and `tgs_mosaics.json` to have the real tiles measured too.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from stagepipe.postprocess.jigsaw import assembly
from stagepipe.postprocess.jigsaw.matching import Facing, borders, match

TILES, SIZE, ROWS, COLUMNS, PANELS, BLACK = 22_000, 101, 6, 9, 400, 400
SEARCHED = 40
STEPS = ((0, 1), (1, 0))
Grids = list[dict[tuple[int, int], object]]

# In a process of its own, so that the peak is that of the search; what the imports and the tiles take is subtracted.
MEASURE = """
import json, sys, time
from pathlib import Path
import numpy as np
from stagepipe.postprocess.jigsaw.mosaics import find

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

tiles, names = np.load(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
before, start = peak(), time.perf_counter()
found = find(tiles, names)
print(json.dumps([time.perf_counter() - start, peak(), before, found.to_pylist()]))
"""


def panel(random: np.random.Generator) -> np.ndarray:
    """Gray values of bent layers and grains, float32 [ROWS * SIZE, COLUMNS * SIZE], about 128 +- 40."""
    height, width = ROWS * SIZE, COLUMNS * SIZE

    def smooth(down: int, across: int) -> np.ndarray:
        coarse = random.normal(size=(down, across)).astype(np.float32)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)

    depth = (
        np.arange(height, dtype=np.float32)[:, None] + 25 * smooth(3, 6) + random.uniform(-0.3, 0.3) * np.arange(width)
    )
    trace = cv2.GaussianBlur(random.standard_normal((2 * height, 1), np.float32), (1, 0), 0, sigmaY=3).ravel()
    layers = np.interp(depth + height / 2, np.arange(2 * height), trace / trace.std())
    grains = cv2.GaussianBlur(random.standard_normal((height, width), np.float32), (0, 0), 1.5)
    return (128 + 40 * np.clip(1 + 0.3 * smooth(4, 6), 0.2, None) * layers + 15 * grains / grains.std()).astype(
        np.float32
    )


def synthetic() -> tuple[np.ndarray, list[str], Grids]:
    """Shuffled tiles of one contrast each, some of them black, their ids, and the mosaics they come from."""
    random = np.random.default_rng(0)
    tiles, grids = np.zeros((TILES, SIZE, SIZE), np.uint8), []
    places = iter(random.permutation(TILES).tolist())
    for _ in range(PANELS):
        gray = panel(random)
        grid: dict[tuple[int, int], object] = {}
        for row, column in np.ndindex(ROWS, COLUMNS):
            tile = gray[row * SIZE :, column * SIZE :][:SIZE, :SIZE]
            place = next(places)
            tiles[place] = np.clip((tile - tile.mean()) * random.uniform(0.7, 1.2) + random.uniform(100, 150), 0, 255)
            grid[row, column] = f"{place:05}"
        grids.append(grid)
    return tiles, [f"{place:05}" for place in range(TILES)], grids


def neighbours(grids: Grids, step: tuple[int, int]) -> set[tuple]:
    moved = ((grid, cell, (cell[0] + step[0], cell[1] + step[1])) for grid in grids for cell in grid)
    return {(grid[cell], grid[other]) for grid, cell, other in moved if other in grid}


def grids_of(rows: list[dict]) -> Grids:
    grids: dict[int, dict] = {}
    for row in rows:
        grids.setdefault(row["mosaic"], {})[row["row"], row["column"]] = row["sample_id"]
    return list(grids.values())


def described(found: Grids, known: Grids) -> str:
    """Precision, recall and pairs that the reference says nothing about, horizontally and vertically."""
    texts = []
    for name, step in zip("HV", STEPS, strict=True):
        pairs, expected = neighbours(found, step), neighbours(known, step)
        large = neighbours([grid for grid in known if len(grid) > 2], step)
        after, before = dict(expected), {second: first for first, second in expected}
        wrong = sum(after.get(a, b) != b or before.get(b, a) != a for a, b in pairs)
        extra = sum(a not in after and b not in before for a, b in pairs)
        texts.append(
            f"{name} precision {1 - wrong / max(1, len(pairs) - extra):.4f}, "
            f"recall {len(pairs & large) / len(large):.4f} "
            f"({len(pairs & expected) / len(expected):.4f} with mosaics of two), {extra} extra"
        )
    return "; ".join(texts)


def literal(tiles: np.ndarray) -> float:
    """Seconds that a search for each side's nearest other side takes, tile by tile; a few are searched and scaled."""
    gray = tiles.astype(np.float32)
    sides = [(2 * gray[:, :, -1] - gray[:, :, -2], 2 * gray[:, :, 0] - gray[:, :, 1])]
    sides += [(2 * gray[:, -1] - gray[:, -2], 2 * gray[:, 0] - gray[:, 1])]
    lines = [
        tuple((side - side.mean(1, keepdims=True)) / (side.std(1, keepdims=True) + 1e-6) for side in pair)
        for pair in sides
    ]
    start = time.perf_counter()
    for ahead, behind in (*lines, *(pair[::-1] for pair in lines)):
        for tile in range(SEARCHED):
            np.partition(np.linalg.norm(behind - ahead[tile], axis=1), 1)[:2]
    return (time.perf_counter() - start) / SEARCHED * len(tiles)


def measured(name: str, tiles: np.ndarray, names: list[str], known: Grids, treated: str = "") -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "tiles.npy", Path(folder) / "names.json"
        np.save(paths[0], tiles)
        paths[1].write_text(json.dumps(names), encoding="utf-8")
        command = [sys.executable, "-c", MEASURE, *map(str, paths)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, peak, before, rows = json.loads(output)
    plain = literal(tiles)
    note = (
        f"{described(grids_of(rows), known)}; peak {peak:.0f} MiB, {before:.0f} of them tiles and imports; plain: "
        f"nearest sides tile by tile, without assembly, {SEARCHED} tiles scaled{treated}"
    )
    row = {"name": f"jigsaw of {name}, {len(tiles):,} tiles", "plain": plain, "ours": seconds, "unit": "s"}
    return [row | {"ratio": plain / seconds, "note": note}]


# -------------------------------------------------------------------------------------------------------------- decoys


def simple(facing: dict[tuple[int, int], Facing], strong: float) -> Grids:
    """Mosaics of links with a margin above `strong`, then of weak ones whose seams correlate above 0.6 on average."""
    table = assembly.Table(facing)
    links = [link for step, sides in facing.items() for link in assembly.links_of(sides, step)]
    links = sorted((link for link in links if link.margin > 0.05), key=lambda link: -link.margin)

    def verified(link: assembly.Link, seams: list) -> bool:
        correlations = [facing[step].ahead.line[a] @ facing[step].behind.line[b] for step, a, b in seams]
        return len(seams) > 1 and float(np.mean(correlations)) > 0.6

    for fits, least in ((lambda link, seams: True, strong), (verified, 0.05)):
        table.fits = fits  # type: ignore[method-assign]
        for link in links:
            if link.margin > least:
                table.join(link)
    return [grid for grid in table.grids.values() if len(grid) > 1]


def false_pairs(grids: Grids, count: int, known: list[set[tuple]]) -> tuple[int, float]:
    """Pairs of a tile and a turned one, and the recall of the larger published mosaics."""
    pairs = [neighbours(grids, step) for step in STEPS]
    mixed = sum((a < count) != (b < count) for found in pairs for a, b in found)
    hits = sum(len(found & expected) for found, expected in zip(pairs, known, strict=True))
    return mixed, hits / sum(map(len, known))


def decoys(tiles: np.ndarray, names: list[str], published: Grids) -> list[dict]:
    """False pairs among tiles and copies turned by half a turn, which can't be neighbours.

    A copy mirrored over one axis alone would continue its own original.
    """
    count = len(tiles)
    sides = borders(np.concatenate([tiles, tiles[:, ::-1, ::-1]]))
    facing = {STEPS[0]: match(sides.right, sides.left), STEPS[1]: match(sides.bottom, sides.top)}
    place = {name: index for index, name in enumerate(names)}
    large = [{cell: place[tile] for cell, tile in grid.items()} for grid in published if len(grid) > 2]
    known = [neighbours(large, step) for step in STEPS]
    false, recall = false_pairs(assembly.assemble(*facing.values()), count, known)
    curve = [(strong, *false_pairs(simple(facing, strong), count, known)) for strong in np.arange(0.25, 0.41, 0.01)]
    # the strictest margin with which the simple way still finds as much
    strong, plain, reached = [point for point in curve if point[2] >= recall][-1]
    note = (
        f"pairs of one tile and one turned by half a turn, among {2 * count:,}; recall {recall:.4f}; plain: grids of "
        f"links with a margin above {strong:.2f} and verified weak joins, recall {reached:.4f}; at the published "
        f"margin of 0.25: {curve[0][1]} false, recall {curve[0][2]:.4f}"
    )
    row = {
        "name": "jigsaw, false pairs at the same recall",
        "plain": float(plain),
        "ours": float(false),
        "unit": "pairs",
    }
    return [row | {"ratio": plain / max(1, false), "note": note}]


def real(folder: Path) -> Iterator[dict]:
    files = sorted((folder / "tgs").glob("*/images/*.png"))
    tiles = np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files])
    names = [file.stem for file in files]
    content = json.loads((folder / "tgs_mosaics.json").read_text(encoding="utf-8"))
    published: Grids = [
        {(r, c): tile for r, row in enumerate(rows) for c, tile in enumerate(row) if tile} for rows in content.values()
    ]
    treated = (
        "; against the published mosaics: a pair is wrong where one of its tiles has another neighbour on that side, "
        "extra where they know none; recall is that of mosaics of three or more tiles: half of those of two are false"
    )
    yield from measured("real TGS tiles", tiles, names, published, treated)
    yield from decoys(tiles, names, published)


def run(gpu: bool) -> list[dict]:
    rows = measured("synthetic panels", *synthetic())
    folder = Path(os.environ.get("STAGEPIPE_DATA", ""))
    if os.environ.get("STAGEPIPE_DATA") and (folder / "tgs").is_dir():
        rows += real(folder)
    return rows


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
