"""Work in a thread: in order, errors where they belong, nothing left running."""

import itertools
import threading

import pytest

from stagepipe.background import Behind, ahead


class Broken(Exception):
    pass


def counting(taken, end=10, broken=None):
    """Numbers from 0, noting which were taken and whether it was closed."""
    try:
        for number in range(end):
            if number == broken:
                raise Broken
            taken.append(number)
            yield number
    finally:
        taken.append("closed")


@pytest.mark.parametrize("count", [1, 3])
def test_everything_comes_in_order(count):
    taken = []
    assert list(ahead(counting(taken), count)) == list(range(10))
    assert taken == [*range(10), "closed"]
    assert list(ahead(counting([], end=0), count)) == []


def test_the_thread_is_as_far_ahead_as_it_may_and_no_farther():
    taken, reached = [], threading.Event()

    def source():
        for number in range(10):
            taken.append(number)
            if number == 3:
                reached.set()
            yield number

    found = ahead(source(), 3)
    assert next(found) == 0
    assert reached.wait(10)
    assert taken == [0, 1, 2, 3]
    found.close()


def test_an_error_of_the_source_comes_in_its_place():
    found = ahead(counting([], broken=2))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(Broken):
        next(found)


def test_whoever_stops_early_leaves_no_thread():
    before, taken = threading.active_count(), []
    found = ahead(counting(taken))
    assert list(itertools.islice(found, 2)) == [0, 1]
    found.close()
    assert threading.active_count() == before
    assert taken[-1] == "closed"


def test_work_is_done_in_order_and_beside_the_caller():
    done, free = [], threading.Event()
    with Behind() as behind:
        behind.do(lambda: (free.wait(10), done.append(0)))
        done.append("caller")
        free.set()
        behind.do(done.append, 1)
        behind.wait()
        assert done == ["caller", 0, 1]
        behind.do(done.append, 2)
    assert done == ["caller", 0, 1, 2]


def broken():
    raise Broken


def test_an_error_is_raised_once_by_what_comes_next():
    behind, done = Behind(), []
    behind.do(broken)
    with pytest.raises(Broken):
        behind.do(done.append, 0)
    behind.do(done.append, 1)
    behind.wait()
    assert done == [1]


def test_an_error_of_the_last_work_is_raised_at_the_end():
    with pytest.raises(Broken), Behind() as behind:
        behind.do(broken)


def test_an_error_of_the_block_itself_comes_through():
    with pytest.raises(KeyError), Behind() as behind:
        behind.do(broken)
        raise KeyError
