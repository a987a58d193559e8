"""Images a second and core of the training loader, by published augmentation list, at the sizes of its images.

The plain way reads the files with OpenCV and augments with albumentations. What each transform of the heaviest list
takes on its own, and what reading takes without any, stands in the notes.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks import published
from benchmarks.loops import Files, transform
from benchmarks.published import CASES, Published
from benchmarks.timing import interleave
from stagepipe.artefacts import read_table
from stagepipe.augment import Augmentation
from stagepipe.augmentation_lists import NAMED
from stagepipe.data.store import PixelStore
from stagepipe.data.training import TrainingSamples, select
from stagepipe.recipe.model import Transform

LISTS = {
    "tgs_bes": CASES[0], "tgs_phalanx": CASES[1], "tgs_5th": CASES[1], "tgs_15th": CASES[5], "siim": CASES[3],
    "street": CASES[6],
}  # fmt: skip
"""published lists and a network that has images of their size"""
IMAGES = {"tgs": 400, "siim": 12, "street": 8}
"""of each measurement"""
FEWEST = 8
"""samples that every data set has for training"""
HEAVY = "siim"
REPEATS, HEAVY_CALLS = 3, 5


def samples(case: Published, data: published.Tiles, spec: str) -> TrainingSamples:
    """What a loader's worker reads for that phase with that list."""
    part, table = case.part(), read_table(data.samples)
    store = PixelStore(data.pixels, table)
    return TrainingSamples(select(part, table, data.folds, None).training, store, Augmentation(spec), ("loader",))


def leaves(spec: list[Transform], share: float = 1.0) -> Iterator[tuple[float, Transform]]:
    """Every transform of a list without its blocks, and the share of the images that it meets."""
    for entry in spec:
        probability = share * float(str(entry.arguments.get("p", 0.5)))
        if not entry.transforms:
            yield probability, entry
        elif entry.name == "OneOf":
            yield from leaves(entry.transforms, probability / len(entry.transforms))
        else:
            yield from leaves(entry.transforms, probability)


def costs(spec: list[Transform], image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Milliseconds a call that each transform of a list takes, times the share of images that it meets."""
    found = {}
    for number, (share, entry) in enumerate(leaves(spec)):
        always = transform(entry.model_copy(update={"arguments": {**entry.arguments, "p": 1}}))
        always(image=image, mask=mask)
        began = time.perf_counter()
        for _ in range(HEAVY_CALLS):
            always(image=image, mask=mask)
        each = (time.perf_counter() - began) / HEAVY_CALLS * 1e3
        found[f"{number} {entry.name}"] = each * share
    return found


def row(name: str, case: Published, data: published.Tiles, files: Path) -> dict:
    ours, raw, format_name = samples(case, data, name), samples(case, data, "none"), case.loaded().dataset.format
    part = case.part()
    phase = part.phase.model_copy(update={"augment": name})
    plain = Files(files, part.model_copy(update={"phase": phase}), channels=1)
    count, numbers = IMAGES[format_name], itertools.count()

    def reading(source: TrainingSamples) -> Callable[[], None]:
        def read() -> None:
            for _ in range(count):
                number = next(numbers)
                source[0, number, number % FEWEST]

        return read

    ways = {"plain": lambda: [plain.augmented(number % len(plain)) for number in range(count)]}
    seconds = interleave(ways | {"ours": reading(ours), "none": reading(raw)}, REPEATS)
    rates = {way: count / value for way, value in seconds.items()}
    height, width, channels = raw[0, 0, 0][0].shape
    note = f"one core; without augmentation {rates['none']:,.0f}; plain: OpenCV from files, albumentations"
    details: dict[str, object] = {"without_augmentation": rates["none"]}
    if name == HEAVY:
        image, mask = raw[0, 0, 0]
        details["milliseconds"] = found = costs(NAMED[name], image.copy(), mask.copy())
        most = sorted(found, key=found.__getitem__, reverse=True)[:3]
        shares = ", ".join(f"{key.split()[1]} {found[key] / sum(found.values()):.0%}" for key in most)
        note += f"; of the augmentation's time {shares}"
    return {"name": f"augmentation {name}, {height} x {width} x {channels}", "note": note, "details": details} | {
        "plain": rates["plain"], "ours": rates["ours"], "unit": "images/s", "ratio": rates["ours"] / rates["plain"],
    }  # fmt: skip


def run(gpu: bool) -> list[dict]:
    cv2.setNumThreads(0)  # as in a worker
    rows = []
    for format_name in dict.fromkeys(case.loaded().dataset.format for case in LISTS.values()):
        chosen = {name: case for name, case in LISTS.items() if case.loaded().dataset.format == format_name}
        with tempfile.TemporaryDirectory() as temporary:
            folder, recipe = Path(temporary), next(iter(chosen.values())).loaded()
            data = published.write(recipe, folder)
            files = published.write_files(data, folder / "plain", format_name == "street")
            rows += [row(name, case, data, files) for name, case in chosen.items()]
    return rows


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
