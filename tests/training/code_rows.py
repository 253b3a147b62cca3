"""Random rows with codes for tests of NTP+: each a pure function of its index."""

import numpy as np

LENGTH, SLOTS = 32, 7


def one_row(index: int) -> dict[str, np.ndarray]:
    """Up to two queries, each with an accepted code and a negative; some rows have none; problems repeat over rows."""
    rng = np.random.default_rng([7, index])
    tokens = rng.integers(1, 64, LENGTH + 1, dtype=np.int32)
    row = {
        "inputs": tokens[:-1],
        "targets": tokens[1:],
        "loss_weights": np.zeros(LENGTH, np.float32),
        "positions": np.zeros(LENGTH, np.int32),
        "attend_from": np.zeros(LENGTH, np.int32),
        "attend_to": np.zeros(LENGTH, np.int32),
        "pool_ids": np.full(LENGTH, -1, np.int32),
        "code_pair": np.zeros(SLOTS, np.int32),
        "code_problem": np.zeros(SLOTS, np.int32),
        "code_role": np.zeros(SLOTS, np.int32),
    }
    start = slot = 0
    for pair in range(rng.integers(0, 3)):
        problem = rng.integers(0, 3)
        for role in (1, 2, 3):
            size = int(rng.integers(2, 6))
            end = start + size
            row["positions"][start:end] = np.arange(size)
            row["attend_from"][start:end] = start
            row["attend_to"][start:end] = np.arange(start, end) + 1
            row["loss_weights"][start:end] = role != 3
            row["pool_ids"][start + 1 : end] = slot
            row["code_pair"][slot], row["code_problem"][slot], row["code_role"][slot] = pair, problem, role
            start, slot = end, slot + 1
    return row


def code_rows(first: int, count: int) -> dict[str, np.ndarray]:
    """Rows [first, first + count) as a batch."""
    made = [one_row(index) for index in range(first, first + count)]
    return {name: np.stack([row[name] for row in made]) for name in made[0]}
