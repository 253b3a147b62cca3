"""Batch sizes by step, and what is refused."""

import itertools

import pytest

from t5x_code.errors import UserError
from t5x_code.training.batch_size import batch_sizes_from, batch_sizes_of


def test_a_ramp_goes_on_where_it_was():
    ramp = ((0, 2), (3, 4), (5, 8))
    from_the_start = list(itertools.islice(batch_sizes_from(ramp, 0), 8))
    assert from_the_start == [2, 2, 2, 4, 4, 8, 8, 8]
    assert list(itertools.islice(batch_sizes_from(ramp, 4), 4)) == from_the_start[4:]
    assert batch_sizes_of(ramp) == (2, 4, 8)


@pytest.mark.parametrize(
    "schedule", [0, -1, (), ((1, 2),), ((0, 2), (0, 4)), ((0, 2), (5, 0)), ((0, 2), (9, 4), (5, 8))]
)
def test_what_is_no_schedule_is_refused(schedule):
    with pytest.raises(UserError, match="BATCH_SIZE"):
        batch_sizes_of(schedule)
