from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagepipe import folds
from stagepipe.errors import DataError, RecipeError
from stagepipe.recipe.model import Folds
from stagepipe.tables import FOLDS


def samples(count=100, **columns):
    """Labelled samples with the given columns and a few unlabelled ones."""
    rows = {"sample_id": [f"t{i:04}" for i in range(count)] + ["x1", "x2"], "split": ["train"] * count + ["test"] * 2}
    return pa.table(rows | {name: [*values, None, None] for name, values in columns.items()})


def fold_of(table):
    return dict(zip(table["sample_id"].to_pylist(), table["fold"].to_pylist(), strict=True))


def per_fold(table, values):
    """Counter of the values in each fold."""
    found = {}
    for fold, value in zip(table["fold"].to_pylist(), values, strict=True):
        found.setdefault(fold, Counter())[value] += 1
    return found


def test_plain_split_is_even_complete_and_labelled_only():
    table = folds.split(samples(103), Folds(count=5))
    assert table.schema == FOLDS
    assert table["sample_id"].to_pylist() == [f"t{i:04}" for i in range(103)]
    assert sorted(Counter(table["fold"].to_pylist()).values()) == [20, 20, 21, 21, 21]
    assert not any(table["always_train"].to_pylist())


def test_row_order_changes_nothing_but_the_seed_does():
    depth = np.random.default_rng(0).integers(50, 960, 100).tolist()
    table = samples(100, depth=depth)
    shuffled = table.take(np.random.default_rng(1).permutation(table.num_rows))
    spec = Folds(stratify=["depth"])
    assert folds.split(table, spec).equals(folds.split(shuffled, spec))
    assert not folds.split(table, spec).equals(folds.split(table, Folds(stratify=["depth"], seed=1)))


def test_every_stratum_is_shared_evenly():
    random = np.random.default_rng(0)
    depth, dark = random.permutation(1000).tolist(), (random.random(1000) < 0.3).tolist()
    table = folds.split(samples(1000, depth=depth, dark=dark), Folds(stratify=["depth", "dark"], bins=4))
    bins = [(value >= 250) + (value >= 500) + (value >= 750) for value in depth]
    for column in (bins, list(zip(bins, dark, strict=True))):
        counts = per_fold(table, column)
        for value in set(column):
            shares = [counts[fold][value] for fold in range(5)]
            assert max(shares) - min(shares) <= 1


def test_coverage_counts_by_its_first_entry_and_empty_masks_are_a_bin():
    random = np.random.default_rng(0)
    empty = random.random(400) < 0.4
    coverage = [[0.0 if none else float(share)] for none, share in zip(empty, random.random(400), strict=True)]
    table = folds.split(samples(400, coverage=coverage), Folds(stratify=["coverage"]))
    shares = [counts[True] for counts in per_fold(table, empty.tolist()).values()]
    assert max(shares) - min(shares) <= 1
    means = [np.mean([coverage[i][0] for i in np.flatnonzero(np.array(table["fold"]) == fold)]) for fold in range(5)]
    assert np.ptp(means) < 0.03


def test_rare_strata_let_the_last_column_go():
    # Each of the 25 combinations has 2 samples, too few for 5 folds; the first column alone has 10 each.
    first, second = [i % 5 for i in range(50)], [i // 5 % 5 for i in range(50)]
    table = folds.split(samples(50, first=first, second=second), Folds(stratify=["first", "second"]))
    assert all(counts == Counter({value: 2 for value in range(5)}) for counts in per_fold(table, first).values())


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    count=st.integers(2, 7),
    size=st.integers(7, 40),
    bins=st.integers(2, 5),
)
def test_any_strata_give_even_folds(data, count, size, bins):
    number = data.draw(st.lists(st.none() | st.floats(-9, 9) | st.just(0.0), min_size=size, max_size=size))
    text = data.draw(st.lists(st.none() | st.sampled_from("abc"), min_size=size, max_size=size))
    table = samples(size, number=pa.array(number, pa.float64()).to_pylist(), text=text)
    sizes = Counter(folds.split(table, Folds(count=count, stratify=["number", "text"], bins=bins))["fold"].to_pylist())
    assert sorted(sizes) == list(range(count))
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_numbers_too_large_for_a_float_are_strata_like_others():
    number = [2**60 + 1 + 2**20 * index for index in range(200)]
    large = folds.split(samples(200, number=number), Folds(stratify=["number"], bins=4))
    assert large.equals(folds.split(samples(200, number=list(range(200))), Folds(stratify=["number"], bins=4)))


