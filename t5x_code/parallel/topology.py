"""Devices that are not attached: from a name such as v5p:8x8x8 to devices that the vendor's compiler compiles for."""

import importlib.util
import os

import jax
from jax.experimental import topologies

from t5x_code.errors import UserError, one_line
from t5x_code.parallel.chips import CHIPS, Chip

# libtpu asks a metadata server where it runs unless it is told, and lets one process at a time load it.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
GPU_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1"}
COMPILERS = {"tpu": ("libtpu", "tpu"), "cuda": ("jax_cuda13_plugin", "gpu-aot")}  # by platform: module and our extra
GPUS = ("h100", "h200")  # both Hopper: one description of what the compiler has to know
HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{kind}"
"""


def described_devices(topology: str, num_slices: int = 1) -> tuple[list[jax.Device], Chip]:
    """Devices to compile for, and their peak figures. This process itself keeps computing on the CPU.

    Args:
        topology: CHIP:SIZES. Of a TPU its torus, v5e:4x4 or v4:2x2x1; of GPUs hosts x GPUs each, h100:32x8.
        num_slices: of a TPU: so many of them, joined by the data-centre network.

    Raises:
        UserError: an unknown chip or shape, or its compiler is not installed.
    """
    name, _, sizes = topology.partition(":")
    known = {chip.name: chip for chip in CHIPS if chip.name in GPUS or chip.is_tpu}
    if name not in known or not all(size.isdigit() and int(size) for size in sizes.split("x")):
        examples = f"v5p:8x8x8 or h100:32x8; chips: {', '.join(known)}"
        raise UserError(f"--topology={topology}: write CHIP:SIZES as in {examples}")
    jax.config.update("jax_platforms", "cpu")
    chip = known[name]
    return (_tpus(topology, num_slices) if chip.is_tpu else _gpus(topology, chip, sizes, num_slices)), chip


def _tpus(topology: str, num_slices: int) -> list[jax.Device]:
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}  # its two cores as one device
    if topology.split(":")[1].replace("x", "").strip("1") == "":
        options["chips_per_host_bounds"] = (1, 1, 1)
    if num_slices > 1:
        options["num_slices"] = num_slices
    for variable, value in TPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    return _describe(topology, "tpu", topology_name=topology, **options)


def _gpus(topology: str, chip: Chip, sizes: str, num_slices: int) -> list[jax.Device]:
    if sizes.count("x") != 1 or num_slices != 1:
        raise UserError(f"--topology={topology}: GPUs are hosts x GPUs of each, as in h100:32x8, without --num_slices")
    target = HOPPER.format(bandwidth=int(chip.memory_bandwidth), memory=chip.memory_bytes, kind=chip.kinds[0])
    os.environ.update(GPU_ENVIRONMENT)
    return _describe(topology, "cuda", target_config=target, topology=f"1x{sizes}")


def _describe(name: str, platform: str, **options: object) -> list[jax.Device]:
    module, extra = COMPILERS[platform]
    if importlib.util.find_spec(module) is None:
        raise UserError(f"--topology={name}: its compiler is not installed; pip install -e '.[{extra}]'")
    try:
        return list(topologies.get_topology_desc(platform=platform, **options).devices)
    except (RuntimeError, ValueError) as error:
        reason = one_line(error)[:200]
        raise UserError(f"--topology={name}: there is no such arrangement of chips ({reason})") from error
