"""Fixtures that several rooms share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data that is not part of the repository; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("T5X_CODE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no reference data in {folder}; set T5X_CODE_TEST_DATA")
    return folder
