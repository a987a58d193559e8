"""Networks, smp's and our own, with their input geometry: uint8 images in, logits on the padded grid out."""

from stagepipe.networks.geometry import Geometry
from stagepipe.networks.network import SegmentationNetwork, probabilities
from stagepipe.networks.segmentation import build, validate_names

__all__ = ["Geometry", "SegmentationNetwork", "build", "probabilities", "validate_names"]
