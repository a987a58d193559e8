"""What a recipe will take: its jobs, its image passes against published numbers, its images, the page it makes."""

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import yaml

from stagepipe.artefacts import read_table, write_table
from stagepipe.cli import main
from stagepipe.data import synthetic, synthetic_siim
from stagepipe.data.ingest import ingest
from stagepipe.data.training import select
from stagepipe.errors import RecipeError, StagepipeError
from stagepipe.folds import split
from stagepipe.plan import Options, page, passes, plan, summary
from stagepipe.plan.images import PUBLISHED, images_of
from stagepipe.plan.jobs import jobs
from stagepipe.plan.trial import random_data
from stagepipe.recipe.load import load
from stagepipe.recipe.model import Recipe, Synthetic, SyntheticSiim
from stagepipe.recipe.parts import train_part

CONFIG = Path(__file__).resolve().parents[1] / "config"
RECIPES = sorted((CONFIG / "recipes").glob("*.yaml"))
NOT_PUBLISHED = {
    "stages": [{"name": "stage3", "runs": {"resnet34_resize128": {"remove": True}}, "ensemble": {"resnet34_pad128": 1}}]
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Neither the raw data nor the figures of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def published(name: str = "tgs_salt_1st") -> Recipe:
    """The recipe; that of the first place without the run that its authors didn't publish."""
    return load(CONFIG / "recipes" / f"{name}.yaml", [], NOT_PUBLISHED if name == "tgs_salt_1st" else {})


def trained(recipe: Recipe) -> dict[tuple[str, str], int]:
    """Training passes by stage and run."""
    images = images_of(recipe)
    found: dict[tuple[str, str], int] = {}
    for job in jobs(recipe):
        if job.rule == "train":
            place = (job.stage, job.part.run)
            found[place] = found.get(place, 0) + passes.training(recipe, job.part, images).train
    return found


# --------------------------------------------------------------------------------------------------------------- passes


def test_passes_are_those_that_the_first_place_published():
    found = trained(published())
    # millions, read off the published code and folds
    wanted = {
        ("stage1", "resnext50"): 11.5,
        ("stage1", "resnet34_256"): 4.8,
        ("stage2", "resnext50"): 2.5 + 5.9,
        ("stage2", "resnet34_256_deep"): 4.8,
        ("stage3", "resnet34_pad128"): 2.7 + 3.2,
    }
    assert {place: round(count / 1e6, 1) for place, count in found.items()} == pytest.approx(wanted, rel=0.02)
    assert sum(found.values()) / 1e6 == pytest.approx(35, rel=0.02)


def test_confident_pseudolabels_are_as_many_as_published():
    recipe = published()
    images = images_of(recipe)
    confident = recipe.stage("stage2").runs["resnext50"].pseudolabels
    assert passes.pseudolabelled(confident, images, "shared", 5) == pytest.approx(15493, rel=0.01)
    slices = recipe.stage("stage2").runs["resnet34_256_deep"].pseudolabels
    assert sum(passes.pseudolabelled(slices, images, str(fold), 5) for fold in range(5)) == pytest.approx(
        8302, rel=0.06
    )
    assert passes.pseudolabelled(confident, images, "shared", 5, confident=0.5) == round(18000 * (1 - 0.023) / 2)
    everything = recipe.stage("stage3").pseudolabels
    assert passes.pseudolabelled(everything, images, "shared", 5) == 18000


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"exclude_black": True},
        {"exclude_empty": True},
        {"minimum_foreground": 1},
        {"exclude_black": True, "minimum_foreground": 1},
    ],
)
def test_rows_are_those_that_a_training_selects(tmp_path, changes):
    recipe = demo()
    raw, samples, folds = tmp_path / "raw", tmp_path / "results/demo/data/samples.parquet", tmp_path / "folds.parquet"
    synthetic.write(raw, Synthetic(train=120, test=20, size=32, empty=0.4, black=0.1))
    ingest(recipe.dataset, raw, samples, tmp_path / "pixels.bin", tmp_path / "faults.parquet")
    write_table(folds, split(read_table(samples), recipe.folds))
    images = images_of(recipe)
    assert (images.train, images.test, images.size) == (120, 20, (32, 32)) and images.source.endswith("samples.parquet")
    part = train_part(recipe, "stage1", "resnet18", "bce_dice", "0")
    part = part.model_copy(update={"phase": part.phase.model_copy(update=changes)})
    chosen = select(part, read_table(samples), folds, None)
    found = passes.rows(recipe, part, images)
    # Folds are alike in empty and black masks, but not to the last image.
    assert found.train == pytest.approx(len(chosen.training), abs=4)
    assert found.empty == pytest.approx(sum(item.foreground == 0 for item in chosen.training), abs=4)
    assert found.validation == pytest.approx(len(chosen.validation), abs=4)