@pytest.mark.parametrize("stratify", [[], ["depth"]])
def test_groups_stay_together(stratify):
    group = [None if i < 3 else f"mosaic{i // 4}" for i in range(200)]
    table = folds.split(samples(200, place=group, depth=list(range(200))), Folds(group="place", stratify=stratify))
    found = {}
    for fold, name in zip(table["fold"].to_pylist(), group, strict=True):
        found.setdefault(name, set()).add(fold)
    assert all(len(of) == 1 for name, of in found.items() if name is not None)
    sizes = Counter(table["fold"].to_pylist())
    assert max(sizes.values()) - min(sizes.values()) <= 8


def test_too_few_groups_are_an_error():
    with pytest.raises(RecipeError, match="'place' has 2 distinct values, too few for 5 folds"):
        folds.split(samples(20, place=list("ab") * 10), Folds(group="place"))


def test_always_train_rows_never_validate():
    extra = [i % 4 == 0 for i in range(40)]
    table = folds.split(samples(40, extra=extra), Folds(count=3, always_train="extra"))
    assert [fold == -1 for fold in table["fold"].to_pylist()] == extra == table["always_train"].to_pylist()
    assert sorted(Counter(table["fold"].to_pylist()).values()) == [10, 10, 10, 10]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            Folds(stratify=["dept"]),
            "folds.stratify: the samples table has no column 'dept'; write one of sample_id, split, depth",
        ),
        (Folds(group="place"), "folds.group: the samples table has no column 'place'"),
        (Folds(always_train="depth"), "folds.always_train: column 'depth' holds int64"),
        (Folds(count=9), "folds.count: 8 labelled samples can't fill 9 folds"),
        (Folds(file="nowhere.csv"), "nowhere.csv: is no file"),
    ],
)
def test_options_that_do_not_fit_are_named(spec, message):
    with pytest.raises((RecipeError, DataError), match=message):
        folds.split(samples(8, depth=range(8)), spec)


def test_file_gives_the_folds_and_ids_stay_text(tmp_path):
    table = pa.table({"sample_id": ["0012", "1e5", "NA", "x"], "split": ["train"] * 3 + ["test"]})
    (tmp_path / "folds.csv").write_text("fold,note,id\n1,,NA\n0,,0012\n1,,1e5\n")
    found = folds.split(table, Folds(count=2, file=str(tmp_path / "folds.csv")))
    assert fold_of(found) == {"0012": 0, "1e5": 1, "NA": 1}


