import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD, lr_scheduler

from stagepipe import schedules
from stagepipe.recipe.model import Schedule


def rates(schedule: dict | str, lr: float, epochs: int, scores: tuple[float, ...] = ()) -> list[float]:
    parsed = Schedule.model_validate(schedule)
    return [schedules.learning_rate(parsed, lr, epoch, 0.0, epochs, scores[:epoch]) for epoch in range(epochs)]


def torch_rates(scheduler_of, lr: float, count: int, scores: tuple[float, ...] = ()) -> list[float]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = scheduler_of(optimizer)
    found = []
    for index in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(scores[index]) if scores else scheduler.step()
    return found


def test_constant_stays():
    assert rates("constant", 0.3, 4) == [0.3] * 4


@pytest.mark.parametrize(("lr", "last"), [(0.012, 0.0010109), (0.01, 0.0010089)])
def test_cosine_is_phalanx_published_rate(lr, last):
    found = rates({"cosine": {"floor": 0.001}}, lr, 50)
    assert found[0] == pytest.approx(lr)
    assert found[49] == pytest.approx(last, abs=5e-8)


def test_cosine_is_torch_cosine_annealing():
    expected = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=0.01), 0.5, 20)
    assert rates({"cosine": {"floor": 0.01}}, 0.5, 20) == pytest.approx(expected, rel=1e-9)


def test_cosine_per_step_moves_within_an_epoch_and_per_epoch_does_not():
    def at(per: str, share: float) -> float:
        schedule = Schedule.model_validate({"cosine": {"per": per}})
        return schedules.learning_rate(schedule, 1.0, 1, share, 4, [0.0])

    assert at("epoch", 0.0) == at("epoch", 0.9) == at("step", 0.0)
    assert at("step", 0.5) == pytest.approx((1 + 0.3826834) / 2)  # cos(3/8 pi)


def test_cosine_of_fewer_epochs_rises_again_as_torch_cosine_annealing():
    """The published 50 epochs with T_max 8: no restarts, a period of 16."""
    expected = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=8, eta_min=1e-7), 1e-5, 50)
    found = rates({"cosine": {"epochs": 8, "floor": 1e-7}}, 1e-5, 50)
    assert found == pytest.approx(expected, rel=1e-9)
    assert [found[epoch] for epoch in (0, 8, 16, 24)] == pytest.approx([1e-5, 1e-7, 1e-5, 1e-7])


@pytest.mark.parametrize(("epochs", "stretch"), [(1, 2), (3, 1), (2, 3)])
def test_restarts_are_torch_warm_restarts(epochs, stretch):
    def scheduler(optimizer):
        return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=epochs, T_mult=stretch, eta_min=1e-7)

    cosine = {"epochs": epochs, "after": "restart", "stretch": stretch, "floor": 1e-7}
    expected = torch_rates(scheduler, 1e-4, 40)
    assert rates({"cosine": cosine}, 1e-4, 40) == pytest.approx(expected, rel=1e-9)

    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1e-4)
    optimizer.step()
    of_steps = scheduler(optimizer)
    schedule = Schedule.model_validate({"cosine": cosine | {"per": "step"}})
    for epoch in range(12):
        for step in range(7):
            of_steps.step(epoch + step / 7)
            expected_rate = optimizer.param_groups[0]["lr"]
            assert schedules.learning_rate(schedule, 1e-4, epoch, step / 7, 40, []) == pytest.approx(expected_rate)


def test_restarts_without_epochs_of_their_own_are_those_of_the_cycle():
    assert rates({"cosine": {"after": "restart", "stretch": 2}}, 0.1, 9) == rates("cosine", 0.1, 9)


def test_step_is_torch_step():
    expected = torch_rates(lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.2), 0.1, 10)
    assert rates({"step": {"factor": 0.2, "every": 3}}, 0.1, 10) == pytest.approx(expected)


@given(
    scores=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.3001, 0.4]), min_size=1, max_size=40),
    patience=st.integers(1, 4),
    floor=st.sampled_from([0.0, 0.02]),
)
def test_plateau_is_torch_reduce_on_plateau(scores, patience, floor):
    def scheduler(optimizer):
        return lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", threshold=0, factor=0.5, patience=patience - 1, min_lr=floor, eps=0
        )

    expected = torch_rates(scheduler, 0.1, len(scores), tuple(scores))
    plateau = {"plateau": {"factor": 0.5, "patience": patience, "floor": floor}}
    assert rates(plateau, 0.1, len(scores), tuple(scores)) == pytest.approx(expected)


def test_one_cycle_is_torch_one_cycle():
    steps, warmup = 40, 0.3

    def scheduler(optimizer):
        # torch's last step is total_steps - 1, and its rise ends at pct_start * total_steps - 1
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=0.2,
            total_steps=steps + 1,
            pct_start=(warmup * steps + 1) / (steps + 1),
            div_factor=25,
            final_div_factor=1e4 / 25,
        )

    expected = torch_rates(scheduler, 0.2, steps)
    schedule = Schedule.model_validate({"one_cycle": {"warmup": warmup}})
    found = [schedules.learning_rate(schedule, 0.2, k // 10, k % 10 / 10, 4, []) for k in range(steps)]
    assert found == pytest.approx(expected, rel=1e-6)
    assert schedules.learning_rate(schedule, 0.2, 3, 1.0, 4, []) == pytest.approx(0.2 / 1e4)


@pytest.mark.parametrize(
    ("early_stop", "scores", "stops"),
    [
        (None, [0.5] + [0.1] * 99, False),
        (2, [], False),
        (2, [0.5, 0.4], False),
        (2, [0.5, 0.4, 0.5], True),  # equal is not better
        (2, [0.5, 0.4, 0.6], False),
        (2, [0.5, float("nan"), 0.3], True),
    ],
)
def test_early_stop_counts_epochs_without_a_better_score(early_stop, scores, stops):
    assert schedules.should_stop(early_stop, scores) is stops
