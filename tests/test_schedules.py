"""The curves against torch's own schedulers."""

import pytest
import torch

from graticule.config import parse_recipe
from graticule.training.schedules import Plateau, Schedule


def schedule(steps_per_epoch=10, **train):
    return Schedule(parse_recipe({"train": train}).train, steps_per_epoch)


def torchs(make, steps, lr=0.1):
    """Rate and first beta of each step of one of torch's schedulers."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group["betas"][0]))
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("epochs", "warmup"), [(5, 0.1), (3, 0.3), (20, 0.1)])
def test_onecycle_is_torchs_in_rate_and_momentum(epochs, warmup):
    ours = schedule(epochs=epochs, lr=0.1, schedule="onecycle", warmup=warmup)
    steps = 10 * epochs
    expected = torchs(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=steps, pct_start=warmup), steps)
    assert [(p.lr, p.beta1) for p in map(ours.at, range(steps))] == [pytest.approx(pair) for pair in expected]


def test_cosine_without_warmup_is_torchs():
    ours = schedule(epochs=4, lr=0.1, schedule="cosine", warmup=0)
    expected = torchs(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=40), 40)
    assert [ours.at(step).lr for step in range(40)] == pytest.approx([lr for lr, _ in expected])


def test_a_plateau_halves_where_torchs_does():
    losses = [3, 2, 2, 2, 2, 1.9, 1.95, 1.9, 1.9, 1.89999, 1.9, 1.9, 1.9, 1.8, 1.8, 1.8, 1.8, 1.8]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    ours = Plateau()
    found, expected = [], []
    for loss in losses:
        oracle.step(loss)
        ours.update(loss)
        found.append(ours.factor)
        expected.append(optimizer.param_groups[0]["lr"])
    assert found == expected
    assert len(set(found)) > 2


def test_a_warmup_rises_to_the_peak_and_stays():
    rates = [schedule(epochs=2, lr=1.0, schedule="constant", warmup=0.25).at(step).lr for step in range(20)]
    assert rates[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert rates[5:] == [1.0] * 15


def test_a_schedule_spans_all_stages_unless_one_names_its_own():
    stages = [{"epochs": 1}, {"epochs": 2}]
    whole = schedule(stages=stages, lr=0.1, schedule="cosine", warmup=0)
    assert [whole.at(s).lr for s in range(30)] == [
        schedule(epochs=3, lr=0.1, schedule="cosine", warmup=0).at(s).lr for s in range(30)
    ]
    own = schedule(stages=[{"epochs": 1}, {"epochs": 2, "schedule": "cosine"}], lr=0.1, schedule="cosine", warmup=0)
    assert own.at(10).lr == own.at(0).lr == 0.1
    assert own.at(9).lr < 0.01
    assert [own.at(s).stage for s in (0, 9, 10, 29)] == [0, 0, 1, 1]


def test_a_stage_has_its_own_peak_and_a_plateau_scales_it():
    ours = schedule(stages=[{"epochs": 1}, {"epochs": 1, "lr": 0.3}], lr=0.1, schedule="plateau", warmup=0)
    assert ours.at(0).lr == 0.1
    assert ours.at(10).lr == 0.3
    assert ours.at(10, plateau=0.25).lr == pytest.approx(0.075)
