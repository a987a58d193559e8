"""Shared fixtures."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says more about the machine than about the code.
# In CI the same examples every time: a change must not fail for what it didn't touch.
settings.register_profile("stagepipe", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("stagepipe")

# Tests are small: a second thread costs more than it brings, and `make test` runs two of them at a time as it is.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHECKOUT = Path(__file__).resolve().parents[1]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Under `pytest -n` a file's tests run in one process, all on the finished workflow in one: they share fixtures.

    A slow test shares nothing else.
    """
    alone = item.nodeid if is_slow(item) else item.path.name
    item.add_marker(pytest.mark.xdist_group("finished" if on_finished(item) else alone))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: (not on_finished(item), not is_slow(item), "workflow" not in item.path.parts))


def is_slow(item: pytest.Item) -> bool:
    """Whether a test takes minutes."""
    return item.get_closest_marker("slow") is not None


def on_finished(item: pytest.Item) -> bool:
    """Whether a test uses the workflow that is run once a session."""
    return "finished" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data: STAGEPIPE_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("STAGEPIPE_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set STAGEPIPE_DATA to its folder")
    return folder