def test_all_faults_of_a_file_are_listed_at_once(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text("id,fold\nt0000,0\nt0001,1.0\nt0001,1\nt0002,5\nt0003,\n")
    with pytest.raises(DataError) as error:
        folds.split(samples(6), Folds(count=5, file=str(path)))
    message = str(error.value)
    assert "labelled samples without a row: t0004, t0005;" in message
    assert "ids with several rows: t0001;" in message
    assert "folds that are no integer 0..4: t0001 (1.0), t0002 (5), t0003 ()" in message


def test_a_file_may_cover_more_than_there_is_here(tmp_path, caplog):
    path = tmp_path / "folds.csv"
    path.write_text("id,fold\n" + "".join(f"t{i:04},{i % 2}\n" for i in range(4)) + "alien,1\ndropped,1\n")
    with caplog.at_level("INFO"):
        found = folds.split(samples(4), Folds(count=2, file=str(path)), quarantined={"dropped"})
    assert fold_of(found) == {"t0000": 0, "t0001": 1, "t0002": 0, "t0003": 1}
    assert "folds.csv: 1 ids are no labelled sample here: alien" in caplog.text


def test_a_file_may_name_image_files(tmp_path):
    table = pa.table({"sample_id": ["1.2.3", "1.2.4", "plain"], "split": ["train"] * 3})
    path = tmp_path / "folds.csv"
    path.write_text("fname,fold,exist_labels\n1.2.3.png,0,1\n1.2.4.dcm,1,0\nplain,1,0\n")
    found = folds.split(table, Folds(count=2, file=str(path)))
    assert fold_of(found) == {"1.2.3": 0, "1.2.4": 1, "plain": 1}
    path.write_text("fname,fold,id\nx.png,0,1.2.3\nx.png,1,1.2.4\nx.png,1,plain\n")  # ids count before names
    assert folds.split(table, Folds(count=2, file=str(path))).equals(found)
    path.write_text("fname,fold\n1.2.3.png,0\n1.2.3.dcm,1\n1.2.4.png,1\nplain,1\n")
    with pytest.raises(DataError, match=r"ids with several rows: 1\.2\.3\."):
        folds.split(table, Folds(count=2, file=str(path)))
    path.write_text("name,fold\n1.2.3,0\n")
    with pytest.raises(DataError, match="its header is 'name,fold'; write a column id, or fname of file names"):
        folds.split(table, Folds(count=2, file=str(path)))


def test_the_fold_of_a_row_that_always_trains_is_not_read(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text("id,fold\nt0000,0\nt0001,1\nt0002,stage_2\nalien,stage_2\n")
    extra = [False, False, True, True]  # t0003 has no row at all
    table = folds.split(samples(4, extra=extra), Folds(count=2, file=str(path), always_train="extra"))
    assert table["fold"].to_pylist() == [0, 1, -1, -1] and table["always_train"].to_pylist() == extra
    path.write_text("id,fold\nt0000,0\nt0001,stage_2\nt0002,1\n")
    with pytest.raises(DataError, match=r"folds that are no integer 0\.\.1: t0001 \(stage_2\)"):
        folds.split(samples(4, extra=extra), Folds(count=2, file=str(path), always_train="extra"))


def test_dealing_out_counts_test_samples_too_and_breaks_ties_by_id():
    table = pa.table(
        {
            "sample_id": ["e", "d", "c", "b", "a", "f"],
            "split": ["train", "test", "train", "train", "train", "test"],
            "depth": [10, 20, 30, 30, 50, 60],
        }
    )
    # by depth: e d b c a f -> folds 0 1 0 1 0 1
    assert fold_of(folds.split(table, Folds(count=2, deal="depth"))) == {"a": 0, "b": 0, "c": 1, "e": 0}
    with pytest.raises(RecipeError, match=r"folds\.deal: the samples table has no column 'z'"):
        folds.split(table, Folds(count=2, deal="z"))
    gaps = table.set_column(2, "depth", pa.array([10, None, 30, 30, 50, 60]))
    with pytest.raises(RecipeError, match=r"folds\.deal: column 'depth' lacks 1 values"):
        folds.split(gaps, Folds(count=2, deal="depth"))


def test_dealing_out_by_depth_comes_near_the_published_sizes(real_data):
    folder = real_data / "tgs"
    rows = [line.split(",") for line in (folder / "depths.csv").read_text().split()[1:]]
    labelled = {path.stem for path in (folder / "train" / "images").iterdir()}
    table = pa.table(
        {
            "sample_id": [sample_id for sample_id, _ in rows],
            "split": ["train" if sample_id in labelled else "test" for sample_id, _ in rows],
            "depth": [int(depth) for _, depth in rows],
        }
    )
    sizes = Counter(folds.split(table, Folds(count=5, deal="depth"))["fold"].to_pylist())
    assert sum(sizes.values()) == len(labelled)
    assert max(sizes.values()) - min(sizes.values()) < 0.05 * len(labelled)


def test_a_file_that_leaves_a_fold_empty_is_refused(tmp_path):
    (tmp_path / "folds.csv").write_text("id,fold\n" + "".join(f"t{i:04},{i % 2}\n" for i in range(8)))
    with pytest.raises(RecipeError, match="of 3 folds, 2 would hold no sample"):
        folds.split(samples(8), Folds(count=3, file=str(tmp_path / "folds.csv")))


@pytest.mark.parametrize("text", ["", "name,fold\na,1\n", "id,fold\na,1,2\n"])
def test_a_file_that_is_no_such_table_is_named(tmp_path, text):
    (tmp_path / "folds.csv").write_text(text)
    with pytest.raises(DataError, match=r"folds\.csv: "):
        folds.split(samples(8), Folds(file=str(tmp_path / "folds.csv")))


def test_published_folds_have_their_published_sizes(real_data):
    path = real_data / "tgs_published" / "train_proc_v2_gr.csv"
    ids = [line.split(",")[0] for line in path.read_text().split()[1:]]
    table = pa.table({"sample_id": ids, "split": ["train"] * len(ids)})
    found = folds.split(table, Folds(count=5, file=str(path)))
    assert [Counter(found["fold"].to_pylist())[fold] for fold in range(5)] == [810, 804, 811, 790, 785]
