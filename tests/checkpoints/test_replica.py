"""Replicas of two processes: each keeps its own shards, and both go back to the newest step that both have whole."""

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap

from t5x_code.parallel.hosts import PROCESS_VARIABLES

SOURCE = """
    import json, sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    from t5x_code.checkpoints.manager import Checkpoint
    from t5x_code.checkpoints.replica import ReplicaWriter, newest_replica, read_replica, replica_folder
    from t5x_code.parallel.hosts import HostsConfig, start_processes
    from t5x_code.parallel.meeting import barrier

    root, what = sys.argv[1:]
    start_processes(HostsConfig())
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())

    def state(step):
        make = lambda: ({"w": jnp.arange(8.0) * step, "h": jnp.ones((4, 2), jnp.bfloat16)}, {"step": jnp.int32(step)})
        params, training = jax.jit(make, out_shardings=({"w": split, "h": split}, {"step": whole}))()
        return Checkpoint(params, None, training, {"step": step})

    folder = replica_folder(root, "runs/x")
    if what == "save":
        with ReplicaWriter(folder) as writer:
            for step in (1, 2, 3):
                writer.save(step, state(step))

    def abstract(tree):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)

    wanted = Checkpoint(abstract(state(0).params), None, abstract(state(0).training))
    newest = newest_replica(folder, wanted)
    found = read_replica(folder, newest, wanted)
    expected = state(newest)

    @jax.jit
    def same(one, other):
        return jnp.array(jax.tree.leaves(jax.tree.map(jnp.array_equal, one, other))).all()

    equal = bool(same((found.params, found.training), (expected.params, expected.training)))
    own = sum(shard.data.nbytes for leaf in jax.tree.leaves(found.params) for shard in leaf.addressable_shards)
    print(json.dumps([newest, found.metadata["step"], equal, own]), flush=True)
    barrier("end", 60)
"""


def run_two(folder, what: str) -> list[list]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    processes = []
    for index in range(2):
        own = dict(zip(PROCESS_VARIABLES, (address, "2", str(index)), strict=True))
        environment = {**os.environ, **own, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", textwrap.dedent(SOURCE), str(folder), what]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    # The collectives' library says on the same stream that it is connected.
    return [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]


def test_two_processes_go_back_to_what_both_have(tmp_path):
    share = (8 * 4 + 4 * 2 * 2) // 2
    assert run_two(tmp_path, "save") == [[3, 3, True, share]] * 2
    (second,) = tmp_path.glob("x-*/process_1")
    assert sorted(path.name for path in second.iterdir()) == ["2", "3"]
    shutil.rmtree(second / "3")  # as if it had been killed before that was whole
    assert run_two(tmp_path, "read") == [[2, 2, True, share]] * 2
