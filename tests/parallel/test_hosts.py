"""How a process finds the others of its run, and what it says when it cannot; processes that meet."""

import json
import socket
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from two_processes import run_two

from t5x_code.errors import RunAgain, UserError
from t5x_code.parallel import hosts
from t5x_code.parallel.hosts import PROCESS_VARIABLES, HostsConfig, rows_of_process, start_processes
from t5x_code.parallel.meeting import _differing_lines

NAMED = dict(zip(PROCESS_VARIABLES, ("host:1234", "4", "2"), strict=True))
CLUSTERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES")


@pytest.fixture
def initialized(monkeypatch):
    """What `jax.distributed.initialize` was called with; None: it was not."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options))
    monkeypatch.setattr(hosts.glob, "glob", lambda pattern: [])
    for name in (*PROCESS_VARIABLES, *CLUSTERS, "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)

    def start(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        start_processes(HostsConfig(start_seconds=7, heartbeat_seconds=11))
        return calls[0] if calls else None

    return start


def test_named_by_the_environment(initialized):
    options = initialized(**NAMED)
    assert options["coordinator_address"] == "host:1234"
    assert (options["num_processes"], options["process_id"]) == (4, 2)
    assert (options["initialization_timeout"], options["heartbeat_timeout_seconds"]) == (7, 11)


@pytest.mark.parametrize(
    ("environment", "joins"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, False),  # in a job, outside of srun
        ({"OMPI_COMM_WORLD_SIZE": "3"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": ""}, True),  # JAX chooses, as without it
    ],
)
def test_found_by_what_started_them(initialized, environment, joins):
    assert (initialized(**environment) is not None) == joins


@pytest.mark.parametrize(("visible", "local"), [("3", [0]), ("GPU-8932f937", [0]), ("0,1,2,3", None), ("", None)])
def test_the_only_gpu_that_a_task_sees_is_its_own(initialized, visible, local):
    options = initialized(SLURM_STEP_NUM_TASKS="4", SLURM_LOCALID="3", CUDA_VISIBLE_DEVICES=visible)
    assert options.get("local_device_ids") == local


def test_a_tpu_vm_asks_its_metadata(initialized, monkeypatch):
    monkeypatch.setattr(hosts.glob, "glob", lambda pattern: ["/dev/accel0"])
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: None)
    assert initialized() is None  # what looks like a TPU's device is another's
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: "libtpu")
    assert initialized() is not None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**NAMED, "JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID is missing"),
        ({**NAMED, "JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4 and JAX_NUM_PROCESSES=4: write numbers, ids from 0"),
    ],
)
def test_mistakes(initialized, environment, message):
    with pytest.raises(UserError, match=message):
        initialized(**environment)


def test_those_that_do_not_come_are_waited_for_so_long_and_no_longer(initialized, monkeypatch):
    def never(**options):
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out")

    monkeypatch.setattr(jax.distributed, "initialize", never)
    with pytest.raises(RunAgain, match="of 4 at host:1234 did not all join in time"):
        initialized(**NAMED)


@pytest.mark.parametrize(
    ("processes", "share"),
    [
        ([[0, 0], [1, 1]], (0, 2)),
        ([[1, 1], [0, 0]], (1, 2)),
        ([[0, 1], [0, 1]], (0, 1)),  # halves of the same rows
        ([[0, 0], [0, 1]], None),
    ],
)
def test_a_process_reads_the_rows_of_its_devices(processes, share):
    """Two rows of devices, of which each holds its share of a batch."""
    devices = np.array([SimpleNamespace(process_index=index) for index in np.ravel(processes)]).reshape(2, 1, 1, 2)
    mesh = SimpleNamespace(devices=devices)
    if share is not None:
        assert rows_of_process(mesh) == share
        return
    with pytest.raises(UserError, match="a process would hold part of another's rows"):
        rows_of_process(mesh)


def test_the_first_lines_that_differ():
    assert _differing_lines("a = 1\nb = 2\n", "a = 1\nb = 3\nc = 4") == ("b = 2", "b = 3")
    assert _differing_lines("a = 1", "a = 1\nb = 2") == ("nothing", "b = 2")


MEETING = """
    import json, sys
    import jax
    from t5x_code.errors import RunAgain, UserError
    from t5x_code.parallel.hosts import HostsConfig, start_processes
    from t5x_code.parallel.meeting import agree, barrier, first_alone, in_every_process

    start_processes(HostsConfig())
    index, said, order = jax.process_index(), [], []

    def attempt(what):
        try:
            said.append(what())
        except (UserError, RunAgain) as error:
            said.append(f"{type(error).__name__}: {error}")

    def fail_in(which):
        if index == which:
            raise UserError("no such file")
        return index

    def break_in(which):
        return {1 - which: index}[index]

    def cut_off_in(which):
        if index == which:
            raise RunAgain("gs:// is away")
        return index

    def refused_in(which):
        if index == which:
            raise OSError("Forbidden: b/someone/o/x")  # as gcsfs says it
        return index

    attempt(lambda: agree("same", {"x": "1"}, 30))
    attempt(lambda: agree("differs", {"x": "a\\nb" if index else "a\\nc"}, 30))
    attempt(lambda: in_every_process("all well", lambda: index, 30))
    attempt(lambda: in_every_process("one fails", lambda: fail_in(1), 30))
    attempt(lambda: first_alone("first fails", lambda: fail_in(0), 30))
    attempt(lambda: first_alone("first", lambda: index, 30))
    attempt(lambda: in_every_process("one is cut off", lambda: first_alone("cut off", lambda: cut_off_in(0), 30), 30))
    attempt(lambda: in_every_process("another is", lambda: cut_off_in(1), 30))
    attempt(lambda: in_every_process("one is refused", lambda: refused_in(1), 30))
    attempt(lambda: in_every_process("one has a defect", lambda: break_in(1), 30))
    if index == 0:
        attempt(lambda: agree("missed", {}, 1))
        attempt(lambda: barrier("missed", 1))
    print(json.dumps(said), flush=True)
    barrier("end", 60)
"""


def test_two_processes_meet():
    both = run_two(MEETING)
    first, second = (json.loads(ended.stdout) for ended in both)
    host = socket.gethostname()
    for index, said in enumerate((first, second)):
        same, differs, all_well, one_fails, first_fails, first_done, cut_off, another, refused, defect, *missed = said
        assert (same, all_well, first_done) == (None, index, index)
        assert differs.startswith(f"UserError: x is 'b' in process 1 ({host}) but 'c' in process 0 ({host}); start all")
        assert one_fails == f"UserError: process 1 ({host}): no such file"
        assert first_fails == f"UserError: {'process 0: ' if index else ''}no such file"
        assert cut_off == f"RunAgain: process 0 ({host}): gs:// is away"
        assert another == f"RunAgain: process 1 ({host}): gs:// is away"
        assert refused.startswith(f"UserError: process 1 ({host}): the bucket refuses (Forbidden: b/someone/o/x)")
        assert defect == f"RunAgain: process 1 ({host}): KeyError: 1"
    assert len(missed) == 0 and len(first) == 12
    assert first[10] == "RunAgain: process 1 did not say 'missed' within 1 s: it is slow, stuck or gone"
    assert "still waiting for process 1 to say 'missed', for 1 s at most" in both[0].stderr
    assert "still waiting" not in both[1].stderr
    assert first[11].startswith("RunAgain: not every process came to 'missed' within 1 s")
