"""Shared fixtures."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says more about the machine than about the code.
# In CI the same examples every time: a change must not fail for what it didn't touch.
settings.register_profile("stagepipe", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("stagepipe")

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data: STAGEPIPE_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("STAGEPIPE_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set STAGEPIPE_DATA to its folder")
    return folder
