"""Made-up street scenes in the raw `street` layout, for examples and tests.

Drives of a few frames each: a sky, rows of buildings, trees, a road that narrows towards the horizon, and what stands
on and beside it. Buildings and trees of a drive stay and move a little from frame to frame; traffic is drawn anew. The
colours of masks are the recipe's palette: things whose class it lacks are what it calls `background`, or else one of
its classes by turns. Nearly every frame shows a car, a lane, a pedestrian and a signal. The same specification gives
the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stagepipe.data.street import ANNOTATIONS, TEST, TRAIN
from stagepipe.data.synthetic import new_folder
from stagepipe.recipe.model import SyntheticStreet
from stagepipe.seeding import generator

Colour = tuple[int, int, int]
Palette = Mapping[str, Sequence[Colour]]

THINGS: dict[str, Colour] = {
    "sky": (150, 185, 225), "building": (150, 120, 105), "natural": (60, 110, 50), "wall": (175, 170, 160),
    "lane": (95, 95, 100), "sidewalk": (165, 150, 150), "roadshoulder": (120, 115, 95), "ground": (140, 110, 70),
    "own": (25, 25, 30), "obstacle": (80, 70, 85), "car": (190, 30, 40), "truck": (225, 215, 60),
    "bus": (60, 150, 140), "svehicle": (235, 120, 30), "motorbike": (50, 60, 150), "bicycle": (120, 60, 140),
    "pedestrian": (240, 190, 160), "signal": (40, 230, 90), "signs": (50, 80, 220), "others": (210, 130, 190),
}  # fmt: skip
"""What scenes are made of, named as the classes of the contest, with the mean colour of its pixels by day."""
PLACES = (
    ("Tokyo1", "morning", 749), ("Tokyo1", "night", 646), ("Tokyo1", "day", 587),
    ("Saitama", "morning", 216), ("Tokyo2", "day", 45),
)  # fmt: skip
"""Routes and times of day with their numbers of frames in the contest's training set."""
LIGHT = {"morning": 0.85, "day": 1.0, "night": 0.45}
FRAMES = 4
"""of a drive"""


@dataclass(frozen=True)
class Frame:
    """One frame of a drive."""

    image: np.ndarray
    """uint8 [H, W, 3], red, green, blue"""
    things: np.ndarray
    """uint8 [H, W], positions in THINGS"""
    route: str
    timeofday: str
    number: int
    """frameIndex"""


def write(folder: Path, spec: SyntheticStreet, palette: Palette) -> None:
    """Write a raw `street` layout to a new or empty folder, whole or not at all. DataError if the folder holds files.

    `palette`: the colours (red, green, blue) of each class.
    """
    with new_folder(folder) as unfinished:
        for name in (TRAIN, ANNOTATIONS, TEST):
            (unfinished / name).mkdir(parents=True)
        colours = mask_colours(palette)
        for number, frame in enumerate(frames(spec, "train", spec.train)):
            name = f"train_{number:04d}"
            _write(unfinished / TRAIN / f"{name}.jpg", frame.image)
            _write(unfinished / ANNOTATIONS / f"{name}.png", colours[frame.things])
            attributes = {"route": frame.route, "timeofday": frame.timeofday}
            text = json.dumps({"attributes": attributes, "frameIndex": frame.number})
            (unfinished / ANNOTATIONS / f"{name}.json").write_text(text, encoding="utf-8")
        for number, frame in enumerate(frames(spec, "test", spec.test)):
            _write(unfinished / TEST / f"test_{number:04d}.jpg", frame.image)


def mask_colours(palette: Palette) -> np.ndarray:
    """Colour in a mask of each of THINGS, uint8 [things, 3]."""
    names = list(palette)
    chosen = []
    for position, thing in enumerate(THINGS):
        name = thing if thing in palette else "background" if "background" in palette else names[position % len(names)]
        chosen.append(palette[name][position % len(palette[name])])
    return np.array(chosen, np.uint8)


def frames(spec: SyntheticStreet, split: str, count: int) -> Iterator[Frame]:
    """Yield the frames of a split, drive by drive."""
    weights = np.array([frames for *_, frames in PLACES]) / sum(frames for *_, frames in PLACES)
    for start in range(0, count, FRAMES):
        random = generator("synthetic_street", spec.seed, split, "drive", start)
        route, timeofday, _ = PLACES[random.choice(len(PLACES), p=weights)]
        scenery = _Scenery(spec.size, random)
        for number in range(min(FRAMES, count - start)):
            own = generator("synthetic_street", spec.seed, split, "frame", start + number)
            things = scenery.drawn(number, own)
            yield Frame(_lit(things, LIGHT[timeofday], own), things, route, timeofday, 1000 * start + 5 * number)


