"""Names of hardware that is elsewhere: what is wrong with one is said in one line."""

import jax
import pytest

from t5x_code.errors import UserError
from t5x_code.parallel import topology
from t5x_code.parallel.ahead import GPU_SHARE_VARIABLES, available_bytes
from t5x_code.parallel.chips import CHIPS, GIB, chip_of


@pytest.mark.parametrize("name", ["v9:2x2", "v5e", "v5e:", "v5e:2x", "a100:1x8", "cpu:2x2"])
def test_a_name_that_means_nothing(name):
    with pytest.raises(UserError, match=r"write CHIP:SIZES as in v5p:8x8x8 or h100:32x8; chips: v2, .*h100"):
        topology.described_devices(name)


def test_gpus_are_hosts_times_gpus():
    with pytest.raises(UserError, match="hosts x GPUs of each"):
        topology.described_devices("h100:8")


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "tpu"), ("h100:1x8", "gpu-aot")])
def test_a_missing_compiler_is_named(monkeypatch, name, extra):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"its compiler is not installed; pip install -e '.\[{extra}\]'"):
        topology.described_devices(name)


def test_an_arrangement_that_cannot_be():
    pytest.importorskip("libtpu", reason="the extra tpu is not installed")
    with pytest.raises(UserError, match="v5e:3x5: there is no such arrangement of chips"):
        topology.described_devices("v5e:3x5")


@pytest.mark.parametrize(
    ("name", "slices", "devices", "kind"),
    [
        ("v5e:4x4", 1, 16, "TPU v5 lite"),
        ("v4:2x2x1", 1, 4, "TPU v4"),
        ("v5p:2x2x1", 2, 8, "TPU v5"),
        ("v6e:1x1", 1, 1, "TPU v6"),
    ],
)
def test_devices_are_what_the_name_says(name, slices, devices, kind):
    pytest.importorskip("libtpu", reason="the extra tpu is not installed")
    found, chip = topology.described_devices(name, slices)
    assert len(found) == devices and chip.name == name.split(":")[0]
    assert found[0].device_kind.startswith(kind) and chip_of(found[0].device_kind) is chip
    assert len({device.slice_index for device in found} if slices > 1 else {0}) == slices
    assert jax.devices()[0].platform == "cpu"


def test_each_chip_is_found_by_its_own_kinds():
    assert [chip_of(kind) for chip in CHIPS for kind in chip.kinds] == [chip for chip in CHIPS for _ in chip.kinds]
    assert chip_of("cpu") is None


def test_a_gpu_has_the_share_of_its_memory_that_jax_takes_and_a_tpu_all(monkeypatch):
    for name in GPU_SHARE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    h100, v5p = chip_of("NVIDIA H100 80GB HBM3"), chip_of("TPU v5p")
    assert (available_bytes(h100), available_bytes(v5p)) == (60 * GIB, 95 * GIB)
    for name in GPU_SHARE_VARIABLES:
        monkeypatch.setenv(name, "0.5")
        assert (available_bytes(h100), available_bytes(v5p)) == (40 * GIB, 95 * GIB)
        monkeypatch.delenv(name)
