"""The published recipes at a size that two cores train in minutes, on generated data."""

from pathlib import Path

CONFIG = Path(__file__).resolve().parents[1] / "config"
SMALL = {
    "tgs_salt_1st": ("tiny", "synthetic"),
    "tgs_salt_5th": ("tiny_5th", "synthetic"),
    "tgs_salt_15th": ("tiny_15th", "synthetic"),
    "siim_pneumothorax_1st": ("tiny_siim", "synthetic_siim"),
    "signate_street": ("signate_street_more", "tiny_street", "synthetic_street"),
}


def published(name: str) -> Path:
    """The recipe as it was published."""
    return CONFIG / "recipes" / f"{name}.yaml"


def overlays(name: str) -> list[Path]:
    """What makes it small."""
    return [CONFIG / "overlays" / f"{overlay}.yaml" for overlay in SMALL[name]]