class _Scenery:
    """What stays the same in a drive."""

    def __init__(self, size: tuple[int, int], random: np.random.Generator) -> None:
        self.height, self.width = size
        self.horizon = random.uniform(0.38, 0.5)
        self.vanishing = random.uniform(0.4, 0.6)
        # left edge, width and height of each building, as shares of the frame
        self.buildings = np.column_stack(
            [np.arange(-0.3, 1.3, 0.16), random.uniform(0.08, 0.2, 10), random.uniform(0.08, 0.36, 10)]
        )
        self.trees = np.column_stack([random.uniform(-0.1, 1.1, 6), random.uniform(0.04, 0.09, 6)])

    def drawn(self, number: int, random: np.random.Generator) -> np.ndarray:
        """Things of one frame, uint8 [H, W]."""
        canvas = _Canvas(self.height, self.width)
        shift = 0.02 * number
        canvas.box("sky", 0, 0, 1, 1)
        for left, width, height in self.buildings:
            canvas.box("building", left + shift, self.horizon - height, width, height + 0.02)
        canvas.box("wall", 0, self.horizon - 0.04, 0.16 + shift, 0.08)
        for x, radius in self.trees:
            canvas.ellipse("natural", x + shift, self.horizon - 0.02, radius, 1.3 * radius)
        self._ground(canvas)
        self._traffic(canvas, random)
        canvas.ellipse("own", 0.5, 1.02, 0.42, 0.12)
        return canvas.things

    def _ground(self, canvas: _Canvas) -> None:
        canvas.box("ground", 0, self.horizon, 1, 1 - self.horizon)
        bands = (("sidewalk", 0.28, 0.95), ("roadshoulder", 0.11, 0.66), ("lane", 0.08, 0.56))
        for thing, near_horizon, near in bands:
            corners = [
                (self.vanishing - near_horizon / 2, self.horizon), (self.vanishing + near_horizon / 2, self.horizon),
                (0.5 + near, 1), (0.5 - near, 1),
            ]  # fmt: skip
            canvas.polygon(thing, corners)

    def _traffic(self, canvas: _Canvas, random: np.random.Generator) -> None:
        """Things that stand on the ground, far ones first."""
        wanted = ["car", "car", "pedestrian", "pedestrian", "signal"]
        rare = ("truck", "bus", "svehicle", "motorbike", "bicycle", "signs", "obstacle", "others")
        wanted += random.choice(rare, 3, replace=False).tolist()
        shapes = {"car": (0.22, 0.16), "truck": (0.2, 0.26), "bus": (0.2, 0.28), "svehicle": (0.16, 0.2)}
        for depth, thing in sorted(zip(random.uniform(0.15, 0.75, len(wanted)), wanted, strict=True)):
            foot = self.horizon + depth * (1 - self.horizon)
            width, height = (depth + 0.25) * np.array(shapes.get(thing, (0.07, 0.2)))
            side = random.choice([-1, 1]) * (0.12 if thing in shapes else 0.4 + 0.3 * depth)
            x = self.vanishing + side * (0.4 + depth) + random.uniform(-0.05, 0.05)
            x = float(np.clip(x, width / 2, 1 - width / 2))
            if thing in ("signal", "signs"):
                canvas.box("obstacle", x - 0.006, self.horizon - 0.2, 0.012, foot - self.horizon + 0.2)
                canvas.box(thing, x - 0.03, self.horizon - 0.26, 0.06, 0.08)
            else:
                canvas.box(thing, x - width / 2, foot - height, width, height)


class _Canvas:
    """Things are painted one over the other, at places given as shares of the frame, at least two pixels large."""

    def __init__(self, height: int, width: int) -> None:
        self.things = np.zeros((height, width), np.uint8)
        self._numbers = {thing: number for number, thing in enumerate(THINGS)}

    def box(self, thing: str, left: float, top: float, width: float, height: float) -> None:
        rows, columns = self.things.shape
        first_row, first_column = round(top * rows), round(left * columns)
        last_row = max(first_row + 2, round((top + height) * rows))
        last_column = max(first_column + 2, round((left + width) * columns))
        self.things[max(first_row, 0) : max(last_row, 0), max(first_column, 0) : max(last_column, 0)] = self._numbers[
            thing
        ]

    def ellipse(self, thing: str, x: float, y: float, across: float, down: float) -> None:
        rows, columns = self.things.shape
        centre, axes = (round(x * columns), round(y * rows)), (round(across * columns), round(down * rows))
        cv2.ellipse(self.things, centre, axes, 0, 0, 360, self._numbers[thing], cv2.FILLED)

    def polygon(self, thing: str, corners: Sequence[tuple[float, float]]) -> None:
        rows, columns = self.things.shape
        points = np.rint([(x * columns, y * rows) for x, y in corners]).astype(np.int32)
        cv2.fillPoly(self.things, [points], self._numbers[thing])


def _lit(things: np.ndarray, light: float, random: np.random.Generator) -> np.ndarray:
    """Pixels uint8 [H, W, 3] of things: their colours in this light, with shades and noise."""
    shades = np.array(list(THINGS.values()), np.float32) * random.uniform(0.9, 1.1, (len(THINGS), 1))
    coarse = random.normal(0, 8, (max(2, things.shape[0] // 8), max(2, things.shape[1] // 8))).astype(np.float32)
    texture = cv2.resize(coarse, things.shape[::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    pixels = shades[things] * light + texture + random.normal(0, 5, (*things.shape, 3))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _write(path: Path, pixels: np.ndarray) -> None:
    """Write red, green, blue as PNG or JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    path.write_bytes(cv2.imencode(path.suffix, pixels[..., ::-1], options)[1].tobytes())
