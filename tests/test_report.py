import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import report_example as example
from browser import check_page
from PIL import Image

from stagepipe import artefacts, report, tables
from stagepipe.errors import ArtefactError
from stagepipe.report import collect, overlays, page, plots, provenance, sections, summaries, triplets
from stagepipe.report.markup import table, text
from stagepipe.report.page import CONTENTS
from stagepipe.report.style import styled
from stagepipe.triplets import Triplet


@dataclasses.dataclass
class Built:
    inputs: report.ReportInputs
    html: Path
    pictures: Path

    @property
    def page(self) -> str:
        return self.html.read_text(encoding="utf-8")


def build(folder: Path, tree: dict, sizes: list[tuple[int, int]]) -> Built:
    inputs = example.build(folder / "in", tree, sizes)
    built = Built(inputs, folder / "report.html", folder / "report")
    report.write(inputs, built.html, built.pictures)
    return built


@pytest.fixture(scope="module")
def salt(tmp_path_factory) -> Built:
    return build(tmp_path_factory.mktemp("salt"), example.SALT, [(41, 41)])


@pytest.fixture(scope="module")
def street(tmp_path_factory) -> Built:
    return build(tmp_path_factory.mktemp("street"), example.STREET, [(48, 64), (60, 30), (300, 420)])


@pytest.fixture(scope="module")
def chest(tmp_path_factory) -> Built:
    return build(tmp_path_factory.mktemp("chest"), example.CHEST, [(64, 64), (48, 48)])


