"""What the SIIM 2019 1st place asks of training: chained phases, sliding epochs, triplets, averaged weights."""

import logging
import math
import re
from itertools import product

import numpy as np
import pytest
import tiny
import torch
from torch.optim.swa_utils import AveragedModel, update_bn

from stagepipe import metrics, schedules
from stagepipe.artefacts import load_weights, save_weights
from stagepipe.data.training import collate
from stagepipe.device_metrics import threshold_counts
from stagepipe.errors import ArtefactError, TrainingError
from stagepipe.training import loop
from stagepipe.training.average import estimate_statistics, mean_weights
from stagepipe.training.validation import Validation, Validator
from stagepipe.triplets import Triplet

SLIDING = {"balanced": {"positive": [0.8, 0.4], "length": "positives"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.survey(tmp_path_factory.mktemp("data"))


def equal(one, other, prefix="") -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items() if name.startswith(prefix))


def raiser(error: type[BaseException]):
    def function(*_, **__):
        raise error

    return function


# ------------------------------------------------------------------------------------------- epochs of different length


def test_steps_rates_and_losses_are_those_of_the_epochs_own_length(data, tmp_path, monkeypatch):
    part = tiny.part(
        sampler=SLIDING, batch=2, accumulate=2, epochs=2, cycles=2, schedule={"cosine": {"per": "step", "epochs": 1}}
    )
    trainer = tiny.trainer(tmp_path, data, part)
    empties, positives = trainer.orders.empty.sum(), (~trainer.orders.empty).sum()
    # The share slides over both cycles: 0.8, 2/3, 8/15, 0.4.
    counts = [positives + int(positives * ratio + 1e-9) for ratio in (0.25, 0.5, 0.875, 1.5)]
    steps = [count // 2 for count in counts]
    assert empties > 0 and len(set(steps)) == 4
    asked = tiny.pretended(monkeypatch, trainer)
    groups, original = [], trainer.train_step

    def train_step(batches, step, rate):
        groups.append((trainer.progress.epoch, step, trainer._group_size(step), trainer._ends_group(step)))
        return original(batches, step, rate) + step

    monkeypatch.setattr(trainer, "train_step", train_step)
    trainer.run()

    def rate(epoch: int, step: int) -> float:
        return schedules.learning_rate(part.phase.schedule, 1e-3, epoch % 2, step / steps[epoch], 2, [])

    assert asked == [(epoch, step, rate(epoch, step)) for epoch in range(4) for step in range(steps[epoch])]
    assert groups == [
        (epoch, step, min(2, steps[epoch] - step // 2 * 2), step % 2 == 1 or step == steps[epoch] - 1)
        for epoch in range(4)
        for step in range(steps[epoch])
    ]
    rows = trainer.progress.table(part).to_pylist()
    assert [row["images"] for row in rows] == [2 * count for count in steps]
    assert [row["loss"] for row in rows] == [(count - 1) / 2 for count in steps]


# ----------------------------------------------------------------------------------------------------- averaged weights


def averaging(**phase):
    options = {"epochs": 4, "lr": 1e-2, "batch": 3, "select": {"top": {"k": 3, "average": "weights"}}}
    return tiny.part(**(options | phase))


@pytest.fixture(scope="module")
def averaged(data, tmp_path_factory):
    return tiny.train(tmp_path_factory.mktemp("averaged"), data, averaging())


@pytest.fixture(scope="module")
def separate(data, tmp_path_factory):
    return tiny.train(tmp_path_factory.mktemp("separate"), data, averaging(select={"top": {"k": 3}}))


def test_the_average_is_torch_averaged_model_and_update_bn(data, averaged, separate, tmp_path):
    assert averaged.losses() == separate.losses()
    trainer = tiny.trainer(tmp_path, data, averaging())
    reference = AveragedModel(trainer.network)
    for member in "012":
        trainer.network.module.load_state_dict(load_weights(separate.weights, member))
        reference.update_parameters(trainer.network)
    best = int(np.argmax([row["score"] for row in separate.history]))
    batches = [collate([trainer.samples[place] for place in batch]) for batch in trainer.orders.batches(best)]
    update_bn(batches, reference)
    expected, found = reference.module.module.state_dict(), load_weights(averaged.weights, "0")
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    statistics = [name for name in found if name.endswith("running_mean")]
    plain_mean = mean_weights([load_weights(separate.weights, member) for member in "012"])
    assert statistics and not any(torch.equal(found[name], plain_mean[name]) for name in statistics)
    assert equal(load_weights(averaged.weights, "last"), load_weights(separate.weights, "last"))
    with pytest.raises(ArtefactError, match=r"holds no member '1', only \['0', 'last'\]"):
        load_weights(averaged.weights, "1")


def test_the_averages_score_stands_beside_that_of_the_best_epoch(data, averaged, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert tiny.train(tmp_path, data, averaging(), workers=2).bits() == averaged.bits()
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("mean weights")]
    trainer = tiny.trainer(tmp_path / "again", data, averaging())
    trainer.network.module.load_state_dict(load_weights(averaged.weights, "0"))
    score = trainer.validator.describe(trainer.validate())
    scores = [row["score"] for row in averaged.history]
    order = sorted(range(4), key=lambda epoch: -scores[epoch])[:3]
    epochs = ", ".join(str(epoch + 1) for epoch in order)
    assert line == f"mean weights of the epochs {epochs}: {score}; the best alone {max(scores):.4f}"


def test_a_phase_goes_on_from_the_average(data, averaged, tmp_path):
    part = tiny.part(init="stage/run/phase", init_weights="best")
    started = tiny.trainer(tmp_path, data, part, origin=averaged.weights)
    assert equal(tiny.snapshot(started.network), load_weights(averaged.weights, "0"))


def test_weights_are_averaged_in_double_precision_and_counters_are_the_first_ones():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, 5)).astype(np.float32)
    members = [{"w": torch.from_numpy(row), "n": torch.tensor(7 - index)} for index, row in enumerate(values)]
    found = mean_weights(members)
    assert found["w"].numpy().tolist() == values.astype(np.float64).mean(axis=0).astype(np.float32).tolist()
    assert found["w"].dtype == torch.float32 and int(found["n"]) == 7
    same = mean_weights([members[0]] * 3)
    assert torch.equal(same["w"], members[0]["w"])


def test_without_batch_normalisation_no_batch_is_drawn(data, tmp_path, monkeypatch):
    tiny.use_plain_network(monkeypatch)

    def images(*_):
        raise AssertionError("a batch was asked for")
        yield

    monkeypatch.setattr(loop.Trainer, "_images", images)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.GroupNorm(1, 1))
    estimate_statistics(network, network, images())
    done = tiny.train(tmp_path / "averaged", data, averaging())
    separate = tiny.train(tmp_path / "separate", data, averaging(select={"top": {"k": 3}}))
    members = [load_weights(separate.weights, member) for member in "012"]
    assert equal(load_weights(done.weights, "0"), mean_weights(members))


def test_momentum_is_as_before_once_statistics_are_estimated():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2, momentum=0.03))
    estimate_statistics(network, network, [torch.randn(4, 1, 5, 5) for _ in range(3)])
    assert network[1].momentum == 0.03 and int(network[1].num_batches_tracked) == 3


