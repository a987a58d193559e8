import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_example import at, changed, recipe, tree

from stagepipe.recipe.averages import blend_weights, run_weights
from stagepipe.recipe.graph import artefacts, folds_of
from stagepipe.recipe.load import validate
from stagepipe.recipe.model import Recipe
from stagepipe.recipe.parts import pseudolabel_sets, report_part
from stagepipe.recipe.submission_parts import submit_part

WARM, TUNED = (f"stages.stage1.runs.small.phases.{name}" for name in ("warm", "tuned"))
ONLY = "stages.stage1.runs.large.phases.only"
PRETRAIN, CYCLES, AGAIN = (f"stages.stage2.runs.first.phases.{name}" for name in ("pretrain", "cycles", "again"))
TRAIN = {
    WARM: "train stage1/small/warm",
    TUNED: "train stage1/small/tuned",
    ONLY: "train stage1/large/only",
    PRETRAIN: "train stage2/first/pretrain",
    CYCLES: "train stage2/first/cycles",
    AGAIN: "train stage2/first/again",
}
SMALL = {"predict stage1/small"}
LARGE = {"predict stage1/large"}
FIRST = {"predict stage2/first"}


def parts(made):
    """Text of every part by rule and, for rules of several jobs, what it works on (folds together)."""
    found = {"submit": submit_part(made).text(), "report": report_part(made).text()}
    for rule, path, part in artefacts(made, "listing"):
        place = path.split("/fold_")[0] if rule in ("train", "predict") else path.rsplit("/", 1)[0]
        found.setdefault(f"{rule} {place}", []).append(part.text())
    return found


def edited(key, values):
    """Parts that an edit changes, without the report, which has all of the recipe."""
    before, after = parts(recipe()), parts(validate(changed(key, values), "r.yaml"))
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} - {"report"}


EVERYTHING = {name for name in parts(recipe()) if name != "report"}
EVERY_TRAIN = set(TRAIN.values())
FROM_ENCODER = {TRAIN[WARM], TRAIN[ONLY], TRAIN[PRETRAIN]}
EVERY_PREDICT = SMALL | LARGE | FIRST
SCORES = {"score stage1", "score stage2"}
INGEST = {"ingest data"}
END = {"binarise submission", "submit"}
JIGSAW = {"find_mosaics data", "apply_jigsaw submission", "score_jigsaw submission"}


@pytest.mark.parametrize(
    "key, values, reached",
    [
        ("", {"runtime": {"workers": 3, "device": "cpu", "deterministic": True}}, set()),
        ("", {"code": "rerun"}, set()),
        ("", {"name": "other"}, set()),
        ("", {"seed": 1}, EVERY_TRAIN | {"select_pseudolabels stage2"}),
        ("dataset", {"root": "elsewhere"}, INGEST),
        ("dataset", {"faults": "quarantine"}, INGEST),
        ("dataset", {"channels": "rgb"}, INGEST | EVERY_TRAIN | EVERY_PREDICT),
        ("dataset", {"classes": ["rock"]}, EVERYTHING - {"split_folds data", "select_pseudolabels stage2"}
         - {"ensemble stage1/ensemble", "ensemble stage2/ensemble", "ensemble submission"}),
        ("folds", {"seed": 1}, {"split_folds data"}),
        ("folds", {"bins": 4}, {"split_folds data"}),
        ("networks.small", {"weights": None}, {TRAIN[WARM], TRAIN[PRETRAIN]}),
        ("networks.large", {"weights": None}, {TRAIN[ONLY]}),
        ("networks.large", {"arguments": {"decoder_use_norm": False}}, {TRAIN[ONLY]} | LARGE),
        ("networks.large", {"resize": 96}, {TRAIN[ONLY]} | LARGE),
        ("networks.large", {"normalise": "imagenet"}, {TRAIN[ONLY]} | LARGE),
        (AGAIN, {"lr": 1e-4}, {TRAIN[AGAIN]}),
        (AGAIN, {"augment": "tgs_phalanx"}, {TRAIN[AGAIN]}),
        (AGAIN, {"member": 2}, FIRST),
        (AGAIN, {"init_weights": "last"}, {TRAIN[AGAIN]}),
        (CYCLES, {"member": 0}, FIRST),
        (CYCLES, {"lr": 1e-4}, {TRAIN[CYCLES]}),
        (CYCLES, {"cycles": 4}, {TRAIN[CYCLES], TRAIN[AGAIN]} | FIRST),
        (WARM, {"epochs": 3}, {TRAIN[WARM]}),
        (TUNED, {"resize": 96}, {TRAIN[TUNED]} | SMALL),
        (TUNED, {"select": {"top": {"k": 2}}}, {TRAIN[TUNED]} | SMALL),
        ("stages.stage1.runs.small.defaults", {"batch": 4}, {TRAIN[WARM], TRAIN[TUNED]}),
        ("stages.stage1", {"tta": ["hflip", "vflip"]}, SMALL | LARGE),
        ("stages.stage1.ensemble", {"small": 3},
         {"ensemble stage1/ensemble", "ensemble submission", "select_pseudolabels stage2"}),
        ("stages.stage2.pseudolabels", {"minimum_confidence": 0.7}, {"select_pseudolabels stage2"}),
        ("stages.stage2.pseudolabels", {"keep": "all"}, {"select_pseudolabels stage2"}),
        ("submission", {"blend": {"stage2": 1}}, {"ensemble submission"}),
        ("submission", {"threshold": {"value": 0.4}}, END - {"submit"}),  # which reads the threshold from a file
        ("submission", {"postprocess": []}, END),
        ("submission", {"black_is_empty": True}, END),
        ("submission", {"rows": "sample.csv"}, {"submit"}),
        ("submission", {"encode": "runs"}, {"submit"}),
        ("submission", {"mean": "geometric"}, {"ensemble submission"}),
        ("submission", {"emptiness": {"blend": {"stage1": 1}}}, END | {"ensemble submission/emptiness"}),
        ("submission", {"postprocess": ["jigsaw"]}, END | JIGSAW),
        ("stages.stage1", {"mean": "geometric"}, {"ensemble stage1/ensemble", "select_pseudolabels stage2"}),
        ("stages.stage1.runs.small", {"rescale": "minmax"},
         {"ensemble stage1/ensemble", "ensemble submission", "select_pseudolabels stage2"}),
        ("stages.stage1.runs.small", {"black_is_empty": True}, SMALL),
        ("networks.small", {"mask": "hard"}, EVERY_TRAIN - {TRAIN[ONLY]}),
        (WARM, {"deep_supervision": {"empty": "bce"}}, {TRAIN[WARM]}),
        ("dataset", {"limit": 9}, INGEST),
        ("dataset", {"rle_size": 64}, INGEST),
        ("submission", {"threshold": {}, "triplets": [{"bottom": 0.3}]}, END - {"submit"}),
        ("submission", {"size": 64}, {"submit"}),
        ("submission", {"blend_search": {}}, {"search_blend submission", "ensemble submission"}),
        ("submission", {"postprocess": [{"contours": {"area": 9}}]}, END),
        (WARM, {"triplets": [{"bottom": 0.3}]}, {TRAIN[WARM]}),
        (AGAIN, {"select": {"top": {"k": 2, "average": "weights"}}}, {TRAIN[AGAIN]} | FIRST),
        ("folds", {"stratify": [], "deal": "depth"}, {"split_folds data"}),
    ],
)  # fmt: skip
def test_an_edit_reaches_exactly(key, values, reached):
    assert edited(key, values) == reached


