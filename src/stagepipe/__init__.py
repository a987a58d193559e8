"""stagepipe re-runs multi-stage segmentation recipes: raw files in, submission out."""

__version__ = "0.1.0"