def test_an_encoder_that_was_frozen_throughout_keeps_its_statistics(data, averaged, tmp_path, monkeypatch):
    def part(freeze: int):
        two = {"epochs": 2, "select": {"top": {"k": 2, "average": "weights"}}, "freeze_encoder": freeze}
        return averaging(init="stage/run/before", **two)

    before = load_weights(averaged.weights, "0")
    frozen = tiny.train(tmp_path / "frozen", data, part(2), origin=averaged.weights)
    after = load_weights(frozen.weights, "0")
    assert equal(after, before, "encoder.")
    assert not any(torch.equal(after[name], before[name]) for name in after if re.match("decoder.*running_mean", name))
    thawed = tiny.train(tmp_path / "thawed", data, part(1), origin=averaged.weights)
    assert not equal(load_weights(thawed.weights, "0"), before, "encoder.")

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "estimate_statistics", raiser(KeyboardInterrupt))
        tiny.train(tmp_path / "resumed", data, part(2), origin=averaged.weights)
    resumed = tiny.train(tmp_path / "resumed", data, part(2), origin=averaged.weights)
    assert resumed.bits() == frozen.bits()


# ------------------------------------------------------------------------------------------------------------- triplets


def test_counts_at_several_thresholds_are_those_of_each():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(3, 1, 9, 7, generator=generator)
    target = (torch.rand(3, 9, 7, generator=generator) > 0.6).to(torch.uint8)
    thresholds = [0.1, 0.5, 0.9]
    counts = threshold_counts(probabilities, target, thresholds)
    assert (counts.dtype, counts.shape) == (torch.int64, (3, 3, 3))
    for image, (place, threshold) in product(range(3), enumerate(thresholds)):
        predicted = (probabilities[image, 0] > threshold).numpy()
        expected = metrics.intersections(target[image].numpy(), predicted, 1)[0]
        np.testing.assert_array_equal(counts[image, place], expected)


