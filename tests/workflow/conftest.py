"""The tiny workflow, run once a session; tests that change something work on copies of its folder."""

import pytest
from project import CHECKOUT, FAST, TINY, Project, copy_checkout


@pytest.fixture(scope="session")
def empty(tmp_path_factory) -> Project:
    """A project before its first run, in a copy of the checkout that stays as it is while the tests run."""
    base = tmp_path_factory.mktemp("workflow")
    (base / "empty").mkdir()
    return Project(copy_checkout(CHECKOUT, base / "checkout"), base / "empty", TINY)


@pytest.fixture(scope="session")
def finished(empty, tmp_path_factory) -> Project:
    """A project after its first run. Not to be changed: use `copy`."""
    project = empty.copy(tmp_path_factory.mktemp("finished") / "folder")
    done = project.snakemake(*FAST)
    assert done.returncode == 0, done.stdout
    return project


@pytest.fixture(scope="session")
def commands(finished) -> dict[str, str]:
    """Command line of every job, by the name of its log."""
    return finished.shell_commands()


@pytest.fixture
def copy(finished, tmp_path) -> Project:
    """A finished project of the test's own."""
    return finished.copy(tmp_path / "folder")
