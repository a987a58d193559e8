"""The built-in recipe, small, killed twelve times: it ends with the bytes of a run that nothing disturbed."""

from pathlib import Path

import pytest

from tests.kill_anywhere import kill_often, projects, summary

SMALL = Path(__file__).with_name("demo_small.yaml")


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path):
    outcome = kill_often(*projects(tmp_path, [SMALL]), kills=12, seed=0)
    assert outcome.faults == [], summary(outcome)
    assert len(outcome.kills) == 12
    # Kills that only ever hit one kind of work would show little.
    assert len({name.split("/")[0] for kill in outcome.kills for name in kill.jobs}) >= 4, summary(outcome)
    assert outcome.compared > 100
