"""What is in a bucket: paths such as gs://bucket/run, where nothing is appended to, renamed as a folder or locked."""

from etils import epath


def in_bucket(path: epath.PathLike) -> bool:
    """Whether a path is an address in a bucket."""
    return "://" in str(path)
