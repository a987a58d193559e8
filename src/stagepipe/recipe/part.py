"""What every part of a recipe can do: say itself as text, and be recognised by it."""

from __future__ import annotations

import hashlib
import json

from stagepipe.recipe.model import Section


class Part(Section):
    """Base of all parts."""

    def text(self) -> str:
        """Canonical JSON: sorted keys, no defaults, no spaces."""
        plain = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def fingerprint(self) -> str:
        """SHA-256 of the text; artefacts carry it and their readers check it."""
        return hashlib.sha256(f"{type(self).__name__} {self.text()}".encode()).hexdigest()
