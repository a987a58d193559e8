"""The training loop: same bits, the wiring of schedules, optimisers and members, and that it learns."""

import math
import re
import signal
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch

from stagepipe import losses, metrics, schedules
from stagepipe.artefacts import load_weights
from stagepipe.errors import RecipeError, TrainingError
from stagepipe.networks import Geometry
from stagepipe.recipe.model import Network, Pad
from stagepipe.training.loss import phase_loss
from stagepipe.training.validation import Validation


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.survey(tmp_path_factory.mktemp("data"))


# ---------------------------------------------------------------------------------------------------------- same bits


def test_same_bits_for_any_number_of_workers_and_other_bits_for_another_seed(data, tmp_path):
    part = tiny.part(sampler="replacement")
    runs = [tiny.train(tmp_path / str(workers), data, part, workers) for workers in (0, 2, 0)]
    again = tiny.train(tmp_path / "again", data, part)
    assert len({run.bits() for run in [*runs, again]}) == 1
    assert runs[0].losses() == runs[1].losses() == again.losses()
    other = tiny.train(tmp_path / "other", data, tiny.part(sampler="replacement", seed=1))
    first = load_weights(runs[0].weights, "0")
    assert not all(torch.equal(value, first[name]) for name, value in load_weights(other.weights, "0").items())


def test_a_phase_starts_from_the_weights_of_another(data, tmp_path):
    origin = tiny.train(tmp_path / "origin", data, tiny.part(select={"top": {"k": 2}}))
    for which, member in (("best", "0"), ("last", "last")):
        part = tiny.part(init="stage/run/phase", init_weights=which)
        started = tiny.trainer(tmp_path / which, data, part, origin=origin.weights)
        expected = load_weights(origin.weights, member)
        assert all(torch.equal(value, expected[name]) for name, value in tiny.snapshot(started.network).items())


# --------------------------------------------------------------------------------------------------- schedule and stop


@pytest.mark.parametrize(
    "schedule",
    [
        "constant",
        {"cosine": {"per": "step", "floor": 1e-5}},
        "one_cycle",
        {"step": {"every": 2}},
        {"plateau": {"factor": 0.5, "patience": 1}},
    ],
)
def test_every_batch_has_the_rate_of_the_schedule(schedule, data, tmp_path, monkeypatch):
    scores = [0.3, 0.2, 0.1, 0.2, 0.4, 0.3, 0.2, 0.1]
    part = tiny.part(schedule=schedule, epochs=4, cycles=2)
    trainer = tiny.trainer(tmp_path, data, part)
    asked = tiny.pretended(monkeypatch, trainer, scores)
    trainer.run()

    def rate(epoch: int, step: int) -> float:
        of_cycle = scores[epoch - epoch % 4 : epoch]
        return schedules.learning_rate(part.phase.schedule, 1e-3, epoch % 4, step / 3, 4, of_cycle)

    assert asked == [(epoch, step, rate(epoch, step)) for epoch in range(8) for step in range(3)]
    assert [row["lr"] for row in trainer.progress.table(part).to_pylist()] == [rate(epoch, 2) for epoch in range(8)]
    if schedule != "constant":
        assert len({rate for _, _, rate in asked}) > 1


def test_early_stop_ends_a_cycle_and_goes_on_with_the_next(data, tmp_path, monkeypatch):
    part = tiny.part(epochs=5, cycles=3, early_stop=2, select="end_of_cycle")
    trainer = tiny.trainer(tmp_path, data, part)
    tiny.pretended(monkeypatch, trainer, [0.5, 0.4, 0.3, 0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 0.9, 0.9])
    trainer.run()
    trained = [(row["cycle"], row["epoch"]) for row in trainer.progress.table(part).to_pylist()]
    assert trained == [(0, 0), (0, 1), (0, 2), *((1, epoch) for epoch in range(5, 10)), (2, 10), (2, 11), (2, 12)]
    assert trainer.progress.members(part.phase) == [2, 9, 12]


