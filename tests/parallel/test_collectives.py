"""Collectives read from a program's text, against a program whose collectives are known by construction."""

import json
from pathlib import Path

from t5x_code.parallel.collectives import read_operations

# As the TPU compiler writes them: a loop that counts to 16 in steps of 2, a Pallas kernel whose attributes take several
# lines, groups by mesh axes, a transposed list.
PROGRAM = Path(__file__).with_name("known_program.hlo")


def test_loops_kernels_groups_and_fusions_as_the_tpu_compiler_writes_them():
    permute, scatter, gather = read_operations(PROGRAM.read_text(), 4)
    assert (permute.kind, permute.times, permute.num_bytes) == ("collective-permute", 8, 8 * 128 * 4)
    assert permute.groups == ((0, 1), (1, 2), (2, 3), (3, 0))
    assert (scatter.kind, scatter.times, scatter.num_bytes) == ("reduce-scatter", 1, 8 * 128 * 4)
    assert scatter.groups == ((0, 2), (1, 3))
    assert (gather.kind, gather.num_bytes, gather.source) == ("all-gather", 16 * 128 * 2, "jit(f)/gather")
    assert [permute.is_waited_for, scatter.is_waited_for, gather.is_waited_for] == [False, True, True]
    assert gather.groups == ((0, 2), (1, 3)) and gather.result_shapes == ((16, 128),)


def test_a_program_of_known_collectives(run_on_eight_devices):
    printed = run_on_eight_devices("""
        import dataclasses, functools, json
        import jax.numpy as jnp
        from jax.sharding import PartitionSpec as P
        from t5x_code.parallel.collectives import read_operations, summarise
        from t5x_code.parallel.mesh import MeshConfig, make_mesh

        mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))

        specs = {"in_specs": P(("data", "fsdp"), "tensor"), "out_specs": P()}

        @functools.partial(jax.shard_map, mesh=mesh, check_vma=False, **specs)
        def known(x):
            def turn(x, _):
                return jax.lax.psum(x, "tensor") * 0.5, None
            x, _ = jax.lax.scan(turn, x, None, length=5)
            whole = jax.lax.all_gather(x, "fsdp", axis=0, tiled=True)
            part = jax.lax.psum_scatter(whole, ("data", "tensor"), scatter_dimension=0, tiled=True)
            moved = jax.lax.ppermute(part, "data", [(0, 1), (1, 0)])
            return jax.lax.pmax(moved.sum(), ("data", "fsdp", "tensor"))

        text = jax.jit(known).lower(jax.ShapeDtypeStruct((32, 16), "float32")).compile().as_text()
        rows = summarise(read_operations(text, 8), mesh, [0, 0, 0, 0, 1, 1, 1, 1])  # two islands, split over data
        print(json.dumps([dataclasses.astuple(row) for row in rows]))
    """)
    item = 8 * 8 * 4  # bytes of a device's part of x
    found = {(kind, axes): tuple(rest) for kind, axes, *rest in json.loads(printed)}
    assert found == {
        ("all-reduce", "tensor"): (5, 5 * 2 * item // 2, 0),
        ("all-gather", "fsdp"): (1, 2 * item // 2, 0),
        # Two islands of two: half of what goes in leaves them, shared by two; inside, half again.
        ("reduce-scatter", "data+tensor"): (1, 2 * item // 2, 2 * item // 2 // 2),
        ("collective-permute", "data"): (1, 0, 2 * item // 4),
        ("all-reduce", "data+fsdp+tensor"): (1, 2 * 4 * 3 // 4, 2 * 4 // 2 // 4),
    }
