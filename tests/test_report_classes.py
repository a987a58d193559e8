import dataclasses
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import report_example as example
import report_streets as streets
from browser import check_page
from PIL import Image

from stagepipe import artefacts, report, tables
from stagepipe.data.store import PixelStore
from stagepipe.masks import final_masks
from stagepipe.probabilities import iterate
from stagepipe.recipe.load import validate
from stagepipe.report import classes, collect, figures, overlays, plots, style, summaries, triptychs

SIZE = (76, 120)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> report.ReportInputs:
    return example.build(tmp_path_factory.mktemp("streets"), streets.STREETS, [SIZE], 15, 5, streets.scene)


@pytest.fixture(scope="module")
def found(inputs) -> collect.Collected:
    return collect.collect(inputs)


@pytest.fixture(scope="module")
def written(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    report.write(inputs, folder / "report.html", folder / "report")
    return folder


@pytest.fixture(scope="module")
def page(written) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def masks(inputs, found) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction of every labelled sample."""
    store = PixelStore(inputs.pixels, found.table)
    names = found.table["sample_id"].to_pylist()
    predicted = final_masks(iterate(inputs.blend_out_of_fold), None, inputs.recipe.submission)
    return {name: (store.mask(names.index(name)), mask) for name, mask in predicted}


def matrix(rows: list[list[int]], names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, index=names, columns=names)


def part(page: str, anchor: str) -> str:
    return page.split(f'<section id="{anchor}">')[1].partition("</section>")[0]


# ------------------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_twenty_classes_without_a_fault(written, width):
    check_page(written / "report.html", width)


def test_one_more_picture_is_written(written):
    assert {path.name for path in (written / "report").iterdir()} == {*report.PICTURES, report.CONFUSION_PICTURE}
    assert np.asarray(Image.open(written / "report/confusion.png").convert("L")).std() > 10


def test_the_headline_is_the_contest_score_with_that_of_all_pixels_beside_it(inputs, page):
    cases = artefacts.read_table(inputs.cases[-1]).to_pandas()
    mean = cases.loc[cases["run"] == "blend", "truth_iou"].mean()
    scores = pd.read_csv(inputs.scores_csv).query("stage == 'submission' and fold == 'all' and metric == 'dataset_iou'")
    tile = part(page, "headline").split('<span class="name">submission</span>')[1].split('class="tile"')[0]
    assert f"<b>{mean:.3f}</b>" in tile
    assert f"IoU of all pixels {scores['value'].iloc[0]:.3f}" in tile


def test_nothing_is_said_of_foreground_or_empty_masks(page):
    shown = page.split('<section id="provenance">')[0]
    assert not re.search(r"foreground|all.empty|orange mark|mask size|empty mask|empty share|mean precision", shown)
    assert "20 classes, 4 of them evaluated" in page


def test_the_table_has_a_row_a_class_with_its_colour_and_the_evaluated_ones_marked(page):
    rows = part(page, "classes").split("<tbody>")[1].split("</tbody>")[0].split("<tr")[1:]
    assert len(rows) == 21
    for row, (name, colour) in zip(rows, streets.PALETTE.items(), strict=False):
        assert f'<i class="swatch" style="background:rgb{colour}"></i>{name}</td>' in row
        assert ('class="strong"' in row) == (name in ("car", "pedestrian", "lane", "signal"))


def test_the_mean_of_the_table_is_the_score_of_all_pixels(found):
    for stage, scores in classes.by_stage(found).items():
        mean = scores.loc[found.recipe.dataset.scored, "iou"].mean()
        run = summaries.headline_run(found, stage)
        assert mean == pytest.approx(summaries.dataset_iou(found, stage, run), abs=1e-12)


def test_a_run_without_confusions_or_scores_says_so(found):
    bare = dataclasses.replace(found, cases=found.cases[:0], confusions=found.confusions[:0])
    assert "no out-of-fold predictions to tell classes apart" in classes.classes(bare, {})
    with style.styled():
        drawn = (classes.confusion_matrix(bare), plots.scores(bare), plots.cases(bare, []))
    assert [bool(figure.axes[0].texts) for figure in drawn] == [True] * 3


# ---------------------------------------------------------------------------------------------------------- the classes


def test_the_confusion_is_that_of_a_slow_count_over_all_pixels(found, masks):
    slow = np.zeros((20, 20), np.int64)
    for truth, predicted in masks.values():
        counted = truth != 255
        np.add.at(slow, (truth[counted], predicted[counted]), 1)
    pixels = classes.confusion(found, "submission", "blend")
    assert list(pixels.index) == list(pixels.columns) == streets.CLASSES
    assert np.array_equal(pixels.to_numpy(), slow)


def test_scores_of_classes_by_hand():
    # Of 10 pixels of a 6 are found, 3 taken for b and 1 for c; c has no pixel of its own.
    pixels = matrix([[6, 3, 1], [2, 8, 0], [0, 0, 0]], ["a", "b", "c"])
    scores = classes.class_scores(pixels)
    assert scores["pixels"].tolist() == [10, 10, 0]
    assert scores["share"].tolist() == [0.5, 0.5, 0]
    assert scores["iou"].tolist() == pytest.approx([6 / 12, 8 / 13, 0])
    assert scores["precision"].tolist() == pytest.approx([6 / 8, 8 / 11, 0])
    assert scores["recall"].tolist() == pytest.approx([0.6, 0.8, np.nan], nan_ok=True)
    assert classes.taken_for(pixels, "a") == ("b", 0.3)
    assert classes.taken_for(pixels, "b") == ("a", 0.2)
    assert classes.taken_for(pixels, "c") is None


def test_an_ignored_class_is_not_shown_but_predicting_it_is_wrong(found, tmp_path):
    dataset = found.recipe.dataset.model_copy(update={"ignore_index": 19, "evaluated": []})
    recipe = found.recipe.model_copy(update={"dataset": dataset})
    own = found.confusions[found.confusions["truth"] != "own"]
    ignoring = dataclasses.replace(found, recipe=recipe, confusions=own)
    pixels = classes.confusion(ignoring, "submission", "blend")
    assert "own" not in pixels.index
    # What is taken for the ignored class is missed all the same.
    whole = classes.confusion(found, "submission", "blend")
    recall = classes.class_scores(pixels)["recall"]
    assert recall["lane"] == whole.loc["lane", "lane"] / whole.loc["lane"].sum()
    with style.styled():
        figure = classes.confusion_matrix(ignoring)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == streets.CLASSES[:-1]


def test_the_matrix_writes_per_cent_of_the_true_class_and_marks_the_evaluated(found):
    with style.styled():
        figure = classes.confusion_matrix(found)
        figure.draw_without_rendering()
    axes = figure.axes[0]
    bold = [label.get_text() for label in axes.get_yticklabels() if label.get_fontweight() == "bold"]
    assert bold == ["car", "pedestrian", "lane", "signal"]
    pixels = classes.confusion(found, "submission", "blend")
    shares = 100 * pixels / pixels.sum(axis=1).to_numpy()[:, None]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written[(2.5, 2.5)] == f"{shares.loc['lane', 'lane']:.0f}"
    assert len(written) == (shares.to_numpy() >= 0.5).sum()


@pytest.mark.parametrize("count", [2, 21, 200])
def test_a_matrix_of_any_number_of_classes_is_drawn(found, count):
    names = [f"class_{number}" for number in range(count)]
    dataset = found.recipe.dataset.model_copy(update={"classes": names, "evaluated": [], "palette": {}})
    rows = [
        {"stage": "submission", "run": "blend", "fold": 0, "truth": name, "predicted": name, "pixels": 5}
        for name in names
    ]
    confusions = pa.Table.from_pylist(rows, schema=tables.CONFUSION).to_pandas()
    recipe = found.recipe.model_copy(update={"dataset": dataset})
    with style.styled():
        figure = classes.confusion_matrix(dataclasses.replace(found, recipe=recipe, confusions=confusions))
        figure.draw_without_rendering()
    assert bool(figure.axes[0].texts) == (count <= classes.READABLE)


@pytest.mark.parametrize("draw", [figures.data_overview, plots.scores, classes.confusion_matrix])
def test_no_names_of_classes_overlap(found, draw):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with style.styled():
        figure = draw(found)
        FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        renderer, labels = figure.canvas.get_renderer(), axes.get_yticklabels()
        extents = [label.get_window_extent(renderer) for label in labels if label.get_text()]
        for upper, lower in pairwise(extents):
            assert not upper.overlaps(lower)


# ------------------------------------------------------------------------------------------------------------ the cases


def test_cases_are_chosen_by_the_contest_score(found):
    chosen = overlays.chosen_cases(found)
    scores = found.cases[(found.cases["stage"] == "submission") & (found.cases["run"] == "blend")]["truth_iou"]
    assert chosen["kind"].value_counts().to_dict() == {"worst": 4, "best": 4, "random": 4}
    assert chosen.loc[chosen["kind"] == "worst", "score"].tolist() == sorted(scores.dropna())[:4]


def test_a_case_names_its_worst_evaluated_class(inputs, found, masks):
    shown, _ = overlays.show(inputs, found)
    assert [case.kind for case in shown] == ["worst"] * 4 + ["best"] * 4 + ["random"] * 4 + ["test"] * 4
    for case in shown[:12]:
        truth, predicted = masks[case.sample_id]
        ious = {}
        for name in ("car", "pedestrian", "lane", "signal"):
            true, guess = ((mask == streets.CLASSES.index(name)) & (truth != 255) for mask in (truth, predicted))
            if true.any():
                ious[name] = (true & guess).sum() / (true | guess).sum()
        assert case.worst_class == (min(ious, key=ious.get), pytest.approx(min(ious.values())))
        assert case.score == pytest.approx(np.mean(list(ious.values())))
    assert all(case.worst_class is None for case in shown[12:])


def test_a_truth_without_an_evaluated_class_has_no_worst_one(found):
    sky = np.full((4, 4), 10, np.uint8)
    assert triptychs.worst_class(sky, sky, found.recipe.dataset) is None


def test_of_wanted_maps_only_the_masks_are_kept(inputs, found):
    live = []

    def maps():
        for name, quantised in overlays.wanted_maps(inputs.blend_out_of_fold, {"train003", "train004"}):
            live.append(name)
            yield name, quantised

    kept = overlays.submitted_masks(found, maps(), {"train003", "train004"})
    assert live == list(kept) == ["train003", "train004"]
    assert all(mask.base is None and mask.shape == SIZE for mask in kept.values())


def test_a_strip_of_classes_stripes_what_does_not_count():
    image = np.zeros((4, 4, 3), np.uint8)
    truth = np.array([[255] * 4, [0] * 4, [1] * 4, [2] * 4], np.uint8)
    colours = triptychs.distinct_colours(3)
    strip = overlays.draw_strip(image, truth, truth * (truth < 3), colours, ignore_index=255)
    side = overlays.LONGEST_OF_SEVERAL
    pane = strip[:, side + overlays.GAP : 2 * side + overlays.GAP]
    for row, colour in zip((115, 190, 270), colours, strict=True):
        assert pane[row, 90].tolist() == [int(0.65 * value) for value in colour]
    seen = {tuple(pixel) for pixel in pane[: side // 4 - 2].reshape(-1, 3).tolist()}
    assert seen == {tuple(int(0.65 * value) for value in shade) for shade in triptychs.IGNORED}


def test_a_class_whose_own_index_is_ignored_is_striped_too():
    picture = np.zeros((8, 8, 3), np.uint8)
    painted = triptychs.paint_classes(picture, np.full((8, 8), 1, np.uint8), [(255, 0, 0), (0, 255, 0)], 1)
    assert {tuple(pixel) for pixel in painted.reshape(-1, 3).tolist()} == {(45, 45, 45), (113, 113, 113)}


def test_colours_are_the_first_of_the_palette_else_distinct_ones(found):
    assert triptychs.class_colours(found.recipe.dataset) == list(streets.PALETTE.values())
    plain = validate(example.STREET, "example").dataset
    assert triptychs.class_colours(plain) == triptychs.distinct_colours(5)


@pytest.mark.parametrize("count", [1, 10, 40, 256])
def test_every_class_has_a_colour_of_its_own(count):
    colours = triptychs.distinct_colours(count)
    assert len(set(colours)) == len(colours) == count


def test_a_rare_class_keeps_its_colour_in_a_picture_of_few_colours(tmp_path, found):
    noise = np.random.default_rng(1).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    noise[:2, :2] = streets.PALETTE["signal"]
    content = style.png(Image.fromarray(noise), triptychs.painted_colours(found.recipe.dataset))
    (tmp_path / "picture.png").write_bytes(content)
    assert np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))[0, 0].tolist() == [255, 255, 0]


def test_folds_are_compared_by_the_evaluated_classes(found):
    table = summaries.fold_table(found).set_index("fold")
    names = ["car share", "pedestrian share", "lane share", "signal share"]
    assert list(table.columns) == ["images", "black share", *names]
    samples = found.samples[found.samples["fold"] == 1]
    lane = np.mean([shares[2] for shares in samples["coverage"]])
    assert table.loc["1", "lane share"] == pytest.approx(lane)


def test_a_street_submission_counts_its_images(inputs, found, tmp_path):
    (tmp_path / "submission.json").write_text(json.dumps({f"test{n:03}.jpg": {} for n in range(5)}))
    given = dataclasses.replace(inputs, submission=tmp_path / "submission.json")
    assert collect.collect(given).submission == {"rows": 5}
