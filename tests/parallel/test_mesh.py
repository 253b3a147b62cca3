"""Meshes that fit and meshes that do not; parameters, optimizer state and rows laid out on eight devices."""

import json

import jax
import pytest

from t5x_code.errors import UserError
from t5x_code.parallel.mesh import MeshConfig, make_mesh, mesh_shape


@pytest.mark.parametrize(
    ("config", "devices", "shape"),
    [
        (MeshConfig(), 1, (1, 1, 1, 1)),
        (MeshConfig(), 8, (1, 8, 1, 1)),
        (MeshConfig(tensor=4), 8, (1, 2, 1, 4)),
        (MeshConfig(data=-1, fsdp=4, sequence=2), 64, (8, 4, 2, 1)),
        (MeshConfig(data=2, fsdp=-1, num_slices=2), 512, (2, 256, 1, 1)),
    ],
)
def test_shape(config, devices, shape):
    assert mesh_shape(config, devices) == shape


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            MeshConfig(fsdp=16, tensor=4),
            r"mesh needs 64 devices \(data 1 x fsdp 16 x tensor 4\) but 8 .* MeshConfig.fsdp=2",
        ),
        (MeshConfig(fsdp=1), r"mesh needs 1 device \("),
        (MeshConfig(tensor=3), r"needs a multiple of 3 devices .*; choose another gin/meshes/\*.gin$"),
        (MeshConfig(data=-1), "one of them may be -1"),
        (MeshConfig(fsdp=0), "must be positive"),
        (MeshConfig(num_slices=2), "MeshConfig.data to a multiple"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(config, message):
    with pytest.raises(UserError, match=message) as error:
        mesh_shape(config, 8)
    assert "\n" not in str(error.value)


def test_too_large_for_this_machine():
    with pytest.raises(UserError, match="4096 devices"):
        make_mesh(MeshConfig(fsdp=4096))


def test_slices_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="mesh of 2 slices, but the devices are of 1"):
        make_mesh(MeshConfig(num_slices=2, data=2), jax.devices()[:1] * 2)


def test_state_and_rows_are_split_as_the_table_says(run_on_eight_devices):
    printed = run_on_eight_devices("""
        import json, numpy as np, optax
        from t5x_code.parallel.hosts import global_batch, rows_of_process
        from t5x_code.parallel.mesh import MeshConfig, make_mesh
        from t5x_code.parallel.rules import optimizer_shardings, param_shardings
        from t5x_code.errors import UserError

        mesh = make_mesh(MeshConfig(data=1, fsdp=2, sequence=2, tensor=2))
        axes = {"query": ("layers", "embed", "heads", "head_dim"), "key": ("layers", "embed", "kv_heads", "head_dim"),
                "scale": ("norm",), "kernel": ("embed", "vocab")}
        shapes = {"query": (3, 8, 4, 5), "key": (3, 8, 1, 5), "scale": (8,), "kernel": (256, 512)}
        params = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
        shardings = param_shardings(axes, params, mesh)
        adam, adafactor = optax.adamw(1e-3), optax.scale_by_factored_rms()
        report = {"params": {k: list(s.spec) for k, s in shardings.items()}, "rows": rows_of_process(mesh)}
        for name, tx in (("adam", adam), ("adafactor", adafactor)):
            state = jax.eval_shape(tx.init, params)
            leaves = jax.tree.leaves(optimizer_shardings(state, params, shardings, mesh))
            report[name] = [list(s.spec) for s in leaves]
        rows = np.arange(32).reshape(4, 8)
        batch = global_batch(mesh, {"inputs": rows})["inputs"]
        report["equal"] = bool((np.asarray(batch) == rows).all())
        report["per_device"] = sorted({s.data.shape for s in batch.addressable_shards})
        try:
            param_shardings({"a": ("embed",)}, {"a": jax.ShapeDtypeStruct((9,), "float32")}, mesh)
        except UserError as error:
            report["error"] = str(error)
        print(json.dumps(report))
    """)
    report = json.loads(printed)
    assert report["params"] == {
        "query": [None, "fsdp", "tensor", None],
        "key": [None, "fsdp", None, None],  # one key/value head for two devices: both hold it
        "scale": [None],
        "kernel": ["fsdp", "tensor"],
    }
    in_order = [report["params"][name] for name in ("kernel", "key", "query", "scale")]  # leaves are sorted by name
    assert report["adam"] == [[], *in_order, *in_order]
    # Adafactor keeps row and column sums of the large kernel, which are whole, and full moments of the small ones.
    assert ["fsdp", "tensor"] not in report["adafactor"]
    assert report["params"]["query"] in report["adafactor"]
    assert report["rows"] == [0, 1] and report["equal"] and report["per_device"] == [[2, 8]]
    assert report["error"] == (
        "parameter a: its embed axis of 9 does not divide over fsdp 2; set MeshConfig.fsdp to a divisor of 9"
    )
