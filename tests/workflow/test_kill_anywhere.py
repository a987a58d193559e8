"""The built-in recipe, small, killed twenty times: it ends with the bytes of a run that nothing disturbed."""

from pathlib import Path

import pytest

from tests.kill_anywhere import kill_often, projects, summary

SMALL = Path(__file__).with_name("demo_small.yaml")


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path):
    outcome = kill_often(*projects(tmp_path, [SMALL]), kills=20, seed=0)
    assert outcome.faults == [], summary(outcome)
    assert len(outcome.kills) == 20
    # Kills that only ever hit one kind of work would show little.
    assert len(outcome.kinds()) >= 4, summary(outcome)
    assert outcome.compared > 100
