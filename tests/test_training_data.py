"""Which samples a phase sees, in which order, and that no validation sample is ever among them."""

from itertools import chain

import numpy as np
import pyarrow as pa
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from stagepipe.artefacts import write_table
from stagepipe.augment import Augmentation
from stagepipe.data.training import (
    EpochOrders,
    Item,
    Selection,
    TrainingSamples,
    batches,
    collate,
    epoch_order,
    foreground_pixels,
    select,
)
from stagepipe.errors import DataError, TrainingError
from stagepipe.recipe.model import Sampler, Transform
from stagepipe.tables import FOLDS, PSEUDOLABELS

NO_AUGMENTATION = Augmentation("none")
KEY = ("seed", "phase", 3)


# ----------------------------------------------------------------------------------------------------------- selection

# id: fold (None: always trains), empty, black
LABELS = {
    "a": (0, False, False),
    "b": (0, True, True),
    "c": (1, False, False),
    "d": (1, True, False),
    "e": (2, True, True),
    "f": (None, False, False),
}
# id, folds that may see it, empty
PSEUDO = [("u", [0, 1, 2], False), ("v", [1], True), ("w", [0, 2], False), ("x", [0], True)]
BLACK_TESTS = {"x"}


@pytest.fixture
def selected(tmp_path):
    """A function that selects and gives the ids: (labels, pseudolabels, validation)."""
    ids = [*LABELS, *(row[0] for row in PSEUDO)]
    samples = pa.table(
        {
            "sample_id": ids,
            "black": [LABELS[name][2] if name in LABELS else name in BLACK_TESTS for name in ids],
            "coverage": [[0.0 if LABELS[name][1] else 0.5] if name in LABELS else None for name in ids],
            "height": [2] * len(ids),
            "width": [2] * len(ids),
        }
    )
    folds = [(name, -1 if fold is None else fold, fold is None) for name, (fold, _, _) in LABELS.items()]
    write_table(tmp_path / "folds.parquet", pa.table(list(zip(*folds, strict=True)), schema=FOLDS))
    rows = [
        {"sample_id": name, "confidence": 1, "source": "s", "folds": allowed, "height": 2, "width": 2}
        | {"lengths": [4] if empty else [1, 3], "values": [0] if empty else [0, 1]}
        for name, allowed, empty in PSEUDO
    ]
    write_table(tmp_path / "pseudolabels.parquet", pa.Table.from_pylist(rows, schema=PSEUDOLABELS))

    def choose(fold: str, **phase: object) -> tuple[str, str, str]:
        found: Selection = select(
            tiny.part(fold, **phase), samples, tmp_path / "folds.parquet", tmp_path / "pseudolabels.parquet"
        )
        kinds = (
            [item.row for item in found.training if item.runs is None],
            [item.row for item in found.training if item.runs is not None],
            found.validation,
        )
        assert not set(found.validation) & {item.row for item in found.training}
        return tuple("".join(ids[row] for row in rows) for rows in kinds)

    return choose


@pytest.mark.parametrize(
    ("fold", "phase", "expected"),
    [
        ("0", {}, ("cdef", "", "ab")),
        ("1", {}, ("abef", "", "cd")),
        ("2", {}, ("abcdf", "", "e")),
        ("0", {"data": "pseudolabels"}, ("", "uwx", "ab")),
        ("1", {"data": "both"}, ("abef", "uv", "cd")),
        ("2", {"data": "both"}, ("abcdf", "uw", "e")),
        ("0", {"exclude_black": True}, ("cdf", "", "a")),
        ("0", {"data": "both", "exclude_black": True}, ("cdf", "uw", "a")),
        ("0", {"exclude_empty": True}, ("cf", "", "ab")),
        ("1", {"data": "both", "exclude_empty": True}, ("af", "u", "cd")),
        ("1", {"data": "both", "minimum_foreground": 2}, ("af", "u", "c")),  # labels have 2 pixels, pseudolabels 3
        ("shared", {"data": "pseudolabels", "folds": "shared"}, ("", "uvwx", "ab")),
    ],
)
def test_selection(fold, phase, expected, selected):
    assert selected(fold, **phase) == expected


def test_foreground_is_what_is_not_background():
    table = pa.table({"coverage": [[0.25], [0.5, 0.125, 0.375], None], "height": [4, 8, 3], "width": [2, 4, 3]})
    assert foreground_pixels(table).tolist() == [2, 16, 0]
    assert foreground_pixels(table, ignore_index=2).tolist() == [2, 4, 0]


def test_samples_that_always_train_never_validate(selected):
    assert all("f" in selected(fold)[0] and "f" not in selected(fold)[2] for fold in "012")


def test_pseudolabels_keep_their_masks(tmp_path):
    data = tiny.survey(tmp_path, train=4, test=3)
    data = tiny.pseudolabelled(data, tmp_path / "p.parquet", [[0], [0, 1], [1]])
    found = select(tiny.part("1", data="both"), data.table, data.folds, data.pseudolabels)
    assert [item.foreground for item in found.training if item.runs] == [64, 128]
    samples = TrainingSamples(found.training, data.store, NO_AUGMENTATION, KEY)
    _, mask = samples[(0, 0, len(found.training) - 2)]
    assert (mask[:8, :8] == 1).all() and mask.sum() == 64


def test_an_empty_selection_is_an_error(selected):
    # Without black images fold 2 has nothing to validate on.
    message = "stage/run/phase, fold 2: 4 samples to train on and 0 to validate on"
    with pytest.raises(DataError, match=message):
        selected("2", exclude_black=True)


