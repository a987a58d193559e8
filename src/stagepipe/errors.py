"""Errors a user can act on: each message names the file, key or row, what was found and what to write instead."""


class StagepipeError(Exception):
    """Base of all errors that are the input's fault, not the program's."""


class RecipeError(StagepipeError):
    """The recipe is wrong; the message lists every fault."""


class DataError(StagepipeError):
    """Raw data is faulty; the message lists every fault or names the table that does."""


class ArtefactError(StagepipeError):
    """An intermediate file is corrupt, or was made by another recipe than the one that reads it."""


class TrainingError(StagepipeError):
    """Training can't go on, for example on a loss that is not a number."""


class BusyError(StagepipeError):
    """Another process is at the same work."""
