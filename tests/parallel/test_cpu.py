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
import json, resource, sys
import jax, jax.numpy as jnp
from t5x_code.parallel.cpu import FreedMemory, run_programs_in_turn
from t5x_code.parallel.mesh import MeshConfig, make_mesh

if sys.argv[1] == "kept":
    run_programs_in_turn()
program = jax.jit(lambda x, y: jnp.abs(x @ y) @ y.T)
x, y = jnp.ones((16384, 16)), jnp.ones((16, 2048))
program(x, y).block_until_ready()
if sys.argv[1] == "kept":
    freed = FreedMemory(make_mesh(MeshConfig(), jax.devices()))
    freed.keep()
faults = []
for _ in range(16):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x, y).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
kept = resident()
if sys.argv[1] == "kept":
    freed.give_back_if_much()
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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
def test_a_program_gets_the_memory_that_it_had_before():
    assert min(run_program("as it is")["faults"]) > 10_000
    kept = run_program("kept")
    assert statistics.median(kept["faults"]) < 1_000  # up to five find what lies between them taken
    assert kept["after"] < 0.6 * kept["kept"]  # three times the usual memory, of which one is in use at most


@pytest.fixture
def told(monkeypatch):
    """What glibc is told, by a library that does nothing of it."""
    told = []
    library = types.SimpleNamespace(
        mallopt=lambda *values: told.append(values), malloc_trim=lambda pad: told.append("trim")
    )
    monkeypatch.setattr("t5x_code.parallel.cpu.ctypes.CDLL", lambda name: library)
    return told


def test_the_systems_own_ways_come_back_at_the_end(told):
    with pytest.raises(KeyError), FreedMemory(make_mesh(MeshConfig(), jax.devices()[:1])) as freed:
        freed.keep()
        assert told == ["trim", (-4, 0), (-1, -1)]
        raise KeyError
    assert told[3:] == [(-4, 65536), (-3, 32 << 20), (-1, 64 << 20), "trim"]


def test_what_a_step_needs_is_not_given_back_at_every_log(told, monkeypatch):
    """At the first step's log, its arrays are given back; from the second on they count as usual."""
    resident = iter([100, 100, 124, 126, 100])  # not asked for at the first log
    monkeypatch.setattr("t5x_code.parallel.cpu._resident_bytes", lambda: next(resident))
    freed = FreedMemory(make_mesh(MeshConfig(), jax.devices()[:1]))
    freed.keep()
    given_back = []
    for _ in range(6):
        told.clear()
        freed.give_back_if_much()
        given_back.append(told == ["trim"])
    assert given_back == [False, False, False, False, True, False]