def literal_score(probability: np.ndarray, truth: np.ndarray, triplet: Triplet, monitor: str) -> float:
    scale = 1 if triplet.size is None else truth.size / math.prod(triplet.size)
    mask = probability > triplet.bottom
    if (probability > triplet.top).sum() < triplet.area * scale:
        mask = np.zeros_like(mask)
    if not mask.any() and not truth.any():
        return 1.0
    inside, both = (mask & (truth > 0)).sum(), mask.sum() + (truth > 0).sum()
    return 2 * inside / both if monitor == "dice" else inside / (both - inside)


@pytest.mark.parametrize("monitor", ["dice", "iou"])
def test_the_score_of_an_epoch_is_that_of_the_best_triplet(monitor, data, tmp_path):
    grids = [
        {"top": [0.75, 0.6], "area": [30, 90, 270], "bottom": [0.3, 0.4]},
        {"area": 480, "bottom": [0.4, 0.6], "size": 64},
    ]
    triplets = [Triplet(*choice) for choice in product([0.75, 0.6], [30, 90, 270], [0.3, 0.4])]
    triplets += [Triplet(bottom, 480, bottom, (64, 64)) for bottom in (0.4, 0.6)]
    trainer = tiny.trainer(tmp_path, data, tiny.part())
    held_out, generator = trainer.validator.rows, torch.Generator().manual_seed(0)
    truths = [data.store.mask(row) for row in held_out]
    noise = torch.randn(12, 1, 32, 32, generator=generator) + torch.randn(12, 1, 1, 1, generator=generator)
    logits = 3.0 * torch.from_numpy(np.stack(truths))[:, None] - 2 + noise

    def validated(wanted: list) -> Validation:
        batches = iter(logits.split(5))
        part = tiny.part(triplets=wanted, monitor=monitor, batch=5)
        validator = Validator(part, data.table, held_out, data.store, tiny.machine())
        return validator.validate(trainer.network, lambda _: {"logits": next(batches)})

    maps = logits.sigmoid()[:, 0].numpy()
    means = [
        float(np.mean([literal_score(*pair, triplet, monitor) for pair in zip(maps, truths, strict=True)]))
        for triplet in triplets
    ]
    assert len(set(means)) > 8 and sorted(means)[-2] < max(means)
    assert [validated([vars(triplet)]).score for triplet in triplets] == pytest.approx(means, abs=1e-12)
    found = validated(grids)
    assert found.score == pytest.approx(max(means), abs=1e-12)
    assert found.score > trainer.validator.all_empty
    assert found.triplet == triplets[int(np.argmax(means))]


