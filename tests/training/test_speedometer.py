"""Speed between two logged steps, by a clock of the test's own."""

import types

import pytest

from t5x_code.training import speedometer
from t5x_code.training.flops import train_flops_per_token


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved: `clock.now += 1`."""
    hand = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(speedometer.time, "perf_counter", lambda: hand.now)
    return hand


@pytest.fixture
def speed(clock, tiny_model, one_device):
    return speedometer.Speedometer(tiny_model, one_device)


def test_the_first_step_compiles_and_is_left_out(speed, clock):
    clock.now += 30
    speed.add_batch(4, 16)
    assert speed.read() == {}
    clock.now += 2
    speed.add_batch(4, 16)
    speed.add_batch(2, 16)
    assert speed.read() == {"tokens_per_second": 48, "seconds_per_step": 1, "input_wait_share": 0}


def test_what_happens_before_a_restart_is_left_out_and_waiting_is_shared(speed, clock):
    speed.add_batch(4, 16)
    clock.now += 50  # an evaluation
    speed.restart()
    with speed.waiting_for_input(lambda: True):
        clock.now += 1
    with speed.waiting_for_input(lambda: False):  # the devices are busy: nobody waits
        clock.now += 1
    clock.now += 2
    speed.add_batch(4, 16)
    assert speed.read() == {"tokens_per_second": 16, "seconds_per_step": 4, "input_wait_share": 0.25}


def test_utilisation_is_a_share_of_all_devices_peak(clock, tiny_model, one_device, monkeypatch):
    monkeypatch.setattr(speedometer, "peak_flops", lambda device: 1e9)
    speed = speedometer.Speedometer(tiny_model, one_device)
    share = speed.utilisation({"tokens_per_second": 1000.0})
    assert share == pytest.approx(1000 * train_flops_per_token(tiny_model) / 1e9)
    assert speed.utilisation({}) is None
    speed.add_batch(2, 8)  # shorter rows than the model could read
    shorter = 1000 * train_flops_per_token(tiny_model, length=8) / 1e9
    assert speed.utilisation({"tokens_per_second": 1000.0}) == pytest.approx(shorter) and shorter < share
