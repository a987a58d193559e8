"""One self-contained page about a whole run of a recipe, and its pictures as files."""

from stagepipe.report.collect import MOSAICS_PICTURE, PICTURES, ReportInputs
from stagepipe.report.page import write

__all__ = ["MOSAICS_PICTURE", "PICTURES", "ReportInputs", "write"]
