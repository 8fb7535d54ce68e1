"""Learning-rate schedules at the steps of the paper."""

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.stages.optimization import Optimization


def lr(optimization, step, max_steps=40_000):
    return optimization.lr * optimization.lr_factor(step, max_steps)


def test_the_papers_rpn_schedule():
    paper = Optimization()
    assert lr(paper, 0) == pytest.approx(0.02 / 3)
    assert lr(paper, 250) == pytest.approx(0.02 * (1 / 3 + 1) / 2)
    assert lr(paper, 499) == pytest.approx(0.02 * (1 - 2 / 3 / 500))
    assert lr(paper, 500) == pytest.approx(0.02)
    assert lr(paper, 29_999) == pytest.approx(0.02)
    assert lr(paper, 30_000) == pytest.approx(0.002)
    assert lr(paper, 39_999) == pytest.approx(0.002)


def test_two_milestones():
    schedule = Optimization(milestones=[60_000, 80_000])
    values = [lr(schedule, step) for step in (59_999, 60_000, 79_999, 80_000)]
    assert values == pytest.approx([0.02, 0.002, 0.002, 0.0002])


def test_cosine_ends_at_zero():
    schedule = Optimization(schedule="cosine", lr=1.0, warmup_steps=0)
    assert lr(schedule, 0, 100) == pytest.approx(1)
    assert lr(schedule, 50, 100) == pytest.approx(0.5)
    assert lr(schedule, 100, 100) == pytest.approx(0)
    with pytest.raises(InputError, match=r"trainer\.max_steps"):
        schedule.build([torch.nn.Parameter(torch.zeros(1))], max_steps=-1)


def test_rescaling_keeps_the_schedule_in_images():
    # 2 images a step instead of 16: an eighth of the learning rate, eight times the steps.
    rescaled = Optimization().rescaled(2)
    assert rescaled.lr == pytest.approx(0.0025)
    assert rescaled.warmup_steps == 4000
    assert rescaled.milestones == (240_000,)
    assert rescaled.rescaled(16) == Optimization()


def test_schedule_factor_multiplies_the_milestones():
    paper = Optimization(lr=0.03, milestones=[60_000], schedule_factor=2)
    same_batch = paper.rescaled(16)
    assert (same_batch.milestones, same_batch.lr, same_batch.warmup_steps) == ((120_000,), 0.03, 500)
    half_batch = paper.rescaled(8)
    assert (half_batch.milestones, half_batch.lr, half_batch.warmup_steps) == ((240_000,), 0.015, 1000)
    assert half_batch.rescaled(16).milestones == (120_000,)  # applied once


def test_warm_up_can_be_a_fraction_of_all_steps():
    tenth = Optimization(warmup_steps=0.1, warmup_factor=0.5, milestones=[900])
    for steps in (Optimization(warmup_steps=100, warmup_factor=0.5, milestones=[900]), tenth.rescaled(16)):
        assert [lr(tenth, step, 1000) for step in (0, 50, 99, 100)] == [
            lr(steps, step, 1000) for step in (0, 50, 99, 100)
        ]
    assert tenth.rescaled(2).warmup_steps == 0.1
    with pytest.raises(InputError, match=r"warmup_steps is below 1 .* trainer\.max_steps"):
        tenth.build([torch.nn.Parameter(torch.zeros(1))], max_steps=-1)


def test_scheduler_steps_the_optimiser():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer, scheduler = Optimization(milestones=[3], warmup_steps=2).build([parameter], 10)
    trace = []
    for _ in range(5):
        trace.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert trace == pytest.approx([0.02 / 3, 0.02 * 2 / 3, 0.02, 0.002, 0.002])
    assert optimizer.param_groups[0]["momentum"] == 0.9
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4