def test_a_new_fold_count_reaches_all_that_folds_are_in():
    assert edited("folds", {"count": 4}) == EVERY_TRAIN | EVERY_PREDICT | {
        "split_folds data",
        "select_pseudolabels stage2",
    }


def test_of_numbers_given_fold_by_fold_each_job_has_its_own():
    def counts(*numbers):
        made = parts(validate(changed(CYCLES, {"select": {"end_of_cycle": {"count": list(numbers)}}}), "r.yaml"))
        return made[TRAIN[CYCLES]], made["predict stage2/first"]

    before, after = counts(3, 3, 2), counts(3, 3, 1)
    # a part a file: weights and history of a training, both tables of a prediction
    assert [old == new for old, new in zip(before[0], after[0], strict=True)] == [True] * 4 + [False] * 2
    assert [old == new for old, new in zip(before[1], after[1], strict=True)] == [True] * 4 + [False] * 2


def test_a_run_may_have_pseudolabels_of_its_own():
    data = tree()
    stage = at(data, "stages.stage2")
    stage["runs"]["second"] = {
        "network": "small",
        "pseudolabels": {"stage": "stage1", "keep": "all"},
        "phases": [{"name": "both", "data": "both", "loss": "bce", "epochs": 1}],
    }
    made = validate(data, "r.yaml")
    assert {owner: spec.keep for owner, spec in pseudolabel_sets(made).items()} == {
        "stage2": "confident",
        "stage2/second": "all",
    }
    assert set(parts(made)) >= {"select_pseudolabels stage2", "select_pseudolabels stage2/second"}
    del stage["pseudolabels"], stage["runs"]["first"]
    data["submission"]["blend"] = {"stage1": 1}
    assert list(pseudolabel_sets(validate(data, "r.yaml"))) == ["stage2/second"]


def test_searched_shares_are_the_search_jobs_alone():
    def made(shares):
        data = changed("submission", blend=shares)
        at(data, "submission")["blend_search"] = {"step": 0.25}
        return parts(validate(data, "r.yaml"))

    before, after = made({"stage1": 0.25, "stage2/first": 0.75}), made({"stage1": 0.5, "stage2/first": 0.5})
    reached = {name for name in before if before[name] != after[name]} - {"report"}
    assert reached == {"search_blend submission"}
    assert json.loads(before["search_blend submission"][0])["runs"] == {
        "stage1/large": 0.25 * 2 / 3, "stage1/small": 0.25 / 3, "stage2/first": 0.75,
    }  # fmt: skip