def test_windows_and_views_multiply_the_passes_of_a_prediction():
    recipe = load(CONFIG / "recipes" / "camvid_small.yaml")
    job = next(job for job in jobs(recipe) if job.rule == "predict" and job.stage == "stage2")
    found = passes.prediction(job.part, images_of(recipe), 2)
    # 46 of a fold and 21 others; windows of 192 every 96 pixels: 3 of 360 rows (0, 96, 168), 4 of 480 columns
    assert found.images == 46 + 21
    assert found.maps == found.images * 2 * 3 * 4
    assert found.passes == found.maps * 2  # the ends of two cycles


def test_mean_weights_cost_an_epoch_of_passes_without_a_gradient():
    recipe = demo()
    part = train_part(recipe, "stage1", "resnet18", "bce_dice", "0")
    images = images_of(recipe)
    once = passes.training(recipe, part, images)
    averaged = part.phase.model_validate(part.phase.model_dump() | {"select": {"top": {"k": 3, "average": "weights"}}})
    again = passes.training(recipe, part.model_copy(update={"phase": averaged}), images)
    # 100 images of the other fold: six batches of 16; 100 of this one
    assert (once.epochs, once.steps, once.train, once.validation) == (14, 14 * 6, 14 * 96, 14 * 100)
    assert again == replace(once, validation=once.validation + 96 + 100)


# --------------------------------------------------------------------------------------------------------------- images


def demo(**dataset: object) -> Recipe:
    return load(CONFIG / "config.yaml", [], {"dataset": dataset} if dataset else {})


def test_images_of_a_generated_recipe_are_the_generators():
    found = images_of(demo())
    assert (found.train, found.test, found.size, found.empty) == (200, 400, (101, 101), 0.38)
    films = load(CONFIG / "recipes" / "siim_pneumothorax_1st.yaml", [CONFIG / "overlays" / "synthetic_siim.yaml"])
    found = images_of(films)
    assert (found.train, found.always_train, found.test, found.size) == (40, 8, 12, (64, 64))


def test_images_are_counted_where_raw_files_are(tmp_path):
    recipe = load(CONFIG / "recipes" / "siim_pneumothorax_1st.yaml", [], {"dataset": {"root": "films", "limit": 20}})
    synthetic_siim.write(tmp_path / "films", SyntheticSiim(train=8, second_stage=2, test=3, size=64))
    found = images_of(recipe)
    assert (found.train, found.always_train, found.test, found.size) == (10, 2, 3, (64, 64))
    assert found.source == "files of films"


def test_published_numbers_stand_in_for_absent_data_and_the_command_line_for_both():
    recipe = published()
    assert images_of(recipe) == replace(PUBLISHED["tgs"], always_train=0)
    given = images_of(recipe, (500, 700))
    assert (given.train, given.test, given.size, given.source) == (500, 700, (101, 101), "--images")
    assert images_of(recipe, (500, 700), (64, 96)).size == (64, 96)


def test_a_folder_that_is_not_there_names_the_option_to_write(tmp_path):
    plain = yaml.safe_load((CONFIG / "recipes" / "camvid_small.yaml").read_text()) | {"name": "own"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(plain))
    recipe = load(tmp_path / "own.yaml")
    with pytest.raises(RecipeError, match=r"data/camvid is no folder.*write --images TRAIN TEST and --size H W"):
        images_of(recipe)
    with pytest.raises(RecipeError, match=r"--images: how large are those .* Write --size H W, too"):
        images_of(recipe, (5, 5))
    assert images_of(recipe, (50, 5), (32, 64)).train == 50


# ------------------------------------------------------------------------------------------------- devices and the page


@pytest.fixture(scope="module")
def first_place():
    return plan(published(), Options(device="GTX 1080 Ti"))


