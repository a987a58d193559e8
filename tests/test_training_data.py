"""Which samples a phase sees, in which order, and that no validation sample is ever among them."""

import csv
from collections import Counter
from fractions import Fraction
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
    foreground_pixels,
    positive_share,
    select,
)
from stagepipe.errors import DataError, TrainingError
from stagepipe.recipe.model import Balanced, Sampler, Transform
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
        ("0", {"always_train": False}, ("cde", "", "ab")),
        ("1", {"always_train": False, "data": "both"}, ("abe", "uv", "cd")),
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


def orders_of(sampler: object, empty: np.ndarray, batch: int = 1, epochs: int = 1) -> EpochOrders:
    return EpochOrders(Sampler.model_validate(sampler), empty, batch, KEY, epochs)


@given(EMPTY)
def test_shuffle_takes_every_item_once(empty):
    assert sorted(orders_of("shuffle", empty).order(0)) == list(range(len(empty)))


@given(EMPTY, st.floats(0.01, 3))
def test_replacement_draws_as_many_as_asked(empty, passes):
    order = orders_of({"replacement": {"passes": passes}}, empty).order(0)
    assert len(order) == max(1, round(len(empty) * passes))
    assert set(order) <= set(range(len(empty)))


@given(EMPTY, st.floats(0.05, 0.95))
def test_balanced_has_the_share_and_spreads_draws_evenly(empty, share):
    order = orders_of({"balanced": {"positive": share}}, empty).order(0)
    assert len(order) == len(empty)
    drawn = np.bincount(order, minlength=len(empty))
    if empty.all() or not empty.any():
        assert (drawn == 1).all()
        return
    assert drawn[~empty].sum() == round(len(empty) * share)
    for kind in (empty, ~empty):
        assert np.ptp(drawn[kind]) <= 1


def test_replacement_repeats_some_items():
    assert len(set(orders_of("replacement", np.zeros(100, bool)).order(0))) < 80  # 63 expected


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("shuffle", [10, 7, 6, 0, 11, 9, 3, 1, 4, 8, 5, 2]),
        ({"replacement": {"passes": 1.5}}, [2, 6, 4, 10, 8, 8, 6, 1, 10, 8, 10, 9, 10, 3, 5, 11, 11, 2]),
        ("balanced", [10, 9, 5, 2, 0, 1, 3, 3, 9, 11, 8, 6]),
        ({"balanced": {"positive": 0.375}}, [6, 0, 5, 2, 3, 9, 9, 0, 6, 11, 8, 3]),
    ],
)
def test_an_order_is_the_same_for_ever(sampler, expected):
    """Written down from the first version: another order would train every recipe to other weights."""
    empty = np.arange(12) % 3 == 0
    orders = EpochOrders(Sampler.model_validate(sampler), empty, 1, ("seed", "phase"))
    assert orders.order(3).tolist() == expected


# ------------------------------------------------------------------------------------------ all positives once an epoch


def draws(orders: EpochOrders, epoch: int) -> tuple[list[int], list[int]]:
    """How often each non-empty and each empty item is drawn."""
    drawn = np.bincount(orders.order(epoch), minlength=len(orders.empty))
    return drawn[~orders.empty].tolist(), drawn[orders.empty].tolist()


def published(share: object, positives: int, empties: int, epochs: int = 1, **options: object) -> EpochOrders:
    """The published sampler in batches of two."""
    balanced = {"positive": share, "length": "positives"} | options
    return orders_of({"balanced": balanced}, np.arange(positives + empties) >= positives, 2, epochs)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 19), st.booleans())
def test_all_positives_come_once_and_their_share_is_kept(positives, empties, twentieths, replacement):
    orders = published(twentieths / 20, positives, empties, replacement=replacement)
    once, drawn = draws(orders, 5)
    assert once == [1] * positives
    # Exactly floor(P (1 - p) / p) in integers.
    assert sum(drawn) == positives * (20 - twentieths) // twentieths
    assert replacement or max(drawn) - min(drawn) <= 1


def test_empty_masks_are_drawn_with_replacement_as_published_or_without():
    without, again = (published(0.5, 300, 600, replacement=option) for option in (False, True))
    assert sum(map(bool, draws(without, 0)[1])) == 300
    assert sum(map(bool, draws(again, 0)[1])) == pytest.approx(600 * (1 - (1 - 1 / 600) ** 300), abs=25)  # 236
    assert draws(without, 0) != draws(without, 1)
    order = without.order(0)
    assert 100 < (order[:300] < 300).sum() < 200  # one permutation over both kinds


def test_with_replacement_only_the_empty_masks_are():
    orders = orders_of({"balanced": {"positive": 0.5, "replacement": True}}, np.arange(200) >= 80)
    once, drawn = draws(orders, 0)
    assert (sum(once), max(once), min(once)) == (100, 2, 1)
    assert sum(drawn) == 100 and sum(map(bool, drawn)) < 80  # 68 expected, 100 without replacement


