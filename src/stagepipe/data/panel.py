"""Draw a seismic-looking panel: bent layers, bodies of salt with a bright border and a chaotic inside, and noise.

Lengths are in tiles, so that a panel looks alike at every tile size.
"""

from __future__ import annotations

import cv2
import numpy as np

TILES = 4
"""tiles along each edge of a panel"""


def draw_panel(random: np.random.Generator, size: int, style: str) -> tuple[np.ndarray, np.ndarray]:
    """Gray values, float32 [4 size, 4 size] around 128, and salt, bool of the same shape.

    style: `layers` has no salt, `dome` rounded bodies, `wall` a body with vertical walls down to the lower edge.
    """
    edge = TILES * size
    y, x = np.mgrid[0:edge, 0:edge].astype(np.float32) / size
    salt = {"layers": _no_salt, "dome": _domes, "wall": _wall}[style](random, y, x)
    signed = _signed_distance(salt, size)
    layers = _layers(random, y, x, signed)
    inside = random.uniform(-0.5, 0.7) + random.uniform(0.15, 0.45) * _noise(random, edge, random.uniform(1.5, 3.5))
    inside += random.uniform(0.05, 0.25) * layers  # layers shimmer through
    brightness = np.clip(0.8 + 0.5 * _smooth(random, edge, 0.7), 0, None)
    thickness = max(0.02, 1 / size)  # at least a pixel
    border = np.exp(-np.square(signed / thickness)) - 0.6 * np.exp(-np.square(signed / thickness + 2))
    noise = random.uniform(0.15, 0.55) * _noise(random, edge, 1.2)
    values = np.where(salt, inside, layers) + random.uniform(1.2, 2.5) * brightness * border + noise
    gray = 128 + random.uniform(-20, 15) + random.uniform(24, 42) * values
    return gray.astype(np.float32), salt


def _layers(random: np.random.Generator, y: np.ndarray, x: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """Reflections of tilted and folded strata that bend up towards salt; mean 0, deviation about 1."""
    edge = len(y)
    depth = y + random.uniform(-0.4, 0.4) * x + random.uniform(0.05, 0.2) * _smooth(random, edge, 1.3)
    depth += random.uniform(0.2, 0.6) * np.exp(-np.maximum(signed, 0) / random.uniform(0.3, 0.7))
    depth += np.where(x > random.uniform(0, 2 * TILES) + 0.3 * y, random.uniform(0.05, 0.2), 0)  # a fault, if in sight
    period = max(random.uniform(0.05, 0.16), 4 * TILES / edge)  # at least four pixels
    step = period / 8
    positions = np.arange(depth.min() - period, depth.max() + period, step)
    time = np.arange(-16, 17) / 8
    wavelet = (1 - 2 * np.square(np.pi * time / 2)) * np.exp(-np.square(np.pi * time / 2))  # Ricker
    trace = np.convolve(random.normal(size=len(positions)), wavelet, mode="same")
    strength = np.clip(1 + 0.35 * _smooth(random, edge, 1.0), 0.1, None)
    return strength * np.interp(depth, positions, trace / trace.std())


def _no_salt(random: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.zeros(y.shape, bool)


def _domes(random: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One or two domes that rise from the lower edge, and often a detached body."""
    edge = len(y)
    rough = random.uniform(0.03, 0.1) * _smooth(random, edge, 0.35)
    salt = np.zeros(y.shape, bool)
    for _ in range(random.integers(1, 3)):
        centre, width, power = random.uniform(0.5, 3.5), random.uniform(0.5, 1.1), random.uniform(1.5, 4)
        top = random.uniform(0.6, 2.6)
        rise = (TILES + 0.5 - top) * np.exp(-(np.abs((x - centre) / width) ** power))
        salt |= y + rough > TILES + 0.5 - rise
    if random.random() < 0.7:
        middle, across, high = random.uniform(0.5, 3.5, size=2), random.uniform(0.5, 1.2), random.uniform(0.25, 0.6)
        radius = np.square((x - middle[0]) / across) + np.square((y - middle[1]) / high)
        salt |= radius + 5 * rough < 1
    return salt


def _wall(random: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A body between two vertical walls, both well inside a tile, with a curved roof in the upper row of tiles."""
    left, right = random.integers(0, 2) + random.uniform(0.2, 0.8), random.integers(2, 4) + random.uniform(0.2, 0.8)
    roof = random.uniform(0.5, 0.8) - random.uniform(0, 0.3) * np.sin(np.pi * (x - left) / (right - left))
    return (x > left) & (x < right) & (y > roof)


def _signed_distance(salt: np.ndarray, size: int) -> np.ndarray:
    """Distance to the border of the salt in tiles, negative inside; far away if there is none."""
    if not salt.any():
        return np.full(salt.shape, 2.0 * TILES, np.float32)
    outside = cv2.distanceTransform((~salt).astype(np.uint8), cv2.DIST_L2, 5)
    inside = cv2.distanceTransform(salt.astype(np.uint8), cv2.DIST_L2, 5)
    return (outside - inside) / size


def _smooth(random: np.random.Generator, edge: int, scale: float) -> np.ndarray:
    """Smooth random field, deviation about 1, that changes over `scale` tiles."""
    coarse = random.normal(size=2 * [int(TILES / scale) + 3]).astype(np.float32)
    return cv2.resize(coarse, (edge, edge), interpolation=cv2.INTER_CUBIC)


def _noise(random: np.random.Generator, edge: int, blur: float) -> np.ndarray:
    """Random field of deviation 1 whose grains are `blur` pixels wide, so that it continues across tile edges."""
    field = cv2.GaussianBlur(random.standard_normal((edge, edge), dtype=np.float32), (0, 0), blur)
    return field / field.std()