def test_runs_of_a_blend_come_in_one_order_whatever_names_them():
    made = recipe("submission", blend={"stage1": 0.5, "stage1/large": 0.25, "stage2": 0.25})
    made = made.model_copy(
        update={"stages": [made.stages[0].model_copy(update={"ensemble": {"small": 1}}), *made.stages[1:]]}
    )
    # the stage brings small first, then comes large by its own name
    assert list(blend_weights(made, made.submission.blend)) == [
        ("stage1", "large"), ("stage1", "small"), ("stage2", "first"),
    ]  # fmt: skip


def test_where_mosaics_come_from_is_no_matter_of_the_rules():
    def made(**step):
        data = tree()
        at(data, "submission")["postprocess"] = [{"jigsaw": step}]
        return parts(validate(data, "r.yaml"))

    def reached(step):
        return {name for name, text in made().items() if made(**step)[name] != text} - {"report"}

    assert reached({"file": "mosaics.json"}) == {"find_mosaics data"}
    assert reached({"empty_below": False}) == {"apply_jigsaw submission"}


def test_a_size_that_every_phase_gives_itself_leaves_the_networks_own_without_effect():
    data = tree()
    at(data, ONLY)["resize"] = 90
    before = parts(validate(data, "r.yaml"))
    at(data, "networks.large")["resize"] = 95
    after = parts(validate(data, "r.yaml"))
    assert {name for name in before if before[name] != after[name]} == {"report"}
    del at(data, ONLY)["resize"]
    at(data, "networks.large")["resize"] = 90
    moved = parts(validate(data, "r.yaml"))
    assert {name for name in before if before[name] != moved[name]} == {"report"}


def test_how_it_runs_and_reacts_to_code_is_in_no_part():
    quick = recipe("", runtime={"workers": 2}, code="rerun")
    assert report_part(quick).text() == report_part(recipe()).text()


def test_defaults_written_out_change_nothing():
    full = recipe().model_dump(mode="json")
    assert full["stages"][0]["runs"]["small"]["phases"][0]["clip_norm"] is None
    assert parts(validate(full, "r.yaml")) == parts(recipe())


def reordered(data):
    if isinstance(data, dict):
        return {key: reordered(value) for key, value in reversed(data.items())}
    return [reordered(item) for item in data] if isinstance(data, list) else data


def test_the_order_of_keys_changes_nothing():
    assert parts(validate(reordered(tree()), "r.yaml")) == parts(recipe())


def test_long_forms_change_nothing():
    data = tree()
    at(data, WARM)["loss"] = {"dice": {"weight": 0.5, "arguments": {}}, "bce": {"weight": 1.0}}
    at(data, WARM)["init"] = "encoder"
    at(data, TUNED)["schedule"] = {"cosine": {"floor": 0}}
    at(data, TUNED)["init"] = "stage1/small/warm"
    at(data, "networks.small")["resize"] = [80, 80]
    at(data, "stages.stage1.ensemble")["small"] = 1.0
    assert parts(validate(data, "r.yaml")) == parts(recipe())


def test_parts_survive_the_way_to_their_job():
    made = recipe()
    found = [part for _, _, part in artefacts(made, "listing")] + [submit_part(made), report_part(made)]
    for part in found:
        again = type(part).model_validate_json(part.text())
        assert again == part
        assert again.text() == part.text()
        assert again.fingerprint() == part.fingerprint()


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_numbers_survive_the_way_to_their_job(lr):
    part = next(part for rule, _, part in artefacts(recipe(AGAIN, lr=lr), "") if "again" in part.text())
    assert type(part).model_validate_json(part.text()).phase.lr == lr


def test_jobs_of_the_example():
    made = recipe()
    paths = [path for _, path, _ in artefacts(made, "")]
    assert len(paths) == len(set(paths))
    assert sum(path.endswith("weights.safetensors") for path in paths) == 3 + 3 + 3 + 1 + 3 + 3
    assert "stage2/first/pretrain/fold_shared/weights.safetensors" in paths
    assert "stage2/first/fold_2/out_of_fold.parquet" in paths
    assert folds_of(made, made.stage("stage2").runs["first"].phase("pretrain")) == ["shared"]
    assert folds_of(made, made.stage("stage2").runs["first"].phase("cycles")) == ["0", "1", "2"]


def test_weights_of_runs_and_blend_by_hand():
    made = recipe("stages.stage1", ensemble={"small": 1, "large": 3})
    assert run_weights(made.stage("stage1")) == {"large": 0.75, "small": 0.25}
    assert run_weights(made.stage("stage2")) == {"first": 1}
    assert run_weights(recipe("stages.stage1", ensemble={"small": 2, "large": 0}).stage("stage1")) == {"small": 1}
    # stage1 has 0.25, split 1 : 3
    shares = {("stage1", "large"): 0.1875, ("stage1", "small"): 0.0625, ("stage2", "first"): 0.75}
    assert blend_weights(made, made.submission.blend) == shares


def test_a_frozen_recipe_has_the_same_parts():
    frozen = recipe().model_dump(mode="json", exclude_defaults=True)
    assert parts(Recipe.model_validate(frozen)) == parts(recipe())