# Films with and without a pneumothorax of folds 0 to 4 and of the second stage, which always trains.
FOLDS_FILES = {
    "train_folds_5.csv": [(469, 1668), (464, 1671), (484, 1650), (480, 1658), (482, 1653)],
    "2nd_stage_folds.csv": [(469, 1667), (464, 1671), (484, 1650), (480, 1656), (482, 1652), (290, 1082)],
}


@pytest.mark.parametrize(
    ("name", "share", "empties", "images", "steps"),
    [
        ("train_folds_5.csv", 0.8, (473, 478), (2368, 2393), (1184, 1197)),
        ("train_folds_5.csv", 0.6, (1263, 1276), (3158, 3191), (1579, 1596)),
        ("train_folds_5.csv", 0.5, (1895, 1915), (3790, 3830), (1895, 1915)),
        ("train_folds_5.csv", 0.4, (2842, 2872), (4737, 4787), (2369, 2394)),
        ("2nd_stage_folds.csv", 0.5, (2185, 2205), (4370, 4410), (2185, 2205)),
        ("2nd_stage_folds.csv", 0.4, (3277, 3307), (5462, 5512), (2731, 2756)),
    ],
)
def test_the_published_folds_make_the_published_epochs(name, share, empties, images, steps):
    """Smallest and largest of the five folds."""
    found = []
    for fold in range(5):
        positives, others = map(sum, zip(*(n for of, n in enumerate(FOLDS_FILES[name]) if of != fold), strict=True))
        orders = published(share, positives, others, replacement=True)
        once, drawn = draws(orders, 0)
        assert once == [1] * positives
        count = len(orders.order(0))
        # The published loader makes a batch of a film that is left over; here it waits for another epoch.
        assert orders.steps(0) == count // 2
        found.append((sum(drawn), count, -(-count // 2)))
    assert [(min(column), max(column)) for column in zip(*found, strict=True)] == [empties, images, steps]


@pytest.mark.parametrize("name", FOLDS_FILES)
def test_the_published_folds_have_these_counts(name, real_data):
    path = real_data / "dicom" / name
    if not path.is_file():
        pytest.skip(f"no published folds at {path}")
    with path.open(encoding="utf-8") as file:
        counts = Counter((row["fold"], row["exist_labels"]) for row in csv.DictReader(file))
    folds = sorted({fold for fold, _ in counts})
    assert folds == ["0", "1", "2", "3", "4", "stage_2"][: len(FOLDS_FILES[name])]
    assert [(counts[fold, "1"], counts[fold, "0"]) for fold in folds] == FOLDS_FILES[name]


@pytest.mark.parametrize(
    ("share", "positives", "empties"), [(0.8, 1900, 475), (0.6, 1899, 1266), (0.9, 900, 100), (0.7, 700, 300)]
)
def test_counts_of_a_whole_quotient_lose_nothing_to_rounding(share, positives, empties):
    assert sum(draws(published(share, positives, 8000), 0)[1]) == empties


def test_a_share_slides_evenly_from_the_first_epoch_to_the_last():
    def shares(positive: object, epochs: int) -> list[Fraction]:
        return [positive_share(Balanced(positive=positive), epoch, epochs) for epoch in range(epochs)]

    assert shares((0.8, 0.4), 5) == [Fraction(tenths, 10) for tenths in (8, 7, 6, 5, 4)]
    assert shares((0.4, 0.6), 3) == [Fraction(2, 5), Fraction(1, 2), Fraction(3, 5)]
    assert shares((0.8, 0.4), 1) == [Fraction(4, 5)]
    assert shares(0.3, 3) == [Fraction(3, 10)] * 3
    orders = published([0.8, 0.4], 1903, 6640, epochs=5)
    assert [sum(draws(orders, epoch)[1]) for epoch in range(5)] == [475, 815, 1268, 1903, 2854]
    assert [orders.steps(epoch) for epoch in range(5)] == [1189, 1359, 1585, 1903, 2378]
    of_samples = orders_of({"balanced": {"positive": [0.8, 0.4]}}, np.arange(100) >= 30, epochs=3)
    assert [sum(draws(of_samples, epoch)[0]) for epoch in range(3)] == [80, 60, 40]


@given(
    EMPTY,
    st.sampled_from(
        [
            "shuffle",
            {"replacement": {"passes": 0.3}},
            {"replacement": {"passes": 2}},
            {"balanced": {"positive": [0.9, 0.2]}},
            {"balanced": {"positive": [0.9, 0.2], "length": "positives", "replacement": True}},
        ]
    ),
    st.integers(1, 9),
    st.integers(0, 2),
)
def test_steps_and_images_are_those_of_the_batches(empty, sampler, batch, epoch):
    orders = orders_of(sampler, empty, batch, epochs=3)
    made = orders.batches(epoch)
    assert orders.draws(epoch) == len(orders.order(epoch))
    assert (orders.steps(epoch), orders.images(epoch)) == (len(made), sum(map(len, made)))
    assert len({len(addresses) for addresses in made}) == 1
    taken = Counter(index for addresses in made for _, _, index in addresses)
    assert taken <= Counter(orders.order(epoch).tolist())


# -------------------------------------------------------------------------------------------------- batches of an order


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
