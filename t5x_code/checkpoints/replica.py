"""A copy of the newest checkpoints on each host's own disk: for a quick restart, and where the shared folder is lost.

Each process writes the shards that its own devices hold, so that neither saving nor reading needs another host or the
shared storage. A replica serves a run on the same mesh; any other reads the shared checkpoints. Orbax's emergency
manager takes the shared one's place, wants a mesh axis of replicas and keeps no checksums, so this one stands beside.

On disk: `FOLDER/<run>/process_<i>/<step>/{shards.npz,metadata.json,checksums.json}`; a step gets its name when it is
whole.
"""

import hashlib
import json
import threading
from typing import Any, Self

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from t5x_code.checkpoints.checksums import find_damage, write_checksums
from t5x_code.checkpoints.manager import EMA_PARAMS, PARAMS, TRAINING, Checkpoint, absolute_path, list_steps
from t5x_code.terminal import warn

SHARDS_FILE, METADATA_FILE = "shards.npz", "metadata.json"
UNFINISHED = ".unfinished"
KEPT = 2  # hosts that are killed while they save may lack the newest; the one before it they all have


def replica_folder(root: epath.PathLike, model_dir: epath.PathLike) -> epath.Path:
    """Where this process keeps its replicas of one run, under a folder that several runs may share."""
    run = absolute_path(model_dir)
    name = f"{run.name}-{hashlib.blake2b(str(run).encode(), digest_size=4).hexdigest()}"
    return absolute_path(root) / name / f"process_{jax.process_index()}"


class ReplicaWriter:
    """Writes replicas in the background; a context manager, which waits for the last one."""

    def __init__(self, folder: epath.PathLike):
        """`folder`: what `replica_folder` says."""
        self._folder = epath.Path(folder)
        self._writing: threading.Thread | None = None

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Copies this process' shards into the host's memory and returns; writing goes on in the background.

        What cannot be written is said on stderr and leaves the run alone: the shared checkpoint is the one that counts.
        """
        self.close()
        shards = {}
        for path, leaf in _leaves(checkpoint):
            for shard in leaf.addressable_shards:
                name = _name(path, leaf, shard.index)
                if name not in shards:  # copied, as the next step overwrites the array
                    shards[name] = np.array(shard.data, order="C").reshape(-1).view(np.uint8)
        self._writing = threading.Thread(target=self._write, args=(step, shards, checkpoint.metadata), name="replica")
        self._writing.start()

    def close(self) -> None:
        """Waits until what is being written is whole."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, step: int, shards: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for leftover in self._folder.glob(f"*{UNFINISHED}"):
                leftover.rmtree()
            unfinished, finished = self._folder / f"{step}{UNFINISHED}", self._folder / str(step)
            unfinished.mkdir()
            with (unfinished / SHARDS_FILE).open("wb") as file:
                np.savez(file, **shards)
            (unfinished / METADATA_FILE).write_text(json.dumps(metadata))
            write_checksums(unfinished)
            if finished.exists():
                finished.rmtree()
            unfinished.rename(finished)
            for older in list_steps(self._folder)[:-KEPT]:
                (self._folder / str(older)).rmtree()
        except OSError as error:
            warn(f"no replica of step {step} in {self._folder}: {error.strerror or error}")


def newest_replica(folder: epath.PathLike, abstract: Checkpoint) -> int | None:
    """The newest step of which every process has a whole replica that serves it; None where there is none.

    Args:
        folder: what `replica_folder` says.
        abstract: trees of `jax.ShapeDtypeStruct` with the shardings that are wanted.
    """
    own = [step for step in list_steps(folder) if _serves(epath.Path(folder) / str(step), abstract)][-KEPT:]
    steps = np.array(own + [-1] * (KEPT - len(own)), np.int32)
    of_all = multihost_utils.process_allgather(steps) if jax.process_count() > 1 else steps[None]
    common = set.intersection(*(set(row) for row in of_all.tolist())) - {-1}
    return max(common, default=None)


def read_replica(folder: epath.PathLike, step: int, abstract: Checkpoint) -> Checkpoint:
    """A step that `newest_replica` named, as global arrays."""
    path = epath.Path(folder) / str(step)
    metadata = json.loads((path / METADATA_FILE).read_text())
    with (path / SHARDS_FILE).open("rb") as file, np.load(file) as shards:

        def read(key: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            def part(index: tuple[slice, ...]) -> np.ndarray:
                sizes = [stop - start for start, stop in _spans(leaf, index)]
                return shards[_name(key, leaf, index)].view(leaf.dtype).reshape(sizes)

            return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)

        items = jax.tree_util.tree_map_with_path(read, _items(abstract))
    return Checkpoint(items[PARAMS], items.get(EMA_PARAMS), items[TRAINING], metadata)


def _serves(step: epath.Path, abstract: Checkpoint) -> bool:
    """Whether a replica is whole and has just the shards of this process; if not, the reason is on stderr."""
    reason = find_damage(step)
    if reason is None:
        with (step / SHARDS_FILE).open("rb") as file, np.load(file) as shards:
            present = set(shards.files)
        wanted = {
            _name(path, leaf, index)
            for path, leaf in _leaves(abstract)
            for index in leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
        }
        # Not just all that is wanted: the state of one optimizer may be part of another's.
        reason = None if wanted == present else "it is of another mesh, model or optimizer"
    if reason is not None:
        warn(f"replica {step} is left out: {reason}")
    return reason is None


def _items(checkpoint: Checkpoint) -> dict[str, Any]:
    trees = {PARAMS: checkpoint.params, EMA_PARAMS: checkpoint.ema_params, TRAINING: checkpoint.training}
    return {name: tree for name, tree in trees.items() if tree is not None}


def _leaves(checkpoint: Checkpoint) -> list[tuple[tuple, Any]]:
    return jax.tree_util.tree_leaves_with_path(_items(checkpoint))


def _name(path: tuple, leaf: Any, index: tuple[slice, ...]) -> str:
    """Of one shard of an array: no other array, type or part of it has the same."""
    spans = ",".join(f"{start}:{stop}" for start, stop in _spans(leaf, index))
    return f"{jax.tree_util.keystr(path)} {leaf.dtype} [{spans}]"


def _spans(leaf: Any, index: tuple[slice, ...]) -> list[tuple[int, int]]:
    """First entry and the one after the last, by axis."""
    return [part.indices(size)[:2] for part, size in zip(index, leaf.shape, strict=True)]