class Outline(HTMLParser):
    """Tags, anchors, links and pictures of a page; every tag that opens must close."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id", ""))
        if tag == "a":
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# ------------------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["salt", "street", "chest"])
def test_a_browser_shows_it_without_a_fault(name, width, request):
    check_page(request.getfixturevalue(name).html, width)


@pytest.mark.parametrize("name", ["salt", "street", "chest"])
def test_every_link_leads_somewhere_and_nothing_is_loaded(name, request):
    built = request.getfixturevalue(name)
    outline = Outline(built.page)
    left_out = {"mosaics", "blend"} | ({"classes"} if built.inputs.recipe.dataset.outputs == 1 else set())
    anchors = [anchor for anchor in CONTENTS if anchor not in left_out]
    assert outline.links == [f"#{anchor}" for anchor in anchors]
    assert set(anchors) == outline.anchors - {""}
    assert all(image["alt"] and image["src"].startswith("data:image/png") for image in outline.images)
    assert not re.search(r'(src|href)="(?!data:|#)|@import|url\(|<script', built.page)
    assert len(built.page) < 3_000_000


@pytest.mark.parametrize("name", ["salt", "street", "chest"])
def test_all_pictures_are_always_written(name, request):
    built = request.getfixturevalue(name)
    folder, several = built.pictures, built.inputs.recipe.dataset.outputs > 1
    more = [report.CONFUSION_PICTURE] if several else []
    assert sorted(path.name for path in folder.iterdir()) == sorted([*report.PICTURES, *more])
    for path in folder.iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.std() > 1, path.name


def test_the_same_inputs_give_the_same_bytes(salt, tmp_path):
    report.write(salt.inputs, tmp_path / "again.html", tmp_path / "again")
    assert (tmp_path / "again.html").read_bytes() == salt.html.read_bytes()
    for name in report.PICTURES:
        assert (tmp_path / "again" / name).read_bytes() == (salt.pictures / name).read_bytes()


def test_the_headline_is_the_mean_over_images_with_the_all_empty_score_beside_it(salt):
    cases = pd.concat([artefacts.read_table(path).to_pandas() for path in salt.inputs.cases])
    for stage in ("stage1", "stage3"):
        own = cases[(cases["stage"] == stage) & (cases["run"] == "ensemble")]
        empty = (own["coverage"] == 0).mean()
        tile = salt.page.split(f'<span class="name">{stage}</span>')[1].split('class="tile"')[0]
        assert f"<b>{own['mean_precision'].mean():.3f}</b>" in tile
        assert f"all-empty {empty:.3f}" in tile


def test_what_was_quarantined_and_what_flatters_is_said(salt):
    assert "2 faulty files left out: 1 truncated, 1 not_binary" in salt.page
    assert "b&lt;3&gt;" in salt.page
    assert "412 bytes are missing" in salt.page
    assert "The search flatters itself by 0.0037." in salt.page
    assert "stage2, stage3: the pseudolabels come from networks of all folds together" in salt.page
    assert "rows, one for each of 24 test images" in salt.page


def test_many_classes_have_no_threshold_but_a_legend(street):
    assert "there is no threshold" in street.page
    assert all(f"</i>{name}</li>" in street.page for name in ["road", "sky", "not counted"])
    assert "No stage of this recipe trains on pseudolabels" in street.page
    assert "mean precision" not in street.page.lower()


def test_a_fixed_threshold_is_compared_with_a_search(salt, tmp_path):
    summary = json.loads(salt.inputs.threshold_summary.read_text()) | {"searched": False, "chosen": 0.5}
    (tmp_path / "threshold.json").write_text(json.dumps(summary))
    found = collect.collect(dataclasses.replace(salt.inputs, threshold_summary=tmp_path / "threshold.json"))
    # The curve of the example is 0.75 - 0.5 (t - 0.43)^2, the nested score 0.7463.
    assert found.score_at(0.5) == pytest.approx(0.74755)
    section = sections.threshold(found, {"thresholds.png": (salt.pictures / "thresholds.png").read_bytes()})
    assert "fixes the threshold at <strong>0.5</strong>" in section
    assert f"would change the score by {0.7463 - 0.74755:+.4f}" in section


def test_a_triplet_is_told_in_words_with_what_each_fold_would_choose(chest):
    found = collect.collect(chest.inputs)
    summary = json.loads(chest.inputs.threshold_summary.read_text())
    best = summary["best"]
    said = f"above {best['bottom']:g}, and nothing where fewer than {best['area']} of 64 x 64 pixels are above"
    assert chest.page.count(f"{said} {best['top']:g}") == 2  # of the cases too
    part = chest.page.split('id="threshold"')[1].split("<section")[0]
    assert "The search tried 108 triplets." in part
    assert f"flatters itself by {summary['in_sample'] - summary['nested']:.4f}." in part
    empty = (found.cases["coverage"][found.cases["run"] == "blend"] == 0).mean()
    assert f"Empty masks everywhere score {empty:.4f}." in part
    for fold, triplet in summary["by_fold"].items():
        cells = f"all but fold {fold}</td><td>{triplet['top']:g}</td><td>{triplet['area']}</td>"
        assert f"{cells}<td>{triplet['bottom']:g}</td>" in part
    assert "rows, one for each of 24 test images" in chest.page
    assert found.submission["rows"] == 24 and 0 < found.submission["empty"] < 24


def test_searched_shares_stand_beside_equal_and_written_ones(salt, tmp_path):
    assert 'id="blend"' not in salt.page
    searched = {
        "shares": {"a/x": 0.75, "a/<y>": 0.25},
        "score": 0.81234,
        "nested": 0.80111,
        "by_fold": {"0": {"a/x": 0.5, "a/<y>": 0.5}, "1": {"a/x": 1.0, "a/<y>": 0.0}},
        "equal_shares_score": 0.79,
        "written_shares_score": 0.78,
    }
    (tmp_path / "blend.json").write_text(json.dumps(searched))
    inputs = dataclasses.replace(salt.inputs, blend=tmp_path / "blend.json")
    drawn = {picture.name: picture.read_bytes() for picture in salt.pictures.iterdir()}
    html = page.page(inputs, collect.collect(inputs), [], [], drawn)
    assert "flatters itself by 0.0112" in html and "Equal shares score 0.7900" in html
    assert "a/&lt;y&gt;" in html and "all but fold 1" in html and "<td>0.75</td>" in html
    Outline(html)


@pytest.mark.parametrize(
    ("triplet", "said"),
    [
        (Triplet(0.75, 2000, 0.3, (1024, 1024)),
         "above 0.3, and nothing where fewer than 2,000 of 1024 x 1024 pixels are above 0.75"),
        (Triplet(0.75, 20, 0.3), "above 0.3, and nothing where fewer than 20 pixels are above 0.75"),
        (Triplet(0.3, 20, 0.3), "above 0.3, and nothing where that is fewer than 20 pixels"),
        (Triplet(0.7, 0, 0.25), "above 0.25"),
    ],
)  # fmt: skip
def test_triplets_in_words(triplet, said):
    assert summaries.in_words(triplet) == said


def with_triplets(found, rows, best, searched=True):
    """The same report on another grid: rows (top, area, bottom), each scored by its place."""
    curve = pd.DataFrame(rows, columns=["top", "area", "bottom"]).assign(score=np.linspace(0.7, 0.8, len(rows)))
    choice = dict(zip(("top", "area", "bottom"), best, strict=True)) | {"size": None}
    chosen = {"chosen": choice, "best": choice, "searched": searched, "by_fold": {"0": choice, "1": choice}}
    return dataclasses.replace(found, curve=curve, threshold=found.threshold | chosen)


def grid(tops, areas, bottoms):
    return [(top, area, bottom) for top in tops for area in areas for bottom in bottoms]


SOME = grid([0.6, 0.75], [1, 5, 9], [0.3, 0.4])
HOLES = [row for row in SOME if row[:2] not in [(0.6, 1), (0.75, 9)]]
MANY = grid([0.6, 0.7], [1, 5], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


@pytest.mark.parametrize(
    ("rows", "best", "panels"),
    [
        (SOME, (0.6, 5, 0.4), ["bottom 0.3", "bottom 0.4"]),
        (HOLES, (0.75, 5, 0.3), ["bottom 0.3", "bottom 0.4"]),
        (MANY, (0.6, 1, 0.4), ["bottom 0.3", "bottom 0.4", "bottom 0.5", "bottom 0.6"]),
        (MANY, (0.6, 1, 0.1), ["bottom 0.1", "bottom 0.2", "bottom 0.3", "bottom 0.4"]),
        (MANY, (0.6, 1, 0.6), ["bottom 0.3", "bottom 0.4", "bottom 0.5", "bottom 0.6"]),
        (grid([0.6, 0.7], [1, 5], [0.3]), (0.6, 1, 0.3), ["bottom 0.3"]),
        (grid([0.7], [1, 5], [0.3, 0.4]), (0.7, 1, 0.3), ["top 0.7"]),
        (grid([0.6, 0.7], [1500], [0.3, 0.4]), (0.6, 1500, 0.3), ["area 1,500"]),
        ([(top, area, top) for top in (0.3, 0.5) for area in (1, 5)], (0.5, 5, 0.5), ["Score of doublets"]),
        (grid([0.6], [1, 5, 9], [0.3]), (0.6, 5, 0.3), ["Score by area"]),
        ([(top, 5, top) for top in (0.3, 0.5)], (0.3, 5, 0.3), ["Score by threshold"]),
        (grid([0.6], [5], [0.3]), (0.6, 5, 0.3), []),
    ],
)  # fmt: skip
def test_a_grid_is_drawn_as_maps_a_map_or_a_curve(chest, rows, best, panels):
    found = with_triplets(collect.collect(chest.inputs), rows, best, searched=len(rows) > 1)
    with styled():
        figure = triplets.thresholds(found, np.ones(256, np.int64))
        figure.draw_without_rendering()
    axes = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [panel.get_title(loc="left") for panel in axes] == [*panels, "How sure the blend is"]
    meshes = [mesh for panel in axes for mesh in panel.collections if hasattr(mesh, "get_array")]
    if meshes:
        shown = np.ma.concatenate([mesh.get_array().ravel() for mesh in meshes]).compressed()
        kept = (
            found.curve if len(panels) == 1 else found.curve[found.curve["bottom"].isin([float(p[7:]) for p in panels])]
        )
        assert sorted(shown) == pytest.approx(sorted(kept["score"]))
        assert {mesh.get_clim() for mesh in meshes} == {(found.curve["score"].min(), found.curve["score"].max())}
        assert sum(len(panel.patches) for panel in axes[:-1]) == 1
    section = triplets.threshold(found, {"thresholds.png": (chest.pictures / "thresholds.png").read_bytes()})
    assert ("4 of 6 bottom thresholds are shown" in section) == (rows is MANY)
    assert ("The recipe fixes the triplet" in section) == (not panels)
    assert ("<table" in section) == bool(panels)


def test_a_run_that_left_little_behind_still_has_a_report(salt, tmp_path):
    inputs = dataclasses.replace(salt.inputs, histories=[], pseudolabels={}, benchmarks=[], cases=[])
    artefacts.write_table(tmp_path / "faults.parquet", tables.FAULTS.empty_table())
    report.write(dataclasses.replace(inputs, faults=tmp_path / "faults.parquet"), tmp_path / "report.html", tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No file was found faulty" in page
    assert "no out-of-fold predictions to show" in page or "Test</h3>" in page
    assert all((tmp_path / name).exists() for name in report.PICTURES)


def test_provenance_lists_what_a_training_wrote_beside_its_weights(salt, tmp_path):
    path = tmp_path / "stage1" / "history.parquet"
    made = artefacts.Provenance(part="12" * 32, code="34" * 32, seed=11)
    artefacts.write_table(path, artefacts.read_table(salt.inputs.histories[0]), made)
    inputs = dataclasses.replace(salt.inputs, histories=[path])
    section = provenance.provenance(inputs, collect.collect(inputs))
    row = next(line for line in section.split("<tr>") if "history.parquet" in line)
    cells = ("11", "121212121212", "343434343434", artefacts.verify(path)[:12])
    assert [cell in row for cell in cells] == [True] * 4
    assert "name: salt_in_three_stages" in section
    assert "runtime:" not in section


def test_a_damaged_input_is_named(salt, tmp_path):
    path = tmp_path / "folds.parquet"
    content = bytearray(salt.inputs.folds.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=re.escape(str(path))):
        report.write(dataclasses.replace(salt.inputs, folds=path), tmp_path / "report.html", tmp_path)


# ---------------------------------------------------------------------------------------------------------- the numbers


def test_mask_sizes_fall_into_the_bins_that_name_them(salt):
    cases = collect.collect(salt.inputs).cases
    for share, name in ((0.0, "empty"), (0.3, "25 to 50 %"), (0.9, "over 75 %")):
        low, high = collect.COVERAGE_BINS[name]
        assert low < share <= high
        inside = cases["coverage"].between(low, high, inclusive="right")
        assert set(cases.loc[inside, "bin"]) <= {name}
    assert cases["bin"].notna().all()


def test_positions_count_epochs_over_phases(salt):
    history = collect.collect(salt.inputs).history
    run = history[(history["stage"] == "stage2") & (history["run"] == "resnet34")]
    assert run[run["phase"] == "pretrain"]["position"].tolist() == list(range(6))
    assert run[(run["phase"] == "finetune") & (run["fold"] == "1")]["position"].tolist() == list(range(6, 18))


def test_rules_and_stages_come_from_the_names_of_benchmark_files():
    stages = ["stage1", "stage2"]
    assert collect.rule_and_stage(Path("r/benchmarks/train/stage2/net/fold_0.tsv"), stages) == ("train", "stage2")
    assert collect.rule_and_stage(Path("r/benchmarks/score/stage1.tsv"), stages) == ("score", "stage1")
    assert collect.rule_and_stage(Path("r/benchmarks/ingest.tsv"), stages) == ("ingest", "")


def test_costs_add_up_and_memory_is_that_of_the_largest_job(salt):
    found = collect.collect(salt.inputs)
    table = summaries.cost_table(found).set_index(["stage", "rule"])
    files = [path for path in salt.inputs.benchmarks if "train/stage1" in path.as_posix()]
    rows = pd.concat([pd.read_csv(path, sep="\t") for path in files])
    assert table.loc[("stage1", "train"), "wall"] == pytest.approx(rows["s"].sum() / 3600)
    assert table.loc[("stage1", "train"), "memory"] == pytest.approx(rows["max_rss"].max() / 1024)
    assert table.index[0] == ("", "ingest")
    assert np.isnan(table.loc[("", "submit"), "memory"])


def test_class_shares_of_runs():
    assert collect.class_shares([3, 1, 4], [0, 1, 0], ["salt"]).tolist() == [1 / 8]
    assert collect.class_shares([2, 6], [2, 0], ["a", "b", "c"]).tolist() == [0.75, 0, 0.25]


def test_images_that_always_train_lie_in_no_fold(salt, tmp_path):
    folds = artefacts.read_table(salt.inputs.folds).to_pandas()
    folds.loc[:9, ["fold", "always_train"]] = [-1, True]
    artefacts.write_table(tmp_path / "folds.parquet", pa.Table.from_pandas(folds, schema=tables.FOLDS))
    found = collect.collect(dataclasses.replace(salt.inputs, folds=tmp_path / "folds.parquet"))
    table = summaries.fold_table(found)
    assert table["fold"].tolist() == ["0", "1", "2", "all"]
    assert table["images"].tolist() == [10, 10, 10, 30]


# ------------------------------------------------------------------------------------------------------------ the cases


def test_cases_are_the_worst_the_best_and_others(salt):
    found = collect.collect(salt.inputs)
    chosen = overlays.chosen_cases(found)
    everything = found.cases[(found.cases["stage"] == "submission") & (found.cases["run"] == "blend")]
    assert chosen["sample_id"].is_unique
    assert chosen["kind"].value_counts().to_dict() == {"best": 6, "worst": 6, "random": 6}
    worst = chosen[chosen["kind"] == "worst"]["score"]
    assert worst.tolist() == sorted(everything["mean_precision"])[:6]
    assert (chosen[chosen["kind"] == "best"]["coverage"] > 0).all()


def test_only_the_maps_of_wanted_samples_are_kept(salt):
    histogram = np.zeros(256, np.int64)
    maps = dict(overlays.wanted_maps(salt.inputs.blend_out_of_fold, {"train003", "train007"}, histogram))
    assert sorted(maps) == ["train003", "train007"]
    assert maps["train003"].shape == (1, 41, 41)
    assert histogram.sum() == 40 * 41 * 41


def test_long_ids_are_cut_at_their_start_above_a_strip(salt):
    found = collect.collect(salt.inputs)
    strip = np.zeros((4, 12, 3), np.uint8)
    long = "1.2.276.0.7230010.3.1.4.8323329.28304.1517875362.967916"
    shown = [overlays.Case("worst", name, 0.5, 0.1, 0.1, strip) for name in ("short", long)]
    with styled():
        titles = [axes.get_title("left") for axes in plots.cases(found, shown).axes]
    assert titles == ["worst  short  Mean precision 0.50", f"worst  …{long[-31:]}  Mean precision 0.50"]


def test_a_strip_shows_what_was_found_missed_and_made_up():
    image = np.zeros((2, 3, 1), np.uint8)
    truth = np.array([[1, 1, 0], [0, 0, 0]], np.uint8)
    predicted = np.array([[1, 0, 1], [0, 0, 0]], np.uint8)
    strip = overlays.draw_strip(image, truth, predicted)
    height, width = 120, 180
    assert strip.shape == (height, 3 * width + 2 * overlays.GAP, 3)
    compared = strip[:, 2 * (width + overlays.GAP) :]
    # Half way between black and the colour, away from outlines.
    for place, colour in ((30, overlays.AGREED), (90, overlays.MISSED), (150, overlays.WRONG)):
        assert compared[20, place].tolist() == [value // 2 for value in colour]
    assert compared[100].max() == 0


@pytest.mark.parametrize("size", [(1, 1), (1000, 3), (7, 900)])
def test_strips_of_any_size_stay_small(size):
    image = np.zeros((*size, 3), np.uint8)
    strip = overlays.draw_strip(image, None, np.ones(size, np.uint8))
    assert max(strip.shape[:2]) <= 2 * 180 + overlays.GAP
    assert min(strip.shape[:2]) >= 1


# ----------------------------------------------------------------------------------------------------------- the markup


def test_text_is_escaped_and_missing_numbers_are_dashes():
    assert text("<b>&") == "&lt;b&gt;&amp;"
    assert text(float("nan")) == text(None) == "&ndash;"
    assert (text(12345), text(0.12345)) == ("12,345", "0.1235")
    assert "<td>&lt;i&gt;</td>" in table(["a", "b"], [["x", "<i>"]])
