from __future__ import annotations

import time

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, OneCycleLR, SequentialLR

from mltrain.optim import schedules


def _optimizer(kind: str, lrs: tuple[float, ...] = (0.1, 1.0)) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "initial_lr": lr} for lr in lrs]
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    return torch.optim.Adam(groups, lr=1.0, betas=(0.9, 0.98))


def _torch_values(optimizer, scheduler, steps):
    rows = []
    for _ in range(steps):
        rows.append([(g["lr"], g.get("betas", (g.get("momentum"),))[0]) for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rows


def _our_values(optimizer, schedule, steps):
    rows = []
    for step in range(steps):
        schedules.apply(optimizer, schedule, step)
        rows.append([(g["lr"], g.get("betas", (g.get("momentum"),))[0]) for g in optimizer.param_groups])
    return rows


def _assert_equal(ours, theirs):
    assert torch.tensor(ours, dtype=torch.float64).sub(torch.tensor(theirs, dtype=torch.float64)).abs().max() <= 1e-12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize(
    ("steps_per_epoch", "epochs", "pct_start"),
    [(7, 5, 0.2), (10, 10, 0.2), (1, 12, 0.3), (3, 2, 0.5), (2, 2, 0.1), (13, 3, 0.0), (5, 4, 1.0)],
)
def test_one_cycle_equals_torch_step_for_step(kind, anneal, steps_per_epoch, epochs, pct_start):
    lrs = (0.1, 1.0)
    steps = steps_per_epoch * epochs
    theirs = _optimizer(kind)
    scheduler = OneCycleLR(theirs, max_lr=list(lrs), total_steps=steps, pct_start=pct_start, anneal_strategy=anneal)
    schedule = schedules.OneCycle(steps_per_epoch=steps_per_epoch, epochs=epochs, pct_start=pct_start, anneal=anneal)
    rows = []
    for step in range(steps):
        rows.append([(g["lr"], g["betas"][0] if "betas" in g else g["momentum"]) for g in theirs.param_groups])
        theirs.step()
        if step < steps - 1:
            scheduler.step()
    _assert_equal(_our_values(_optimizer(kind), schedule, steps), rows)


def test_one_cycle_survives_a_warm_up_of_exactly_one_step_where_torch_divides_by_zero():
    schedule = schedules.OneCycle(steps_per_epoch=1, epochs=5, pct_start=0.2)
    assert [schedule.at(step)[0] for step in (0, 1, 4)] == pytest.approx([1.0, schedule.at(1)[0], 4e-6])
    assert schedules.OneCycle(steps_per_epoch=1, epochs=1).at(0)[0] <= 1.0


def test_one_cycle_of_asl_stops_after_41_of_80_epochs_at_the_published_figures():
    schedule = schedules.OneCycle(steps_per_epoch=641, epochs=80)
    factor, beta1 = schedule.at(641 * 41 - 1)
    assert factor * 1e-4 == pytest.approx(6.7e-5, rel=0.01)
    assert beta1 == pytest.approx(0.883, abs=5e-4)


def test_one_cycle_without_momentum_leaves_it_alone():
    optimizer = _optimizer("adam")
    schedules.apply(optimizer, schedules.OneCycle(steps_per_epoch=5, epochs=2, cycle_momentum=False), 3)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.98)] * 2


@pytest.mark.filterwarnings("ignore")
def test_cosine_with_warm_up_equals_torch():
    theirs = _optimizer("sgd", (0.3,))
    scheduler = SequentialLR(
        theirs,
        [LinearLR(theirs, start_factor=0.1, total_iters=6), CosineAnnealingLR(theirs, T_max=24, eta_min=0.3 * 0.05)],
        milestones=[6],
    )
    schedule = schedules.Cosine(steps_per_epoch=10, epochs=3, warmup_epochs=0.6, warmup_start=0.1, final=0.05)
    _assert_equal(_our_values(_optimizer("sgd", (0.3,)), schedule, 30), _torch_values(theirs, scheduler, 30))


@pytest.mark.filterwarnings("ignore")
def test_multi_step_equals_torch():
    theirs = _optimizer("sgd")
    scheduler = MultiStepLR(theirs, milestones=[20, 35], gamma=0.1)
    schedule = schedules.MultiStep(steps_per_epoch=10, epochs=4, milestones=[2, 3.5])
    _assert_equal(_our_values(_optimizer("sgd"), schedule, 40), _torch_values(theirs, scheduler, 40))


