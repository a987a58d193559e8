"""Bad inputs, what becomes of each, and the table of them in docs/reliability.md.

    python -m tests.bad_inputs      # write the table anew

tests/test_bad_inputs.py feeds every one of them to stagepipe.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stagepipe.errors import StagepipeError


@dataclass(frozen=True)
class BadInput:
    """One bad input."""

    name: str
    """in plain words"""
    where: str
    """what it is handed to: a format, a recipe, a table, an artefact"""
    build: Callable[[Path], object]
    """writes it, and what belongs to it, into an empty folder"""
    meet: Callable[[Path], object]
    """hands it to stagepipe; for a quarantine it returns the faults found"""
    outcome: type[StagepipeError] | str
    """error that it ends in, or the name of the fault under which it is quarantined"""
    says: tuple[str, ...]
    """what the message or the fault must say: file, key or row, and the value where there is one"""
