"""Checkpoints of two processes: each sums up what it wrote and verifies a share, and both hear what is wrong."""

import json

from two_processes import run_two

SOURCE = """
    import json, sys
    from pathlib import Path
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    from t5x_code.checkpoints import checksums
    from t5x_code.checkpoints.manager import Checkpoint, CheckpointWriter, newest_good_step
    from t5x_code.parallel.hosts import HostsConfig, start_processes
    from t5x_code.parallel.meeting import barrier

    folder = Path(sys.argv[1])
    start_processes(HostsConfig())
    split = NamedSharding(Mesh(np.array(jax.devices()), ("fsdp",)), P("fsdp"))
    read, size_and_crc = [], checksums.size_and_crc
    checksums.size_and_crc = lambda path: read.append(str(path)) or size_and_crc(path)

    def parts_read():
        "Whose arrays' parts were read since the last call."
        found = {index: sum(f"ocdbt.process_{index}/d/" in path for path in read) for index in (0, 1)}
        read.clear()
        return [found[0], found[1]]

    with CheckpointWriter(folder) as writer:
        for step in (1, 2):
            noise = jax.jit(lambda: jax.random.normal(jax.random.key(step), (64, 128)), out_shardings=split)()
            writer.save(step, Checkpoint({"w": noise}, None, {"m": noise}))
    summed = parts_read()
    if jax.process_index() == 1:
        largest = max(folder.glob("2/params/ocdbt.process_1/d/*"), key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    barrier("spoilt", 60)
    print(json.dumps([newest_good_step(folder), summed, parts_read()]), flush=True)
    barrier("end", 60)
"""


def test_each_process_reads_its_own_parts_and_a_share(tmp_path):
    ended = run_two(SOURCE, str(tmp_path))
    first, second = (json.loads(end.stdout.splitlines()[-1]) for end in ended)
    listed = json.loads((tmp_path / "1" / "checksums.json").read_text())
    assert any("params/ocdbt.process_1/d/" in name for name in listed)
    assert (first[0], second[0]) == (1, 1)
    (own, others), (none, its_own) = first[1], second[1]
    assert (others, none) == (0, 0) and own > 0 and its_own > 0
    verified = first[2], second[2]  # of both steps, shared out
    assert all(sum(counts) > 0 for counts in verified)
    assert [sum(counts) for counts in zip(*verified, strict=True)] == [own, its_own]
    assert "/2 is left out: process 1 (" in ended[0].stderr or "/2 is left out: process 0 (" in ended[0].stderr
    assert "is damaged" in ended[0].stderr and "is left out" not in ended[1].stderr
