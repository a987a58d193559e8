"""One self-contained page about a whole run of a recipe, and its pictures as files."""

from stagepipe.report.collect import PICTURES, ReportInputs
from stagepipe.report.page import write

__all__ = ["PICTURES", "ReportInputs", "write"]
