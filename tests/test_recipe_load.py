import copy
import subprocess
import sys

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_example import TEXT, at, changed, recipe, tree

from stagepipe.errors import RecipeError
from stagepipe.recipe.load import load, merge, read_yaml, validate

SMALL = "stages.stage1.runs.small"
LARGE = "stages.stage1.runs.large"
WARM = f"{SMALL}.phases.warm"


def refusal(data):
    with pytest.raises(RecipeError) as error:
        validate(data, "r.yaml")
    return str(error.value)


def written(tmp_path, text, name="r.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "text, number", [("1e-4", 1e-4), ("1E4", 1e4), ("-2.5e+3", -2.5e3), (".5e1", 5.0), ("1.0e-4", 1e-4), ("3", 3)]
)
def test_numbers_with_an_exponent_are_numbers(tmp_path, text, number):
    assert read_yaml(written(tmp_path, f"a: {text}\nb: [{text}]")) == {"a": number, "b": [number]}


@pytest.mark.parametrize("text", ["'1e-4'", '"1e5"', "e5", "1e", "1e-4x", "v1e5"])
def test_text_stays_text(tmp_path, text):
    assert read_yaml(written(tmp_path, f"a: {text}")) == {"a": text.strip("'\"")}


@pytest.mark.parametrize(
    "text, message",
    [
        ("name: x\nseed: 1\nname: y", "r.yaml, line 3, column 1: the key 'name' is written twice"),
        ("a: {b: 1, b: 2}", "r.yaml, line 1, column 11: the key 'b' is written twice"),
        ("name: x\nstages: [\n", "r.yaml, line 3, column 1: "),
        ("name: x\n\tseed: 1", "r.yaml, line 2, column 1: "),
        ("? [1, 2]\n: 3", "r.yaml, line 1, column 3: found unhashable key"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: 2020-13-45", "r.yaml: is not readable YAML: month must be in 1..12"),
        ("a: !!bool perhaps", "r.yaml: is not readable YAML"),
        ("a: &loop [*loop]", "r.yaml, line 1, column 11: an alias that holds itself"),
        ("[" * 3000, "r.yaml, line 1, column 101: more than 100 levels"),
        ("- name: x", "r.yaml: holds a list, not keys and values"),
        ("", "r.yaml: holds nothing, not keys and values"),
        ("just text", "r.yaml: holds a single value"),
    ],
)
def test_files_that_are_no_recipe_are_named_with_the_line(tmp_path, text, message):
    with pytest.raises(RecipeError) as error:
        load(written(tmp_path, text))
    assert message in str(error.value)


def test_missing_and_binary_files_are_named(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: there is no such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="is not readable YAML"):
        load(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(RecipeError, match=r"b\.yaml: is not readable YAML"):
        load(tmp_path / "b.yaml")


# --------------------------------------------------------------------------------------------------------- inheritance


def test_phases_have_what_their_run_and_their_model_give():
    made = recipe()
    warm, tuned = made.stage("stage1").runs["small"].phases
    assert (warm.batch, warm.optimizer.choice, set(warm.loss)) == (8, "adamw", {"bce", "dice"})
    assert (tuned.batch, set(tuned.loss), tuned.schedule.choice) == (8, {"lovasz_hinge"}, "cosine")
    _, cycles, again = made.stage("stage2").runs["first"].phases
    assert (again.cycles, again.epochs, again.lr, again.select) == (3, 2, 5e-4, cycles.select)


def test_phases_start_from_the_one_before_unless_they_say_otherwise():
    made = recipe()
    phases = [phase for stage in made.stages for run in stage.runs.values() for phase in run.phases]
    assert {phase.name: (phase.init, phase.init_weights, phase.member) for phase in phases} == {
        "warm": ("encoder", "best", 0),
        "tuned": ("stage1/small/warm", "best", 1),
        "only": ("encoder", "best", 1),
        "pretrain": ("encoder", "best", 0),
        "cycles": ("stage2/first/pretrain", "best", 1),
        "again": ("stage1/small/tuned", "best", 1),
    }
    after_cycles = recipe("stages.stage2.runs.first.phases.again", init="cycles")
    assert after_cycles.stage("stage2").runs["first"].phase("again").init == "stage2/first/cycles"
    assert after_cycles.stage("stage2").runs["first"].phase("again").init_weights == "last"


def test_a_run_has_the_network_of_its_name():
    assert recipe().stage("stage1").runs["large"].network == "large"
    assert recipe().stage("stage2").runs["first"].network == "small"


def test_defaults_may_be_empty():
    assert recipe("stages.stage1.runs.large", defaults=None) == recipe()


def test_reading_leaves_the_data_as_it_is():
    data = tree()
    validate(data, "r.yaml")
    assert data == tree()


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "key, values, message",
    [
        ("", {"stage": []}, "r.yaml: stage: unknown key; did you mean `stages`?"),
        (WARM, {"epoch": 3}, f"r.yaml: {WARM}.epoch: unknown key; did you mean `epochs`?"),
        (WARM, {"zzz": 3}, f"{WARM}.zzz: unknown key; the keys here are name, like, init"),
        ("networks.small.pad", {"too": 3}, "networks.small.pad.too: unknown key; did you mean `to`?"),
        (f"{SMALL}.defaults", {"bach": 3}, f"{SMALL}.defaults.bach: unknown key; did you mean `batch`?"),
        (f"{SMALL}.defaults", {"batch": "x"}, f'{SMALL}.defaults.batch: must be a whole number (found "x")'),
        (f"{SMALL}.defaults", {"name": "x"}, "defaults.name: is a phase's own; write it in the phase"),
        (LARGE, {"defaults": 3}, f"{LARGE}.defaults: must be keys and values of a phase (found 3)"),
        (WARM, {"epochs": "three"}, f'{WARM}.epochs: must be a whole number (found "three")'),
        (WARM, {"epochs": True}, f"{WARM}.epochs: must be a whole number (found true)"),
        (WARM, {"lr": "1e-3"}, f'{WARM}.lr: must be a number (found "1e-3")'),
        (WARM, {"lr": float("nan")}, f"{WARM}.lr: must be a finite number (found NaN)"),
        (WARM, {"lr": float("inf")}, f"{WARM}.lr: must be a finite number (found Infinity)"),
        (WARM, {"schedule": {"cosin": {}}}, f"{WARM}.schedule.cosin: unknown key; did you mean `cosine`?"),
        (WARM, {"optimizer": "adamm"}, f"{WARM}.optimizer.adamm: unknown key; did you mean `adam`?"),
        (WARM, {"loss": "lovas_hinge"}, "did you mean `lovasz_hinge`?"),
        (WARM, {"loss": {"bec": 1}}, f"{WARM}.loss.bec: must be 'bce', 'dice'"),
        (WARM, {"augment": "tgs_bess"}, '(found "tgs_bess"); did you mean `tgs_bes`?'),
        (WARM, {"augment": [{"name": "Affine", "args": {}}]}, f"{WARM}.augment.Affine.args: unknown key"),
        (WARM, {"like": "nothing"}, "like: there is no earlier phase 'nothing' in this run; write one of: none"),
        (WARM, {"like": ["a"]}, f"{WARM}.like: there is no earlier phase ['a']"),
        (WARM, {"select": {"top": {"k": 9}}}, f"{WARM}.select: top 9 of 2 epochs; write a smaller k"),
        (WARM, {"resize": "big"}, f'{WARM}.resize: must be a whole number (found "big")'),
        ("networks.small", {"weights": "imagnet"}, "must be 'imagenet' or keys and values"),
        ("networks.small", {"weights": {"file": "x"}}, "small.weights.sha256: is missing; write `sha256: ...`"),
        ("networks.small", {"arguments": {"a": {"b": [float("nan")]}}}, "small.arguments.a.b.0: must be a finite"),
        ("networks", {"9x": {}}, "networks.9x: must be a name: letters, digits and _, a letter first"),
        ("", {"name": "a/b"}, 'name: must be a name: letters, digits and _, a letter first (found "a/b")'),
        ("", {"stages": {"stage1": {}}}, "stages: must be a list of items, not keys; write `- name: stage1`"),
        ("", {"stages": []}, "stages: is empty; write at least 1"),
        ("stages.stage1", {"runs": {}}, "stages.stage1.runs: is empty; write at least 1"),
        ("stages.stage1", {"runs": ["small"]}, "stages.stage1.runs: must be keys and values"),
        ("stages.stage1.runs", {"small": None}, "stages.stage1.runs.small: must be keys and values (found null)"),
        (LARGE, {"phases": []}, f"{LARGE}.phases: is empty; write at least 1"),
        ("dataset", {"root": None}, "dataset.root: the tgs format reads raw data; write `root: path/to/data`"),
        ("dataset", {"format": "tsg"}, "'synthetic_siim' or 'synthetic_street' (found \"tsg\"); did you mean `tgs`?"),
        ("submission", {"blend": {"stage1": 0.5}}, "submission.blend: the shares sum to 0.5; they must sum to 1"),
        ("", {3: 4}, "r.yaml: 3: keys must be text; write it in quotes"),
    ],
)  # fmt: skip
def test_one_line_says_what_to_write(key, values, message):
    lines = refusal(changed(key, values)).splitlines()
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert lines[0].startswith("r.yaml: ")


def test_missing_keys_are_named():
    data = tree()
    del data["submission"], data["networks"], at(data, "stages.stage1.runs.large.phases.only")["loss"]
    assert refusal(data).splitlines() == [
        "r.yaml: networks: is missing; write `networks: ...`",
        "r.yaml: stages.stage1.runs.large.phases.only.loss: is missing; write `loss: ...`",
        "r.yaml: submission: is missing; write `submission: ...`",
    ]


def test_a_fault_that_a_phase_inherits_is_named_where_it_stands():
    data = changed("stages.stage2.runs.first.phases.cycles", lr=-1)
    del at(data, "stages.stage2.runs.first.phases.again")["lr"]
    assert refusal(data) == "r.yaml: stages.stage2.runs.first.phases.cycles.lr: must be greater than 0 (found -1)"


def test_many_faults_come_at_once_each_on_its_line():
    data = changed(WARM, epochs=0, zzz=1, like="nobody")
    data |= {"seed": "x", "dataset": {"format": "tgs"}}
    lines = refusal(data).splitlines()
    assert len(lines) == 5
    assert all(line.startswith("r.yaml: ") for line in lines)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["encoder", "name"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def places(data, found=()):
    yield found
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from places(value, (*found, key))


PLACES = [place for place in places(tree()) if place]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.just(...) | JUNK), min_size=1, max_size=3))
def test_whatever_is_broken_the_answer_is_a_recipe_or_a_recipe_error(mutations):
    data = tree()
    for place, value in mutations:
        parent = data
        try:
            for key in place[:-1]:
                parent = parent[key]
            if value is ...:
                del parent[place[-1]]
            else:
                parent[place[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier mutation took the place away
    try:
        validate(data, "r.yaml")
    except RecipeError as error:
        assert all(line.startswith("r.yaml: ") for line in str(error).splitlines())


# ------------------------------------------------------------------------------------------------------------ overlays


def overlaid(tmp_path, *texts, changes=None):
    overlays = [written(tmp_path, text, f"overlay{index}.yaml") for index, text in enumerate(texts)]
    return load(written(tmp_path, TEXT), overlays, changes)


def test_overlays_merge_stages_and_phases_by_name(tmp_path):
    made = overlaid(
        tmp_path,
        "stages: [{name: stage1, runs: {small: {phases: [{name: warm, epochs: 9}, {name: extra, epochs: 1}]}}}]",
        "seed: 5",
        changes={"folds": {"count": 4}},
    )
    phases = made.stage("stage1").runs["small"].phases
    assert [(phase.name, phase.epochs) for phase in phases] == [("warm", 9), ("tuned", 4), ("extra", 1)]
    assert phases[0].lr == 1e-3
    assert [stage.name for stage in made.stages] == ["stage1", "stage2"]
    assert (made.seed, made.folds.count, made.folds.stratify) == (5, 4, ["coverage", "depth"])


def test_a_star_stands_for_every_item_before_those_that_are_named(tmp_path):
    made = overlaid(
        tmp_path,
        """
        networks: {"*": {encoder: resnet50}, large: {encoder: resnet101}}
        stages:
          - {name: "*", tta: [], runs: {"*": {phases: [{name: "*", batch: 3}]}}}
          - {name: stage1, tta: [vflip], runs: {small: {phases: [{name: warm, batch: 5}]}}}
        """,
    )
    assert {name: network.encoder for name, network in made.networks.items()} == {
        "small": "resnet50",
        "large": "resnet101",
    }
    batches = {
        f"{stage.name}/{run}/{phase.name}": phase.batch
        for stage in made.stages
        for run, spec in stage.runs.items()
        for phase in spec.phases
    }
    assert set(batches.values()) == {3, 5}
    assert [name for name, batch in batches.items() if batch == 5] == ["stage1/small/warm"]
    assert [stage.tta for stage in made.stages] == [["vflip"], []]


def test_a_star_needs_keys_and_values(tmp_path):
    with pytest.raises(RecipeError, match=r"overlay0\.yaml: networks\.\*: stands for every item; write keys and va"):
        overlaid(tmp_path, 'networks: {"*": resnet18}')


def test_overlays_remove_items_and_keys(tmp_path):
    made = overlaid(
        tmp_path,
        """
        stages:
          - {name: stage2, remove: true}
          - {name: stage1, runs: {large: {remove: true}}, ensemble: {remove: true}}
        networks: {large: {remove: true}}
        submission: {blend: {stage1: 1}}
        """,
    )
    assert [stage.name for stage in made.stages] == ["stage1"]
    assert list(made.stage("stage1").runs) == list(made.networks) == ["small"]


def test_choices_and_shares_are_replaced_whole(tmp_path):
    made = overlaid(
        tmp_path,
        """
        stages:
          - name: stage1
            runs: {small: {defaults: {loss: {focal: 1}}, phases: [{name: tuned, schedule: {step: {}}}]}}
        submission: {blend: {stage2: 1}}
        """,
    )
    warm, tuned = made.stage("stage1").runs["small"].phases
    assert set(warm.loss) == {"focal"}
    assert tuned.schedule.choice == "step"
    assert made.submission.blend == {"stage2": 1}


def test_removing_what_is_not_there_is_a_fault(tmp_path):
    with pytest.raises(
        RecipeError, match=r"overlay0\.yaml: stages\.stage7: there is nothing of this name to remove; there"
    ):
        overlaid(tmp_path, "stages: [{name: stage7, remove: true}]")


def test_messages_name_recipe_and_overlays(tmp_path):
    with pytest.raises(
        RecipeError, match=r"r\.yaml \+ .*overlay0\.yaml \+ the command line: seed: must be a whole number"
    ):
        overlaid(tmp_path, "folds: {count: 2}", changes={"seed": "x"})


def test_merge_leaves_both_as_they_are():
    base, overlay = tree(), {"stages": [{"name": "stage1", "tta": []}], "seed": 3}
    before = copy.deepcopy((base, overlay))
    merge(base, overlay)
    assert (base, overlay) == before


def reordered(data):
    if isinstance(data, dict):
        return {key: reordered(value) for key, value in reversed(data.items())}
    return [reordered(item) for item in data] if isinstance(data, list) else data


def test_key_order_comments_and_layout_change_nothing(tmp_path):
    text = "# a comment\n" + yaml.safe_dump(reordered(tree()), sort_keys=False, default_flow_style=False)
    assert text.index("submission") < text.index("dataset")
    assert load(written(tmp_path, text)) == recipe()


def test_reading_a_recipe_is_light_and_quick(tmp_path):
    code = """
import sys, time
import stagepipe.workflow
start = time.perf_counter()
stagepipe.workflow.load(sys.argv[1])
assert time.perf_counter() - start < 1
heavy = {"torch", "cv2", "pandas", "sklearn", "scipy", "matplotlib", "albumentations", "segmentation_models_pytorch"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(written(tmp_path, TEXT))], check=True)
