"""What a start and a save ask of a bucket does not grow with the processes of a run, nor with the steps it has kept."""

import importlib.util
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# In a process of its own: gcsfs keeps the server that it has met first.
SOURCE = """
    import json, os, sys, zlib
    from etils import epath
    from fake_gcs import FakeGcs, _Handler
    from t5x_code.checkpoints.checksums import find_damage, write_checksums
    from t5x_code.checkpoints.manager import list_steps, newest_step

    requests, serve = [], _Handler._serve
    _Handler.do_GET = lambda handler: (requests.append(handler.path), serve(handler))

    def ask(what, *arguments):
        requests.clear()
        return what(*arguments), len(requests)

    with FakeGcs("bucket") as server:
        os.environ |= server.environment
        root = epath.Path("gs://bucket/run/checkpoints")
        known = {}
        for process in range(30):
            name = f"params/ocdbt.process_{process}/d/{process:032x}"
            server.write(("bucket", f"run/checkpoints/1/{name}"), b"x")
            known[name] = 1, zlib.crc32(b"x")
        for name in ("_CHECKPOINT_METADATA", "params/_METADATA", "metadata/metadata"):
            server.write(("bucket", f"run/checkpoints/1/{name}"), b"{}")
        server.write(("bucket", "run/checkpoints/1.bak/params/x"), b"another's")
        _, saving = ask(write_checksums, root / "1", known)
        listed = json.loads((root / "1" / "checksums.json").read_text())
        assert sorted(listed) == sorted([*known, "params/_METADATA", "metadata/metadata"]), listed
        assert find_damage(root / "1") is None
        for step in range(2, 30):
            server.write(("bucket", f"run/checkpoints/{step}/checksums.json"), b"{}")
        server.write(("bucket", "run/checkpoints/40/params/of_a_killed_save"), b"half")
        newest, looking = ask(newest_step, root)
        assert list_steps(root) == list(range(1, 30)) and newest == 29
        assert newest_step(root.parent / "absent") is None
    print(json.dumps([saving, looking]))
"""


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is None, reason="gcsfs is not installed (extra gcp or test)")
def test_what_is_asked_does_not_grow():
    servers = Path(__file__).parents[1] / "integration"
    program = f"import sys; sys.path.append({str(servers)!r})\n{textwrap.dedent(SOURCE)}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    saving, looking = json.loads(ended.stdout)
    assert saving < 30 and looking < 20, (saving, looking)
