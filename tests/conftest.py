"""Fixtures that several rooms share."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

with contextlib.suppress(ImportError):
    # It comes with torch for GPUs. Imported after TensorFlow, both with an LLVM of their own, it ends the process.
    import triton  # noqa: F401


def pytest_configure(config: pytest.Config) -> None:
    """Gives the tests one cache of compiled programs, which workers and the programs that tests start inherit."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = tempfile.mkdtemp()
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


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
