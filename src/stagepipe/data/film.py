"""Draw a chest film as an X-ray makes it: what lies in the way of the rays adds up, and more of it is brighter.

Lengths are in edges of the film and only the noise is drawn pixel by pixel, so that a film looks alike at every size.
Shapes are drawn for an upright chest whose midline is x = 0, with y from 0 above to 1 below; the chest's right side is
at negative x, on the viewer's left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

CANVAS = 512
"""edge in pixels of the picture that vessels are drawn on before they are laid on a film"""
CENTRE = (0.13, 0.46)
"""x (away from the midline) and y that a lung is drawn around"""
OUTLINE = np.array([
    (0.13, 0.115), (0.2, 0.14), (0.26, 0.2), (0.31, 0.3), (0.34, 0.4), (0.36, 0.5), (0.372, 0.6), (0.385, 0.7),
    (0.405, 0.8), (0.41, 0.9), (0.2, 1.0), (0.03, 0.9), (0.03, 0.7), (0.03, 0.5), (0.035, 0.3), (0.06, 0.15),
])  # fmt: skip
"""x and y of a lung's wall from its apex down the outer side; diaphragm and heart cover its lower and inner parts"""


@dataclass(frozen=True)
class View:
    """Where the pixels of a film lie in the chest: x and y, float32 [size, size]."""

    x: np.ndarray
    y: np.ndarray

    def inside(self, distance: np.ndarray, softness: float = 0.003) -> np.ndarray:
        """1 where a signed distance is positive, 0 where negative, with an edge at least about a pixel wide."""
        ramp = np.clip(distance * (0.25 / max(softness, 0.3 / len(self.x))) + 0.5, 0, 1)
        return ramp * ramp * (3 - 2 * ramp)

    def line(self, distance: np.ndarray, width: float) -> np.ndarray:
        """1 where a distance is 0, falling to 0 at twice `width`, which is at least about half a pixel."""
        relative = distance * (0.5 / max(width, 0.6 / len(self.x)))
        return np.square(np.maximum(1 - relative * relative, 0))


@dataclass(frozen=True)
class Lung:
    """One lung: fields are float32 [size, size]."""

    angle: np.ndarray
    """around the lung's centre: 0 upwards, positive on the outer side"""
    depth: np.ndarray
    """distance from the wall over that of the centre: 0 at the wall, 1 at the centre, negative outside"""
    radius: np.ndarray
    """distance of the wall from the centre"""
    air: np.ndarray
    """1 where air is in the way of the rays, 0 where none is"""


@dataclass(frozen=True)
class Collapse:
    """Air between a lung and the wall (pneumothorax)."""

    mask: np.ndarray
    """bool [size, size]"""
    distance: np.ndarray
    """from the edge of the lung, float32 [size, size]: positive in the air, negative in the lung"""
    width: np.ndarray
    """how far the lung has drawn back from the wall, float32 [size, size]"""


def draw_film(random: np.random.Generator, size: int, shares: tuple[float, float]) -> tuple[np.ndarray, list[Collapse]]:
    """Gray values, float32 [size, size] from 0 to 255 and white for bone, and a collapse for each share above 0.

    shares: of the film that is air outside the lung, right and left; at most seven tenths of a lung.
    """
    view = _view(random, size)
    density, covered = _soft_tissue(random, view)
    lungs = [_lung(random, view, side, covered) for side in (-1, 1)]
    density += _bones(random, view, lungs)
    markings = _vessels(random, view) + 0.03 * _smooth(random, size, 40) + 0.02 * _smooth(random, size, 90)
    collapses = []
    darkness = random.uniform(0.78, 0.9)
    for lung, share, own in zip(lungs, shares, random.spawn(2), strict=True):
        content = 0.45 * markings - darkness * (1 - 0.2 * np.exp(lung.depth * -6))
        if share:
            collapses.append(_collapse(own, lung, share))
            content = _drawn_back(view, collapses[-1], content, -darkness - 0.06)
        density += lung.air * content
    return _exposed(random, density), collapses


# ---------------------------------------------------------------------------------------------------------------- shape


def _view(random: np.random.Generator, size: int) -> View:
    """A chest that is turned, moved, larger or smaller than the film, and a little out of shape."""
    middles = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    across = middles[None] - random.normal(0, 0.015)
    along = middles[:, None] - random.normal(0, 0.015)
    tilt, zoom, stretch = random.normal(0, 0.02), random.uniform(0.92, 1.08), random.uniform(0.94, 1.06)
    x = (across + tilt * along) / (zoom * stretch) + 0.004 * _smooth(random, size, 4)
    y = (along - tilt * across) / zoom + 0.5 + 0.004 * _smooth(random, size, 4)
    return View(x, y)


