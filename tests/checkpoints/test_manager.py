"""What is saved is what is read; every damage is found and named; a failed save does not pass in silence."""

import errno
import itertools
import os
import shutil
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint._src.futures import future

from t5x_code.buckets import why_unreachable
from t5x_code.checkpoints.checksums import CHECKSUMS_FILE, find_damage
from t5x_code.checkpoints.manager import (
    Checkpoint,
    CheckpointWriter,
    list_steps,
    newest_good_step,
    read_item,
    read_metadata,
    set_aside_newer,
)
from t5x_code.errors import UserError

NOT_READ = {CHECKSUMS_FILE, "_CHECKPOINT_METADATA", "commit_success.txt"}


def make_checkpoint(step: int) -> Checkpoint:
    params = {"a": jax.random.normal(jax.random.key(step), (64, 32)), "b": {"c": jnp.float32([step, 2])}}
    training = {"opt_state": optax.adam(1e-3).init(params), "step": jnp.int32(step)}
    return Checkpoint(params, ema_params=None, training=training, metadata={"step": step, "data": {"seed": "1"}})


def abstract(tree):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    with CheckpointWriter(folder) as writer:
        writer.save(1, make_checkpoint(1))
        writer.save(2, make_checkpoint(2))
    return folder


@pytest.fixture
def saved(two_steps, tmp_path) -> Path:
    return Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


def test_a_save_to_slow_storage_may_take_hours(tmp_path, monkeypatch):
    clock = itertools.count(0, 700)  # seconds that seem to pass between two looks of Orbax
    monkeypatch.setattr(future, "time", types.SimpleNamespace(time=clock.__next__))
    with CheckpointWriter(tmp_path) as writer:
        writer.save(1, make_checkpoint(1))
    assert newest_good_step(tmp_path) == 1 and next(clock) > 3600


def test_what_is_read_is_what_was_saved(two_steps):
    assert newest_good_step(two_steps) == 2
    wanted = make_checkpoint(2)
    for item in ("params", "training"):
        tree = getattr(wanted, item)
        restored = read_item(two_steps, 2, item, abstract(tree))
        assert jax.tree.structure(restored) == jax.tree.structure(tree)
        jax.tree.map(np.testing.assert_array_equal, restored, tree)
    assert read_metadata(two_steps, 2) == wanted.metadata


