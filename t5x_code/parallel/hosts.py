"""Many processes as one: start-up, which rows of a batch a process reads, and a global array from its rows.

Legend: B rows of a global batch, b rows that this process reads.
"""

import dataclasses
import glob
import importlib.util
import os
import threading

import jax
import numpy as np
from jax.sharding import Mesh

from t5x_code.errors import RunAgain, UserError, one_line
from t5x_code.parallel.rules import batch_sharding
from t5x_code.terminal import say

PROCESS_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
REMIND_AFTER = 0.5  # of the time that a process waits for the others


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """How long the processes of a run wait for each other."""

    start_seconds: int = 600  # until all have joined
    heartbeat_seconds: int = 60  # of silence, after which a process is lost and the others end
    barrier_seconds: int = 600  # for the slowest at a meeting point
    open_seconds: int = 1800  # for the slowest to open token stores that are ready
    store_seconds: int = 24 * 3600  # for the first to make missing token stores

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise UserError(f"HostsConfig.{field.name} is {getattr(self, field.name)}: it must be positive")


def start_processes(config: HostsConfig) -> None:
    """Joins the other processes of the run, where the environment names some; call before anything uses a device.

    `JAX_COORDINATOR_ADDRESS` (host:port), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name them anywhere; a JobSet's
    manifest and train.py's flags set them. On TPU slices, on GKE or not, and under Slurm or Open MPI, JAX finds them by
    itself.

    Raises:
        UserError: the three variables are not set together.
        RunAgain: the others did not come in time.
    """
    values = [os.environ.get(name) for name in PROCESS_VARIABLES]
    if any(values) and not all(values):
        missing = PROCESS_VARIABLES[[not value for value in values].index(True)]
        raise UserError(f"set all of {', '.join(PROCESS_VARIABLES)}, or none; {missing} is missing")
    named = {}
    if all(values):
        address, count, index = values
        if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
            raise UserError(f"JAX_PROCESS_ID={index} and JAX_NUM_PROCESSES={count}: write numbers, ids from 0 on")
        named = {"coordinator_address": address, "num_processes": int(count), "process_id": int(index)}
    elif not _scheduler_started_several():
        return
    if _sees_one_gpu():
        named["local_device_ids"] = [0]  # under a scheduler JAX takes that of the process' number on its host
    where = f" of {values[1]} at {values[0]}" if all(values) else ""
    advice = "see that each is started, and that the first one's port is open to the others"
    # When its time is up JAX aborts the process: the advice has to be printed before.
    late = f"still waiting for the processes{where} to join, for {config.start_seconds} s at most: {advice}"
    reminder = threading.Timer(REMIND_AFTER * config.start_seconds, say, [late])
    reminder.daemon = True
    reminder.start()
    try:
        jax.distributed.initialize(
            **named,
            initialization_timeout=config.start_seconds,
            heartbeat_timeout_seconds=config.heartbeat_seconds,
            shutdown_timeout_seconds=config.heartbeat_seconds,
        )
    except jax.errors.JaxRuntimeError as error:
        reason = one_line(error)[:200]
        raise RunAgain(f"the processes{where} did not all join in time ({reason}); {advice}") from error
    finally:
        reminder.cancel()


def is_writer() -> bool:
    """True in the one process that writes logs and files."""
    return jax.process_index() == 0


def rows_of_process(mesh: Mesh) -> tuple[int, int]:
    """Which share of each batch this process reads, as (index, count): rows `index * B / count` and on.

    Processes whose devices hold the same rows (they split a row's length or the heads) read the same share.

    Raises:
        UserError: devices of two processes share some rows but not all.
    """
    rows = mesh.devices.shape[0] * mesh.devices.shape[1]
    by_row = mesh.devices.reshape(rows, -1)
    held: dict[int, set[int]] = {}
    for row in range(rows):
        for device in by_row[row]:
            held.setdefault(device.process_index, set()).add(row)
    shares = sorted({tuple(sorted(of_one)) for of_one in held.values()})
    if sum(map(len, shares)) != rows:
        raise UserError(
            "mesh: a process would hold part of another's rows; set MeshConfig.tensor and sequence to fit a host"
        )
    return shares.index(tuple(sorted(held[jax.process_index()]))), len(shares)


def global_batch(mesh: Mesh, rows: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's rows [b, ...] on its devices, as parts of global arrays [B, ...]."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in rows.items()}


def _sees_one_gpu() -> bool:
    """Whether the scheduler shows this process one GPU alone, as Slurm's --gpus-per-task=1 does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return bool(visible) and "," not in visible


def _scheduler_started_several() -> bool:
    """Whether this process is one of several that JAX can find by itself."""
    if max(int(os.environ.get(name, "1")) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")) > 1:
        return True
    if (os.environ.get("JAX_PLATFORMS") or "tpu").split(",")[0] != "tpu":
        return False
    workers = os.environ.get("TPU_WORKER_HOSTNAMES")
    if workers is not None:  # GKE; elsewhere the metadata server knows
        return "," in workers or int(os.environ.get("MEGASCALE_NUM_SLICES", "1")) > 1
    # Where TPUs cannot be used, what looks like theirs is another device that is passed to a virtual machine.
    devices = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(devices) and importlib.util.find_spec("libtpu") is not None
