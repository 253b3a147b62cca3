"""Many processes as one: start-up, which rows of a batch a process reads, and a global array from its rows.

Legend: B rows of a global batch, b rows that this process reads.
"""

import os

import jax
import numpy as np
from jax.sharding import Mesh

from t5x_code.errors import UserError
from t5x_code.parallel.rules import batch_sharding


def start_processes() -> None:
    """Joins the other processes of the run, where the environment names some; call before anything uses a device.

    `JAX_COORDINATOR_ADDRESS` (host:port), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name them anywhere. On TPU pods and
    under Slurm or Open MPI, JAX finds them by itself.

    Raises:
        UserError: the three variables are not set together.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    values = [os.environ.get(name) for name in names]
    if all(values):
        address, count, index = values
        jax.distributed.initialize(coordinator_address=address, num_processes=int(count), process_id=int(index))
    elif any(values):
        raise UserError(f"set all of {', '.join(names)}, or none; {names[values.index(None)]} is missing")
    elif "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        jax.distributed.initialize()


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