# --------------------------------------------------------------------------------------------------------------- order

EMPTY = st.lists(st.booleans(), min_size=1, max_size=60).map(lambda values: np.array(values, bool))


@given(EMPTY)
def test_shuffle_takes_every_item_once(empty):
    assert sorted(epoch_order(Sampler(shuffle={}), empty, KEY)) == list(range(len(empty)))


@given(EMPTY, st.floats(0.01, 3))
def test_replacement_draws_as_many_as_asked(empty, passes):
    order = epoch_order(Sampler(replacement={"passes": passes}), empty, KEY)
    assert len(order) == max(1, round(len(empty) * passes))
    assert set(order) <= set(range(len(empty)))


@given(EMPTY, st.floats(0.05, 0.95))
def test_balanced_has_the_share_and_spreads_draws_evenly(empty, share):
    order = epoch_order(Sampler(balanced={"positive": share}), empty, KEY)
    assert len(order) == len(empty)
    drawn = np.bincount(order, minlength=len(empty))
    if empty.all() or not empty.any():
        assert (drawn == 1).all()
        return
    assert drawn[~empty].sum() == round(len(empty) * share)
    for kind in (empty, ~empty):
        assert np.ptp(drawn[kind]) <= 1


def test_replacement_repeats_some_items():
    assert len(set(epoch_order(Sampler(replacement={}), np.zeros(100, bool), KEY))) < 80  # 63 expected


@pytest.mark.parametrize("sampler", ["shuffle", "replacement", "balanced"])
def test_an_order_depends_on_its_key_alone(sampler):
    empty = np.arange(40) % 3 == 0
    orders = EpochOrders(Sampler.model_validate(sampler), empty, 8, ("k",))
    forward = [orders.batches(epoch) for epoch in range(3)]
    np.random.seed(5)
    assert [orders.batches(epoch) for epoch in (2, 1, 0)] == forward[::-1]
    assert forward[0] != forward[1] != forward[2]
    other = EpochOrders(Sampler.model_validate(sampler), empty, 8, ("other",))
    assert other.batches(0) != forward[0]
    assert all(len(batch) == 8 for batch in forward[0]) and len(forward[0]) == 5


@pytest.mark.parametrize(("count", "batch", "steps"), [(3127, 24, 260), (3127, 28, 222), (15493, 28, 1106)])
def test_replacement_makes_the_published_number_of_batches(count, batch, steps):
    # TGS salt 2018, 1st place: 2 floor(N / batch) batches of one of its epochs.
    sampler = Sampler.model_validate({"replacement": {"passes": 2}})
    orders = EpochOrders(sampler, np.zeros(count, bool), batch, KEY)
    assert [len(batch_) for batch_ in orders.batches(0)] == [batch] * steps


def test_what_is_left_over_is_dropped_but_few_items_make_a_batch():
    orders = EpochOrders(Sampler(shuffle={}), np.zeros(11, bool), 4, KEY)
    assert [len(batch) for batch in orders.batches(0)] == [4, 4]
    few = EpochOrders(Sampler(shuffle={}), np.zeros(3, bool), 4, KEY)
    assert [len(batch) for batch in few.batches(0)] == [3]


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.survey(tmp_path_factory.mktemp("data"))


def samples_of(data, augment="tgs_phalanx") -> tuple[TrainingSamples, EpochOrders]:
    items = [Item(row, None, 1) for row, split in enumerate(data.table["split"].to_pylist()) if split == "train"]
    orders = EpochOrders(Sampler(replacement={}), np.zeros(len(items), bool), 5, KEY)
    return TrainingSamples(items, data.store, Augmentation(augment), KEY), orders


def equal(one, other) -> bool:
    return len(one) == len(other) and all(map(torch.equal, chain(*one), chain(*other)))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_from_any_place(workers, data):
    samples, orders = samples_of(data)
    stream = list(batches(samples, orders, (0, 0), 3, 0, False))
    assert len(stream) == 3 * 4
    images, masks = stream[0]
    assert (images.dtype, images.shape) == (torch.uint8, (5, 32, 32, 1))
    assert (masks.dtype, masks.shape) == (torch.uint8, (5, 32, 32))
    assert equal(list(batches(samples, orders, (1, 2), 3, workers, False)), stream[6:])
    assert list(batches(samples, orders, (2, 4), 3, workers, False)) == []


def test_a_sample_drawn_twice_is_augmented_twice(data):
    samples, _ = samples_of(data)
    drawn = [samples[address][0].tobytes() for address in [(0, 0, 1), (0, 1, 1), (1, 0, 1), (0, 0, 1)]]
    assert len(set(drawn[:3])) == 3
    assert drawn[3] == drawn[0]


def test_a_batch_of_several_sizes_is_an_error():
    large, small = ((np.zeros((size, size, 1), np.uint8), np.zeros((size, size), np.uint8)) for size in (8, 4))
    with pytest.raises(TrainingError, match=r"\[\(4, 4, 1\), \(8, 8, 1\)\]; add a Resize or a crop"):
        collate([large, small])


def test_a_resize_makes_several_sizes_one(data):
    resize = [Transform(name="Resize", arguments={"height": 16, "width": 24})]
    samples, orders = samples_of(data, resize)
    images, masks = next(batches(samples, orders, (0, 0), 1, 0, False))
    assert images.shape == (5, 16, 24, 1) and masks.shape == (5, 16, 24)