def test_every_cycle_starts_with_a_fresh_optimiser_and_old_weights(data, tmp_path, monkeypatch):
    trainer = tiny.trainer(tmp_path, data, tiny.part(epochs=1, cycles=2, optimizer="sgd"))
    original, began, ended = trainer.train_step, [], []

    def train_step(batches, step, rate):
        if step == 0:
            began.append((tiny.snapshot(trainer.network), len(trainer.optimizer.state)))
        loss = original(batches, step, rate)
        if step == 2:
            ended.append((tiny.snapshot(trainer.network), len(trainer.optimizer.state)))
        return loss

    monkeypatch.setattr(trainer, "train_step", train_step)
    trainer.run()
    assert [state for _, state in began] == [0, 0]
    assert all(state > 0 for _, state in ended)
    assert all(torch.equal(value, ended[0][0][name]) for name, value in began[1][0].items())


# ----------------------------------------------------------------------------------------------------- optimiser steps


@pytest.fixture
def plain(monkeypatch):
    """Let every trainer have a network without normalisation, which would tell a batch from two halves of it."""
    tiny.use_plain_network(monkeypatch)


def trained(folder, data, **phase) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights before and after a phase with plain gradient descent."""
    options = {"optimizer": {"sgd": {"momentum": 0}}, "lr": 0.1, "epochs": 1} | phase
    trainer = tiny.trainer(folder, data, tiny.part(**options))
    before = tiny.snapshot(trainer.network)
    trainer.run()
    return before, tiny.snapshot(trainer.network)


@pytest.mark.parametrize(
    ("batch", "parts"),
    [(4, {"batch": 2, "accumulate": 2}), (12, {"batch": 4, "accumulate": 5})],  # 5 > 3: the group is what there is
)
def test_accumulated_batches_equal_a_large_one(batch, parts, data, tmp_path, plain):
    before, expected = trained(tmp_path / "one", data, batch=batch, epochs=2)
    _, found = trained(tmp_path / "parts", data, epochs=2, **parts)
    for name, value in found.items():
        assert not torch.equal(value, before[name])
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def distance(before, after, prefix="") -> float:
    return math.sqrt(sum(float((after[n] - before[n]).square().sum()) for n in before if n.startswith(prefix)))


def test_the_gradients_norm_is_clipped(data, tmp_path, plain):
    assert distance(*trained(tmp_path / "free", data, batch=12, lr=1)) > 0.02
    assert distance(*trained(tmp_path / "clipped", data, batch=12, lr=1, clip_norm=0.01)) == pytest.approx(0.01, 1e-3)


def test_the_norm_of_the_accumulated_gradient_is_clipped(data, tmp_path, plain):
    options = {"lr": 1, "clip_norm": 0.01}
    before, expected = trained(tmp_path / "one", data, batch=12, **options)
    _, found = trained(tmp_path / "parts", data, batch=4, accumulate=3, **options)
    assert distance(before, found) == pytest.approx(0.01, rel=1e-3)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_the_encoder_has_its_own_rate(data, tmp_path, plain):
    alike = trained(tmp_path / "alike", data, batch=12)
    slower = trained(tmp_path / "slower", data, batch=12, part_lr={"encoder": 0.01})
    assert distance(*slower, "encoder") == pytest.approx(0.1 * distance(*alike, "encoder"), 1e-3)
    assert distance(*slower, "head") == pytest.approx(distance(*alike, "head"))


def test_a_frozen_encoder_keeps_every_bit(data, tmp_path, monkeypatch):
    trainer = tiny.trainer(tmp_path, data, tiny.part(freeze_encoder=1, optimizer="adamw", epochs=2))
    seen = [tiny.snapshot(trainer.network)]
    monkeypatch.setattr(trainer, "validate", lambda: seen.append(tiny.snapshot(trainer.network)) or Validation(0.5))
    trainer.run()
    changed = [{name for name in old if not torch.equal(old[name], new[name])} for old, new in pairwise(seen)]
    assert changed[0] and not any(name.startswith("encoder.") for name in changed[0])
    assert any(name.startswith("encoder.") and name.endswith("running_mean") for name in seen[0])
    assert {name for name in seen[0] if name.startswith("encoder.")} <= changed[1]


# -------------------------------------------------------------------------------------------------------- not a number


def test_a_loss_that_is_no_number_names_where_it_was(data, tmp_path):
    exploding = tiny.part(optimizer="sgd", lr=1e30, schedule={"cosine": {"per": "step"}}, epochs=1)
    rate = f"{1e30 * (1 + math.cos(math.pi / 3)) / 2:.3g}"
    where = "stage/run/phase, fold 0: the loss of epoch 1, batch 2 of 3 is (nan|inf) at learning rate "
    message = where + re.escape(rate)
    with pytest.raises(TrainingError, match=message):
        tiny.train(tmp_path / "at once", data, exploding)
    with tiny.signalled(signal.SIGTERM, 0, 0), pytest.raises(SystemExit):
        tiny.train(tmp_path / "resumed", data, exploding)
    with pytest.raises(TrainingError, match=message):
        tiny.train(tmp_path / "resumed", data, exploding)
    assert not (tmp_path / "resumed" / "weights.safetensors").exists()


# ------------------------------------------------------------------------------------------------- members and scores


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("best", [1]),
        ({"top": {"k": 3}}, [1, 4, 3]),
        ({"top": {"k": 6}}, [1, 4, 3, 5, 2, 0]),
        ("end_of_cycle", [1, 3, 5]),
        ({"end_of_cycle": {"skip": 1}}, [3, 5]),
        ({"end_of_cycle": {"count": 2}}, [1, 3]),
        ({"end_of_cycle": {"skip": 1, "count": 1}}, [3]),
    ],
)
def test_members_are_the_epochs_that_the_recipe_selects(select, expected, data, tmp_path, monkeypatch):
    part = tiny.part(epochs=2, cycles=3, select=select)
    trainer = tiny.trainer(tmp_path, data, part)
    tiny.pretended(monkeypatch, trainer, [0.1, 0.8, 0.2, 0.7, 0.8, 0.7])
    members = trainer.run()
    assert trainer.progress.members(part.phase) == expected
    kept = sorted(path.name for path in tmp_path.glob("epoch_*"))
    assert kept == [f"epoch_{epoch:05d}.safetensors" for epoch in sorted({*expected, 5})]
    assert [*members] == [*map(str, range(len(expected))), "last"]
    # Weights that are a member's and the last epoch's are written once.
    assert len({id(weights) for weights in members.values()}) == len({*expected, 5})


def test_the_first_member_has_the_best_score(data, tmp_path):
    part = tiny.part(epochs=4, lr=1e-2, select={"top": {"k": 2}}, monitor="dice")
    done = tiny.train(tmp_path, data, part)
    trainer = tiny.trainer(tmp_path / "again", data, part)
    scores = [row["score"] for row in done.history]
    for member, score in (("0", max(scores)), ("last", scores[-1])):
        trainer.network.module.load_state_dict(load_weights(done.weights, member))
        assert trainer.validate().score == score
    assert len(set(scores)) == 4


def test_the_validation_score_is_that_of_each_image_alone(data, tmp_path):
    trainer = tiny.trainer(tmp_path, data, tiny.part(batch=5, monitor="iou"))
    table = data.table.to_pylist()
    held_out = [row for row, sample in enumerate(table) if data.fold_of().get(sample["sample_id"]) == 0]
    trainer.network.eval()
    scores = []
    for row in held_out:
        with torch.no_grad():
            logits = trainer.network(torch.from_numpy(data.store.image(row).copy())[None])
        predicted = (logits[0, 0] > 0).numpy().astype(np.uint8)
        scores.append(metrics.scores(metrics.intersections(data.store.mask(row), predicted, 1)[None])["iou"][0])
    assert len(held_out) == 12
    assert trainer.validate().score == pytest.approx(np.mean(scores), abs=1e-9)


def test_history_counts_what_was_trained(data, tmp_path):
    done = tiny.train(tmp_path, data, tiny.part(batch=5, epochs=1, sampler={"replacement": {"passes": 2}}))
    (row,) = done.history
    assert (row["stage"], row["run"], row["phase"], row["fold"]) == ("stage", "run", "phase", "0")
    assert row["images"] == 20  # 24 draws from 12 samples in full batches
    assert row["seconds"] > 0
    small = tiny.train(tmp_path / "small", data, tiny.part(batch=64, epochs=1))
    assert small.history[0]["images"] == 12


def test_it_learns(tmp_path):
    data = tiny.survey(tmp_path / "data", train=64, test=1)
    part = tiny.part(epochs=30, batch=8, lr=1e-2, schedule="one_cycle", loss={"bce": 0.5, "dice": 0.5})
    done = tiny.train(tmp_path, data, part)
    folds = data.fold_of()
    empty = [row["empty"] for row in data.table.to_pylist() if folds.get(row["sample_id"]) == 0]
    scores = [row["score"] for row in done.history]
    assert max(scores) > sum(empty) / len(empty) + 0.05  # all masks empty: one for every empty image
    assert done.history[-1]["loss"] < 0.7 * done.history[0]["loss"]


# ---------------------------------------------------------------------------------------------------- deep supervision

DEEP = {"nonempty": "lovasz_hinge_nonempty", "empty": {"bce": 0.5}}


def deep_network(**arguments) -> Network:
    narrow = {"decoder_channels": 4, "centre_channels": 8, "pyramid_channels": 8, "head_channels": 4}
    return Network.model_validate(
        {
            "architecture": "salt_hypercolumn", "encoder": "resnet18", "resize": 48, "pad": {"to": 64, "mode": "edge"},
            "mask": "hard", "channels": ["image", "row_ramp", "product"], "arguments": narrow | arguments,
        }
    )  # fmt: skip


def test_losses_of_all_heads_add_up_and_emptiness_is_asked_of_the_mask_as_augmented(data, tmp_path):
    part = tiny.part(network=deep_network(deep_supervision=True), deep_supervision=DEEP, loss="lovasz_hinge")
    trainer = tiny.trainer(tmp_path, data, part)
    torch.manual_seed(0)
    masks = torch.zeros(3, 32, 32)
    masks[0, 8:20, 3:30] = 1
    masks[2, 31, 31] = 1  # a resize to 48 keeps less than half of it: not empty all the same
    heads = {name: torch.randn(3, 1, 64, 64) for name in ("logits", "nonempty")} | {"empty": torch.randn(3, 1, 1, 1)}
    target = Geometry((48, 48), Pad(to=(64, 64), mode="edge"), hard_mask=True).mask(masks)
    assert set(target.unique().tolist()) == {0, 1}
    bce = -torch.nn.functional.logsigmoid(torch.tensor([-1.0, 1.0, -1.0]) * heads["empty"].ravel()).mean()
    expected = losses.lovasz_hinge(heads["logits"], target)
    expected = expected + losses.lovasz_hinge_nonempty(heads["nonempty"], target) + 0.5 * bce
    torch.testing.assert_close(phase_loss(part, trainer.network, heads, masks), expected)


def test_a_network_trains_by_all_its_heads_and_predicts_with_one(data, tmp_path):
    part = tiny.part(network=deep_network(deep_supervision=True), deep_supervision=DEEP, loss="lovasz_hinge")
    done = tiny.train(tmp_path / "deep", data, part)
    before = tiny.snapshot(tiny.trainer(tmp_path / "fresh", data, part).network)
    after = load_weights(done.weights, "0")
    assert after.keys() == before.keys()
    heads = [name for name in after if name.startswith("head.")]
    assert {name.split(".")[1] for name in heads} >= {"logits", "nonempty", "empty"}
    assert not [name for name in heads if torch.equal(after[name], before[name])]


def test_a_head_that_the_network_lacks_is_named(data, tmp_path):
    part = tiny.part(network=deep_network(), deep_supervision=DEEP)
    with pytest.raises(RecipeError, match=r"deep_supervision\.empty: SaltHypercolumn has no such head as it is made"):
        tiny.trainer(tmp_path, data, part)