def test_multi_step_warm_up_multiplies_the_milestones():
    schedule = schedules.MultiStep(steps_per_epoch=4, epochs=4, milestones=[1], warmup_steps=8, warmup_start=0.5)
    assert [schedule.at(step)[0] for step in (0, 2, 4, 8, 15)] == pytest.approx([0.5, 0.625, 0.075, 0.1, 0.1])


@pytest.mark.parametrize(
    ("steps_per_epoch", "warmup"),
    [(121, 500), (705, 500), (121, 700), (121, 2000)],  # VOC-MLT, COCO-MLT; a warm-up beyond a milestone, and the end
)
def test_multi_step_equals_the_published_rule_of_distribution_balanced_loss(steps_per_epoch, warmup):
    schedule = schedules.MultiStep(
        steps_per_epoch=steps_per_epoch, epochs=8, milestones=[5, 7], warmup_steps=warmup, warmup_start=1 / 3
    )
    # mmcv: the epoch decides the regular rate; below `warmup` iterations it is lowered by (1 - it / warmup) * 2 / 3
    for iteration in range(8 * steps_per_epoch):
        epoch = iteration // steps_per_epoch
        expected = 0.02 if epoch < 5 else 0.002 if epoch < 7 else 0.0002
        if iteration < warmup:
            expected *= 1 - (1 - iteration / warmup) * (1 - 1 / 3)
        assert 0.02 * schedule.at(iteration)[0] == pytest.approx(expected, rel=1e-12)


def test_constant_holds_the_peak_after_the_warm_up():
    schedule = schedules.Constant(steps_per_epoch=4, epochs=2, warmup_epochs=1, warmup_start=0.2)
    assert [schedule.at(step)[0] for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.OneCycle(steps_per_epoch=5, epochs=4),
        schedules.Cosine(steps_per_epoch=5, epochs=4),
        schedules.MultiStep(steps_per_epoch=5, epochs=4, milestones=[2]),
        schedules.Constant(steps_per_epoch=5, epochs=4),
    ],
)
def test_steps_beyond_the_end_have_the_last_figures(schedule):
    assert schedule.at(20) == schedule.at(10**9) == schedule.at(19)
    with pytest.raises(ValueError, match="step must be 0 or more"):
        schedule.at(-1)


def test_each_group_keeps_its_own_peak():
    optimizer = _optimizer("adam", (0.1, 1.0, 10.0))
    factor = schedules.apply(optimizer, schedules.Cosine(steps_per_epoch=5, epochs=4), 7)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 * factor, factor, 10.0 * factor]


def test_tensor_rates_are_filled_in_place():
    parameter = torch.nn.Parameter(torch.zeros(1))
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam([{"params": [parameter], "initial_lr": 0.5}], lr=rate)
    schedules.apply(optimizer, schedules.Constant(steps_per_epoch=4, epochs=2, warmup_steps=2, warmup_start=0.5), 0)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_apply_is_cheap_enough_to_call_every_step():
    optimizer = _optimizer("adam", (0.1, 0.1, 1.0, 1.0))
    schedule = schedules.OneCycle(steps_per_epoch=100, epochs=10)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        for step in range(100):
            schedules.apply(optimizer, schedule, step)
        times.append((time.perf_counter() - start) / 100)
    assert min(times) < 10e-6


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: schedules.OneCycle(steps_per_epoch=5, epochs=0), "1 or more"),
        (lambda: schedules.OneCycle(steps_per_epoch=5, epochs=1, pct_start=1.5), "pct_start"),
        (lambda: schedules.OneCycle(steps_per_epoch=5, epochs=1, div_factor=0), "div_factor"),
        (lambda: schedules.OneCycle(steps_per_epoch=5, epochs=1, base_momentum=0.99), "base_momentum"),
        (lambda: schedules.OneCycle(steps_per_epoch=5, epochs=1, anneal="exp"), "anneal"),
        (lambda: schedules.Cosine(steps_per_epoch=5, epochs=1, warmup_epochs=1), "not shorter"),
        (lambda: schedules.Cosine(steps_per_epoch=5, epochs=1, final=2), "final"),
        (lambda: schedules.Cosine(steps_per_epoch=5, epochs=2, warmup_epochs=1, warmup_steps=3), "not both"),
        (lambda: schedules.Constant(steps_per_epoch=5, epochs=1, warmup_start=2), "warmup_start"),
        (lambda: schedules.Constant(steps_per_epoch=5, epochs=1, warmup_epochs=-1), "0 or more"),
        (lambda: schedules.MultiStep(steps_per_epoch=5, epochs=9, milestones=[5, 2]), "increasing"),
        (lambda: schedules.MultiStep(steps_per_epoch=5, epochs=9, milestones=[5], gamma=0), "gamma"),
    ],
)
def test_wrong_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
