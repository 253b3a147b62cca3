"""The memory that a program frees is there for the next one."""

import json
import platform
import statistics
import subprocess
import sys
import types

import jax
import pytest

from t5x_code.parallel.cpu import FreedMemory
from t5x_code.parallel.mesh import MeshConfig, make_mesh

# Each call of the program needs 128 MiB of temporary arrays, 32,768 pages.
FAULTS = """
import json, resource, sys, time
import jax, jax.numpy as jnp
from t5x_code.parallel.cpu import FreedMemory, run_programs_in_turn
from t5x_code.parallel.mesh import MeshConfig, make_mesh

if sys.argv[1] == "kept":
    run_programs_in_turn()
program = jax.jit(lambda x, y: jnp.tanh(jnp.tanh(x @ y) @ y.T))
x, y = jnp.ones((16384, 16)), jnp.ones((16, 2048))
program(x, y).block_until_ready()
if sys.argv[1] == "kept":
    freed = FreedMemory(make_mesh(MeshConfig(), jax.devices()))
    freed.keep()
faults = []
for _ in range(16):
    time.sleep(0.1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x, y).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
kept = resident()
if sys.argv[1] == "kept":
    freed.give_back_if_much()  # this is the usual memory
    held = jnp.ones((2 * kept // 4,), jnp.int32).block_until_ready()
    del held
    kept = resident()
    freed.give_back_if_much()
print(json.dumps({"faults": faults, "kept": kept, "after": resident()}))
"""


def run_program(what):
    done = subprocess.run([sys.executable, "-c", FAULTS, what], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
def test_a_program_gets_the_memory_that_it_had_before():
    assert min(run_program("as it is")["faults"]) > 10_000
    kept = run_program("kept")
    assert statistics.median(kept["faults"]) < 1_000  # the first calls may find what lies between them taken
    assert kept["after"] < 0.6 * kept["kept"]  # three times the usual memory, of which one is in use at most


def test_the_systems_own_ways_come_back_at_the_end(monkeypatch):
    told = []
    library = types.SimpleNamespace(mallopt=lambda *values: told.append(values), malloc_trim=lambda pad: None)
    monkeypatch.setattr("t5x_code.parallel.cpu.ctypes.CDLL", lambda name: library)
    with pytest.raises(KeyError), FreedMemory(make_mesh(MeshConfig(), jax.devices()[:1])) as freed:
        freed.keep()
        assert told == [(-4, 0), (-1, -1)]
        raise KeyError
    assert told[2:] == [(-4, 65536), (-1, 128 * 1024)]
