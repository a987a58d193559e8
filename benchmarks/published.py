"""The networks of the published recipes, as their training phases have them, on synthetic data of the real sizes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from benchmarks.tiles import Tiles
from stagepipe import folds
from stagepipe.artefacts import read_table, write_table
from stagepipe.data import synthetic, synthetic_siim, synthetic_street
from stagepipe.data.ingest import ingest
from stagepipe.data.store import PixelStore
from stagepipe.recipe.load import load
from stagepipe.recipe.model import Pad, Recipe, Synthetic, SyntheticSiim, SyntheticStreet
from stagepipe.recipe.parts import TrainPart, train_part

RECIPES = Path(__file__).resolve().parent.parent / "config" / "recipes"
IMAGES = {"tgs": 200, "siim": 16, "street": 14}
"""labelled ones that are made up, of each format"""


@dataclass(frozen=True)
class Published:
    """A training phase of a recipe."""

    name: str
    recipe: str
    stage: str
    run: str
    phase: str
    cpu: dict[str, Any]
    """keys of the phase on a CPU, where the published batch and size would take minutes a step"""

    def loaded(self) -> Recipe:
        """The recipe that the phase is from."""
        return load(RECIPES / f"{self.recipe}.yaml")

    def part(self, published: bool = True) -> TrainPart:
        """The phase on fold 0 without an end, on labels, with random weights, as published or with its keys on a CPU.

        Without the topology-aware loss, whose weights of VGG19 would have to be downloaded.
        """
        part = train_part(self.loaded(), self.stage, self.run, self.phase, "0")
        changes = {
            **({} if published else self.cpu),
            "loss": {name: term for name, term in part.phase.loss.items() if name != "topology"},
            "data": "labels",
            "init": "encoder",
            "init_grown": False,
            "epochs": 10**6,
            "cycles": 1,
        }
        network = part.network.model_copy(update={"weights": None})
        return part.model_copy(update={"phase": part.phase.model_copy(update=changes), "network": network})


HALF = {"batch": 1, "resize": (608, 968), "pad": Pad(to=(640, 1024), mode="reflect")}
CASES = (
    Published("TGS 1st, ResNeXt50 U-Net", "tgs_salt_1st", "stage1", "resnext50", "lovasz", {"batch": 2}),
    Published("TGS 1st, ResNet34 at 256 px", "tgs_salt_1st", "stage1", "resnet34_256", "cycles", {"batch": 1}),
    Published("TGS 1st, ResNet34 at 128 px", "tgs_salt_1st", "stage3", "resnet34_pad128", "finetune", {"batch": 8}),
    Published(
        "SIIM 1st, AlbuNet", "siim_pneumothorax_1st", "experiments", "albunet_valid", "part1",
        {"batch": 1, "resize": (512, 512)},
    ),
    Published(
        "SIIM 1st, SCSE U-Net", "siim_pneumothorax_1st", "experiments", "seunet", "part1",
        {"batch": 1, "resize": (512, 512)},
    ),
    Published("TGS 15th, guided upsampling", "tgs_salt_15th", "guided", "guided", "topology", {"batch": 4}),
    Published("Street 22nd, ResNet34 U-Net", "signate_street", "stage1", "resnet34", "full", HALF),
)  # fmt: skip


def write(recipe: Recipe, folder: Path) -> Tiles:
    """Synthetic images in the raw layout of the recipe and in its sizes, ingested and split into its folds."""
    name = recipe.dataset.format
    data = Tiles(folder / "raw", folder / "samples.parquet", folder / "pixels.bin", folder / "folds.parquet")
    if name == "tgs":
        synthetic.write(data.raw, Synthetic(train=IMAGES[name], test=1))
    elif name == "siim":
        films = SyntheticSiim(train=IMAGES[name], second_stage=2, test=1, size=1024, positive=0.5)
        synthetic_siim.write(data.raw, films)
    else:
        frames = SyntheticStreet(train=IMAGES[name], test=1, size=(1216, 1936))
        synthetic_street.write(data.raw, frames, recipe.dataset.palette)
    dataset = recipe.dataset.model_copy(update={"root": str(data.raw), "faults": "strict"})
    ingest(dataset, data.raw, data.samples, data.pixels, folder / "faults.parquet")
    write_table(data.folds, folds.split(read_table(data.samples), recipe.folds))
    return data


def write_files(data: Tiles, folder: Path, photographs: bool) -> Path:
    """The labelled images and masks as files that OpenCV reads, for the plain way; photographs are JPEG files."""
    samples = read_table(data.samples)
    store = PixelStore(data.pixels, samples)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for row, (name, split) in enumerate(
        zip(samples["sample_id"].to_pylist(), samples["split"].to_pylist(), strict=True)
    ):
        if split == "train":
            cv2.imwrite(str(folder / "images" / f"{name}.{'jpg' if photographs else 'png'}"), store.image(row))
            cv2.imwrite(str(folder / "masks" / f"{name}.png"), store.mask(row))
    return folder
