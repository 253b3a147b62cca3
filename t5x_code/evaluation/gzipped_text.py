"""Text of a file that may be gzipped, as benchmarks and samples come."""

import gzip
import zlib

from etils import epath

from t5x_code.errors import UserError

_GZIP_BEGINS = b"\x1f\x8b"


def read_text(path: str) -> str:
    """The whole text.

    Raises:
        UserError: the file is not there, is damaged, or holds no UTF-8.
    """
    try:
        data = epath.Path(path).read_bytes()
        return (gzip.decompress(data) if data.startswith(_GZIP_BEGINS) else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as UTF-8 text, plain or gzipped: {reason}") from error
