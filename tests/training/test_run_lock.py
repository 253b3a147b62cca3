"""A run's folder is held by one run at a time, and a disk that takes no more ends none."""

import pytest

from t5x_code.errors import RunAgain
from t5x_code.training.run_lock import LOCK_FILE, RunLock


def test_held_until_it_is_let_go(tmp_path):
    with RunLock(tmp_path) as lock:
        lock.acquire()  # once more does nothing
        with pytest.raises(RunAgain, match=r"process \d+ on .* trains in"), RunLock(tmp_path):
            pass
    with RunLock(tmp_path):
        pass


def test_a_folder_that_is_made_later_is_held_from_then_on(tmp_path):
    with RunLock(tmp_path / "run") as lock:
        (tmp_path / "run").mkdir()
        lock.acquire()
        with pytest.raises(RunAgain), RunLock(tmp_path / "run"):
            pass


def test_a_full_disk_ends_no_run(mount):
    disk = mount("size=64k")
    (disk / LOCK_FILE).touch()
    with (disk / "rest").open("wb", buffering=0) as rest, pytest.raises(OSError, match="No space left"):
        while True:
            rest.write(bytes(4096))
    with RunLock(disk):
        assert not (disk / LOCK_FILE).read_bytes()
