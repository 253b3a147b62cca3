"""What is an address in a bucket, in any of the types that paths come in."""

from pathlib import Path

import pytest
from etils import epath

from t5x_code.buckets import in_bucket


@pytest.mark.parametrize("make", [str, epath.Path])
def test_addresses_and_paths(make):
    assert in_bucket(make("gs://bucket/run")) and in_bucket(make("s3://bucket/run"))
    assert not in_bucket(make("/local/run")) and not in_bucket(make("run"))
    assert not in_bucket(Path("gs:/bucket"))
