"""Errors a user can act on: each message names the file, key or row, what was found and what to write instead."""

LONGEST = 500
"""characters of one value that a message quotes"""


def shortened(text: str) -> str:
    """The text for a message, its first LONGEST characters and `...` where it is longer."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


class StagepipeError(Exception):
    """Base of all errors that are the input's fault, not the program's."""

    def __init__(self, message: str) -> None:
        # It quotes the input, in which control characters could steer a terminal and lone surrogates end a log.
        lines = str(message).split("\n")
        super().__init__("\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines))


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


class StorageError(StagepipeError):
    """A file can't be written or read: the disk is full or read-only, or the user lacks the permission."""
