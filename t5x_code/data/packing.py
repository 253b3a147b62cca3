"""Rows of whole documents: which documents stand in row i of epoch e, as a pure function of their sizes and the seed.

The sizes are packed once, best fit in random order (the row with the least room that still suffices). Each epoch then
deals the documents of every size anew to the places of that size: every document is once in an epoch, the number of
rows never changes, and no host needs to know what another does. A document longer than a row is left out and counted.

Shape legend: D documents of a store, K those that fit, R rows.
"""

import dataclasses

import numpy as np

from t5x_code.errors import UserError
from t5x_code.objectives.example import DocumentTable, Layout, PackingObjective
from t5x_code.randomness import keyed_generator

PLANS_KEPT = 4  # epochs; validation and training ask for one or two each


@dataclasses.dataclass(frozen=True)
class Packing:
    """Places for documents. Make it by `pack`."""

    seed: int
    key: str  # of the draws, beside the seed
    places_K: np.ndarray  # documents by place: those of equal size change places from epoch to epoch
    sizes_K: np.ndarray  # size of each place, ascending
    row_order_K: np.ndarray  # places in the order of rows
    row_ends_R: np.ndarray  # where each row ends in that order
    num_too_long: int
    _plans: dict[int, np.ndarray] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.row_ends_R)

    def documents(self, epoch: int, row: int) -> np.ndarray:
        """Documents of a row of an epoch, by their number in the store."""
        start = int(self.row_ends_R[row - 1]) if row else 0
        return self._plan(epoch)[self.row_order_K[start : int(self.row_ends_R[row])]]

    def _plan(self, epoch: int) -> np.ndarray:
        """The document at each place in an epoch, [K]."""
        plan = self._plans.get(epoch)
        if plan is None:
            draws_K = keyed_generator(self.seed, self.key, "packing", epoch).random(len(self.places_K))
            plan = self.places_K[np.lexsort((draws_K, self.sizes_K))]
            while len(self._plans) >= PLANS_KEPT:
                self._plans.pop(next(iter(self._plans)), None)
            self._plans[epoch] = plan
        return plan


def pack(sizes_D: np.ndarray, room: int, max_documents: int | None, seed: int, key: str, task: str) -> Packing:
    """Packs documents into rows.

    Args:
        sizes_D: places that each document takes; those above `room` are left out.
        room: places of a row.
        max_documents: of a row; None: as many as fit.
        seed: of the run.
        key: of the draws, beside the seed.
        task: whose documents they are, for messages.

    Raises:
        UserError: no document fits.
    """
    (fitting_K,) = np.nonzero(sizes_D <= room)
    if not len(fitting_K):
        raise UserError(
            f"task {task} has no document of at most {room} tokens, its shortest has {sizes_D.min(initial=2**62)}; "
            "set a larger SEQUENCE_LENGTH"
        )
    shuffled_K = fitting_K[keyed_generator(seed, key, "packing").permutation(len(fitting_K))]
    rows_K = np.array(_best_fit(sizes_D[shuffled_K].tolist(), room, max_documents))
    row_ends_R = np.cumsum(np.bincount(rows_K))
    by_size_K = np.argsort(sizes_D[shuffled_K], kind="stable")
    place_of_K = np.argsort(by_size_K)  # of the shuffled documents
    return Packing(
        seed=seed,
        key=key,
        places_K=shuffled_K[by_size_K],
        sizes_K=sizes_D[shuffled_K][by_size_K],
        row_order_K=place_of_K[np.argsort(rows_K, kind="stable")],
        row_ends_R=row_ends_R,
        num_too_long=len(sizes_D) - len(fitting_K),
    )


def packing_of(
    objective: PackingObjective, layout: Layout, documents: DocumentTable, seed: int, key: str, task: str
) -> Packing:
    """`pack` for an objective and a store."""
    sizes_D = objective.packed_lengths(layout, documents)
    return pack(sizes_D, layout.length, objective.max_documents, seed, key, task)


def _best_fit(sizes: list[int], room: int, max_documents: int | None) -> list[int]:
    """The row of each document, in their order. Rows with equal room left are a stack; a bit per room says which
    stacks hold a row, so that the least sufficient room is the lowest bit from the size on."""
    stacks: list[list[tuple[int, int]]] = [[] for _ in range(room + 1)]  # (row, documents in it) by room left
    used_rooms, rows, num_rows = 0, [], 0
    for size in sizes:
        sufficient = used_rooms >> size
        if sufficient:
            left = size + (sufficient & -sufficient).bit_length() - 1
            row, count = stacks[left].pop()
            if not stacks[left]:
                used_rooms ^= 1 << left
        else:
            row, count, left = num_rows, 0, room
            num_rows += 1
        rows.append(row)
        left -= size
        if max_documents is None or count + 1 < max_documents:
            stacks[left].append((row, count + 1))
            used_rooms |= 1 << left
    return rows