def test_the_stored_1080_ti_takes_what_was_published(first_place):
    days = {}
    for stage, estimates in groupby(first_place.estimates, key=lambda estimate: estimate.job.stage):
        days[stage] = sum(estimate.seconds for estimate in estimates) / 86400
    assert sum(days.values()) == pytest.approx(16, rel=0.02)
    # Said apart from the whole: stage 1 took "about a week".
    assert days["stage1"] == pytest.approx(7, rel=0.15)
    test = 18000 / (18000 + 800)
    predicted = [
        estimate.seconds * test
        for estimate in first_place.estimates
        if estimate.job.rule == "predict" and estimate.job.part.run in ("resnext50", "resnet34_pad128")
        and estimate.job.stage != "stage1"
    ]  # fmt: skip
    # "3.5 hours with 38 networks", of which stage 2 had 20
    assert sum(predicted) / 3600 == pytest.approx(3.5, rel=0.02)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_counted(path):
    recipe = load(path)
    images, found = images_of(recipe), jobs(recipe)
    assert {"ingest", "train", "predict", "submit", "report"} <= {job.rule for job in found}
    assert all(passes.training(recipe, job.part, images).train > 0 for job in found if job.rule == "train")
    assert {job.stage for job in found} == {"data", "submission", *(stage.name for stage in recipe.stages)}


def test_a_device_that_is_not_stored_names_those_that_are():
    with pytest.raises(StagepipeError, match=r"--device: GTX 1180 is unknown; write one of GTX 1080 Ti"):
        plan(demo(), Options(device="GTX 1180"))


def test_the_page_and_the_json_say_the_same(first_place):
    shown, tree = page.text(first_place), json.loads(json.dumps(summary.tree(first_place)))
    assert "tgs_salt_1st: 3 stages, 110 jobs, 88 of them train or predict" in shown
    assert "35.4 M of training" in shown and "4,000 labelled, 18,000 to predict, 101 x 101" in shown
    assert tree["totals"]["jobs"] == sum(line["jobs"] for line in tree["lines"]) == 110
    assert tree["totals"]["train"] == sum(line["train"] for line in tree["lines"])
    assert tree["totals"]["gpu_seconds"] > 1000 * tree["totals"]["other_seconds"]
    for line in tree["lines"]:
        row = next(row for row in shown.splitlines() if row.split()[:2] == [line["stage"], line["rule"]])
        assert page.duration(line["seconds"]) in row


def test_gpus_divide_the_time_of_jobs_that_hold_one(first_place):
    one, four = summary.totals(first_place), summary.totals(first_place, gpus=4)
    assert one.gpu_seconds == four.gpu_seconds
    assert four.wall_seconds == pytest.approx(one.gpu_seconds / 4 + one.other_seconds)


def test_the_command_prints_a_plan_without_figures_and_says_how_to_get_them(capsys):
    assert main(["plan", str(CONFIG / "config.yaml"), "--images", "1000", "400"]) == 0
    shown = capsys.readouterr().out
    assert "35 jobs" in shown and "1,000 labelled, 400 to predict, 101 x 101 (--images)" in shown
    assert "--measure makes them" in shown and "time " not in shown.splitlines()[-4]
    assert main(["plan", str(CONFIG / "config.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"] is None


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--images", "0", "4"], "0 is too small; write a whole number from 1 on"),
        (["--confident", "1.5"], "1.5 is no share; write a number from 0 to 1"),
        (["--measure", "--device", "x"], "not allowed with argument"),
    ],
)
def test_options_that_make_no_sense(capsys, words, complaint):
    with pytest.raises(SystemExit):
        main(["plan", str(CONFIG / "config.yaml"), *words])
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "-"), (1.5, "1.5 s"), (99, "99 s"), (600, "10 min"), (7200, "2 h"), (1.4e6, "16.2 d")]
)
def test_durations_are_short(seconds, shown):
    assert page.duration(seconds) == shown


def test_random_data_has_masks_of_both_kinds(tmp_path):
    data = random_data(tmp_path, 4, 2, (40, 24), 3, 1)
    samples = read_table(data.samples)
    assert samples["empty"].to_pylist() == [False, True] * 3
    assert read_table(data.folds)["fold"].to_pylist() == [1] * 4 + [0] * 2