def test_triplets_choose_the_members_and_are_logged(data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    grids = [{"top": [0.5, 0.6], "area": [5, 60], "bottom": [0.3, 0.45]}]
    part = tiny.part(epochs=4, lr=1e-2, triplets=grids, monitor="dice", select={"top": {"k": 2}})
    done = tiny.train(tmp_path / "done", data, part)
    scores = [row["score"] for row in done.history]
    trainer = tiny.trainer(tmp_path / "again", data, part)
    for member, score in (("0", max(scores)), ("1", sorted(scores)[-2]), ("last", scores[-1])):
        trainer.network.module.load_state_dict(load_weights(done.weights, member))
        assert trainer.validate().score == score
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch ")]
    pattern = r"dice (\S+) \(all empty \S+\) at top 0\.[56], area (5|60), bottom 0\.(3|45), lr "
    assert [re.search(pattern, line)[1] for line in lines] == [f"{score:.4f}" for score in scores]


# ------------------------------------------------------------------------------------------------------ all masks empty


@pytest.mark.parametrize("monitor", ["mean_precision", "dice", "iou"])
def test_the_score_of_predicting_nothing_stands_beside_every_score(monitor, data, tmp_path, caplog, monkeypatch):
    empty = [row["empty"] for row in data.table.to_pylist() if data.fold_of().get(row["sample_id"]) == 0]
    share = sum(empty) / len(empty)
    assert 0 < share < 1
    part = tiny.part(monitor=monitor)
    trainer = tiny.trainer(tmp_path, data, part)
    head = trainer.network.module.segmentation_head[0]
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(head.bias, -9)
    assert trainer.validate().score == pytest.approx(share) == trainer.validator.all_empty

    labels = []
    monkeypatch.setattr(loop, "tqdm", lambda steps, desc, **_: labels.append(desc) or steps)
    tiny.pretended(monkeypatch, trainer, [0.25, 0.5])
    caplog.set_level(logging.INFO)
    trainer.run()
    lines = [record.getMessage() for record in caplog.records]
    for line, score in zip(lines, ("0.2500", "0.5000"), strict=True):
        assert f"{monitor} {score} (all empty {share:.4f}), lr " in line
    label = "stage/run/phase fold 0 epoch"
    assert labels == [f"{label} 1", f"{label} 2 {monitor} 0.2500 (all empty {share:.4f})"]


def test_several_classes_have_no_score_of_predicting_nothing(data, tmp_path):
    part = tiny.part(classes=("a", "b", "c"))
    validator = Validator(part, data.table, [0, 1], data.store, tiny.machine())
    assert validator.describe(Validation(0.5)) == "iou 0.5000"


# ---------------------------------------------------------------------------------------------------- start and a chain


def test_a_phase_without_the_weights_it_starts_from_is_no_random_start(data, tmp_path):
    with pytest.raises(
        TrainingError, match=r"stage/run/phase, fold 0: starts from the weights of stage/run/lowres, but"
    ):
        tiny.train(tmp_path, data, tiny.part(init="stage/run/lowres"))
    assert not (tmp_path / "weights.safetensors").exists()


def test_weights_of_another_network_are_named(data, averaged, tmp_path):
    wider = tiny.network(arguments={"encoder_depth": 3, "decoder_channels": [32, 16, 16]})
    part = tiny.part(init="stage/run/before", network=wider)
    message = re.escape(f"{averaged.weights}: member '0' doesn't fit the network of stage/run/phase, fold 0 (")
    with pytest.raises(TrainingError, match=message + r"(?s:.*)size mismatch(?s:.*)start from a phase with the same"):
        tiny.trainer(tmp_path, data, part, origin=averaged.weights)


def test_a_file_without_the_member_is_named(data, averaged, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"last": load_weights(averaged.weights, "last")})
    part = tiny.part(init="stage/run/before", init_weights="best")
    with pytest.raises(
        ArtefactError, match=re.escape(f"{path}: holds no member '0', only ['last']; delete it and run")
    ):
        tiny.trainer(tmp_path / "state", data, part, origin=path)


def test_a_chain_goes_from_low_to_full_resolution_each_from_the_best_before(data, tmp_path):
    options = {"epochs": 3, "lr": 1e-2, "clip_norm": 0.1, "sampler": SLIDING, "monitor": "dice"}
    lowres = tiny.part(name="lowres", init="encoder", resize=16, freeze_encoder=2, **options)
    part0 = tiny.part(name="part0", init="stage/run/lowres", resize=32, **options)
    part1 = tiny.part(name="part1", init="stage/run/part0", resize=32, **options)

    fresh = tiny.snapshot(tiny.trainer(tmp_path / "fresh", data, lowres).network)
    frozen = tiny.part(name="lowres", init="encoder", resize=16, freeze_encoder=2, **(options | {"epochs": 2}))
    after_two = load_weights(tiny.train(tmp_path / "frozen", data, frozen).weights, "last")
    assert equal(after_two, fresh, "encoder.") and not equal(after_two, fresh)

    origin, seen = None, []
    for part in (lowres, part0, part1):
        folder = tmp_path / part.phase.name
        started = tiny.trainer(folder / "start", data, part, origin=origin)
        assert started.network.geometry.resize == part.phase.resize
        if origin is not None:
            assert equal(tiny.snapshot(started.network), load_weights(origin, "0"))
        done = tiny.train(folder, data, part, origin=origin)
        best = load_weights(done.weights, "0")
        started.network.module.load_state_dict(best)
        assert started.validate().score == max(row["score"] for row in done.history)
        seen.append(best)
        origin = done.weights
    assert not equal(seen[0], seen[1]) and not equal(seen[1], seen[2])
    assert not equal(seen[1], seen[0], "encoder.")