def _smooth(random: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth random field of deviation about 1, float32 [size, size], that changes `cells` times across the film."""
    coarse = random.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _soft_tissue(random: np.random.Generator, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Density without lungs and bones, and how much of it leaves no room for a lung, 0 to 1."""
    x, y = view.x, view.y
    away = np.abs(x)
    heights = (-0.3, 0, 0.04, 0.08, 0.13, 0.22, 0.35, 0.6, 0.8, 1.3)
    half = np.array((0.13, 0.14, 0.26, 0.43, 0.54, 0.6, 0.61, 0.56, 0.52, 0.5)) * random.uniform(0.94, 1.1)
    relative = away / np.interp(y, heights, half).astype(np.float32)
    body = np.sqrt(np.sqrt(np.clip(1 - relative * relative, 0, 1))) * random.uniform(1.0, 1.25)
    base = random.uniform(0.7, 0.77)
    dome = _dome(random, x, base)
    belly = view.inside(y - dome, 0.004) * view.inside(0.42 - away, 0.05)
    heart = _heart(random, view, base)
    middle = view.inside(0.045 + 0.04 * y * y - np.abs(x - 0.005), 0.01)
    covered = 1 - (1 - belly) * (1 - np.clip(2.2 * heart, 0, 1)) * (1 - middle)
    density = body * (1 + 0.1 * _smooth(random, len(x), 3) + 0.05 * _smooth(random, len(x), 7))
    density += belly * (0.6 + 1.2 * np.clip(y - dome, 0, 0.35) - _stomach(random, view, dome))
    density += np.maximum(0.75 * heart, 0.5 * middle) * (1 - 0.8 * belly)
    windpipe = view.line(x - random.normal(0.005, 0.004), 0.02) * view.inside(0.37 - y, 0.03)
    return density - 0.4 * windpipe, covered


def _dome(random: np.random.Generator, x: np.ndarray, base: float) -> np.ndarray:
    """y of the diaphragm, about `base`, which falls off towards the outer side; the right half is higher as a rule."""
    halves = []
    for side in (-1, 1):
        from_top = side * x - random.uniform(0.15, 0.2)
        steep = random.uniform(1.6, 3.2)
        falling = np.where(from_top > 0, np.float32(steep), np.float32(0.6)) * from_top * from_top
        halves.append(base + random.uniform(-0.02, 0.02) + 0.01 * side + falling)
    left = np.clip(0.5 + x * 8, 0, 1)
    return halves[0] + left * (halves[1] - halves[0])


def _stomach(random: np.random.Generator, view: View, dome: np.ndarray) -> np.ndarray:
    """What a bubble of gas below the left half of the diaphragm takes off the density; 0 in half of the films."""
    strength = max(0.0, random.uniform(-0.8, 0.8))
    across, down = random.uniform(0.05, 0.1), random.uniform(0.03, 0.06)
    x, y = view.x - random.uniform(0.18, 0.26), view.y - dome - down - 0.02
    return strength * view.inside(down - np.sqrt(np.square(x * (down / across)) + y * y), 0.008)


def _heart(random: np.random.Generator, view: View, base: float) -> np.ndarray:
    """Thickness of the heart, which rests on the diaphragm at `base`, and of the great vessels; 0 to about 1."""
    scale, turn = random.uniform(0.88, 1.15), random.uniform(0.55, 0.85)
    x, y = view.x - random.uniform(0.06, 0.085), view.y - base + random.uniform(0.08, 0.12)
    cosine, sine = math.cos(turn), math.sin(turn)
    along, across = x * cosine + y * sine, y * cosine - x * sine
    chambers = np.square(along * (1 / (0.21 * scale))) + np.square(across * (1 / (0.14 * scale)))
    arch = np.square((view.x - 0.03) / 0.053) + np.square((view.y - random.uniform(0.3, 0.34)) / 0.065)
    outflow = np.square((view.x - 0.03) / 0.075) + np.square((view.y - 0.46) / 0.15)
    joined = sum(np.exp(np.maximum(part * -5, -20)) for part in (chambers, arch, outflow))
    nearest = -0.2 * np.log(joined)
    return np.sqrt(np.clip(1 - nearest, 0, 1))


def _lung(random: np.random.Generator, view: View, side: int, covered: np.ndarray) -> Lung:
    corners = OUTLINE * (random.uniform(0.94, 1.05), 1) - (0, random.normal(0, 0.008)) - CENTRE
    corners += random.normal(0, 0.004, corners.shape)
    around = np.linspace(-np.pi, np.pi, 361)[:-1]
    radii = np.interp(around, np.arctan2(corners[:, 0], -corners[:, 1]), np.hypot(*corners.T), period=2 * np.pi)
    bell = np.exp(-0.5 * np.square(np.arange(-15, 16) / 5))
    radii = np.convolve(np.pad(radii, 15, mode="wrap"), bell / bell.sum(), mode="valid")
    x, y = side * view.x - CENTRE[0], view.y - CENTRE[1]
    # Turned by half a circle, so that the jump from -pi to pi lies below; ten times as fast as NumPy's arctan2.
    distance, angle = cv2.cartToPolar(y, -x)
    angle -= np.pi
    radius = np.interp(angle, np.append(around, np.pi), np.append(radii, radii[0])).astype(np.float32)
    depth = 1 - distance / radius
    return Lung(angle, depth, radius, view.inside(depth * radius) * (1 - covered))


# ---------------------------------------------------------------------------------------------------- bones and vessels


def _bones(random: np.random.Generator, view: View, lungs: list[Lung]) -> np.ndarray:
    """Density of spine, ribs, collar bones and shoulders."""
    x, y = view.x, view.y
    away = np.abs(x)
    outside = np.maximum(*(lung.depth * lung.radius for lung in lungs))
    cage = view.inside(outside + 0.022, 0.006) * view.inside(away - 0.03, 0.01) * view.inside(0.85 - y, 0.08)
    wall = view.line(outside + 0.012, 0.009) * view.inside(away - 0.15, 0.05)
    spacing = random.uniform(0.068, 0.08)
    behind = _ribs(view, y - (0.3 + 0.9 * y) * away * away, random.uniform(0, spacing), spacing)
    before = _ribs(view, y + 0.7 * away - 0.4 * away * away, random.uniform(0, spacing), 1.3 * spacing)
    ribs = cage * (0.2 * behind + 0.09 * before * view.inside(away - 0.16, 0.04) + 0.12 * wall)
    vertebrae = np.tanh(4 * np.sin(y * (2 * np.pi / 0.062)) + 2)
    spine = (0.2 + 0.05 * vertebrae) * view.inside(0.04 + 0.01 * y - away, 0.006)
    return ribs + spine + _shoulders(random, view, away)


def _shoulders(random: np.random.Generator, view: View, away: np.ndarray) -> np.ndarray:
    """Density of collar bones, shoulder blades and upper arms."""
    out = away - 0.04
    middle = random.uniform(0.17, 0.2) - random.uniform(0.17, 0.26) * out
    middle += random.uniform(0.008, 0.018) * np.sin(out * (2 * np.pi / 0.36))
    thick = 0.012 + 0.1 * np.square(away - 0.22)
    collar = _hollow(view, np.minimum(thick - np.abs(view.y - middle), np.minimum(out, 0.38 - out)))
    along, across = view.y - 0.27, away - 0.43 + 0.2 * (view.y - 0.27)
    blade = 0.12 - np.sqrt(along * along + np.square(across * (1.9 - 5 * along)))
    arm = 0.05 - np.sqrt(np.square(away - 0.5) + np.square(view.y - 0.18))
    return 0.22 * collar + 0.07 * view.inside(blade, 0.004) + 0.12 * view.inside(arm, 0.01)


def _ribs(view: View, level: np.ndarray, start: float, spacing: float) -> np.ndarray:
    """Bands that follow a level, one each `spacing`."""
    turn = (level - start) * (1 / spacing)
    return _hollow(view, spacing * (0.27 - np.abs(turn - np.rint(turn))))


def _hollow(view: View, distance: np.ndarray) -> np.ndarray:
    """A bone, given the signed distance from its surface: about 1 in its dense rind and less inside."""
    return 0.65 * view.inside(distance) + 0.4 * view.line(distance - 0.003, 0.004)


def _vessels(random: np.random.Generator, view: View) -> np.ndarray:
    """Branches that spread from both roots of the lungs, 0 to 1, thinner and fainter on their way."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    for side in (-1, 1):
        starts = np.array((0.5 + side * 0.07, 0.45)) + random.normal(0, 0.012, (13, 2))
        angles = np.linspace(-0.2, 2.9, 13) + random.normal(0, 0.12, 13)
        for width, gray in ((6, 200), (4, 150), (3, 110), (2, 80), (1, 60)):
            turns = angles[:, None] + np.cumsum(random.normal(0, 0.13, (len(angles), 5)), axis=1)
            steps = np.stack([side * np.sin(turns), -np.cos(turns)], axis=2)
            steps *= random.uniform(0.006, 0.018, (len(angles), 1, 1))
            paths = np.concatenate([starts[:, None], starts[:, None] + np.cumsum(steps, axis=1)], axis=1)
            fixed = np.rint(paths * (CANVAS * 16)).astype(np.int32)
            cv2.polylines(canvas, list(fixed), False, gray, width, cv2.LINE_8, 4)
            starts = np.repeat(paths[:, -1], 2, axis=0)
            apart = np.tile((-1, 1), len(turns)) * random.uniform(0.1, 0.5, 2 * len(turns))
            angles = np.repeat(turns[:, -1], 2) + apart
    soft = cv2.GaussianBlur(canvas, (0, 0), max(0.8, 0.4 * CANVAS / len(view.x)))
    across, along = (view.x + 0.5) * CANVAS - 0.5, view.y * CANVAS - 0.5
    return cv2.remap(soft, across, along, cv2.INTER_LINEAR).astype(np.float32) / 255


# ------------------------------------------------------------------------------------------------------------- collapse


def _collapse(random: np.random.Generator, lung: Lung, share: float) -> Collapse:
    """Air that fills `share` of the film: a cap over the apex, a crescent along the wall or a pocket above the base."""
    field = (lung.air > 0.5) & (lung.depth > 0)
    room = int(np.count_nonzero(field))
    pixels = max(1, min(round(share * field.size), round(0.7 * room)))
    kinds = (random.normal(0.05, 0.22), random.uniform(0.6, 1.5), random.uniform(1.9, 2.3))
    fill = pixels / room
    middle = (1 - fill) * random.choice(kinds, p=(0.65, 0.25, 0.1)) + 0.7 * fill
    reach = random.uniform(0.12, 0.4) + 1.3 * fill**0.5 + 1.5 * fill
    around = lung.angle - np.float32(middle)
    profile = np.square(np.cos(np.clip(around * (np.pi / 2 / reach), -np.pi / 2, np.pi / 2)))
    waves = 0.1 * np.sin(3 * around + random.uniform(0, 6)) + 0.06 * np.sin(7 * around + random.uniform(0, 6))
    profile *= 1 + (1 - fill) * waves
    within = field & (profile > 1e-3)
    needed = lung.depth[within] / profile[within]
    height = np.sort(needed)[min(pixels, len(needed)) - 1]
    mask = np.zeros_like(field)
    mask[within] = needed <= height
    width = height * profile * lung.radius
    return Collapse(mask, width - lung.depth * lung.radius, width)


def _drawn_back(view: View, collapse: Collapse, content: np.ndarray, empty: float) -> np.ndarray:
    """Density of a lung that has drawn back, from its content before: denser, with a fine bright edge, in plain air."""
    air = view.inside(collapse.distance, 0.002)
    pleura = view.line(collapse.distance, 0.0025) * np.clip(collapse.width * 100, 0, 1)
    shrunk = min(1, float(collapse.width.max()) / 0.3)
    return (1 - air) * (content + 0.12 * shrunk) + air * empty + 0.2 * pleura


# ------------------------------------------------------------------------------------------------------------- exposure


def _exposed(random: np.random.Generator, density: np.ndarray) -> np.ndarray:
    """Gray values of a density: exposure, in most films a marker of the left side, noise."""
    size = len(density)
    marker = np.zeros((CANVAS, CANVAS), np.uint8)
    place = (int(random.integers(430, 480)), int(random.integers(30, 120)))
    cv2.putText(marker, "L", place, cv2.FONT_HERSHEY_SIMPLEX, random.uniform(0.7, 1.1), 255, 3, cv2.LINE_AA)
    density = density * random.uniform(0.9, 1.15) + random.uniform(-0.04, 0.08)
    density += cv2.resize(marker, (size, size), interpolation=cv2.INTER_AREA) * (random.uniform(-1, 2) > 0) / 150
    gray = random.uniform(235, 252) * (1 - np.exp(np.maximum(density, 0) * -random.uniform(1.1, 1.4)))
    noise = random.standard_normal((size, size), dtype=np.float32)
    return np.clip(gray + random.uniform(1.5, 4) * noise, 0, 255)
