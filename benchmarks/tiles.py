"""Synthetic salt tiles for the benchmarks that train and predict: raw PNG files, and what ingest makes of them."""

from dataclasses import dataclass
from pathlib import Path

from stagepipe import folds
from stagepipe.artefacts import read_table, write_table
from stagepipe.data import synthetic
from stagepipe.data.ingest import ingest
from stagepipe.recipe.model import Dataset, Folds, Network, Synthetic


@dataclass(frozen=True)
class Tiles:
    """Where they lie."""

    raw: Path
    samples: Path
    pixels: Path
    folds: Path


def write(folder: Path, train: int, test: int) -> Tiles:
    """Tiles of 101 x 101 pixels, as those of TGS salt, split into five folds."""
    tiles = Tiles(folder / "raw", folder / "samples.parquet", folder / "pixels.bin", folder / "folds.parquet")
    synthetic.write(tiles.raw, Synthetic(train=train, test=test))
    dataset = Dataset(format="tgs", root=str(tiles.raw))
    ingest(dataset, tiles.raw, tiles.samples, tiles.pixels, folder / "faults.parquet")
    write_table(tiles.folds, folds.split(read_table(tiles.samples), Folds()))
    return tiles


def network(encoder: str) -> Network:
    """A U-Net with scse attention that pads the tiles to 128 x 128."""
    return Network.model_validate(
        {
            "encoder": encoder,
            "arguments": {"decoder_attention_type": "scse"},
            "pad": {"to": 128},
            "normalise": {"mean": [0.48], "std": [0.16]},
        }
    )
