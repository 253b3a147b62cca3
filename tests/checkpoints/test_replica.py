"""Replicas of two processes: each keeps its own shards, and both go back to the newest step that both have whole."""

import json
import shutil

import pytest
from two_processes import run_two

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


def said_by_two(folder, what: str) -> list[list]:
    # The collectives' library says on the same stream that it is connected.
    return [json.loads(ended.stdout.splitlines()[-1]) for ended in run_two(SOURCE, str(folder), what)]


@pytest.mark.slow
def test_two_processes_go_back_to_what_both_have(tmp_path):
    share = (8 * 4 + 4 * 2 * 2) // 2
    assert said_by_two(tmp_path, "save") == [[3, 3, True, share]] * 2
    (second,) = tmp_path.glob("x-*/process_1")
    assert sorted(path.name for path in second.iterdir()) == ["2", "3"]
    shutil.rmtree(second / "3")  # as if it had been killed before that was whole
    assert said_by_two(tmp_path, "read") == [[2, 2, True, share]] * 2
