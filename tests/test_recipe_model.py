import pytest
from pydantic import ValidationError
from recipe_example import recipe

from stagepipe.recipe.model import (
    Best,
    Constant,
    Cosine,
    Dataset,
    Emptiness,
    Folds,
    LossTerm,
    Network,
    Normalise,
    Pad,
    Phase,
    Pseudolabels,
    Recipe,
    Schedule,
    Select,
    Submission,
    Top,
)


def phase(**values):
    return Phase.model_validate({"name": "p", "loss": "bce", "epochs": 4} | values)


def test_short_forms_mean_the_long_ones():
    assert Network(resize=80) == Network(resize=(80, 80)) == Network(resize=[80, 80])
    assert Pad(to=[96, 128]).to == (96, 128)
    assert phase(schedule="cosine").schedule == Schedule(cosine=Cosine())
    assert phase(schedule={"cosine": {"floor": 0.1}}).schedule == Schedule(cosine=Cosine(floor=0.1))
    assert phase(loss={"bce": 2, "dice": {"weight": 0.5}, "focal": {}}).loss == {
        "bce": LossTerm(weight=2),
        "dice": LossTerm(weight=0.5),
        "focal": LossTerm(),
    }
    assert phase().select == Select(best=Best())
    assert phase().schedule == Schedule(constant=Constant())


def test_choice_names_the_field_that_is_set():
    assert phase(schedule="one_cycle").schedule.choice == "one_cycle"
    assert Select(top=Top(k=2)).choice == "top"


@pytest.mark.parametrize(
    "select, cycles, members",
    [
        ("best", 3, 1),
        ({"top": {"k": 5}}, 2, 5),
        ("end_of_cycle", 3, 3),
        ({"end_of_cycle": {"skip": 1}}, 3, 2),
        ({"end_of_cycle": {"skip": 1, "count": 1}}, 3, 1),
    ],
)
def test_members_that_a_phase_hands_on(select, cycles, members):
    assert phase(select=select, cycles=cycles).member_count == members


@pytest.mark.parametrize(
    "values, message",
    [
        ({"schedule": {"cosine": {}, "plateau": {}}}, "has 2 choices; write exactly one of constant, plateau"),
        ({"schedule": {}}, "has 0 choices"),
        ({"loss": {}}, "at least 1 item"),
        ({"folds": "shared"}, "labels would leak; write data: pseudolabels"),
        ({"select": {"top": {"k": 5}}}, "top 5 of 4 epochs"),
        ({"select": {"top": {"k": 4}}, "early_stop": 2}, "may end after 3 epochs"),
        ({"select": {"end_of_cycle": {"skip": 2}}, "cycles": 2}, "skips all 2 cycles"),
        ({"select": {"end_of_cycle": {"skip": 1, "count": [1, 2]}}, "cycles": 2}, "skip 1 and count 2 exceed 2 cycles"),
        ({"deep_supervision": {"empty": {}}}, "at least 1 item"),
        ({"deep_supervision": {"image": "bce"}}, "'empty', 'nonempty' or 'auxiliary'"),
        ({"epochs": True}, "valid integer"),
        ({"epochs": "4"}, "valid integer"),
        ({"epochs": 4.0}, "valid integer"),
        ({"lr": True}, "valid number"),
        ({"lr": float("nan")}, "finite number"),
        ({"lr": float("inf")}, "finite number"),
        ({"loss": {"bce": float("nan")}}, "finite number"),
        ({"loss": {"bce": True}}, "valid number"),
        ({"lr": 0}, "greater than 0"),
        ({"exclude_black": 1}, "valid boolean"),
        ({"resize": [80]}, r"has 1 items; write one for a square, or \[height, width\]"),
        ({"resize": 0}, "greater than or equal to 1"),
        ({"resize": True}, "valid integer"),
        ({"name": "p\n"}, "pattern"),
    ],
)
def test_a_phase_refuses(values, message):
    with pytest.raises(ValidationError, match=message):
        phase(**values)


@pytest.mark.parametrize(
    "kind, values, message",
    [
        (Dataset, {"format": "tgs"}, "root: the tgs format reads raw data"),
        (Dataset, {"format": "synthetic", "root": "x"}, "writes its own raw data; leave root out"),
        (Dataset, {"format": "folder", "root": "x", "classes": ["a", "a"]}, "repeats a name"),
        (Dataset, {"format": "tgs", "root": "x", "ignore_index": 3}, "needs several classes"),
        (Dataset, {"format": "tgs", "root": "x", "synthetic": {"size": 64}}, "write `format: synthetic`"),
        (Folds, {"file": "folds.csv", "group": "mosaic"}, "leave stratify, group and deal out"),
        (Network, {"arguments": {"depth": float("inf")}}, "finite number"),
        (Network, {"arguments": {"depth": {1, 2}}}, "valid JSON"),
        (Normalise, {"std": [0.0]}, "greater than 0"),
        (Normalise, {"mean": []}, "at least 1 item"),
        (Pseudolabels, {"stage": "a", "low": 0.9, "high": 0.1}, "write low <= high"),
        (Pseudolabels, {"stage": "a", "bins": [{"per_fold": 3}]}, "need `disjoint: true`"),
        (Pseudolabels, {"stage": "a", "disjoint": True, "bins": [{"per_fold": [None, None]}]}, "null for one of them"),
        (Folds, {"file": "folds.csv", "deal": "depth"}, "leave stratify, group and deal out"),
        (Folds, {"deal": "depth", "stratify": ["depth"]}, "fixes the split alone; leave stratify and group out"),
        (Emptiness, {"blend": {"a": 0.5}}, "the shares sum to 0.5"),
        (Submission, {"blend": {"a": 0.5, "b": 0.6}}, "the shares sum to 1.1; they must sum to 1"),
        (Submission, {"blend": {}}, "at least 1 item"),
    ],
)
def test_a_section_refuses(kind, values, message):
    with pytest.raises(ValidationError, match=message):
        kind(**values)


def test_shares_that_do_not_sum_come_with_some_that_do():
    with pytest.raises(ValidationError, match=r"for example \{'a': 0.25, 'b': 0.75\}"):
        Submission(blend={"a": 1, "b": 3})


def test_sections_never_change():
    with pytest.raises(ValidationError, match="frozen"):
        recipe().name = "other"


def test_a_frozen_copy_is_the_recipe():
    original = recipe()
    assert Recipe.model_validate(original.model_dump(mode="json", exclude_defaults=True)) == original
    assert Recipe.model_validate_json(original.model_dump_json()) == original
