"""What is an address in a bucket, in any of the types that paths come in."""

import pwd
from pathlib import Path

import pytest
from etils import epath

from t5x_code.buckets import in_bucket, size_of


@pytest.mark.parametrize("make", [str, epath.Path])
def test_addresses_and_paths(make):
    assert in_bucket(make("gs://bucket/run")) and in_bucket(make("s3://bucket/run"))
    assert not in_bucket(make("/local/run")) and not in_bucket(make("run"))
    assert not in_bucket(Path("gs:/bucket"))


def test_size_of_a_file_whose_owner_nobody_knows(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "x")
    path.write_text("four")

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert size_of(path) == 4
    with pytest.raises(FileNotFoundError):
        size_of(path.parent / "absent")
