"""One self-contained page about a whole run of a recipe, and its pictures as files."""

from stagepipe.report.inputs import CONFUSION_PICTURE, MOSAICS_PICTURE, PICTURES, ReportInputs
from stagepipe.report.page import write

__all__ = ["CONFUSION_PICTURE", "MOSAICS_PICTURE", "PICTURES", "ReportInputs", "write"]
