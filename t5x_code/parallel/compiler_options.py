"""What a training step is compiled with, by the devices that it runs on."""

import os

from jax.sharding import Mesh

from t5x_code.parallel.cpu import is_one_cpu

CPU_IN_LITTLE_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
TPU_GATHERS_WHOLE = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
TPU_VARIABLE = "LIBTPU_INIT_ARGS"  # where users set such options themselves


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """Options of XLA for a step on this mesh; None where its own are best.

    On one CPU, an order that takes little memory. The usual one, for many small operations, makes first whatever
    depends on nothing: the zeros that gradients are added to are there for the whole forward pass. But processes must
    start their collectives in the same order, which under the usual one they do and under this one they did not.

    On TPUs, parameters are gathered before they are used. The compiler would rather begin a product with each share
    that arrives. But the fsdp axis splits what is summed over: each share, a sixteenth of the sum or less, adds to a
    result that is read and written in full every time. What a user names in LIBTPU_INIT_ARGS is left to them.
    """
    if is_one_cpu(mesh):
        return CPU_IN_LITTLE_MEMORY
    if mesh.devices.flat[0].platform == "tpu":
        named = os.environ.get(TPU_VARIABLE, "")
        return {name: value for name, value in TPU_GATHERS_WHOLE.items() if name not in named} or None
    return None