def test_every_file_is_listed(saved):
    files = [path for path in (saved / "2").rglob("*") if path.is_file()]
    read = [path for path in files if str(path.relative_to(saved / "2")) not in NOT_READ]
    assert len(read) > 10
    for path in read:
        content = path.read_bytes()
        flipped = bytearray(content or b"\0")
        flipped[len(flipped) // 2] ^= 1 << 3
        path.write_bytes(flipped)
        assert path.name in find_damage(saved / "2"), path
        path.write_bytes(content)
        path.rename(path.with_name("aside"))
        assert "is missing" in find_damage(saved / "2"), path
        path.with_name("aside").rename(path)
    assert find_damage(saved / "2") is None


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(step: Path) -> None:
    path = largest_file(step)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(step: Path) -> None:
    os.truncate(largest_file(step), 100)


def empty(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def folder_of_checksums(step: Path) -> None:
    (step / CHECKSUMS_FILE).unlink()
    (step / CHECKSUMS_FILE).mkdir()


DAMAGES = {
    "flipped bit": (flip_a_bit, "is damaged"),
    "truncated": (truncate, "has 100 bytes instead of"),
    "missing file": (lambda step: largest_file(step).unlink(), "is missing"),
    "empty": (empty, "the folder is empty"),
    "no checksums": (lambda step: (step / CHECKSUMS_FILE).unlink(), "no list of checksums"),
    "checksums that are a folder": (folder_of_checksums, "cannot be read"),
    "damaged checksums": (lambda step: os.truncate(step / CHECKSUMS_FILE, 50), "checksums.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_named_and_the_one_before_is_taken(saved, capsys, damage):
    spoil, reason = DAMAGES[damage]
    spoil(saved / "2")
    assert newest_good_step(saved) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{saved}/2 is left out: " in said and reason in said


def test_a_step_that_was_damaged_can_be_saved_anew(saved, capsys):
    for step in range(2, 9):  # several, as the order of a folder's entries is the file system's
        if step > 2:
            shutil.copytree(saved / "1", saved / str(step))
        empty(saved / str(step))
    set_aside_newer(saved, newest_good_step(saved))
    with CheckpointWriter(saved, keep_last=20) as writer:
        for step in range(2, 9):
            writer.save(step, make_checkpoint(step))
    for step in range(2, 9):
        assert find_damage(saved / str(step)) is None and (saved / f"{step}.damaged").is_dir()


def test_where_none_is_whole_nothing_starts_over_by_itself(saved, capsys):
    empty(saved / "1"), empty(saved / "2")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        newest_good_step(saved)


def test_no_step_at_all(tmp_path):
    assert newest_good_step(tmp_path / "absent") is None


def test_leftovers_of_a_killed_save_are_no_step_and_go_away(saved):
    leftovers = [saved / f"{step}.orbax-checkpoint-tmp" for step in (2, 5, 7)]
    copies = [saved / f"7.{ending}" for ending in ("a", "bak", "damaged", "old", "z")]
    for leftover in (*leftovers, *copies):
        shutil.copytree(saved / "1", leftover)
    assert list_steps(saved) == [1, 2]
    with CheckpointWriter(saved) as writer:
        writer.save(2, make_checkpoint(2))  # saved already: a no-op
        writer.save(7, make_checkpoint(7))
        for _ in range(100):  # the removal runs in the background
            if not any(leftover.exists() for leftover in leftovers):
                break
            time.sleep(0.05)
    assert newest_good_step(saved) == 7
    assert not any(leftover.exists() for leftover in leftovers)
    assert all(find_damage(copy) is None for copy in copies)  # a person's, whose checksums are theirs


def test_the_last_ones_and_every_third_are_kept(tmp_path):
    with CheckpointWriter(tmp_path, keep_last=2, keep_every=3) as writer:
        for step in range(1, 8):
            writer.save(step, Checkpoint(params={"a": jnp.ones(2)}))
    assert list_steps(tmp_path) == [3, 6, 7]


def test_a_full_disk_is_said_at_the_next_look(mount):
    disk = mount("size=3m")
    noise = jnp.asarray(np.random.default_rng(0).integers(0, 256, 2**20, dtype=np.uint8))
    failed = pytest.raises(UserError, match=f"step 3 could not be written to {disk}: No space left on device; ")
    with failed as error, CheckpointWriter(disk, keep_last=9) as writer:
        for step in (1, 2, 3):
            writer.save(step, Checkpoint(params={"a": noise}))
        for _ in range(200):  # the loop's look after each step
            writer.check()
            time.sleep(0.05)
        pytest.fail("the failed save was not noticed while the run went on")
    assert "\n" not in str(error.value)
    assert newest_good_step(disk) == 2


def test_a_full_disk_is_named_whichever_file_meets_it(tmp_path, monkeypatch):
    def no_room(folder, known):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    monkeypatch.setattr("t5x_code.checkpoints.manager.write_checksums", no_room)
    with (
        pytest.raises(UserError, match=r"step 1 could not be written .*: No space left on device; "),
        CheckpointWriter(tmp_path / "run") as writer,
    ):
        writer.save(1, make_checkpoint(1))
    assert list_steps(tmp_path / "run") == []


def test_a_bucket_that_is_away_for_long_is_one_to_come_back_to(tmp_path, monkeypatch):
    """As TensorStore says it."""

    def away(folder, known):
        raise ValueError(
            "ABORTED: All 32 retry attempts failed: CURL error Could not connect to server: [curl_code='7']"
        )

    monkeypatch.setattr("t5x_code.checkpoints.manager.write_checksums", away)
    with pytest.raises(UserError) as caught, CheckpointWriter(tmp_path / "run") as writer:
        writer.save(1, make_checkpoint(1))
    assert why_unreachable(caught.value).startswith("the bucket cannot be reached: CURL error Could not connect")


def test_a_relative_folder_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = make_checkpoint(1)
    with CheckpointWriter("runs/x") as writer:
        writer.save(1, wanted)
    restored = read_item("runs/x", 1, "params", abstract(wanted.params))
    np.testing.assert_array_equal(restored["a"], wanted.params["a"])


def test_a_folder_that_vanishes_is_made_again(tmp_path):
    folder = tmp_path / "checkpoints"
    with CheckpointWriter(folder) as writer:
        writer.save(1, make_checkpoint(1))
        while list_steps(folder) != [1]:
            time.sleep(0.05)
        writer.check()
        shutil.rmtree(folder)
        for step in (3, 4):
            writer.save(step, make_checkpoint(step))
    assert list_steps(folder) == [3, 4] and newest_good_step(folder) == 4
