"""What to write instead of a name that doesn't exist."""

import difflib
from collections.abc import Iterable


def unknown(name: str, known: Iterable[str]) -> str:
    """Half a sentence that says `name` is unknown and offers the closest known names, or all of a few."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or (names if len(names) < 20 else [])
    return f"{name} is unknown" + (f"; write one of {', '.join(close)}" if close else "")
