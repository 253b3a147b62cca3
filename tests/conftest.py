"""Fixtures that several rooms share."""

import contextlib
import functools
import gc
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with contextlib.suppress(ImportError):
    # It comes with torch for GPUs. Imported after TensorFlow, both with an LLVM of their own, it ends the process.
    import triton  # noqa: F401


# The garbage collector does not look through what is imported, millions of objects: a tenth of the time of all tests.
gc.disable()

COMPILED = "JAX_COMPILATION_CACHE_DIR"
own_cache = None if os.environ.get(COMPILED) else tempfile.mkdtemp()
if own_cache:
    # One cache of compiled programs for all tests, which workers and the programs that tests start inherit. It is set
    # here, as the next file of fixtures may import JAX, which reads these once.
    os.environ |= {COMPILED: own_cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}


def pytest_configure(config: pytest.Config) -> None:
    """Removes the cache of compiled programs in the end."""
    if own_cache:
        config.add_cleanup(lambda: shutil.rmtree(own_cache, ignore_errors=True))


def pytest_collection_finish() -> None:
    """Lets the garbage collector look through what the tests themselves make, more seldom than by default."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 50, 100)


@pytest.fixture(scope="module")
def traced_once() -> Iterator[None]:
    """Runs of one configuration in this process share their steps: tracing them is most of what a tiny run does.

    Meshes of one shape count as one: a file that takes this has them on the same devices.
    """
    shared = (
        ("t5x_code.training.loop", "step_parts"),
        ("t5x_code.training.assemble", "make_eval_step"),
        ("t5x_code.training.assemble", "make_train_step"),
    )
    made: dict[str, Any] = {}

    def made_once(make: Callable[..., Any], *arguments: Any) -> Any:
        with np.printoptions(threshold=sys.maxsize):  # arrays entry by entry
            key = f"{make.__name__}{arguments}"  # functions by their addresses: what is made holds them
        return made[key] if key in made else made.setdefault(key, make(*arguments))

    with pytest.MonkeyPatch.context() as patch:
        for module, name in shared:
            make = getattr(importlib.import_module(module), name)
            patch.setattr(f"{module}.{name}", functools.partial(made_once, make))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data that is not part of the repository; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("T5X_CODE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no reference data in {folder}; set T5X_CODE_TEST_DATA")
    return folder


@pytest.fixture
def mount(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A function that makes a file system in memory, such as `size=3m`, and returns its folder; of one per test.

    The test is skipped where none may be made.
    """
    folder = tmp_path / "disk"

    def make(options: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
            folder.rmdir()
            pytest.skip("only root may mount a file system")
        return folder

    yield make
    if folder.exists():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
