"""The other side of `ensure.build_in_child_process`: python -m t5x_code.data.caching.child REQUEST_FOLDER."""

import json
import os
import shutil
import sys
import threading
from pathlib import Path

from t5x_code.buckets import explain
from t5x_code.data.caching.build import build_store
from t5x_code.data.declarations import TaskDeclaration
from t5x_code.errors import EXIT_BAD_INPUT, EXIT_RUN_AGAIN
from t5x_code.tokens.tokenizer import Tokenizer

REQUEST_FILE = "request.json"
ERROR_FILE = "error.txt"


def import_path() -> str:
    """PYTHONPATH for processes that this one starts: the package may be run from a checkout."""
    return os.pathsep.join(path for path in sys.path if path)


def write_request(folder: Path, task: TaskDeclaration, root: str) -> None:
    """Leaves what to do for the child, beside the tokenizer."""
    (folder / REQUEST_FILE).write_text(json.dumps({"task": task.to_json(), "root": root}))


def read_error(folder: Path) -> str | None:
    """What ended the child, if it could say so."""
    file = folder / ERROR_FILE
    return file.read_text() if file.exists() else None


def main(folder: Path) -> int:
    """Does what the request says; returns the exit code, as of a command line."""
    request = json.loads((folder / REQUEST_FILE).read_text())
    try:
        build_store(TaskDeclaration.from_json(request["task"]), Tokenizer.load(str(folder)), request["root"])
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        passes, reason = explained
        (folder / ERROR_FILE).write_text(reason)
        return EXIT_RUN_AGAIN if passes else EXIT_BAD_INPUT
    return 0


def end_with_parent(folder: Path) -> None:
    """Ends this process when its standard input does, whose other end the parent holds, however that one ends."""
    os.read(sys.stdin.fileno(), 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(EXIT_RUN_AGAIN)


if __name__ == "__main__":
    own_folder = Path(sys.argv[1])
    threading.Thread(target=end_with_parent, args=[own_folder], daemon=True).start()
    sys.exit(main(own_folder))
