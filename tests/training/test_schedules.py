"""Schedules against their closed forms."""

import numpy as np
import pytest

from t5x_code.errors import UserError
from t5x_code.training.schedules import ScheduleConfig, make_schedule

WARMUP, DECAY, PEAK, FINAL = 10, 110, 2.0, 0.2


def closed_form(name: str, t: int) -> float:
    if t < WARMUP:
        return PEAK * t / WARMUP
    share = min((t - WARMUP) / (DECAY - WARMUP), 1)
    return {
        "constant": PEAK,
        "linear": PEAK + (FINAL - PEAK) * share,
        "cosine": FINAL + (PEAK - FINAL) * 0.5 * (1 + np.cos(np.pi * share)),
        "wsd": PEAK + (FINAL - PEAK) * np.clip((t - 90) / 20, 0, 1),
        "rsqrt": PEAK * np.sqrt(WARMUP / t) if t else 0.0,
    }[name]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd", "rsqrt"])
def test_closed_form(name):
    config = ScheduleConfig(name, PEAK, final_fraction=0.1, warmup_steps=WARMUP, decay_steps=DECAY, cooldown_steps=20)
    schedule = make_schedule(config)
    steps = [0, 1, 9, 10, 11, 60, 89, 90, 91, 100, 109, 110, 500]
    np.testing.assert_allclose([float(schedule(t)) for t in steps], [closed_form(name, t) for t in steps], rtol=2e-6)


def test_no_warmup_starts_at_the_peak():
    assert float(make_schedule(ScheduleConfig("cosine", PEAK))(0)) == pytest.approx(PEAK)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "step"}, "choose one of constant, linear, cosine"),
        ({"name": "cosine", "warmup_steps": 20, "decay_steps": 20}, "must exceed warmup_steps 20"),
        ({"name": "wsd"}, "cooldown_steps 0"),
        ({"peak": -1.0}, "peak -1.0 must be above 0"),
        ({"warmup_steps": -1}, "warmup_steps -1 0 or more"),
        ({"final_fraction": -1.0}, "final_fraction is -1.0: it must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ScheduleConfig(**settings)
