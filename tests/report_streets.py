"""Small street scenes of twenty classes for a report."""

from __future__ import annotations

import numpy as np

PALETTE = {
    "car": (0, 0, 255), "pedestrian": (255, 0, 0), "lane": (69, 47, 142), "bus": (193, 214, 0),
    "truck": (180, 0, 129), "special_vehicle": (255, 121, 166), "motorbike": (65, 166, 1), "bicycle": (208, 149, 1),
    "signal": (255, 255, 0), "signs": (255, 134, 0), "sky": (0, 152, 225), "building": (0, 203, 151),
    "natural": (85, 255, 50), "wall": (92, 136, 125), "ground": (136, 45, 66), "sidewalk": (0, 255, 255),
    "roadshoulder": (215, 0, 255), "obstacle_on_the_road": (180, 131, 135), "others": (81, 99, 0), "own": (86, 62, 67),
}  # fmt: skip
CLASSES = list(PALETTE)
STREETS = {
    "name": "street_scenes",
    "dataset": {
        "format": "synthetic_street",
        "classes": CLASSES,
        "evaluated": ["car", "pedestrian", "lane", "signal"],
        "palette": {name: list(colour) for name, colour in PALETTE.items()},
        "ignored_colours": [[0, 0, 0]],
        "ignore_index": 255,
        "channels": "rgb",
    },
    "folds": {"count": 3, "stratify": ["route", "timeofday"]},
    "networks": {"unet": {}},
    "stages": [
        {"name": "full", "runs": {"unet": {"phases": [{"name": "train", "loss": "cross_entropy", "epochs": 4}]}}},
        {
            "name": "refined",
            "pseudolabels": {"stage": "full", "minimum_confidence": 0.7},
            "runs": {"unet": {"phases": [{"name": "train", "loss": "cross_entropy", "epochs": 4, "data": "both"}]}},
        },
    ],
    "submission": {"blend": {"full": 0.4, "refined": 0.6}, "encode": "runs", "threshold": {"metric": "iou"}},
}


def scene(draw: np.random.Generator, height: int, width: int, classes: int) -> np.ndarray:
    """A mask uint8 [height, width] of the classes above; the border at the left is not counted."""
    index = {name: place for place, name in enumerate(CLASSES)}
    mask = np.full((height, width), index["sky"], np.uint8)
    rows, columns = np.mgrid[:height, :width]
    horizon = int(height * draw.uniform(0.4, 0.5))
    for name in ("building", "natural", "wall", "building", "building"):
        _box(mask, draw, index[name], (0.1, 0.5), (0.15, 0.4), bottom=horizon / height)
    mask[horizon:] = index["sidewalk"]
    reach = (rows - horizon) / (height - horizon)
    road = (rows >= horizon) & (np.abs(columns / width - 0.5) < 0.08 + 0.5 * reach)
    mask[road] = index["lane"]
    mask[(rows >= horizon) & (np.abs(columns / width - 0.5) > 0.05 + 0.55 * reach)] = index["ground"]
    several = ["car", "car", "pedestrian", "signs", "signal", "obstacle_on_the_road", "roadshoulder"]
    rare = draw.choice(["truck", "bus", "motorbike", "bicycle", "special_vehicle", "others"], 2)
    for name in [*draw.permutation(several)[:5], *rare]:
        tall = name in ("pedestrian", "signal", "signs")
        size = ((0.1, 0.22), (0.02, 0.05)) if tall else ((0.08, 0.2), (0.1, 0.25))
        _box(mask, draw, index[name], *size, bottom=draw.uniform(0.5, 0.75) if name != "signal" else 0.3)
    mask[int(0.88 * height) :] = index["own"]
    mask[:, : width // 20] = 255
    return mask


def _box(mask: np.ndarray, draw: np.random.Generator, value: int, heights, widths, bottom: float) -> None:
    height, width = mask.shape
    tall, wide = int(height * draw.uniform(*heights)), max(2, int(width * draw.uniform(*widths)))
    left, lowest = int(draw.uniform(0, width - wide)), int(bottom * height)
    mask[max(0, lowest - max(2, tall)) : lowest, left : left + wide] = value
